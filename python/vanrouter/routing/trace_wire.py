"""
The two messages of a trace, which control planes pass on hop by hop. `docs/control-messages.md` has them.

    24 trace   id: bytes 16   destination   key   left, index: hops that may follow, hops behind it
    25 hop     id   index   router   site   cost, rtt_us, suspect: of the link it came over   next   end   targets

Refuses to decide anything; a hop is what one router says of itself, and nothing of it is proved.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from vanrouter.errors import ConfigError, RemoteProtocolError
from vanrouter.messages import VERSION, check_shape_untrusted
from vanrouter.model import RouterId, parse_name

__all__ = ["HOP", "MAX_HOPS", "TRACE", "Hop", "Trace", "encode_hop", "encode_trace", "read_untrusted"]

TRACE: Final = 24
HOP: Final = 25
MAX_HOPS: Final = 64
MAX_BYTES: Final = 1_024  # of one such message

Id = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
RouterText = Annotated[str, msgspec.Meta(min_length=69, max_length=69)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Index = Annotated[int, msgspec.Meta(ge=0, le=MAX_HOPS)]


class Trace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Toward the destination, by each router's own path."""

    id: Id
    destination: RouterText
    key: Annotated[str, msgspec.Meta(max_length=255)] = ""
    left: Index
    index: Index  # 1: this is the first hop


class Hop(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Back to where the trace came from: one from every router that it came to."""

    id: Id
    index: Index
    router: RouterText
    site: Annotated[str, msgspec.Meta(max_length=63)] = ""
    cost: Count = 0  # of the link that the trace came over
    rtt_us: Annotated[int, msgspec.Meta(ge=0, le=1 << 32)] = 0  # of that link, as its plane measured it; 0: not yet
    suspect: bool = False
    next: Annotated[str, msgspec.Meta(max_length=69)] = ""  # where it went from here; empty: nowhere, see `end`
    end: Annotated[str, msgspec.Meta(max_length=16)] = ""  # arrived, no-path, back, hop-limit, edge, loop, full
    targets: Count = 0  # of the key, at this router, when it arrived


_encode = msgspec.msgpack.Encoder().encode
_trace = msgspec.msgpack.Decoder(Trace).decode
_hop = msgspec.msgpack.Decoder(Hop).decode


def encode_trace(trace: Trace) -> bytes:
    return bytes((VERSION, TRACE)) + _encode(trace)


def encode_hop(hop: Hop) -> bytes:
    return bytes((VERSION, HOP)) + _encode(hop)


def read_untrusted(data: bytes) -> Trace | Hop | None:
    """None: it is neither. Raises RemoteProtocolError and nothing else."""
    if len(data) < 2 or data[0] != VERSION or data[1] not in (TRACE, HOP):
        return None
    if len(data) > MAX_BYTES:
        raise RemoteProtocolError(f"a message of a trace has {len(data)} bytes; {MAX_BYTES} are the most")
    try:
        check_shape_untrusted(data[2:])
        message: Trace | Hop = _trace(data[2:]) if data[1] == TRACE else _hop(data[2:])
        RouterId.parse(message.destination if isinstance(message, Trace) else message.router)
        if isinstance(message, Hop):
            if message.next:
                RouterId.parse(message.next)
            if message.site:
                parse_name(message.site, "site name")
            if message.end and not message.end.replace("-", "").isalpha():
                raise RemoteProtocolError("the end of a trace is no word")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ConfigError) as err:
        raise RemoteProtocolError(f"a message of a trace does not decode: {err}") from None
    return message
