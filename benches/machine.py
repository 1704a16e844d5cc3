"""What a figure depends on besides the code: written next to it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from benches.isolation import congestion_control, is_isolated

__all__ = ["facts"]


def facts() -> dict[str, str]:
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin"
    found = {
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _memory(),
        "kernel": platform.release(),
        "congestion control": congestion_control(),
        "network namespace": "own" if is_isolated() else "the host's",
        "tls": "1.3, mutual, AES-128-GCM, P-256 certificates",
        "python": platform.python_version(),
    }
    versions = {"haproxy": ["-v"], "nginx": ["-v"], "wrk": ["-v"], "iperf3": ["-v"], "rustc": ["-V"]}
    for program, options in versions.items():
        if (where := shutil.which(program, path=path)) is not None:
            done = subprocess.run([where, *options], capture_output=True, text=True)
            if (version := re.search(r"\d+\.\d+[\w.+~/-]*", done.stdout + done.stderr)) is not None:
                found[program] = version[0]
    found["load"] = "the load generators and servers share the cores with what is measured"
    return found


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
