"""
What router and controller of a site say to each other, as bytes. Sans-IO: matches answers with questions, for either end.

JSON lines of at most 4 MiB and half a million values. Either end may ask: ``{"id": N, "method", "params"}`` is answered by
``{"id": N, "result"}`` or ``{"id": N, "error": {"code", "message", "hint"}}``, in any order; without ``id`` no answer is wanted. Ids
belong to who asks; at most 64 are unanswered. Silence of 15 s is a reason to ask ``ping``, silence of 30 s the end. What is none of
this raises RemoteProtocolError: the connection is beyond repair then.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

import msgspec

from vanrouter.admin.protocol import decode_reply, encode_error
from vanrouter.errors import LocalProtocolError, NotReady, RemoteProtocolError, VanrouterError

__all__ = ["MAX_LINE", "MAX_UNANSWERED", "Answered", "Asked", "Conversation", "Size", "Told"]

MAX_LINE: Final = 4 << 20
MAX_VALUES: Final = 1 << 19  # of a line; three times what the longest status has
MAX_UNANSWERED: Final = 64
PING_AFTER: Final = 15.0
DEAD_AFTER: Final = 30.0

Params = dict[str, Any]


class Size(NamedTuple):
    """Of JSON. Each value takes a hundred bytes or so once it is read, however short it is written."""

    length: int = 0
    values: int = 0

    @classmethod
    def of(cls, raw: bytes) -> Size:
        """Values: those that begin with ``{`` or ``[``, or are followed by ``,``; commas in texts count too."""
        return cls(len(raw), raw.count(b",") + raw.count(b"[") + raw.count(b"{"))

    def plus(self, other: Size) -> Size:
        return Size(self.length + other.length, self.values + other.values)

    def __str__(self) -> str:
        return f"{self.length} bytes and {self.values} values"

    def exceeds(self, most: Size) -> bool:
        return self.length > most.length or self.values > most.values


class Asked(msgspec.Struct, frozen=True):
    """The other end wants an answer under this id."""

    id: int
    method: str
    params: Params


class Told(msgspec.Struct, frozen=True):
    """The other end says something and wants no answer. ``size``: of its line."""

    method: str
    params: Params
    size: Size


class Answered(msgspec.Struct, frozen=True):
    """What became of our question: a result, or the error that the other end raised, as its own class."""

    id: int
    result: Any = None
    error: VanrouterError | None = None


class Conversation:
    """One connection. ``now`` is monotonic."""

    def __init__(self, *, now: float) -> None:
        self._buffer = bytearray()
        self._seen = 0  # how far the buffer was searched for the end of a line
        self._heard_at, self._pinged = now, False
        self._next_id = 1
        self._unanswered: set[int] = set()  # ours
        self._owed: dict[int, int] = {}  # theirs, and the bytes of each

    # ---- Saying --------------------------------------------------------------------------------------------------------------------------

    def ask(self, method: str, params: Params) -> tuple[int, bytes]:
        """The id of the question, and what to send. Raises NotReady while 64 of ours have no answer."""
        if len(self._unanswered) >= MAX_UNANSWERED:
            raise NotReady(f"{method}: {MAX_UNANSWERED} questions are waiting for an answer of the other end already")
        number, self._next_id = self._next_id, self._next_id + 1
        line = _line({"id": number, "method": method, "params": params})
        self._unanswered.add(number)
        return number, line

    def tell(self, method: str, params: Params) -> bytes:
        return _line({"method": method, "params": params})

    def answer(self, number: int, result: Any) -> bytes:
        self._settle(number)
        try:
            return _line({"id": number, "result": result})
        except LocalProtocolError as exc:  # too long: the asker is to know, and the connection is none the worse
            return self._error(number, exc)

    def refuse(self, number: int, error: Exception) -> bytes:
        """Of an error that is a bug only its class is told."""
        self._settle(number)
        return self._error(number, error)

    # ---- Hearing -------------------------------------------------------------------------------------------------------------------------

    def receive_untrusted(self, data: bytes, *, now: float) -> list[Asked | Told | Answered]:
        self._heard_at, self._pinged = now, False
        self._buffer += data
        found: list[Asked | Told | Answered] = []
        while (end := self._buffer.find(b"\n", self._seen)) >= 0:
            line, self._seen = bytes(self._buffer[:end]), 0
            del self._buffer[: end + 1]
            if len(line) > MAX_LINE:
                raise RemoteProtocolError(f"a line of {len(line)} bytes; at most {MAX_LINE} are read")
            found.append(self._event_untrusted(line))
        self._seen = len(self._buffer)
        if self._seen > MAX_LINE:
            raise RemoteProtocolError(f"a line of more than {MAX_LINE} bytes")
        return found

    @property
    def buffered(self) -> int:
        """Bytes of a line that is not over."""
        return len(self._buffer)

    def size_of(self, number: int) -> int:
        """Of a question of theirs that is open: the bytes of its line."""
        return self._owed[number]

    @property
    def deadline(self) -> float:
        return self._heard_at + (DEAD_AFTER if self._pinged else PING_AFTER)

    def handle_timeout(self, now: float) -> bytes:
        """What to send against silence (``b""``: nothing yet). Raises RemoteProtocolError when it lasted too long."""
        if now >= self._heard_at + DEAD_AFTER:
            raise RemoteProtocolError(f"the other end was silent for {now - self._heard_at:.0f} s")
        if self._pinged or now < self._heard_at + PING_AFTER:
            return b""
        self._pinged = True
        return self._ping()

    # ---- Inside --------------------------------------------------------------------------------------------------------------------------

    def _ping(self) -> bytes:
        try:
            return self.ask("ping", {})[1]
        except NotReady:  # any answer will do
            return self.tell("ping", {})

    def _settle(self, number: int) -> None:
        if number not in self._owed:
            raise LocalProtocolError(f"nobody waits for an answer {number}")
        del self._owed[number]

    def _error(self, number: int, error: Exception) -> bytes:
        return _line({"id": number, **json.loads(encode_error(error))})

    def _event_untrusted(self, line: bytes) -> Asked | Told | Answered:
        size = Size.of(line)
        if size.values > MAX_VALUES:
            raise RemoteProtocolError(f"a line of {size.values} values; at most {MAX_VALUES} are read")
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise RemoteProtocolError("a line that is no JSON") from None
        if not isinstance(value, dict):
            raise RemoteProtocolError("a line that is no JSON object")
        number = value.get("id")
        if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
            raise RemoteProtocolError("an id that is no whole number")
        if "method" in value:
            return self._question_untrusted(number, value["method"], value.get("params", {}), size=size)
        if number not in self._unanswered:
            raise RemoteProtocolError(f"an answer to a question that was not asked ({number})")
        self._unanswered.remove(number)
        if "error" in value and isinstance(value["error"], dict):
            try:
                decode_reply(json.dumps({"error": value["error"]}).encode())
            except VanrouterError as exc:
                return Answered(number, error=exc)
        if "result" not in value:
            raise RemoteProtocolError("an answer with neither a result nor an error")
        return Answered(number, value["result"])

    def _question_untrusted(self, number: int | None, method: object, params: object, *, size: Size) -> Asked | Told:
        if not isinstance(method, str) or not isinstance(params, dict):
            raise RemoteProtocolError("a question without a method, or whose params are no object")
        if number is None:
            return Told(method[:64], params, size)
        if number in self._owed or len(self._owed) >= MAX_UNANSWERED:
            raise RemoteProtocolError(f"question {number} is open already, or {MAX_UNANSWERED} are")
        self._owed[number] = size.length
        return Asked(number, method[:64], params)


def _line(value: Params) -> bytes:
    line = msgspec.json.encode(value) + b"\n"
    if len(line) > MAX_LINE:
        raise LocalProtocolError(f"a message of {len(line)} bytes; at most {MAX_LINE} fit into a line")
    return line
