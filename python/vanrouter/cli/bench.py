"""``van bench SITE``: what this site and another one of the network can carry between them, and what keeps it from being more."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from vanrouter.cli.base import Invocation, command, pass_invocation
from vanrouter.cli.output import dump, say, strong, table
from vanrouter.cli.running import open_site
from vanrouter.cli.values import spell_duration, timeout_option
from vanrouter.errors import NotReady

if TYPE_CHECKING:
    from vanrouter.bench.verdict import Load
    from vanrouter.cli.running import Site

__all__ = ["bench"]

Doc = dict[str, Any]
T = TypeVar("T")
_SEVERAL: Final = 4
_CLIENTS: Final = 16
_KEEP: Final = 1.0  # a sample so often keeps the session


@command("bench", outputs=("table", "json", "yaml"))
@click.argument("site")
@click.option(
    "--seconds", metavar="COUNT", type=click.FloatRange(0.2, 10, clamp=False), default=2.0, help="Of each of 7 measurements; default: 2."
)
@timeout_option(120)
@pass_invocation
def bench(invocation: Invocation, site: str, seconds: float, timeout: float) -> None:
    """Measure what this site and another one carry between them.

    Throughput in both directions on 1 and on 4 connections, requests and new connections per second, latency, and a verdict in words: what
    limits it. The router there starts a target for it, by itself; nothing is to be set up, and nothing is left. It is real traffic over
    the links that services use.

    A site whose owner does not want this says so among the settings of its Site resource: bench: "off". SITE is a name or an id.
    """
    whole = 7 * seconds + 4 * min(1.0, seconds)
    if timeout < whole:
        raise click.UsageError(f"--seconds {seconds:g} makes it {whole:.0f} s, and --timeout is {spell_duration(timeout)}")
    here = open_site(invocation, timeout)
    opened: Doc = here.call("bench.open", site=site, seconds=min(whole + 30, 120))
    try:
        document = _measured(here, opened, seconds, _Display(invocation.output is None or invocation.output == "table"))
    finally:
        here.hurry(5)
        with contextlib.suppress(Exception):  # it ends by itself
            here.call("bench.close")
    if invocation.output in ("json", "yaml"):
        dump(document, invocation.output)
    else:
        _show(document)


class _Display:
    """One line on a terminal, which changes; nothing elsewhere."""

    def __init__(self, wanted: bool) -> None:
        self._on = wanted and sys.stderr.isatty()
        self._number = 0

    @contextlib.contextmanager
    def step(self, what: str, spell: Callable[[float], str]) -> Iterator[Callable[[float], None]]:
        self._number += 1

        def tick(value: float) -> None:
            if self._on:
                sys.stderr.write(f"\r\x1b[K  {self._number} of 7  {what}: {spell(value)}")
                sys.stderr.flush()

        if self._on:
            sys.stderr.write(f"\r\x1b[K  {self._number} of 7  {what} ...")
            sys.stderr.flush()
        try:
            yield tick
        finally:
            if self._on:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()


class _Session:
    """Asks both ends how busy they are, before and after each step, and meanwhile, so that they know that somebody is still there."""

    def __init__(self, here: Site, opened: Doc) -> None:
        self._here, self._opened = here, opened

    def loaded(self, work: Callable[[], T]) -> tuple[T, Load, Load]:
        from vanrouter.bench.verdict import load

        over = threading.Event()

        def keep() -> None:
            while not over.wait(_KEEP):
                with contextlib.suppress(Exception):  # the next step says what is wrong
                    self._here.call("bench.sample")

        keeper = threading.Thread(target=keep, daemon=True)
        before, own = self._here.call("bench.sample"), time.process_time()
        keeper.start()
        try:
            result = work()
        finally:
            over.set()
            keeper.join()
        after, used = self._here.call("bench.sample"), time.process_time() - own
        target = after["far"].get("target", 0.0) - before["far"].get("target", 0.0)
        near = load(self._opened["near"]["site"], before["near"], after["near"], other=used)
        return result, near, load(self._opened["far"]["site"], before["far"], after["far"], other=target)


def _measured(here: Site, opened: Doc, seconds: float, display: _Display) -> Doc:
    from vanrouter.bench import load as bench_load
    from vanrouter.bench.verdict import Bulk, limits_of_bulk, limits_of_requests

    where = (str(opened["host"]), int(opened["port"]))
    there, session = opened["far"]["site"], _Session(here, opened)
    try:
        bench_load.ready(where, 5.0)
        with display.step("latency, 1 connection", _ms) as tick:
            latency, near, far = session.loaded(lambda: bench_load.latency(where, seconds, tick))
        slow = (near, far)
        with display.step(f"requests of 1 KiB, {_CLIENTS} connections", _per_second) as tick:
            requests, _, _ = session.loaded(lambda: bench_load.requests(where, seconds, _CLIENTS, tick))
        with display.step("new connections, 8 at once", _per_second) as tick:
            connections, _, _ = session.loaded(lambda: bench_load.connections(where, seconds, 8, tick))
        rates: dict[tuple[bool, int], float] = {}
        loads: dict[bool, tuple[Load, Load]] = {}
        for upwards in (True, False):
            for streams in (1, _SEVERAL):
                what = f"bytes {'to' if upwards else 'from'} {there}, {streams} connection{'s' * (streams > 1)}"
                with display.step(what, _gbits) as tick:
                    rate, near, far = session.loaded(
                        lambda up=upwards, n=streams: bench_load.throughput(where, seconds, n, upwards=up, tick=tick)  # type: ignore[misc]
                    )
                rates[upwards, streams], loads[upwards] = rate, (near, far)
    except OSError as problem:
        raise NotReady(
            f"the way to site {there} broke in the middle of the measurement: {problem}",
            hint=f"see {here.invocation.van('network status')}, and the logs of both routers",
        ) from problem
    faster = max((True, False), key=lambda up: rates[up, _SEVERAL])
    bulk = Bulk(rates[faster, 1], rates[faster, _SEVERAL], _SEVERAL, latency.least)
    link = opened["linkMs"] / 1e3 if opened.get("linkMs") else None
    return {
        "site": opened["near"]["site"],
        "to": there,
        "planes": {opened["near"]["site"]: opened["near"]["plane"], there: opened["far"]["plane"]},
        "linkMs": opened.get("linkMs"),
        "latencyMs": {"least": latency.least * 1e3, "p50": latency.p50 * 1e3, "p99": latency.p99 * 1e3},
        "requestsPerSecond": {"1": latency.rate, str(_CLIENTS): requests},
        "connectionsPerSecond": connections,
        "bitsPerSecond": {
            "to": {str(n): rates[True, n] * 8 for n in (1, _SEVERAL)},
            "from": {str(n): rates[False, n] * 8 for n in (1, _SEVERAL)},
        },
        "load": [each._asdict() for each in loads[faster]],
        "verdict": [limits_of_requests(latency.p50, latency.least, link, *slow), *limits_of_bulk(bulk, *loads[faster])],
    }


def _show(document: Doc) -> None:
    there, requests, bits = document["to"], document["requestsPerSecond"], document["bitsPerSecond"]
    planes = ", ".join(f"{site} on the {plane} plane" for site, plane in document["planes"].items())
    say(f"Between {document['site']} and {there} ({planes}):")
    say()
    ms = document["latencyMs"]
    rows: list[tuple[str, str]] = [
        ("latency, 64 bytes there and back", f"{ms['p50']:.3f} ms (99 of 100 within {ms['p99']:.3f} ms, least {ms['least']:.3f} ms)"),
        ("requests, 1 connection, 64 bytes", _per_second(requests["1"])),
        (f"requests, {_CLIENTS} connections, 1 KiB", _per_second(requests[str(_CLIENTS)])),
        ("new connections, 8 at once", _per_second(document["connectionsPerSecond"])),
    ]
    for direction in ("to", "from"):
        for streams, rate in bits[direction].items():
            rows.append((f"bytes {direction} {there}, {streams} connection{'s' * (streams != '1')}", _gbits(rate / 8)))
    table(["what", "figure"], rows, indent="  ")
    say()
    for sentence in document["verdict"]:
        say(strong(sentence))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"


def _per_second(rate: float) -> str:
    return f"{rate:,.0f} per second"


def _gbits(rate: float) -> str:
    return f"{rate * 8 / 1e9:.2f} Gbit/s" if rate >= 1.25e8 else f"{rate * 8 / 1e6:.1f} Mbit/s"
