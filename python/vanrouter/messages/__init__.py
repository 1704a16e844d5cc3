"""
What control planes say to each other on stream 0 of a link: typed, capped, extensible.

A message is one byte of version, one byte of type and one MessagePack map, 65,536 bytes at most (`docs/wire-protocol.md` section 6 cuts it
into frames). Pure: bytes in, values out. Nothing here sends, keeps state or reads a clock; `vanrouter.addresses.Exchange` does the talking.

    +-----------+---------+------------------------------+
    | version 1 | type u8 | a MessagePack map            |      1 site     2 advertisement   3 withdrawal
    +-----------+---------+------------------------------+      4 problems 5 applied

Rules of every message:

* Unknown types decode as `Unknown` and are ignored; unknown fields are ignored. Both are extensions, not errors.
* What is forwarded is forwarded as the bytes that came in: `Sealed.wire` of an advertisement or a withdrawal is what its origin signed,
  unknown fields included.
* Nesting is at most 8 deep, a list or map has at most 1,024 entries, no map has a key twice. This is checked before anything is built.
* Functions that read a peer's bytes end in ``_untrusted`` and raise `RemoteProtocolError` and nothing else.
"""

from vanrouter.messages.codec import MAX_MESSAGE, VERSION, decode_untrusted, encode, encode_signed
from vanrouter.messages.scan import MAX_DEPTH, MAX_ENTRIES, check_shape_untrusted
from vanrouter.messages.sealed import Sealed, Sign, Verify, verify_signature
from vanrouter.messages.types import (
    MAX_FRAGMENT,
    MAX_FRAGMENTS,
    MAX_SERVICES_PER_KEY,
    Applied,
    AppliedItem,
    Fragment,
    KeyInfo,
    Leaf,
    Message,
    Neighbour,
    Problem,
    Problems,
    Reachable,
    ServicePort,
    SiteInfo,
    Unknown,
    Withdrawal,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_ENTRIES",
    "MAX_FRAGMENT",
    "MAX_FRAGMENTS",
    "MAX_MESSAGE",
    "MAX_SERVICES_PER_KEY",
    "VERSION",
    "Applied",
    "AppliedItem",
    "Fragment",
    "KeyInfo",
    "Leaf",
    "Message",
    "Neighbour",
    "Problem",
    "Problems",
    "Sealed",
    "ServicePort",
    "Sign",
    "Reachable",
    "SiteInfo",
    "Unknown",
    "Verify",
    "Withdrawal",
    "check_shape_untrusted",
    "decode_untrusted",
    "encode",
    "encode_signed",
    "verify_signature",
]
