"""
Finds the far end of a new stream: chooses a target, asks it, and asks another one when it refuses.

The owner's early data is kept until a target has answered, so that a refusal costs the application nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import trio

from vanrouter.baseline.far import Answer, Parked, join_locally
from vanrouter.baseline.frame import Open
from vanrouter.baseline.pump import SocketPump
from vanrouter.baseline.targets import Here, Search, There
from vanrouter.model import RouterId, StreamClass, site_id_to_bytes
from vanrouter.plane import Connector

if TYPE_CHECKING:
    from vanrouter.baseline.embedded import EmbeddedStream
    from vanrouter.baseline.plane import BaselinePlane

__all__ = ["RETRYABLE", "Failure", "Opening"]

OPEN_DEADLINE: Final = 10.0  # from the accept
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 0.5
_NO_MEMORY: Final = "the router's memory budget is used up"
RETRYABLE: Final = {StreamClass.REFUSED, StreamClass.RESOURCE, StreamClass.DRAIN, StreamClass.LINK}


class Failure(msgspec.Struct, frozen=True):
    stream_class: StreamClass
    reason: str
    nobody_serves_it: bool = False


class Opening:
    def __init__(self, plane: BaselinePlane, search: Search, owner: SocketPump | EmbeddedStream) -> None:
        self._plane = plane
        self._search = search
        self._owner = owner
        self._parked = Parked()
        owner.far = self._parked
        self._began = trio.current_time()

    async def run(self) -> Failure | None:
        """None: it is open, or the application has gone."""
        plane = self._plane
        deadline = self._began + OPEN_DEADLINE
        give_up = self._began + plane.config.refuse_after
        last: Failure | None = None
        pause = FIRST_PAUSE
        while not self._owner.is_over and trio.current_time() < deadline:
            target = self._search.next(now=trio.current_time())
            if target is None:
                now = trio.current_time()
                if now >= give_up:
                    return last or Failure(StreamClass.REFUSED, f"nobody serves {self._keys}", nobody_serves_it=True)
                self._search.start_again()
                with trio.move_on_after(min(pause, give_up - now)):
                    await plane.wait_for_targets()
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self._owner.record.key = target.routing_key
            last = await (self._try_here(target) if isinstance(target, Here) else self._try_there(target))
            if last is None or last.stream_class not in RETRYABLE:
                return last
            self._search.failed(target, last.stream_class)
        return last or Failure(StreamClass.REFUSED, f"no target of {self._keys} answered within {OPEN_DEADLINE:.0f} s")

    @property
    def _keys(self) -> str:
        return ", ".join(repr(key.routing_key) for key in self._search.keys)

    # ---- A target of this router -------------------------------------------------------------------------------------------------

    async def _try_here(self, here: Here) -> Failure | None:
        plane, owner, connector = self._plane, self._owner, here.connector
        done = plane.targets.began(here.routing_key, here.name)
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
            sock = await plane.targets.connect(connector, plane.legs.connect)
        except OSError as error:
            return Failure(StreamClass.REFUSED, f"{connector.host}:{connector.port}: {error.strerror or error}")
        pump = plane.new_pump(record, blames=StreamClass.TARGET, counts=False)
        pump.socket = sock
        return pump

    # ---- A target of another router ------------------------------------------------------------------------------------------------

    async def _try_there(self, target: There) -> Failure | None:
        plane, owner, trunk = self._plane, self._owner, target.trunk
        lane = trunk.best_lane()
        if lane is None or trunk.stream_count >= plane.config.max_streams_per_link:
            return Failure(StreamClass.LINK, "the link took no more streams")
        destination = RouterId.parse(target.router)
        open_ = Open(
            routing_key=target.routing_key,
            source_site=plane.site_bytes,
            source_boot=plane.router.boot,
            uuid=owner.record.uuid,
            credit=0,
            destination_site=site_id_to_bytes(destination.site),
            destination_boot=destination.boot,
            hop_limit=plane.hop_limit,
        )
        early = bytes(self._parked.data)
        far = lane.open(open_, owner, early)
        if far is None:
            return Failure(StreamClass.RESOURCE, _NO_MEMORY)
        answer = far.answer = Answer()
        far.kept = bytearray(early)
        if self._parked.ended:
            far.send_eof()
        owner.far = far
        done = plane.targets.began(target.routing_key, target.router)
        plane.targets.began_over(trunk)
        owner.writable()
        owner.record.reached(router=target.router)  # now: a short stream may be over before this task hears the answer
        try:
            await answer.wait()
        except BaseException:
            far.reset(StreamClass.CLIENT, "the router stops")
            raise
        if answer.accepted:
            owner.record.when_over(done)
            far.kept = None
            return None
        done()
        owner.far = self._parked
        far.answer = None
        far.reset(answer.stream_class, answer.reason)
        had_spoken = far.has_sent_early
        self._parked.data, self._parked.ended, far.kept = far.kept, far.ended, None
        if answer.was_lost and had_spoken:
            owner.was_reset(StreamClass.LINK, answer.reason)
            return None
        return Failure(answer.stream_class, answer.reason)
