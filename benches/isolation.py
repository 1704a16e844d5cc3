"""
A network namespace for the run, by re-executing the program inside one.

It has its own loopback, ports and TIME_WAIT table, so that a run neither disturbs nor is disturbed; its routes say `congctl cubic`, so that
all sockets use it whatever the host's default is; its ephemeral range is as wide as it can be. Where the kernel refuses (no root, no user
namespaces), the run goes on in the host's namespace and says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["congestion_control", "enter", "is_isolated"]

_MARK: Final = "VANROUTER_BENCH_NETNS"
_EPHEMERAL: Final = "15000 65535"


def is_isolated() -> bool:
    return os.environ.get(_MARK) == "yes"


def congestion_control() -> str:
    return "cubic" if is_isolated() else Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def enter() -> None:
    """Return inside the namespace, or outside of any when there can be none. Call it first: it may replace the process."""
    if os.environ.get(_MARK) == "inside":
        os.environ[_MARK] = "yes" if _configure() else "no"
    elif _MARK not in os.environ:
        for unshare in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
            if shutil.which("unshare") and shutil.which("ip") and subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
                os.environ[_MARK] = "inside"
                os.execvp("unshare", [*unshare, "--", sys.executable, "-m", "benches", *sys.argv[1:]])
        os.environ[_MARK] = "no"
    if not is_isolated():
        print(
            "bench: no network namespace of its own (needs root or user namespaces, and iproute2): the host's settings apply",
            file=sys.stderr,
        )


def _configure() -> bool:
    commands = [["ip", "link", "set", "lo", "up"]]
    for prefix in ("127.0.0.0/8", "127.0.0.1"):
        route = f"ip route replace local {prefix} dev lo table local proto kernel scope host src 127.0.0.1 congctl cubic"
        commands.append(route.split())
    for command in commands:
        if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
            print(f"bench: {' '.join(command)}: {done.stderr.strip()}", file=sys.stderr)
            # Without loopback nothing works; without cubic the figures are only less comparable.
            if "link" in command:
                raise SystemExit(1)
            return False
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(_EPHEMERAL)
    return True
