"""
One stream of a lane, as the state machine sees it. Only ``mux.py`` and ``outbox.py`` write these fields; owners read them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vanrouter.baseline.credit import ReceiveWindow
    from vanrouter.baseline.frame import FrameType, Open
    from vanrouter.model import StreamClass

__all__ = ["Stream"]


class Stream:
    __slots__ = (
        "answered",
        "credit",
        "due_answer",
        "due_credit",
        "due_no",
        "due_reset",
        "due_return",
        "early_left",
        "early_received",
        "early_sent",
        "early_stored",
        "fin_received",
        "fin_sent",
        "fin_wanted",
        "got_data",
        "id",
        "is_away",
        "is_gone",
        "last_sent",
        "open",
        "open_sent",
        "origin",
        "ours",
        "owner",
        "queue",
        "queued",
        "received",
        "scheduled",
        "sent",
        "window",
    )

    def __init__(
        self, id_: int, open_: Open | None, window: ReceiveWindow, *, ours: bool, credit: int, owner: Any, now: float, origin: str = ""
    ) -> None:
        self.id = id_  # 0: ours, and OPEN is not written yet
        self.open = open_  # ours, until it is written: nobody keeps what a peer's OPEN said
        self.origin = origin  # the neighbour that it came from, if it crosses this router
        self.ours = ours
        self.owner = owner  # whoever drives the mux keeps here what it needs
        self.answered = False
        self.open_sent = not ours
        self.is_gone = False  # nothing more may be done with it
        self.is_away = False  # it has left its lane and not yet come to another

        # Toward the peer.
        self.queue: deque[memoryview] = deque()
        self.queued = 0
        self.credit = credit  # what the peer permits beyond what was sent, early data apart
        self.early_left = 0  # of the queue: may go before the answer, and is taken from the lane's early credit
        self.early_sent = 0
        self.sent = 0  # with early data
        self.fin_wanted = False
        self.fin_sent = False
        self.last_sent = now
        self.scheduled = False

        # From the peer.
        self.window = window
        self.early_stored = 0
        self.early_received = 0
        self.got_data = False  # EARLY is not allowed any more
        self.received = 0  # with early data
        self.fin_received = False

        # One of each may wait to be written, never a queue.
        self.due_answer = False
        self.due_credit = 0
        self.due_return = 0
        self.due_no = False  # the peer asked for it, and it stays
        self.due_reset: tuple[FrameType, StreamClass, str] | None = None  # RESET, or OPEN_ERR

    @property
    def is_finished(self) -> bool:
        """Both directions ended cleanly, and everything that came was consumed."""
        return self.fin_sent and self.fin_received and self.window.stored == 0 and self.early_stored == 0
