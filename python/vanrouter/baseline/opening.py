"""
Finds the far end of a new stream: chooses a target, asks it, and asks another one when it refuses.

The owner's early data is kept until a target has answered, so that a refusal costs the application nothing.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from vanrouter.baseline.far import Answer, Parked, join_locally
from vanrouter.baseline.frame import Open
from vanrouter.baseline.pump import SocketPump
from vanrouter.baseline.sockets import AppSocket, reset_on_close, tune
from vanrouter.model import RouterId, StreamClass, site_id_to_bytes
from vanrouter.plane import Connector, RouteTarget

if TYPE_CHECKING:
    from vanrouter.baseline.embedded import EmbeddedStream
    from vanrouter.baseline.plane import BaselinePlane

__all__ = ["CONNECT_TIMEOUT", "Failure", "Opening", "connect_tcp"]

OPEN_DEADLINE: Final = 10.0  # from the accept
CONNECT_TIMEOUT: Final = 5.0
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 0.5
_NO_MEMORY: Final = "the router's memory budget is used up"
RETRYABLE: Final = {StreamClass.REFUSED, StreamClass.RESOURCE, StreamClass.DRAIN, StreamClass.LINK}


class Failure(msgspec.Struct, frozen=True):
    stream_class: StreamClass
    reason: str
    nobody_serves_it: bool = False


class Opening:
    def __init__(self, plane: BaselinePlane, key: str, owner: SocketPump | EmbeddedStream) -> None:
        self._plane = plane
        self._key = key
        self._owner = owner
        self._parked = Parked()
        owner.far = self._parked
        self._began = trio.current_time()

    async def run(self) -> Failure | None:
        """None: it is open, or the application has gone."""
        plane = self._plane
        deadline = self._began + OPEN_DEADLINE
        give_up = self._began + plane.config.refuse_after
        tried: set[str] = set()
        last: Failure | None = None
        pause = FIRST_PAUSE
        while not self._owner.is_over and trio.current_time() < deadline:
            candidate = plane.choose(self._key, tried)
            if candidate is None:
                now = trio.current_time()
                if tried and last is not None and now >= give_up:
                    return last
                if now >= give_up:
                    return last or Failure(StreamClass.REFUSED, f"nobody serves {self._key!r}", nobody_serves_it=True)
                tried.clear()
                with trio.move_on_after(min(pause, give_up - now)):
                    await plane.wait_for_targets()
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            tried.add(candidate.name if isinstance(candidate, Connector) else candidate.router)
            if isinstance(candidate, Connector):
                last = await self._try_here(candidate)
            else:
                last = await self._try_there(candidate)
            if last is None or last.stream_class not in RETRYABLE:
                return last
        return last or Failure(StreamClass.REFUSED, f"no target of {self._key!r} answered within {OPEN_DEADLINE:.0f} s")

    # ---- A target of this router -------------------------------------------------------------------------------------------------

    async def _try_here(self, connector: Connector) -> Failure | None:
        plane, owner = self._plane, self._owner
        done = plane.began(connector.name)
        try:
            target = await self._reach(connector)
        except BaseException:
            done()
            raise
        joined = None if isinstance(target, Failure) or owner.is_over else join_locally(owner, target, plane.budget)
        if isinstance(target, Failure) or joined is None:
            done()
            if isinstance(target, Failure):
                return target
            target.was_reset(StreamClass.RESOURCE, _NO_MEMORY)
            return None if owner.is_over else Failure(StreamClass.RESOURCE, _NO_MEMORY)
        owner.far, target.far = joined
        owner.record.reached(connector=connector.name)
        owner.record.when_over(done)
        if self._parked.data:
            owner.far.send(bytes(self._parked.data))
        if self._parked.ended:
            owner.far.send_eof()
        if isinstance(target, SocketPump):
            plane.spawn(target.run)
        else:
            plane.hand_over(connector, target)
        owner.writable()
        return None

    async def _reach(self, connector: Connector) -> SocketPump | EmbeddedStream | Failure:
        plane, record = self._plane, self._owner.record
        if connector.embedded:
            stream = plane.offer_incoming(connector, source="", record=record, counts=False)
            return stream or Failure(StreamClass.REFUSED, f"too many streams wait for {connector.name}")
        try:
            sock = await plane.connect_to(connector)
        except OSError as error:
            return Failure(StreamClass.REFUSED, f"{connector.host}:{connector.port}: {error.strerror or error}")
        pump = plane.new_pump(record, blames=StreamClass.TARGET, counts=False)
        pump.socket = AppSocket(sock, plane.abort_watch)
        return pump

    # ---- A target of another router ------------------------------------------------------------------------------------------------

    async def _try_there(self, target: RouteTarget) -> Failure | None:
        plane, owner = self._plane, self._owner
        trunk = plane.trunk(target.next_hop)
        lane = None if trunk is None else trunk.best_lane()
        if trunk is None or lane is None or trunk.stream_count >= plane.config.max_streams_per_link:
            return Failure(StreamClass.LINK, "the link took no more streams")
        destination = RouterId.parse(target.router)
        open_ = Open(
            routing_key=self._key,
            source_site=plane.site_bytes,
            source_boot=plane.router.boot,
            uuid=owner.record.uuid,
            credit=0,
            destination_site=site_id_to_bytes(destination.site),
            destination_boot=destination.boot,
        )
        early = bytes(self._parked.data)
        far = lane.open(open_, owner, early)
        if far is None:
            return Failure(StreamClass.RESOURCE, _NO_MEMORY)
        answer = far.answer = Answer()
        far.kept += early
        if self._parked.ended:
            far.send_eof()
        owner.far = far
        done = plane.began(target.router)
        owner.writable()
        try:
            await answer.wait()
        except BaseException:
            far.reset(StreamClass.CLIENT, "the router stops")
            raise
        if answer.accepted:
            owner.record.reached(router=target.router)
            owner.record.when_over(done)
            far.kept = bytearray()
            return None
        done()
        owner.far = self._parked
        far.answer = None
        far.reset(answer.stream_class, answer.reason)
        had_spoken = far.has_sent_early
        self._parked.data, self._parked.ended = far.kept, far.ended
        if answer.was_lost and had_spoken:
            owner.was_reset(StreamClass.LINK, answer.reason)
            return None
        return Failure(answer.stream_class, answer.reason)


async def connect_tcp(host: str, port: int) -> socket.socket:
    """A tuned, connected socket. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        tune(sock)
        try:
            sock.connect((host, port))
        except BlockingIOError:
            with trio.move_on_after(CONNECT_TIMEOUT) as timeout:
                await trio.lowlevel.wait_writable(sock)
            if timeout.cancelled_caught:
                raise TimeoutError(None, f"no answer within {CONNECT_TIMEOUT:.0f} s") from None
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number)) from None
    except BaseException:
        # Also when whoever wanted it has gone: a server that has accepted it already must not take this for a clean end.
        reset_on_close(sock)
        sock.close()
        raise
    return sock
