"""Streams that come over a lane: find the target here, connect, and only then answer. What is for another router goes on to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from vanrouter.baseline.far import LaneFar
from vanrouter.baseline.frame import Open
from vanrouter.baseline.lane import Lane
from vanrouter.baseline.pump import SocketPump
from vanrouter.baseline.records import StreamRecord
from vanrouter.baseline.transit import forward
from vanrouter.model import StreamClass, site_id_to_bytes

if TYPE_CHECKING:
    from vanrouter.baseline.plane import BaselinePlane

__all__ = ["serve_open"]


def serve_open(plane: BaselinePlane, lane: Lane, far: LaneFar, open_: Open) -> None:
    """Answer at once where that is possible, else in a task of its own; or pass it on toward its destination."""
    refusal = _refusal(plane, lane, open_)
    is_for_us, now = _is_for_us(plane, open_), trio.current_time()
    if is_for_us and plane.targets.choose_connector(open_.routing_key, set(), now=now) is None:
        edge = plane.targets.edge_with(open_.routing_key, never=str(lane.router))
        if edge is not None:
            # What an edge serves is advertised as ours.
            open_ = msgspec.structs.replace(open_, destination_site=site_id_to_bytes(edge.site), destination_boot=edge.boot)
            is_for_us = False
    if not is_for_us:
        refusal = refusal or forward(plane, lane, far, open_)
        if refusal is not None:
            far.refuse(*refusal)
        return
    if refusal is None and plane.targets.choose_connector(open_.routing_key, set(), now=now) is None:
        refusal = StreamClass.REFUSED, f"no target of {open_.routing_key!r} is here"
    if refusal is not None:
        plane.totals.counters.streams_refused += 1
        far.refuse(*refusal)
        return
    record = StreamRecord(plane.totals, plane.mailbox.put, uuid=open_.uuid, key=open_.routing_key)
    record.reached(router=str(open_.source))
    connector = plane.targets.choose_connector(open_.routing_key, set(), now=now)
    if connector is not None and connector.embedded:
        stream = plane.offer_incoming(connector, source=str(open_.source), record=record, counts=True)
        if stream is None:
            record.end(StreamClass.REFUSED, f"too many streams wait for {connector.name}")
            far.refuse(StreamClass.REFUSED, f"too many streams wait for {connector.name}")
            return
        far.owner, stream.far = stream, far
        record.reached(connector=connector.name, router=record.router)
        record.when_over(plane.targets.began(open_.routing_key, connector.name))
        far.accept()
        plane.hand_over(connector, stream)
        return
    pump = plane.new_pump(record, blames=StreamClass.TARGET)
    far.owner, pump.far = pump, far
    plane.spawn(_connect, plane, far, pump, open_.routing_key)


def _refusal(plane: BaselinePlane, lane: Lane, open_: Open) -> tuple[StreamClass, str] | None:
    if plane.is_refusing:
        return StreamClass.DRAIN, "this router is leaving"
    trunk = plane.trunk(str(lane.router))
    if trunk is not None and trunk.is_edge and open_.source_site != site_id_to_bytes(lane.router.site):
        return StreamClass.POLICY, "an edge opens streams of its own site only"
    if trunk is None or trunk.stream_count > plane.config.max_streams_per_link:
        return StreamClass.RESOURCE, f"more than {plane.config.max_streams_per_link} streams on this link"
    return None


def _is_for_us(plane: BaselinePlane, open_: Open) -> bool:
    return (open_.destination_site, open_.destination_boot) in ((plane.site_bytes, plane.router.boot), (bytes(32), 0))


async def _connect(plane: BaselinePlane, far: LaneFar, pump: SocketPump, key: str) -> None:
    tried = set[tuple[str, str]]()
    reason = "no target is here any more"
    with trio.CancelScope() as scope:
        pump.abandoned = scope.cancel  # the opener may go while we connect
        while (connector := plane.targets.choose_connector(key, tried, now=trio.current_time())) is not None:
            tried.add((key, connector.name))
            if connector.embedded:
                continue
            done = plane.targets.began(key, connector.name)
            try:
                sock = await plane.targets.connect(connector, plane.legs.connect)
            except OSError as error:
                done()
                reason = f"{connector.host}:{connector.port}: {error.strerror or error}"
                continue
            except BaseException:
                done()
                raise
            if pump.is_over:  # reset meanwhile
                done()
                sock.reset()
                return
            pump.record.reached(connector=connector.name, router=pump.record.router)
            pump.record.when_over(done)
            pump.socket = sock
            far.accept()
            pump.flush()
            pump.resume_end()
            break
    if pump.socket is not None:
        await pump.run()
    elif not pump.is_over:
        pump.refused(reason)
        far.refuse(StreamClass.REFUSED, reason)
