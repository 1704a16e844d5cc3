"""The trunk of a link: all lanes between this router and one other, whoever dialled them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from vanrouter.baseline.choice import DOUBTFUL, DRAINING
from vanrouter.baseline.frame import GoAwayCode
from vanrouter.baseline.lane import Lane
from vanrouter.baseline.liveness import Others
from vanrouter.baseline.moves import Parking
from vanrouter.model import RouterId
from vanrouter.plane import AnyEvent, LinkState, Message, MessagesReset

__all__ = ["MOST_LANES", "Trunk"]

MOST_LANES: Final = 4
MOST_MESSAGES: Final = 64


class Trunk:
    def __init__(self, router: RouterId, *, lanes_wanted: int, emit: Callable[[AnyEvent], None]) -> None:
        self.router = router
        self.text = str(router)
        self._our_lanes_wanted = lanes_wanted
        self._emit = emit
        self.lanes: list[Lane] = []
        self._sends_on: Lane | None = None  # control messages
        self._receives_on: Lane | None = None
        self._was_full = False
        self.parking = Parking()
        self.inbox: deque[tuple[Lane, bytes]] = deque()
        self.is_edge = False
        self.last_chosen = 0  # for a new stream; see ``choice``
        self.bytes_of_gone_lanes = [0, 0]

    # ---- Lanes ---------------------------------------------------------------------------------------------------------------

    def add(self, lane: Lane) -> None:
        self.lanes.append(lane)
        self.is_edge = lane.hello is not None and lane.hello.edge  # the last word counts
        if len(self.lanes) == 1:
            self._sends_on = lane
            self._emit(MessagesReset(router=self.text))

    def remove(self, lane: Lane) -> None:
        self.lanes.remove(lane)
        self.bytes_of_gone_lanes[0] += lane.mux.bytes_sent
        self.bytes_of_gone_lanes[1] += lane.mux.bytes_received
        if self._sends_on is lane:
            self._sends_on = self.lanes[0] if self.lanes else None
            if self._sends_on is not None:
                self._emit(MessagesReset(router=self.text))
        if not self.lanes:
            self.inbox.clear()

    def best_lane(self) -> Lane | None:
        """For a new stream: not suspect if possible, then the emptiest."""
        lanes = [lane for lane in self.lanes if lane.takes_streams]
        return min(lanes, key=lambda lane: (lane.is_suspect, not lane.mux.has_open_credit, lane.mux.stream_count), default=None)

    @property
    def stream_count(self) -> int:
        return sum(lane.mux.stream_count for lane in self.lanes)

    @property
    def is_suspect(self) -> bool:
        return all(lane.is_suspect for lane in self.lanes)

    def others(self, lane: Lane) -> Others:
        """How the lanes apart from ``lane`` are."""
        lanes = [other for other in self.lanes if other is not lane]
        if any(other.is_suspect for other in lanes):
            return Others.SUSPECT
        return Others.SILENT if any(other.mux.is_silent for other in lanes) else Others.WELL

    @property
    def is_draining(self) -> bool:
        return any(lane.peer_leaving in (GoAwayCode.DRAIN, GoAwayCode.CLOSED) for lane in self.lanes)

    @property
    def _replaced(self) -> int:
        """Lanes that take no new streams while the router does: each needs another one in its place."""
        return 0 if self.is_draining else sum(lane.is_retired or lane.peer_leaving is GoAwayCode.REPLACED for lane in self.lanes)

    @property
    def doubt(self) -> int:
        """What there is to be said against it where a new stream chooses. Only lanes that take one count."""
        is_suspect = all(lane.is_suspect for lane in self.lanes if lane.takes_streams)
        return DOUBTFUL * is_suspect + DRAINING * self.is_draining

    @property
    def takes_streams(self) -> bool:
        return any(lane.takes_streams for lane in self.lanes)

    # ---- Control messages ----------------------------------------------------------------------------------------------------

    def send_message(self, data: bytes) -> bool:
        lane = self._sends_on
        if lane is None or lane.mux.queued_messages >= MOST_MESSAGES:
            self._was_full = True
            return False
        lane.mux.send_message(data)
        lane.kick()
        return True

    def message(self, lane: Lane, data: bytes) -> None:
        if self._receives_on is not lane:
            if self._receives_on is not None:
                self._emit(MessagesReset(router=self.text))
            self._receives_on = lane
        self.inbox.append((lane, data))

    def take_messages(self) -> list[Message]:
        taken: list[Message] = []
        while self.inbox and len(taken) < MOST_MESSAGES:
            lane, data = self.inbox.popleft()
            lane.mux.message_taken(len(data))
            lane.kick()
            taken.append(Message(router=self.text, data=data))
        return taken

    def numbers(self) -> list[int]:
        """Streams open, bytes sent, bytes received."""
        sent, received = self.bytes_of_gone_lanes
        sent += sum(lane.mux.bytes_sent for lane in self.lanes)
        received += sum(lane.mux.bytes_received for lane in self.lanes)
        return [self.stream_count, sent, received]

    # ---- State -----------------------------------------------------------------------------------------------------------------

    def state(self, error: str = "") -> LinkState:
        hellos = [lane.hello for lane in self.lanes if lane.hello is not None]
        first = hellos[0] if hellos else None
        return LinkState(
            router=self.text,
            site_name=first.site_name if first else "",
            lanes=len(self.lanes),
            lanes_wanted=min(self._our_lanes_wanted, first.lanes_wanted, MOST_LANES) + self._replaced if first else 0,
            suspect=bool(self.lanes) and self.is_suspect,
            draining=self.is_draining,
            edge=self.is_edge,
            cost=max((max(lane.cost, lane.hello.cost) for lane in self.lanes if lane.hello), default=1),
            dialled=sorted({lane.link for lane in self.lanes if lane.link}),
            accepted=sorted({lane.access for lane in self.lanes if lane.access}),
            peer_link=next((lane.hello.link_name for lane in self.lanes if lane.access and lane.hello), ""),
            address=self.lanes[0].address if self.lanes else "",
            software=first.software if first else "",
            siblings=list(hellos[-1].siblings) if hellos else [],
            rtt=min((lane.mux.round_trip for lane in self.lanes if lane.mux.round_trip), default=0.0),
            error=error,
        )
