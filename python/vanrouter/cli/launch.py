"""
Starting and stopping the router of a site on a host, for as long as the user wants it and not only as long as the shell lives.

A systemd user unit where ``systemctl --user`` answers, else a background process in a session of its own that logs to ``run/router.log``.
Nothing here decides whether a site is ready: that is asked over its socket. A process is ended only when it is known to be this site's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vanrouter.errors import ConfigError, DeadlineExceeded, VanrouterError

if TYPE_CHECKING:
    from vanrouter.stores import SiteHome

__all__ = ["MANAGERS", "Started", "is_router", "last_words", "read_pid", "run_command", "start", "stop", "unit_name"]

MANAGERS: Final = ("auto", "systemd", "none")
_LOCK_GRACE: Final = 5.0  # seconds after the deadline for the lock of a router that was killed
_LOG_LIMIT: Final = 10 * 1024 * 1024  # bytes; a larger log is put aside (one generation) when the router is started


class Started:
    """What was started: a child of ours (``process``) or a unit."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes] | None, *, log_began: int, unit: str = "") -> None:
        self.directory = directory
        self.process = process
        self.unit = unit
        self.log_began = log_began

    def check(self) -> None:
        """Raise when the router has already ended, with the last thing that it said."""
        code: int | None = None
        if self.process is not None:
            code = self.process.poll()
        elif _systemctl("is-failed", "--quiet", self.unit) == 0:
            code = 1
        if code is None:
            return
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        said, hint = last_words(self.directory, self.log_began)
        raise VanrouterError(
            f"the router {how} before the site was ready" + (f": {said}" if said else ""),
            hint=hint or f"see its log: {self.directory / 'run' / 'router.log'}",
        )


def run_command(directory: Path, plane: str | None) -> list[str]:
    """The command line of a site's router. ``-P`` keeps files in the working directory from standing in for modules."""
    command = [sys.executable, "-P", "-m", "vanrouter.cli", "run", str(directory)]
    return [*command, "--plane", plane] if plane else command


def start(directory: Path, *, plane: str | None, manager: str) -> Started:
    """Start the router of a site; return before it is ready."""
    directory = directory.absolute()
    if manager == "systemd" or (manager == "auto" and _systemd_answers()):
        return _start_unit(directory, plane)
    return _start_process(directory, plane)


def _start_process(directory: Path, plane: str | None) -> Started:
    run = directory / "run"
    run.mkdir(mode=0o700, exist_ok=True)
    log = run / "router.log"
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_LIMIT:
            os.replace(log, run / "router.log.1")
    began = _size(directory)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own program
            run_command(directory, plane), stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", start_new_session=True
        )
    finally:
        os.close(out)
    return Started(directory, process, log_began=began)


# ---- systemd ----------------------------------------------------------------------------------------------------------------------------


def unit_name(directory: Path) -> str:
    """One unit per directory: sites of one name under two VAN_HOMEs do not meet."""
    return f"vanrouter-{directory.name}-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:8]}.service"


def _unit_file(directory: Path) -> Path:
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "systemd" / "user" / unit_name(directory)


def _systemctl(*args: str) -> int:
    try:
        return subprocess.run(  # noqa: S603 - no shell, and words of ours
            [shutil.which("systemctl") or "/usr/bin/systemctl", "--user", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=10,
            check=False,
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return 127


def _systemd_answers() -> bool:
    return bool(shutil.which("systemctl")) and _systemctl("show-environment") == 0


def _quoted(text: str) -> str:
    """One word of a unit file."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") + '"'


def unit_text(directory: Path, plane: str | None) -> str:
    log = str(directory / "run" / "router.log").replace("%", "%%")
    return f"""# Written by van init; removed by van delete.
[Unit]
Description=vanrouter site {directory.name}
After=network-online.target

[Service]
ExecStart={" ".join(_quoted(word) for word in run_command(directory, plane))}
Restart=on-failure
RestartSec=1
TimeoutStopSec=90
KillMode=mixed
StandardOutput=append:{log}
StandardError=append:{log}

[Install]
WantedBy=default.target
"""


def _start_unit(directory: Path, plane: str | None) -> Started:
    (directory / "run").mkdir(mode=0o700, exist_ok=True)
    began = _size(directory)
    file = _unit_file(directory)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(unit_text(directory, plane))
    unit = file.name
    for words in (("daemon-reload",), ("reset-failed", unit), ("enable", unit), ("restart", unit)):
        if _systemctl(*words) != 0 and words[0] != "reset-failed":
            raise VanrouterError(
                f"systemctl --user {' '.join(words)} failed",
                hint=f"see: systemctl --user status {unit}   or start without systemd: --manager none",
            )
    return Started(directory, None, log_began=began, unit=unit)


# ---- Stopping ---------------------------------------------------------------------------------------------------------------------------


def read_pid(directory: Path) -> int | None:
    """The process that says it serves this site, if it is alive and really is the site's router."""
    try:
        pid = int((directory / "run" / "router.pid").read_text())
    except (OSError, ValueError):
        return None
    return pid if pid > 0 and is_router(pid, directory) else None


def is_router(pid: int, directory: Path) -> bool:
    """A pid alone proves nothing after a crash, the number may be somebody else's by now. Who has the lock's file open is the router."""
    lock = os.path.realpath(directory / "run" / "lock")
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False  # it is gone, or another user's
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) == lock:
                return True
    return False


def stop(directory: Path, *, ask: Callable[[], bool], timeout: float) -> SiteHome:
    """End the router of a site: remove its unit, ask it over its socket (``ask``), then by signal.

    Returns when its process has ended, with the lock of the directory held: nobody can start it again before the caller is done.
    """
    from vanrouter.stores import SiteHome

    directory = directory.absolute()
    home, deadline = SiteHome(directory), time.monotonic() + timeout
    _remove_unit(directory)
    home.run.mkdir(mode=0o700, exist_ok=True)
    if home.lock():
        return home
    router = _Process(read_pid(directory))
    if not ask():
        router.send(signal.SIGTERM)
    if not router.ends_by(deadline):
        router.send(signal.SIGKILL)
        router.ends_by(time.monotonic() + 5.0)
    while not home.lock():
        if time.monotonic() > deadline + _LOCK_GRACE:
            raise DeadlineExceeded(
                f"somebody still holds {home.run / 'lock'} after {timeout:g} s", hint=f"see who: fuser -v {home.run / 'lock'}"
            )
        time.sleep(0.02)
    return home


class _Process:
    """A process that cannot be mistaken for another once it was found, whoever gets its number later. None: there is none."""

    def __init__(self, pid: int | None) -> None:
        self._fd: int | None = None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                self._fd = os.pidfd_open(pid)

    def send(self, number: signal.Signals) -> None:
        if self._fd is None:
            return
        try:
            signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise ConfigError("no right to stop the site's router", hint="run the command as the user who runs the site") from None

    def ends_by(self, deadline: float) -> bool:
        """Wait for its end. Whether it came in time."""
        if self._fd is None:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)  # readable: it has ended
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _remove_unit(directory: Path) -> None:
    file = _unit_file(directory)
    if file.exists():
        _systemctl("disable", "--now", "--no-block", file.name)
        file.unlink(missing_ok=True)
        _systemctl("daemon-reload")


def _size(directory: Path) -> int:
    try:
        return (directory / "run" / "router.log").stat().st_size
    except OSError:
        return 0


def last_words(directory: Path, began: int) -> tuple[str, str]:
    """From the router's log since ``began``: the error that it ended with and what to do about it, else the last line."""
    try:
        with (directory / "run" / "router.log").open("rb") as log:
            log.seek(max(began, log.seek(0, os.SEEK_END) - 16_384))
            lines = log.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return "", ""
    errors = [i for i, line in enumerate(lines) if line.startswith("Error: ")]
    if not errors:
        return (lines[-1][:500], "") if lines else ("", "")
    after = lines[errors[-1] + 1] if errors[-1] + 1 < len(lines) else ""
    return lines[errors[-1]].removeprefix("Error: ")[:2000], after.removeprefix("Next:").strip() if after.startswith("Next:") else ""
