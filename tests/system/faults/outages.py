"""
How long new streams did not work after a fault, as a client sees it that opens one every 10 ms; and the figures of many rounds.

    outage    from the fault to the first answer that a stream got which was opened after the last one that failed
    slowest   the longest that any stream of the round waited for its answer, failed ones included
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

from verdicts import Ends


def slowness() -> float:
    """How much longer than its processor time a process takes now: 1 on an idle machine, 3 where three want each processor."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-S", "-c", "sum(range(4_000_000))"])
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0
    return max(1.0, (time.monotonic() - began) / (used.ru_utime + used.ru_stime))


class Outage(NamedTuple):
    outage: float
    slowest: float
    failed: int
    probes: int
    slowness: float


def outage(ends: Ends, fault: float) -> Outage:
    """Raises AssertionError when nothing worked before the fault, or nothing afterwards."""
    good = [end for end in ends if end.kind == "whole"]
    bad = [end for end in ends if end.kind != "whole"]
    assert any(end.ended <= fault for end in good), f"nothing worked before the fault: {ends.kinds}"
    assert not any(end.ended <= fault for end in bad), f"not all was well before the fault: {[e for e in bad if e.ended <= fault][:3]}"
    last_bad = max([fault, *(end.began for end in bad)])
    later = [end.ended for end in good if end.began > last_bad]
    assert later, f"nothing worked after the fault: {ends.kinds}, the last: {ends.all[-3:]}"
    after = [end for end in ends if end.ended > fault]
    return Outage(min(later) - fault, max(end.took for end in after), len(bad), len(ends), slowness())


def figures(name: str, rounds: Iterable[Outage], mark: float) -> str:
    """A line for people: median and worst in seconds."""
    found = list(rounds)
    outages = [each.outage for each in found]
    return (
        f"{name}: outage median {statistics.median(outages):.3f} s, worst {max(outages):.3f} s of {len(found)} rounds (mark {mark:g} s);"
        f" slowest stream {max(each.slowest for each in found):.3f} s; failed {sum(each.failed for each in found)}"
        f" of {sum(each.probes for each in found)} streams; machine slowed {statistics.median(each.slowness for each in found):.1f} times"
    )


def median(rounds: Iterable[Outage]) -> float:
    """Of the outages, each as it would have been on a machine that has nothing else to do."""
    return statistics.median(each.outage / each.slowness for each in rounds)
