"""
How streams ended, both sides seen together: each in exactly one class, whole, reset or refused; everything else is a failure with its seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

GOOD = ("whole", "reset", "refused", "aborted")


class End(NamedTuple):
    """One stream as its client saw it; ``aborted``: the client itself reset it."""

    id: int
    seed: int
    kind: str
    began: float
    ended: float
    detail: str

    @property
    def took(self) -> float:
        return self.ended - self.began


class Ends:
    def __init__(self, rows: Iterable[tuple[int, int, str, float, float, str]]) -> None:
        self.all = [End(*row) for row in rows]

    def __iter__(self) -> Iterator[End]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def __add__(self, other: Ends) -> Ends:
        return Ends([*self.all, *other.all])

    def of(self, some: Ends) -> Ends:
        """These streams, as judged here."""
        ids = {end.id for end in some}
        found = Ends([])
        found.all = [end for end in self.all if end.id in ids]
        return found

    @property
    def kinds(self) -> dict[str, int]:
        return dict(Counter(end.kind for end in self.all))

    def judged(self, server: Iterable[tuple[int, int, str, str]] | None = None) -> Ends:
        """With what the server saw; None: nobody asked it. Raises AssertionError when a stream was not carried honestly, and names it."""
        seen: dict[int, tuple[int, int, str, str]] = {}
        wrong: list[str] = []
        for row in server or ():
            if row[2] in ("TRUNCATED", "DAMAGED"):
                wrong.append(f"server: stream {row[0]} seed {row[1]}: {row[2]}, {row[3]}")
            if row[0] in seen:
                wrong.append(f"server: stream {row[0]} seed {row[1]}: DELIVERED TWICE, {seen[row[0]][2:]} and {row[2:]}")
            seen[row[0]] = row
        ends = Ends([])
        for end in self.all:
            kind = "refused" if end.kind == "reset" and server is not None and end.id not in seen else end.kind
            ends.all.append(end._replace(kind=kind))
            if kind not in GOOD:
                wrong.append(f"client: stream {end.id} seed {end.seed}: {kind}, {end.detail}; server: {seen.get(end.id, 'never saw it')}")
            if kind == "whole" and server is not None and seen.get(end.id, (0, 0, "not seen"))[2] not in ("whole", "answered"):
                wrong.append(f"stream {end.id} seed {end.seed}: whole for the client, for the server {seen.get(end.id, 'never there')}")
        if wrong:
            shown = "\n".join(wrong[:20])
            raise AssertionError(f"{len(wrong)} of {len(self.all)} streams were not carried honestly ({ends.kinds}):\n{shown}")
        return ends

    def all_whole(self, server: Iterable[tuple[int, int, str, str]] | None = None) -> Ends:
        ends = self.judged(server)
        others = [end for end in ends if end.kind != "whole"]
        assert not others, f"{ends.kinds}, for example {others[:5]}"
        return ends
