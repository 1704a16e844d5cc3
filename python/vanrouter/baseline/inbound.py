"""
What the network may do with a lane: every frame type, and what is wrong with it. Sans-IO.

All of it is fed by the peer and raises only ``RemoteProtocolError`` (and ``PeerRejected`` for a HELLO that proves nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from vanrouter.baseline.books import MAX_EARLY, MAX_MESSAGE
from vanrouter.baseline.credit import MAX_CREDIT, ReceiveWindow, add_credit_untrusted
from vanrouter.baseline.frame import (
    MOST_OPEN_ATTRIBUTES,
    Frame,
    FrameType,
    GoAwayCode,
    decode_attributes_untrusted,
    decode_class_and_reason_untrusted,
    decode_open_untrusted,
    decode_stream_class,
    decode_u32s_untrusted,
    decode_u64_untrusted,
)
from vanrouter.baseline.moves import FEATURE_MOVE, Moves, decode_move_untrusted
from vanrouter.baseline.mux_events import (
    Accepted,
    CameOver,
    Data,
    Event,
    Finished,
    GoneAway,
    HelloReceived,
    LateReset,
    LeaveAsked,
    MessageReceived,
    Opened,
    Refused,
    WasReset,
    Writable,
)
from vanrouter.baseline.stream import Stream
from vanrouter.errors import RemoteProtocolError
from vanrouter.model import StreamClass

__all__ = ["Inbound"]


class Inbound(Moves):
    def receive_untrusted(self, chunks: Sequence[bytes], now: float) -> list[Event]:
        """Raises RemoteProtocolError or, for a HELLO that proves nothing, PeerRejected: the lane is over."""
        frames: list[Frame] = []
        for chunk in chunks:
            self.bytes_received += len(chunk)
            self._decoder.feed_untrusted(chunk, frames)
        self._liveness.heard(now)
        events: list[Event] = []
        for frame in frames:
            if frame.type == FrameType.DATA and frame.stream:
                self._data_untrusted(frame, events)
            else:
                handler = _HANDLERS.get(frame.type)
                if not self._hello_received and frame.type not in (FrameType.HELLO, FrameType.GOAWAY):
                    raise RemoteProtocolError(f"frame type {frame.type:#04x} before HELLO")
                if handler is None:
                    self._glitch(now)
                else:
                    handler(self, frame, now, events)
        return events

    def _data_untrusted(self, frame: Frame, events: list[Event]) -> None:
        size = len(frame.payload)
        if not self._hello_received:
            raise RemoteProtocolError("DATA before HELLO")
        if size == 0:
            raise RemoteProtocolError("DATA without bytes")
        stream = self._live_untrusted(frame)
        if stream is None:
            return
        if stream.fin_received:
            raise RemoteProtocolError("DATA after FIN")
        if not stream.answered or stream.due_answer:
            raise RemoteProtocolError("DATA before OPEN_OK")
        stream.window.received_untrusted(size)
        stream.got_data = True
        stream.received += size
        events.append(Data(stream, frame.payload))

    def _early_untrusted(self, frame: Frame, _now: float, events: list[Event]) -> None:
        size = len(frame.payload)
        if size == 0:
            raise RemoteProtocolError("EARLY without bytes")
        if frame.stream % 2 != self._their_parity:
            raise RemoteProtocolError("EARLY from the acceptor of a stream")
        stream = self._live_untrusted(frame)
        self._take_early_untrusted(size)
        if stream is None:
            self._give_back_early(size)
            return
        if stream.fin_received or stream.got_data:
            raise RemoteProtocolError("EARLY after FIN or DATA")
        self._store_early_untrusted(stream, frame.payload, events)

    def _store_early_untrusted(self, stream: Stream, data: memoryview, events: list[Event]) -> None:
        size = len(data)
        stream.early_received += size
        if stream.early_received > MAX_EARLY:
            raise RemoteProtocolError(f"{stream.early_received} bytes of early data; at most {MAX_EARLY} are allowed")
        stream.early_stored += size
        stream.received += size
        events.append(Data(stream, data))

    def _hello_untrusted(self, frame: Frame, now: float, events: list[Event]) -> None:
        if frame.stream != 0 or self._hello_received:
            raise RemoteProtocolError("a second HELLO" if self._hello_received else "HELLO on a stream")
        hello = self._check_hello_untrusted(frame.payload)
        self._hello_received = True
        self._moves = bool(hello.features & FEATURE_MOVE)
        outbox = self._outbox
        outbox.ready = True
        outbox.control, outbox.opens, outbox.early = hello.credits.control, hello.credits.opens, hello.credits.early
        outbox.ping = self._liveness.ping(now)
        events.append(HelloReceived(hello))

    def _open_untrusted(self, frame: Frame, now: float, events: list[Event]) -> None:
        id_ = frame.stream
        if id_ % 2 != self._their_parity or id_ == 0 or id_ >= 2**31:
            raise RemoteProtocolError(f"OPEN with id {id_}, which is not the peer's to use")
        if id_ <= self._highest_of_theirs:
            raise RemoteProtocolError(f"OPEN with id {id_}, but {self._highest_of_theirs} was used already")
        open_, early = decode_open_untrusted(frame.payload)
        if open_.credit > MAX_CREDIT:
            raise RemoteProtocolError(f"OPEN with a credit of {open_.credit}")
        if self._their_opens == 0:
            raise RemoteProtocolError("OPEN without open credit")
        self._take_early_untrusted(len(early))
        self._their_opens -= 1
        self._highest_of_theirs = id_
        if len(open_.attributes) > MOST_OPEN_ATTRIBUTES:
            reason = f"{len(open_.attributes)} bytes of attributes in an OPEN; at most {MOST_OPEN_ATTRIBUTES} are allowed"
            self._refuse_at_once(id_, len(early), StreamClass.POLICY, reason, now)
            return
        if not self._budget.take_floor():
            self._refuse_at_once(id_, len(early), StreamClass.RESOURCE, "the router's memory budget is used up", now)
            return
        stream = Stream(id_, None, ReceiveWindow(self._budget, now), ours=False, credit=open_.credit, owner=None, now=now)
        self._streams[id_] = stream
        events.append(Opened(stream, open_))
        if early:
            self._store_early_untrusted(stream, early, events)

    def _refuse_at_once(self, id_: int, early: int, stream_class: StreamClass, reason: str, now: float) -> None:
        self._budget.take_floor_regardless()
        stream = Stream(id_, None, ReceiveWindow(self._budget, now), ours=False, credit=0, owner=None, now=now)
        stream.early_stored = early
        self._streams[id_] = stream
        self.reset(stream, stream_class, reason, kind=FrameType.OPEN_ERR)

    def _open_ok_untrusted(self, frame: Frame, _now: float, events: list[Event]) -> None:
        if len(frame.payload) < 4:
            raise RemoteProtocolError("OPEN_OK is cut off")
        decode_attributes_untrusted(frame.payload[4:], "OPEN_OK")
        stream = self._awaiting_answer_untrusted(frame, "OPEN_OK")
        if stream is None:
            return
        (credit,) = decode_u32s_untrusted(frame.payload[:4], 1, "OPEN_OK")
        stream.credit = add_credit_untrusted(0, credit, "OPEN_OK")
        stream.answered = True
        self._unanswered -= 1
        self._outbox.asked -= 1
        self._outbox.early += stream.early_left  # what did not go early goes as DATA
        stream.early_left = 0
        events.append(Accepted(stream))
        if stream.queued and stream.credit:
            self._outbox.schedule(stream)

    def _open_err_untrusted(self, frame: Frame, _now: float, events: list[Event]) -> None:
        number, reason = decode_class_and_reason_untrusted(frame.payload, "OPEN_ERR")
        stream = self._awaiting_answer_untrusted(frame, "OPEN_ERR")
        if stream is not None:
            self._forget(stream)
            events.append(Refused(stream, decode_stream_class(number), reason))

    def _awaiting_answer_untrusted(self, frame: Frame, what: str) -> Stream | None:
        stream = self._live_untrusted(frame)
        if stream is not None and (not stream.ours or stream.answered):
            raise RemoteProtocolError(f"{what} for a stream that is not waiting for an answer")
        return stream

    def _credit_untrusted(self, frame: Frame, now: float, events: list[Event]) -> None:
        if frame.stream == 0:
            self._lane_credit_untrusted(frame, now)
            return
        (increment,) = decode_u32s_untrusted(frame.payload, 1, "CREDIT")
        if increment == 0:
            raise RemoteProtocolError("CREDIT of 0")
        stream = self._live_untrusted(frame)
        if stream is None:
            return
        if self.is_unanswered(stream):
            raise RemoteProtocolError("CREDIT before OPEN_OK")
        stream.credit = add_credit_untrusted(stream.credit, increment, "CREDIT")
        if stream.queued:
            self._outbox.schedule(stream)
        events.append(Writable(stream))

    def _lane_credit_untrusted(self, frame: Frame, now: float) -> None:
        control, opens, early = decode_u32s_untrusted(frame.payload, 3, "CREDIT on stream 0")
        outbox = self._outbox
        outbox.control = add_credit_untrusted(outbox.control, control, "control credit")
        outbox.opens = add_credit_untrusted(outbox.opens, opens, "open credit")
        outbox.early = add_credit_untrusted(outbox.early, early, "early credit")
        if not (control or opens or early):
            self._glitch(now)

    def _credit_return_untrusted(self, frame: Frame, now: float, _events: list[Event]) -> None:
        (amount,) = decode_u32s_untrusted(frame.payload, 1, "CREDIT_RETURN")
        if amount == 0:
            raise RemoteProtocolError("CREDIT_RETURN of 0")
        stream = self._live_untrusted(frame)
        self._glitch(now)
        if stream is not None:
            if not stream.answered or stream.due_answer:
                raise RemoteProtocolError("CREDIT_RETURN before OPEN_OK")
            stream.window.returned_untrusted(amount)

    def _fin_untrusted(self, frame: Frame, _now: float, events: list[Event]) -> None:
        total = decode_u64_untrusted(frame.payload, "FIN")
        stream = self._live_untrusted(frame)
        if stream is None:
            return
        if self.is_unanswered(stream):
            raise RemoteProtocolError("FIN before OPEN_OK")
        if stream.fin_received:
            raise RemoteProtocolError("FIN after FIN")
        if total != stream.received:
            raise RemoteProtocolError(f"FIN says {total} bytes were sent, but {stream.received} came")
        stream.fin_received = True
        events.append(Finished(stream))
        if stream.is_finished:
            self._forget(stream)

    def _reset_untrusted(self, frame: Frame, _now: float, events: list[Event]) -> None:
        number, reason = decode_class_and_reason_untrusted(frame.payload, "RESET")
        stream = self._live_untrusted(frame)
        if stream is None:
            if self._moves:
                events.append(LateReset(frame.stream, decode_stream_class(number), reason))
            return
        if not stream.ours and not stream.answered:  # theirs, opened and reset: gives its open back late
            self._slow_opens += 1
        self._forget(stream)
        events.append(WasReset(stream, decode_stream_class(number), reason))

    def _move_untrusted(self, frame: Frame, now: float, events: list[Event]) -> None:
        if not self._moves:
            raise RemoteProtocolError("MOVE, which was not agreed on")
        name, total = decode_move_untrusted(frame.payload)
        id_ = frame.stream
        if name == 0:
            raise RemoteProtocolError("MOVE says no to what was not asked")
        if id_ % 2 == self._their_parity and self._highest_of_theirs < id_ < 2**31:
            self._highest_of_theirs = id_
            self._glitch(now)
            self._came_over_untrusted(id_, name, total, events)
            return
        stream = self._live_untrusted(frame)
        if stream is None:
            return
        if not stream.answered or stream.due_answer:
            raise RemoteProtocolError("MOVE before OPEN_OK")
        if total != stream.received:
            raise RemoteProtocolError(f"MOVE says {total} bytes were sent, but {stream.received} came")
        if stream.fin_sent and stream.fin_received:
            return  # both ends know it, and finish here
        self._glitch(now)
        events.append(LeaveAsked(stream, name))

    def _came_over_untrusted(self, id_: int, name: int, total: int, events: list[Event]) -> None:
        stream = self.take_parked(name)
        if stream is None:
            self.refuse_moved(id_)
            return
        self.adopt(id_, stream)
        if total != stream.received:
            raise RemoteProtocolError(f"MOVE says {total} bytes were sent, but {stream.received} came")
        events.append(CameOver(stream))

    def _ping_untrusted(self, frame: Frame, now: float, _events: list[Event]) -> None:
        if frame.stream != 0:
            raise RemoteProtocolError("PING on a stream")
        decode_u64_untrusted(frame.payload, "PING")
        self._outbox.pong = bytes(frame.payload)
        self._glitch(now)

    def _pong_untrusted(self, frame: Frame, now: float, _events: list[Event]) -> None:
        if frame.stream != 0:
            raise RemoteProtocolError("PONG on a stream")
        decode_u64_untrusted(frame.payload, "PONG")
        if not self._liveness.pong_untrusted(bytes(frame.payload), now):
            self._glitch(now)

    def _goaway_untrusted(self, frame: Frame, now: float, events: list[Event]) -> None:
        if frame.stream != 0:
            raise RemoteProtocolError("GOAWAY on a stream")
        number, reason = decode_class_and_reason_untrusted(frame.payload, "GOAWAY")
        code = GoAwayCode(number)
        if code is self._last_goaway:
            self._glitch(now)
        self._last_goaway = code
        events.append(GoneAway(code, reason))

    def _message_untrusted(self, frame: Frame, events: list[Event]) -> None:
        size = len(frame.payload)
        if size == 0:
            raise RemoteProtocolError("DATA without bytes")
        if size > self._their_control:
            raise RemoteProtocolError(f"{size} bytes of control messages, but only {self._their_control} of credit are left")
        self._their_control -= size
        self._message += frame.payload
        at = 0
        while len(self._message) - at >= 4:
            length = int.from_bytes(self._message[at : at + 4], "big")
            if length > MAX_MESSAGE:
                raise RemoteProtocolError(f"a control message of {length} bytes; at most {MAX_MESSAGE} are allowed")
            if len(self._message) - at - 4 < length:
                break
            events.append(MessageReceived(bytes(self._message[at + 4 : at + 4 + length])))
            at += 4 + length
        del self._message[:at]

    def _live_untrusted(self, frame: Frame) -> Stream | None:
        """The stream a frame is for; None when it was there once (the frame is dropped)."""
        id_ = frame.stream
        stream = self._streams.get(id_)
        if stream is not None:
            return stream
        if id_ == 0:
            raise RemoteProtocolError(f"frame type {frame.type:#04x} on stream 0")
        known = id_ <= self._highest_of_theirs if id_ % 2 == self._their_parity else id_ < self._outbox.next_id
        if not known:
            raise RemoteProtocolError(f"frame type {frame.type:#04x} for stream {id_}, which was never opened")
        return None


def _data_on_lane(inbound: Inbound, frame: Frame, _now: float, events: list[Event]) -> None:
    inbound._message_untrusted(frame, events)


_Handler = Callable[[Inbound, Frame, float, list[Event]], None]

_HANDLERS: Final[dict[int, _Handler]] = {
    FrameType.HELLO: Inbound._hello_untrusted,
    FrameType.OPEN: Inbound._open_untrusted,
    FrameType.OPEN_OK: Inbound._open_ok_untrusted,
    FrameType.OPEN_ERR: Inbound._open_err_untrusted,
    FrameType.DATA: _data_on_lane,
    FrameType.CREDIT: Inbound._credit_untrusted,
    FrameType.CREDIT_RETURN: Inbound._credit_return_untrusted,
    FrameType.FIN: Inbound._fin_untrusted,
    FrameType.RESET: Inbound._reset_untrusted,
    FrameType.PING: Inbound._ping_untrusted,
    FrameType.PONG: Inbound._pong_untrusted,
    FrameType.GOAWAY: Inbound._goaway_untrusted,
    FrameType.MOVE: Inbound._move_untrusted,
    FrameType.EARLY: Inbound._early_untrusted,
}
