"""Starting and stopping a router: the unit that systemd gets, whose process may be ended, and what a dying router said."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vanrouter.cli import launch
from vanrouter.errors import DeadlineExceeded
from vanrouter.stores import SiteHome


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `systemctl` that answers, and writes down what it was told."""
    said = tmp_path / "said"
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {said}\n[ "$2" != is-failed ]\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return said


def test_where_systemd_answers_a_site_becomes_a_user_unit_and_leaves_none_behind(
    systemctl: Path, tmp_path: Path, stopped: SiteHome
) -> None:
    started = launch.start(stopped.directory, plane="baseline", manager="auto")
    started.check()
    (unit,) = (tmp_path / "config" / "systemd" / "user").iterdir()
    assert unit.name == launch.unit_name(stopped.directory) == started.unit
    text = unit.read_text()
    assert f'ExecStart="{sys.executable}" "-P" "-m" "vanrouter.cli" "run" "{stopped.directory}" "--plane" "baseline"\n' in text
    assert "Restart=on-failure\n" in text
    lines = systemctl.read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["show-environment", "daemon-reload", "reset-failed", "enable", "restart", "is-failed"]
    assert all(line.startswith("--user ") for line in lines)
    home = launch.stop(stopped.directory, ask=lambda: False, timeout=5)
    home.unlock()
    assert f"--user disable --now --no-block {unit.name}" in systemctl.read_text()
    assert not unit.exists()


def test_two_homes_with_a_site_of_one_name_have_two_units(tmp_path: Path) -> None:
    assert launch.unit_name(tmp_path / "a" / "north") != launch.unit_name(tmp_path / "b" / "north")


def test_a_unit_survives_odd_paths() -> None:
    text = launch.unit_text(Path('/home/a b/100%/$x"y/north'), None)
    assert '"/home/a b/100%%/$$x\\"y/north"' in text
    assert "append:/home/a b/100%%/" in text


def test_a_number_in_the_pid_file_that_is_somebody_else_is_not_believed(stopped: SiteHome) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()", "run", str(stopped.directory)], stdin=subprocess.PIPE)
    try:
        stopped.pid_file.write_text(f"{bystander.pid}\n")
        assert launch.read_pid(stopped.directory) is None
        launch.stop(stopped.directory, ask=lambda: False, timeout=5).unlock()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.communicate()


@pytest.mark.parametrize("content", ["", "x", "-1", "0", "999999999", "1 2 3"])
def test_a_pid_file_of_any_content_harms_nobody(stopped: SiteHome, content: str) -> None:
    stopped.pid_file.write_text(content)
    assert launch.read_pid(stopped.directory) is None


HOLD = """
import signal, sys, time
from pathlib import Path
from vanrouter.stores import SiteHome
home = SiteHome(sys.argv[1])
assert home.lock()
home.write_pid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_router_that_does_not_listen_to_reason_is_killed_and_its_site_locked(stopped: SiteHome) -> None:
    stubborn = subprocess.Popen([sys.executable, "-c", HOLD, str(stopped.directory)], stdout=subprocess.PIPE, text=True)
    try:
        assert stubborn.stdout is not None
        assert stubborn.stdout.readline() == "ready\n"
        began = time.monotonic()
        home = launch.stop(stopped.directory, ask=lambda: False, timeout=0.5)
        assert 0.4 < time.monotonic() - began < 5
        assert home.locked
        assert stubborn.wait(1) == -9
        assert not SiteHome(stopped.directory).lock()
        home.unlock()
    finally:
        stubborn.kill()
        stubborn.communicate()


def test_a_lock_that_nobody_known_holds_is_an_error_with_a_name(stopped: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = SiteHome(stopped.directory)
    assert holder.lock()
    monkeypatch.setattr(launch, "_LOCK_GRACE", 0.1)
    with pytest.raises(DeadlineExceeded, match="still holds"):
        launch.stop(stopped.directory, ask=lambda: True, timeout=0.1)
    holder.unlock()


def test_the_last_words_of_a_router_are_its_error_and_its_hint(stopped: SiteHome) -> None:
    stopped.log_file.write_text("old\nError: of another day\nNext:  nothing\n")
    began = stopped.log_file.stat().st_size
    assert launch.last_words(stopped.directory, began) == ("", "")
    with stopped.log_file.open("a") as log:
        log.write("info starts\nError: port 7001 is in use\nNext:  choose another\ntrailing noise\n")
    assert launch.last_words(stopped.directory, began) == ("port 7001 is in use", "choose another")


def test_a_large_log_is_put_aside_at_the_start(stopped: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped.log_file.write_text("x" * 100)
    monkeypatch.setattr(launch, "_LOG_LIMIT", 50)
    monkeypatch.setattr(launch, "run_command", lambda *_: [sys.executable, "-c", "print('new')"])
    started = launch.start(stopped.directory, plane=None, manager="none")
    assert started.process is not None
    assert started.process.wait(10) == 0
    assert stopped.log_file.read_text() == "new\n"
    assert stopped.log_file.with_name("router.log.1").read_text() == "x" * 100
