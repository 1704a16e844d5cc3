"""
Where other sites say that they are linked to, beside what their Link resources say: learned over the live link, kept in the state.

A site in a cluster gets another address without anybody here knowing; whoever restarts after that still finds it. Only of sites that we
dial, and only used together with the link's credential: what answers there has to be that site.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from vanrouter.errors import ConfigError, StoreError
from vanrouter.resources.shapes import parse_host
from vanrouter.stores import StateFiles

__all__ = ["Learned"]

log = logging.getLogger("vanrouter.sites")

FILE: Final = "learned.json"
Place = tuple[str, int]


class Learned:
    def __init__(self, state: StateFiles) -> None:
        self._state = state
        self._places: dict[str, list[Place]] = {}
        try:
            self._places = msgspec.json.decode(state.read(FILE) or b"{}", type=dict[str, list[Place]])
        except (msgspec.DecodeError, ConfigError, StoreError) as exc:
            log.warning("learned addresses are not read; they are learned again", extra={"file": FILE, "reason": str(exc)})

    def of(self, site: str) -> list[Place]:
        return self._places.get(site, [])

    def put(self, site: str, places: Collection[Place]) -> bool:
        """What a site says now replaces what it said before. Whether that differs."""
        usable = [place for place in places if _is_host(place[0])]
        if not usable or usable == self._places.get(site):
            return False
        self._places[site] = usable
        self._write()
        return True

    def offer(self, places: Mapping[str, Collection[Place]]) -> None:
        """What others of our routers have learned, of sites that have told us nothing yet."""
        for site, found in places.items():
            if site not in self._places:
                self.put(site, found)

    def keep(self, sites: Collection[str]) -> None:
        """Forget the others: nobody dials them any more."""
        if forgotten := [site for site in self._places if site not in sites]:
            for site in forgotten:
                del self._places[site]
            self._write()

    def _write(self) -> None:
        try:
            self._state.write(FILE, msgspec.json.encode(self._places, order="sorted"))
        except StoreError as exc:
            log.warning("learned addresses are not kept", extra={"file": FILE, "reason": str(exc)})


def _is_host(text: str) -> bool:
    try:
        parse_host(text)
    except ConfigError:
        return False
    return True
