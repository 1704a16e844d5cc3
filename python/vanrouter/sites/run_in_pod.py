"""
The router of a namespace: a site directory that a feeder keeps in step with the API server, and the site that runs on it.

What the directory has is in force at once, so that a restart needs no API server. One that is for another site than the namespace is now
(it was deleted and made anew, and this pod lived on) is emptied, and the router ends to start anew. A directory that lacks what a router
cannot do without is waited for, and meanwhile the kubelet is answered: alive, not ready.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from vanrouter.kube.access import Access
from vanrouter.kube.channel import CONTROL_PORT
from vanrouter.kube.client import KubeClient
from vanrouter.kube.controller_link import Place
from vanrouter.kube.feeder import Fed, Feeder
from vanrouter.settings import Timing
from vanrouter.sites.controlled import Controlled
from vanrouter.sites.controller_places import CONTROLLER, controller_places
from vanrouter.sites.in_pod import InPod, host_name
from vanrouter.sites.own_leaf import OwnLeaf
from vanrouter.sites.run import PlaneName, run_site
from vanrouter.sites.site import RunningSite
from vanrouter.sites.waiting_room import answer_probes
from vanrouter.stores import SiteHome

__all__ = ["IN_POD", "LINK_PORT", "run_in_pod"]

log: Final = logging.getLogger("vanrouter.sites")

LINK_PORT: Final = 55671
IN_POD: Final = Timing(grace=30.0, drain=60.0)
SAY_AGAIN: Final = 30.0


async def run_in_pod(
    directory: Path | str,
    access: Access,
    *,
    pod: str = "",
    controller: Place = (CONTROLLER, CONTROL_PORT),
    link_port: int = LINK_PORT,
    any_host: str = "",
    plane: PlaneName | None = None,
    stop: trio.Event | None = None,
    timing: Timing | None = None,
    wall: Callable[[], float] = time.time,
    rng: random.Random | None = None,
    task_status: Any = trio.TASK_STATUS_IGNORED,
) -> bool:
    """Until stopped, as ``run_site``. ``access``: the API server, and the namespace that is the site. ``any_host``: where ports are opened,
    if not on all addresses of the pod. ``controller``: its Service.
    """
    home = SiteHome(directory)
    home.create()
    rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
    async with KubeClient(access) as client, trio.open_nursery() as nursery:
        feeder = Feeder(client, access.namespace, home, rng=rng)
        nursery.start_soon(feeder.run)
        await _wait(feeder, access.namespace, any_host, link_port)
        in_pod = InPod(feeder, home.state, namespace=access.namespace, name=pod or host_name(), link_port=link_port, any_host=any_host)
        connected: Any = _Connected(in_pod, nursery, task_status, controller, rng)
        result = await run_site(
            home.directory,
            plane=plane,
            stop=stop,
            timing=timing or IN_POD,
            wall=wall,
            rng=rng,
            in_pod=in_pod,
            task_status=connected,
        )
        nursery.cancel_scope.cancel()
    if feeder.replaced.is_set():
        for path in (home.resources.directory, home.state.directory):
            shutil.rmtree(path, ignore_errors=True)
    return result


class _Connected(msgspec.Struct):
    """From when the site runs, it hears what the feeder writes, and speaks to its controller."""

    in_pod: InPod
    nursery: trio.Nursery
    outer: Any
    controller: Place
    rng: random.Random

    def started(self, site: RunningSite) -> None:
        in_pod = self.in_pod

        def places() -> list[Place]:
            return controller_places((in_pod.pods or {}).values(), os.environ, self.controller)

        leaf = OwnLeaf(site.context.keys.leaves, wall=site.context.wall, changed=lambda: site.services.flushed())
        controlled = Controlled(site, places=places, pod=in_pod.name, rng=self.rng)

        def changed(fed: Fed) -> None:
            site.fed(fed)
            if fed.own:
                leaf.look()
            if fed.pods:
                controlled.link.places_changed()

        in_pod.feeder.changed = changed
        in_pod.join, in_pod.is_controlled = controlled.join, lambda: controlled.link.is_connected
        in_pod.problems = lambda: [leaf.problem] if leaf.problem is not None else []
        self.nursery.start_soon(controlled.run)
        self.nursery.start_soon(leaf.run)
        self.nursery.start_soon(_end_when_replaced, in_pod.feeder, site)
        self.outer.started(site)


async def _end_when_replaced(feeder: Feeder, site: RunningSite) -> None:
    """Whoever started this process starts it again, and it finds an empty directory."""
    await feeder.replaced.wait()
    site.stop()


async def _wait(feeder: Feeder, namespace: str, any_host: str, link_port: int) -> None:
    """Until the directory has what a router needs."""
    if not (missing := feeder.missing()):
        return
    said = ""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_probes, any_host, link_port)
        told_at = -SAY_AGAIN
        while missing:
            why = "; ".join(missing + feeder.troubles())
            if why != said or trio.current_time() >= told_at + SAY_AGAIN:
                log.info("waiting", extra={"namespace": namespace, "for": why})
                said, told_at = why, trio.current_time()
            await trio.sleep(0.1)
            missing = feeder.missing()
        nursery.cancel_scope.cancel()
