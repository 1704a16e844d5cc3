"""
Look at the shape of a MessagePack value before anything is built from it: depth, entries, duplicate keys, length.

One pass, no recursion, a stack of at most `MAX_DEPTH`: 64 KiB of nested lists are refused at the ninth bracket. Refuses to decode anything;
what passes here may still have the wrong types.
"""

from __future__ import annotations

from typing import Final

from vanrouter.errors import RemoteProtocolError

__all__ = ["MAX_DEPTH", "MAX_ENTRIES", "check_shape_untrusted"]

MAX_DEPTH: Final = 8
MAX_ENTRIES: Final = 1024

# First byte -> bytes that follow, for values of fixed size.
_FIXED: Final[dict[int, int]] = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8} | {
    base + i: 1 << i for base in (0xCC, 0xD0) for i in range(4)
}
# First byte -> width of the length that follows, for strings and byte strings.
_STRINGS: Final[dict[int, int]] = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
# First byte -> (width of the count that follows, values per entry).
_CONTAINERS: Final[dict[int, tuple[int, int]]] = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


_NONE: Final[set[bytes] | None] = None


def check_shape_untrusted(data: bytes) -> None:
    """Raises RemoteProtocolError unless ``data`` is one MessagePack value within the limits, and nothing behind it."""
    size, at = len(data), 0
    stack: list[tuple[int, set[bytes] | None]] = []  # the lists and maps around the innermost one
    left, keys = 1, _NONE  # values still to come in the innermost one; the keys of a map so far
    while True:
        if at >= size:
            raise RemoteProtocolError("a control message is cut off")
        start, first = at, data[at]
        at += 1
        count, is_map = -1, False
        if first < 0x80 or first >= 0xE0:  # small integers
            pass
        elif first >= 0xA0:
            if first < 0xC0:
                at += first & 0x1F
            elif (width := _STRINGS.get(first)) is not None:
                at += width + int.from_bytes(data[at : at + width])
            elif (fixed := _FIXED.get(first)) is not None:
                at += fixed
            elif (container := _CONTAINERS.get(first)) is not None:
                width, per_entry = container
                if at + width > size:
                    raise RemoteProtocolError("a control message is cut off")
                count, is_map = int.from_bytes(data[at : at + width]), per_entry == 2
                at += width
            else:
                raise RemoteProtocolError(f"a control message holds a value of type {first:#04x}, which version 1 does not use")
        else:
            count, is_map = first & 0x0F, first < 0x90
        if at > size:
            raise RemoteProtocolError("a control message is cut off")
        if keys is not None and left % 2 == 0:
            if count >= 0:
                raise RemoteProtocolError("a control message has a map with a list or map as a key")
            raw = data[start:at]
            if raw in keys:
                raise RemoteProtocolError("a control message has a map with the same key twice")
            keys.add(raw)
        left -= 1
        if count >= 0:
            if count > MAX_ENTRIES:
                raise RemoteProtocolError(f"a control message holds a list or map of {count} entries; {MAX_ENTRIES} are the most")
            if len(stack) == MAX_DEPTH:
                raise RemoteProtocolError(f"a control message is nested more than {MAX_DEPTH} deep")
            stack.append((left, keys))
            left, keys = (count * 2, set()) if is_map else (count, None)
        while left == 0 and stack:
            left, keys = stack.pop()
        if not stack:
            break
    if at != size:
        raise RemoteProtocolError(f"a control message has {size - at} bytes behind its end")
