"""`van` on a laptop of any kind: it starts, helps and writes files where there is neither the core nor Linux nor a heavy library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HIDDEN = ("vanrouter._core", "vanrouter.native", "fcntl", "resource", "grp", "pwd", "termios", "trio", "cryptography")
RUN = f"""\
import sys
for name in {HIDDEN!r}:
    sys.modules[name] = None  # importing it is an ImportError from here on
from vanrouter.cli.main import van
sys.argv = ["van", *sys.argv[1:]]
van()
"""


def run(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"VAN_HOME": str(home), "PATH": "/usr/bin:/bin", "NO_COLOR": "1", "HOME": str(home)}
    return subprocess.run([sys.executable, "-c", RUN, *words], env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "init --help",
        "status --help",
        "update --help",
        "delete --help",
        "token create --help",
        "link create --help",
        "expose --help",
        "unexpose --help",
        "service status --help",
        "network status --help",
        "hosts --help",
        "demo --help",
        "version",
        "completion bash",
        "-p linux listener generate web 8080",
        "-p linux connector generate web 8080",
        "-p linux site generate north",
        "-p linux init --site-name north --dry-run",
    ],
)
def test_van_works_without(line: str, tmp_path: Path) -> None:
    result = run(*line.split(), home=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout


def test_what_cannot_work_there_says_so_in_words(tmp_path: Path) -> None:
    result = run(*["status"], home=tmp_path)
    assert result.returncode in (1, 2, 3)
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr
