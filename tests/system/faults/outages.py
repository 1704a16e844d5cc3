"""
How long new streams did not work after a fault, as a client sees it that opens one every 10 ms; and the figures of many rounds.

    outage    from the fault to the first answer that a stream got which was opened after the last one that failed
    waited    the longest that one thread of the routers and the client was ready in it and did not run (`waits`)
    slowest   the longest that any stream of the round waited for its answer, failed ones included
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NamedTuple

from verdicts import Ends
from waits import Waits


class Outage(NamedTuple):
    outage: float
    slowest: float
    failed: int
    probes: int
    waited: float


def outage(ends: Ends, fault: float, waits: Waits) -> Outage:
    """Raises AssertionError when nothing worked before the fault, or nothing afterwards."""
    good = [end for end in ends if end.kind == "whole"]
    bad = [end for end in ends if end.kind != "whole"]
    assert any(end.ended <= fault for end in good), f"nothing worked before the fault: {ends.kinds}"
    assert not any(end.ended <= fault for end in bad), f"not all was well before the fault: {[e for e in bad if e.ended <= fault][:3]}"
    last_bad = max([fault, *(end.began for end in bad)])
    later = [end.ended for end in good if end.began > last_bad]
    assert later, f"nothing worked after the fault: {ends.kinds}, the last: {ends.all[-3:]}"
    after = [end for end in ends if end.ended > fault]
    again = min(later)
    return Outage(again - fault, max(end.took for end in after), len(bad), len(ends), waits.longest(fault, again))


def figures(name: str, rounds: Iterable[Outage], mark: float) -> str:
    """A line for people: median and worst in seconds."""
    found = list(rounds)
    outages = [each.outage for each in found]
    waited = statistics.median(each.waited for each in found)
    return (
        f"{name}: outage median {statistics.median(outages):.3f} s, worst {max(outages):.3f} s of {len(found)} rounds (mark {mark:g} s);"
        f" slowest stream {max(each.slowest for each in found):.3f} s; failed {sum(each.failed for each in found)}"
        f" of {sum(each.probes for each in found)} streams; of it, waiting for a processor: median {waited:.3f} s"
    )


def median(rounds: Iterable[Outage]) -> float:
    """Of the outages, each without what others on this machine took of it."""
    return statistics.median(each.outage - each.waited for each in rounds)
