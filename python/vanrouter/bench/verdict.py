"""
What limits a measurement, in words. Pure: samples of both ends in, sentences out.

A share is of one processor: 1.0 is one that did nothing else. The order of the rules is that of certainty: a machine without an idle
processor cannot do more, whatever else there is; then a thread that never waits; then what a window can carry in a round trip; and only
when all of these have room is it said to be the way between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

__all__ = ["Bulk", "Load", "limits_of_bulk", "limits_of_requests", "load"]

FULL: Final = 0.85  # a thread that is busy for so much of the time has little left
IDLE: Final = 0.08  # less of a machine's processors idle: none is
WINDOW: Final = 8 << 20  # bytes that a stream may have under way
NEARLY: Final = 0.6  # of what a window can carry: kernels and growth take the rest
SEVERAL: Final = 1.4  # so many times more with several streams: one stream was the limit

Sample = Mapping[str, Any]


class Load(NamedTuple):
    """Of one end, between two samples."""

    site: str
    cores: int
    router: float  # processors that the router used
    busiest: float  # the share of its busiest thread
    idle: float | None  # of the machine's processors together, 0 to 1
    other: float  # processors that the load program or the target used


class Bulk(NamedTuple):
    one: float  # bytes per second
    several: float  # of so many streams together:
    streams: int
    round_trip: float  # seconds, the least seen


def load(site: str, before: Sample, after: Sample, *, other: float) -> Load:
    """``other``: seconds of CPU that the program at this end used meanwhile."""
    elapsed = max(1e-3, after["at"] - before["at"])
    busy = [seconds - before["threads"].get(thread, 0.0) for thread, seconds in after["threads"].items()]
    idle = None
    if before.get("idle") is not None and after.get("idle") is not None:
        idle = min(1.0, max(0.0, (after["idle"] - before["idle"]) / elapsed / after["cores"]))
    return Load(site, after["cores"], (after["cpu"] - before["cpu"]) / elapsed, max(busy, default=0.0) / elapsed, idle, other / elapsed)


def _processors(end: Load, program: str) -> str:
    """Why this end can do no more, or nothing."""
    if end.idle is not None and end.idle < IDLE:
        rest = max(0.0, end.cores * (1 - end.idle) - end.router - end.other)
        return (
            f"the processors at {end.site}: none of its {end.cores} is idle; its router uses {end.router:.1f},"
            f" {program} {end.other:.1f}, everything else there {rest:.1f}"
        )
    if end.busiest >= FULL:
        return f"the router of {end.site}: one of its threads is busy for {min(1.0, end.busiest):.0%} of the time"
    if end.other >= FULL:
        return f"{program} at {end.site}, which is busy for {min(1.0, end.other):.0%} of the time: the routers could carry more"
    return ""


def limits_of_bulk(bulk: Bulk, near: Load, far: Load) -> list[str]:
    """What keeps the bytes from being faster: of one stream where several carry more, and of all of them."""
    found = []
    can = WINDOW / bulk.round_trip if bulk.round_trip > 0 else math.inf
    window = f"with {bulk.round_trip * 1e3:.1f} ms there and back, the window of {WINDOW >> 20} MiB lets a stream carry {_rate(can)}"
    if bulk.several > SEVERAL * bulk.one:
        alone = "one thread of each router carries it, in one TCP connection on the way"
        found.append(f"One stream is limited by {'the round trip: ' + window if bulk.one > NEARLY * can else 'being one: ' + alone}.")
    if why := _processors(near, "this measurement") or _processors(far, "the target of the measurement"):
        found.append(f"Bulk is limited by {why}.")
    elif bulk.several > NEARLY * can * bulk.streams:
        found.append(f"{bulk.streams} streams are limited by the round trip too: {window}; more of them carry more.")
    else:
        found.append(
            f"Bulk is limited by the way between the sites, or by a router on it: there are processors to spare at {near.site} (the router"
            f" uses {near.router:.1f} of {near.cores}) and at {far.site} ({far.router:.1f} of {far.cores})."
        )
    return found


def limits_of_requests(p50: float, least: float, link: float | None, near: Load, far: Load) -> str:
    """What a request waits for. ``link``: the round trip of the link itself, where one link is all of the way and has told its own."""
    takes = f"A request takes {p50 * 1e3:.2f} ms"
    busy = _processors(near, "this measurement") or _processors(far, "the target of the measurement")
    if link is None or link > least:  # of several links, or of a time when it was slower
        rest = f"; meanwhile there was a limit in {busy}" if busy else ""
    elif link > p50 / 2:
        rest = f", of which {link * 1e3:.2f} ms are the round trip of the link"
    else:
        rest = f", of which {link * 1e3:.2f} ms are the round trip of the link; the rest are the routers{' and ' + busy if busy else ''}"
    return f"{takes}{rest}."


def _rate(rate: float) -> str:
    return f"{rate * 8 / 1e9:.2f} Gbit/s" if rate >= 1.25e8 else f"{rate * 8 / 1e6:.1f} Mbit/s"
