"""
A site directory to a running router: lock or handover, keys, plane, admin socket; and back.

Whatever is wrong with the directory is found before anything is started or taken over, and raises ``ConfigError`` or ``StoreError``.
Embedding programs call this too: it touches no signal, logs through ``logging`` only, and ends when ``stop`` is set or it is cancelled.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import trio

from vanrouter.addresses.table import SYNC_LINGER
from vanrouter.admin.server import serve_admin
from vanrouter.errors import ConfigError
from vanrouter.model import RouterId, boot_number
from vanrouter.plane import DataPlane, Listener, PlaneConfig
from vanrouter.settings import Timing
from vanrouter.sites.context import Context
from vanrouter.sites.keys import load_given_keys, load_or_create_keys
from vanrouter.sites.operator import Operator
from vanrouter.sites.site import RunningSite
from vanrouter.sites.wanted import compute_wanted
from vanrouter.stores import Loaded, SiteHome

if TYPE_CHECKING:
    from vanrouter.sites.handover import Predecessor
    from vanrouter.sites.in_pod import InPod

__all__ = ["PlaneName", "make_plane", "run_site"]

log = logging.getLogger("vanrouter.sites")

PlaneName = Literal["core", "baseline"]


def make_plane(name: PlaneName | None, config: PlaneConfig) -> DataPlane:
    """None: the core where it is built in, else the baseline."""
    if name != "baseline":
        try:
            native: Any = importlib.import_module("vanrouter.native")
        except ImportError as exc:
            if name == "core":
                raise ConfigError(f"this installation has no core data plane: {exc}", hint="run it with --plane baseline") from exc
            log.warning("no core data plane in this installation, using the baseline", extra={"error": str(exc)})
        else:
            plane: DataPlane = native.NativePlane(config)
            return plane
    baseline: Any = importlib.import_module("vanrouter.baseline")
    slow: DataPlane = baseline.BaselinePlane(config)
    return slow


async def run_site(
    directory: Path | str,
    *,
    plane: PlaneName | None = None,
    stop: trio.Event | None = None,
    take_over: bool = True,
    timing: Timing | None = None,
    wall: Callable[[], float] = time.time,
    rng: random.Random | None = None,
    in_pod: InPod | None = None,
    task_status: trio.TaskStatus[RunningSite] = trio.TASK_STATUS_IGNORED,
) -> bool:
    """Run the site until ``stop`` (or its own ``stop``). True: every stream had ended. Starts with the running site as its value.

    Another router on this directory is taken over from, unless ``take_over`` is false: then it is a ConfigError. ``in_pod``: the directory
    follows a namespace (`run_in_pod`).
    """
    timing = timing or Timing()
    home = SiteHome(directory)
    home.require()
    home.create()
    home.state.check()
    predecessor: Predecessor | None = None
    sockets: list[tuple[str, int, int]] = []
    inherited: list[Listener] = []
    if not home.lock():
        if not take_over:
            raise ConfigError(f"a router runs on {home.directory} already (pid {_pid(home)})", hint="see it: van -p linux status")
        from vanrouter.sites.handover import Predecessor  # seldom

        predecessor = Predecessor(home, timeout=timing.handover)
        sockets, inherited = await predecessor.take_sockets()
    try:
        loaded = home.resources.load()
        site_name = _site_name(home, loaded)
        now = wall()
        keys = load_or_create_keys(home.state, site_name, now=now) if in_pod is None else load_given_keys(home.state)
        boot = boot_number(int(now * 1000))
        edge = compute_wanted(loaded.resources).site_spec.edge
        config = PlaneConfig(identity_key=keys.identity.public_der, boot=boot, site_name=site_name, edge=edge)
        if edge:
            # All its paths go over one uplink: while another one comes up, clients wait or are refused, and do not meet a closed port.
            config = msgspec.structs.replace(config, listener_linger=SYNC_LINGER)
        data_plane = make_plane(plane, config)
        for host, port, fd in sockets:
            data_plane.adopt(host, port, fd)
        sockets.clear()
        if predecessor is not None:
            await predecessor.take_place()
        home.tidy()
        context = Context(
            home=home,
            keys=keys,
            site_name=site_name,
            own=RouterId(keys.site_id, boot),
            plane=data_plane,
            timing=timing,
            wall=wall,
            rng=rng or random.Random(),  # noqa: S311 - jitter, not secrets
            edge=edge,
            in_pod=in_pod,
        )
        return await _serve(RunningSite(context, loaded, inherited=inherited, measured=take_over), stop, task_status)
    finally:
        for _, _, fd in sockets:
            os.close(fd)
        if predecessor is not None:
            predecessor.close()
        if home.locked:
            home.remove_pid()
            home.unlock()


async def _serve(site: RunningSite, stop: trio.Event | None, task_status: trio.TaskStatus[RunningSite]) -> bool:
    context, home = site.context, site.context.home
    extra = {"site": context.site_name, "router": str(context.own), "plane": context.plane.name, "directory": str(home.directory)}
    log.info("router starts", extra=extra)
    operator = Operator(site, released=home.unlock)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_admin, home.socket, operator.handle)
        home.write_pid()
        if stop is not None:
            nursery.start_soon(_stop_on, stop, site)
        async with trio.open_nursery() as running:
            result: list[bool] = []

            async def run(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
                result.append(await site.run(task_status=task_status))

            await running.start(run)
            task_status.started(site)
        nursery.cancel_scope.cancel()
    log.info("router ends", extra={"site": context.site_name, "clean": bool(result and result[0])})
    return bool(result and result[0])


async def _stop_on(stop: trio.Event, site: RunningSite) -> None:
    await stop.wait()
    site.stop()


def _site_name(home: SiteHome, loaded: Loaded) -> str:
    wanted = compute_wanted(loaded.resources)
    if wanted.site is not None:
        return wanted.site.name
    broken = loaded.problems[0] if loaded.problems else None
    why = f": {broken.path}: {broken.message}" if broken is not None else ""
    hint = broken.hint if broken is not None and broken.hint else "create it: van -p linux init --site-name NAME"
    raise ConfigError(f"there is no Site in {home.resources.directory}{why}", hint=hint)


def _pid(home: SiteHome) -> str:
    with contextlib.suppress(OSError):
        return home.pid_file.read_text().strip()
    return "unknown"
