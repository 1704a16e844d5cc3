"""
Sites as a user has them: real `van` commands in real processes, under a VAN_HOME of their own.

`Host` is one machine: a directory, an environment, programs on the PATH. Everything it starts carries VAN_HOME in its environment, so that
what is left behind can be found and ended.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from free_ports import free_port as free_port

CURL = """\
#!{python}
# What a test needs of curl where there is none: one GET, `*.localhost` is 127.0.0.1, the body to stdout.
import http.client, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[-1])
host = "127.0.0.1" if url.hostname == "localhost" or url.hostname.endswith(".localhost") else url.hostname
connection = http.client.HTTPConnection(host, url.port or 80, timeout=10)
connection.request("GET", url.path or "/", headers={{"Host": url.netloc}})
response = connection.getresponse()
sys.stdout.buffer.write(response.read())
sys.exit(0 if response.status < 400 else 22)
"""


@functools.cache
def planes() -> list[str]:
    """The data planes of this installation."""
    code = "import vanrouter.native"
    core = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    return ["baseline", "core"] if core else ["baseline"]


@functools.cache
def can_unshare() -> bool:
    """Whether a network namespace with a loopback of its own can be made here."""
    probe = ["unshare", "--net", "bash", "-c", "ip link set lo up"]
    return bool(shutil.which("unshare")) and subprocess.run(probe, capture_output=True, check=False).returncode == 0


class Host:
    def __init__(self, directory: Path, plane: str) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.home.mkdir()
        programs = directory / "bin"
        programs.mkdir()
        python = sys.executable
        self._program(programs / "van", f'#!/bin/sh\nexec {python} -P -m vanrouter.cli "$@"\n')
        self._program(programs / "python3", f'#!/bin/sh\nexec {python} "$@"\n')
        if not shutil.which("curl"):
            self._program(programs / "curl", CURL.format(python=python))
        keep = {k: v for k, v in os.environ.items() if not k.startswith("VAN_") and "proxy" not in k.lower()}
        self.environment = keep | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "VAN_HOME": str(self.home),
            "VAN_MANAGER": "none",
            "VAN_PLANE": plane,
            "NO_COLOR": "1",
        }

    @staticmethod
    def _program(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def run(self, *command: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.directory, env=self.environment | environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    def van(self, line: str, *, code: int = 0, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """One `van` command, which must end with this exit code."""
        result = self.run("van", "-p", "linux", *line.split(), timeout=timeout)
        assert result.returncode == code, f"van {line}: exit code {result.returncode}\n{result.stdout}{result.stderr}{self.logs()}"
        assert "Traceback" not in result.stderr, result.stderr
        return result

    def logs(self) -> str:
        """The end of every router's log, for a failure's message."""
        found = sorted(self.home.glob("*/run/router.log"))
        return "".join(f"--- {path.relative_to(self.home)}\n{path.read_text(errors='replace')[-3000:]}" for path in found)

    def processes(self) -> list[int]:
        """What runs with this VAN_HOME."""
        wanted, found = f"VAN_HOME={self.home}".encode(), []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and int(entry.name) != os.getpid() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def router(self, name: str) -> int:
        """The process of a site."""
        return int((self.home / name / "run" / "router.pid").read_text())

    def __enter__(self) -> Host:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + 3
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.02)


def fetch(host: str, port: int, name: str = "hello", *, timeout: float = 10) -> bytes:
    """One GET over a connection of its own."""
    import http.client

    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/", headers={"Host": name})
        return connection.getresponse().read()
    finally:
        connection.close()
