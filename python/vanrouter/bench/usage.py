"""How busy this process and its machine are: sums that only grow, for whoever compares two. Empty where the system does not tell."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

__all__ = ["usage"]


def usage(pid: int = 0) -> dict[str, Any]:
    """Seconds: ``cpu`` of this process, ``threads`` of each of its threads, ``target`` of process ``pid``, ``idle`` of all processors."""
    found: dict[str, Any] = {"at": time.monotonic(), "cpu": time.process_time(), "cores": _cores(), "threads": {}, "idle": None}
    tick = os.sysconf("SC_CLK_TCK")
    with contextlib.suppress(OSError, ValueError, IndexError):
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/stat", encoding="utf-8") as file:
                fields = file.read().rpartition(")")[2].split()
                found["threads"][thread] = (int(fields[11]) + int(fields[12])) / tick
        with open("/proc/stat", encoding="utf-8") as file:
            fields = file.readline().split()
            found["idle"] = (int(fields[4]) + int(fields[5])) / tick
        if pid:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                fields = file.read().rpartition(")")[2].split()
                found["target"] = (int(fields[11]) + int(fields[12])) / tick
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
