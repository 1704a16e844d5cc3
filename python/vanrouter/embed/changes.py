"""
What changes in the network, as a program hears it: latest state, not a queue. A slow reader misses what came and went, never how it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec
import trio

if TYPE_CHECKING:
    from vanrouter.sites.site import RunningSite

__all__ = ["Change", "Changes", "LinkDown", "LinkUp", "ServiceDown", "ServiceUp"]

AT_MOST_EVERY: Final = 0.05  # a network that changes all the time is looked at so often


class LinkUp(msgspec.Struct, frozen=True, tag_field="kind", tag="link_up"):
    """A link with this router of this site is up."""

    site: str
    router: str


class LinkDown(msgspec.Struct, frozen=True, tag_field="kind", tag="link_down"):
    """The link with this router is gone."""

    site: str
    router: str


class ServiceUp(msgspec.Struct, frozen=True, tag_field="kind", tag="service_up"):
    """Somebody who can be reached serves this routing key."""

    key: str


class ServiceDown(msgspec.Struct, frozen=True, tag_field="kind", tag="service_down"):
    """Nobody who can be reached serves this routing key any more."""

    key: str


Change = LinkUp | LinkDown | ServiceUp | ServiceDown


class Changes:
    """Where the router is: the difference between what one reader was told and how it is now."""

    def __init__(self, site: RunningSite) -> None:
        self._site = site
        self._news = trio.Event()
        self._ended = False
        self._links: dict[str, str] = {}
        self._keys: set[str] = set()
        site.services.watchers.append(self._wake)

    def close(self) -> None:
        self._site.services.watchers.remove(self._wake)

    def end(self) -> None:
        """The van ends: so does the reader's iterator."""
        self._ended = True
        self._news.set()

    def _wake(self) -> None:
        self._news.set()

    async def next(self) -> list[Change]:
        """What is different from what the last call told; the first one tells everything that is there. Empty: the van ends."""
        while not self._ended:
            self._news = trio.Event()
            if found := list(self._difference()):
                return found
            await self._news.wait()
            if not self._ended:
                await trio.sleep(AT_MOST_EVERY)
        return []

    def _difference(self) -> Iterator[Change]:
        links = {router: state.site_name for router, state in self._site.links.states.items()}
        keys = self._site.services.table.reachable_keys()
        for router in self._links.keys() - links.keys():
            yield LinkDown(self._links[router], router)
        for router in links.keys() - self._links.keys():
            yield LinkUp(links[router], router)
        for key in sorted(self._keys - keys):
            yield ServiceDown(key)
        for key in sorted(keys - self._keys):
            yield ServiceUp(key)
        self._links, self._keys = links, keys
