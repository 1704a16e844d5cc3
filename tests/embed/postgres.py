"""A real PostgreSQL for a test, by an account that is not root: it refuses root."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from free_ports import free_port

PROGRAMS = ":".join([*(str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), os.environ.get("PATH", "")])
INITDB, POSTGRES = (shutil.which(name, path=PROGRAMS) for name in ("initdb", "postgres"))


@contextlib.contextmanager
def postgres(place: Path) -> Iterator[int]:
    """Its port on 127.0.0.1; user ``van``, database ``postgres``, no password."""
    assert INITDB
    assert POSTGRES
    data, port = place / "data", free_port()
    data.mkdir(parents=True, mode=0o700)
    account: list[str] = []
    if os.geteuid() == 0:
        entry = pwd.getpwnam("postgres")
        os.chown(data, entry.pw_uid, entry.pw_gid)
        for parent in data.parents:
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o711)  # the way to the data, for that account
        account = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    subprocess.run([*account, INITDB, "-D", str(data), "-U", "van", "-A", "trust", "--no-sync"], check=True, capture_output=True, cwd=data)
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off", "log_min_messages": "error"}
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    with subprocess.Popen([*account, POSTGRES, "-D", str(data), *options], cwd=data, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(data / "postmaster.pid", server)
            yield port
        finally:
            server.terminate()


def _wait_for(file: Path, server: subprocess.Popen[bytes]) -> None:
    """The last line of its pid file says that it is ready."""
    deadline = time.monotonic() + 30
    while not (file.exists() and file.read_text().rstrip().endswith("ready")):
        assert server.poll() is None, "PostgreSQL ended"
        assert time.monotonic() < deadline, "PostgreSQL does not become ready"
        time.sleep(0.05)
