"""
Runs a controller only while it holds the Lease. Drives ``Leadership``.

Who waits takes connections and closes them: its pod is well, and a router that came to it dials again and finds the one that acts.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from vanrouter.controller.lease import LEASE, Leadership
from vanrouter.kube.calls import create, get, replace
from vanrouter.kube.client import KubeClient
from vanrouter.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from vanrouter.kube.kinds import LEASES

__all__ = ["lead"]

log: Final = logging.getLogger("vanrouter.controller")

CALL: Final = 4.0  # of one call: a renewal that hangs leaves time for another
LAST: Final = 2.0  # for the word that we leave


async def lead(
    client: KubeClient,
    namespace: str,
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    port: int,
    rng: random.Random,
    clock: Callable[[], float] = time.time,
) -> None:
    """Until ``run`` ends by itself. It is cancelled when the Lease is lost, and run anew when that is held again."""
    machine = Leadership(name, rng=rng)
    try:
        while True:
            await _wait(client, namespace, machine, port=port, clock=clock)
            log.info("leads", extra={"namespace": namespace, "controller": name})
            if await _lead_once(client, namespace, machine, run, clock=clock):
                return
            log.warning("leads no longer", extra={"namespace": namespace, "controller": name, "holder": machine.holder})
    finally:
        if (value := machine.handle_ended()) is not None:
            with trio.move_on_after(LAST, shield=True), contextlib.suppress(KubeError):
                await client.call(replace(LEASES, namespace, value))


async def _wait(client: KubeClient, namespace: str, machine: Leadership, *, port: int, clock: Callable[[], float]) -> None:
    """Until we lead."""
    async with trio.open_nursery() as nursery:
        if port:
            nursery.start_soon(trio.serve_tcp, trio.aclose_forcefully, port)
        told = ""
        while not machine.leads(trio.current_time()):
            await trio.sleep_until(machine.at)
            await _turn(client, namespace, machine, clock=clock)
            if machine.holder not in (told, machine.name):
                told = machine.holder
                log.info("waits", extra={"namespace": namespace, "controller": machine.name, "holder": told})
        nursery.cancel_scope.cancel()


async def _lead_once(
    client: KubeClient, namespace: str, machine: Leadership, run: Callable[[], Awaitable[None]], *, clock: Callable[[], float]
) -> bool:
    """Whether it ended by itself."""
    ended = False

    async def act(scope: trio.CancelScope) -> None:
        nonlocal ended
        await run()
        ended = True
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(act, nursery.cancel_scope)
        while machine.leads(trio.current_time()):
            with trio.move_on_at(machine.leads_until):
                await trio.sleep_until(machine.at)
                await _turn(client, namespace, machine, clock=clock)
        nursery.cancel_scope.cancel()
    return ended


async def _turn(client: KubeClient, namespace: str, machine: Leadership, *, clock: Callable[[], float]) -> None:
    """Look; and write, if it is ours or free."""
    try:
        try:
            machine.handle_seen(await client.call(get(LEASES, namespace, LEASE), deadline=CALL), trio.current_time())
        except NotFound:
            machine.handle_seen(None, trio.current_time())
        began = trio.current_time()
        value = machine.wish(began, clock())
        if value is None:
            return
        write = replace if "resourceVersion" in value["metadata"] else create
        machine.handle_written(await client.call(write(LEASES, namespace, value), deadline=CALL), began=began, now=trio.current_time())
    except (Conflict, AlreadyExists):
        machine.handle_failed(trio.current_time())
    except KubeError as error:
        log.info("lease", extra={"namespace": namespace, "reason": str(error)})
        machine.handle_failed(trio.current_time())
