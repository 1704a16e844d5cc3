"""
A site as a process of its own: signals, logging and the exit code. What ``vanrouter run`` is. The only file here that owns the process.

    SIGTERM, SIGINT   leave, drain, end; a second SIGINT ends at once
    SIGHUP            read the resources again

Exit code 0: every stream had ended. 1: some were cut at the deadline.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from vanrouter.settings import Timing
from vanrouter.sites.logs import set_up
from vanrouter.sites.run import PlaneName, run_site
from vanrouter.sites.site import RunningSite

if TYPE_CHECKING:
    from vanrouter.kube.access import Access

__all__ = ["Within", "run_process"]

log = logging.getLogger("vanrouter.sites")


class Within(NamedTuple):
    """The namespace that a site directory follows. ``pod``: who we are, by default the host's name; ``port``: for links and probes."""

    access: Access
    pod: str
    port: int
    controller: tuple[str, int]


def run_process(
    directory: Path | str, plane: PlaneName | None = None, *, timing: Timing | None = None, within: Within | None = None
) -> int:
    """Run the site until a signal ends it. Raises ConfigError and StoreError before anything is started."""
    set_up()
    ending = _Ending()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ending.handle)
    whole = trio.run(_main, directory, plane, timing, within, ending)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the interpreter takes back every other handler while it ends
    return 0 if whole else 1


class _Ending:
    """
    Signals that nobody listens to: as ever before the site listens; afterwards they ask for what is done already. Those among them that
    came before the end and were not read are raised again when the receiver is closed, and would make a clean end one by a signal.
    """

    is_over = False

    def handle(self, number: int, _frame: object) -> None:
        if not self.is_over:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


async def _main(directory: Path | str, plane: PlaneName | None, timing: Timing | None, within: Within | None, ending: _Ending) -> bool:
    whole, failure = False, None
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            try:
                if within is None:
                    whole = await run_site(directory, plane=plane, timing=timing, task_status=_Obeying(nursery, signals))
                else:
                    whole = await _in_namespace(nursery, signals, directory, plane, timing, within)
            except Exception as error:  # it leaves as itself and not in the nursery's group: the command line has words for it
                failure = error
            nursery.cancel_scope.cancel()
        ending.is_over = True
    if failure is not None:
        raise failure
    return whole


async def _in_namespace(
    nursery: trio.Nursery,
    signals: AsyncIterator[int],
    directory: Path | str,
    plane: PlaneName | None,
    timing: Timing | None,
    within: Within,
) -> bool:
    """A first start may wait for long, and is ended by a signal meanwhile: nothing runs yet."""
    from vanrouter.sites.run_in_pod import run_in_pod

    class Started:
        def started(self, site: RunningSite) -> None:
            early.cancel()
            nursery.start_soon(obey, site)

    async def give_up() -> None:
        with early:
            async for number in signals:
                if number != signal.SIGHUP:
                    waiting.cancel()
        let_go.set()

    async def obey(site: RunningSite) -> None:
        await let_go.wait()  # one task at a time may hear the signals
        await _obey(signals, site)

    access, pod, port, controller = within
    early, let_go = trio.CancelScope(), trio.Event()
    with trio.CancelScope() as waiting:
        nursery.start_soon(give_up)
        return await run_in_pod(
            directory, access, pod=pod, controller=controller, link_port=port, plane=plane, timing=timing, task_status=Started()
        )
    return True


class _Obeying(NamedTuple):
    """From when the site runs, signals are obeyed."""

    nursery: trio.Nursery
    signals: AsyncIterator[int]

    def started(self, site: RunningSite) -> None:
        self.nursery.start_soon(_obey, self.signals, site)


async def _obey(signals: AsyncIterator[int], site: RunningSite) -> None:
    interrupted = False
    async for number in signals:
        if number == signal.SIGHUP:
            if not site.leaving:
                log.info("reading the resources again", extra={"signal": "SIGHUP"})
                site.reconcile()
        elif number == signal.SIGINT and interrupted:
            site.stop(grace=0.0, drain=0.0)
        else:
            interrupted = interrupted or number == signal.SIGINT
            site.stop()
