"""
What is known of every routing key of a site: what is configured, advertised, observed and wanted of the plane, and questions about it.

Refuses to change any of it: `AddressTable` alone does that, and says what follows.
"""

from __future__ import annotations

from typing import Final

import msgspec

from vanrouter.addresses.difference import Difference
from vanrouter.addresses.health import Verdict
from vanrouter.addresses.model import LocalConnector, LocalListener, Path, Place
from vanrouter.addresses.offered import LAST_RESORT, Offered, offered_targets
from vanrouter.addresses.ports import Ports
from vanrouter.addresses.remote import Remote
from vanrouter.addresses.sync import ServiceSync
from vanrouter.errors import ConfigError
from vanrouter.messages import KeyInfo, Problem, ServicePort
from vanrouter.model import RouterId
from vanrouter.plane import BindStatus, ListenerState, RouteTarget

__all__ = ["BROKEN", "KeyPlaces", "Known", "refusal"]

BROKEN: Final = (BindStatus.IN_USE, BindStatus.DENIED, BindStatus.FAILED)


class KeyPlaces(msgspec.Struct):
    """Everything of this site about one routing key."""

    connectors: dict[str, LocalConnector] = {}
    listeners: dict[str, LocalListener] = {}


class Known:
    def __init__(self, own: RouterId, *, service_address: str, service_sync: bool, sync_own: bool, place: Place | None = None) -> None:
        self.own, self.place = str(own), place
        self.remote = Remote()
        self.difference = Difference()
        self.service_address, self.service_sync = service_address, service_sync
        self.sync = ServiceSync(self.own, enabled=service_sync, include_own=sync_own, taken=self.taken, place=place or _same_port)
        self.listeners: dict[str, LocalListener] = {}
        self.automatic: dict[str, tuple[str, int]] = {}  # name of an automatic listener -> its (address, port)
        self.ports = Ports(automatic=self.automatic, bound=self.bound)
        self.connectors: dict[str, LocalConnector] = {}
        self.keys: dict[str, KeyPlaces] = {}
        self.paths: dict[str, Path] = {}
        self.targets_of: dict[str, list[RouteTarget]] = {}  # routing key -> who has targets elsewhere, reachable or not
        self.site_names: dict[str, str] = {}  # site id -> the name that people know it by
        self.lost: dict[str, float] = {}  # routers that lost their path -> until when their services keep their listeners
        self.binds: dict[str, ListenerState] = {}
        self.verdicts: dict[str, Verdict] = {}  # of the targets here
        self.reported: dict[str, list[Problem]] = {}  # router -> what it cannot do with what we advertise
        self.advertised: dict[str, KeyInfo] = {}
        self.crowded: dict[str, None] = {}  # beyond what one site may advertise

    # ---- routing keys --------------------------------------------------------------------------------------------------------------------

    def matched_listener(self, key: str) -> bool:
        """Whether a target for this key is reachable."""
        if any(self.difference.wants("connector", name) for name in self.key_or_empty(key).connectors):
            return True
        return any(target.router in self.paths for target in self.targets(key))

    def matched_connector(self, key: str) -> bool:
        """Whether a listener for this key is reachable."""
        if any(self.listener_works(name) for name in self.key_or_empty(key).listeners):
            return True
        return bool(self.listening_elsewhere(key))

    def listening_elsewhere(self, key: str) -> list[str]:
        """The reachable routers that have a listener for this key."""
        return sorted(router for router, info in self.remote.key(key).items() if info.listeners and router in self.paths)

    def targets(self, key: str) -> list[RouteTarget]:
        """The routers besides this one where streams for this key may go, whether there is a path to them or not."""
        return [target for target in self.targets_of.get(key, ()) if self.sync.usable(target.router, key)]

    def offer_info(self, router: str, key: str) -> KeyInfo | None:
        """What this router, perhaps our own, has of this key now. None: nothing, or it cannot be reached."""
        if router == self.own:
            return self.advertised.get(key)
        return self.remote.info(router, key) if router in self.paths else None

    def settled(self, keys: list[str]) -> bool:
        """Whether every listener of these keys is in force as far as it can be: bound or refused, and listening where it is matched."""
        for key in keys:
            known = self.keys.get(key)
            for name, listener in known.listeners.items() if known is not None else ():
                if not self.difference.wants("listener", name):
                    continue
                state = self.binds.get(name)
                if state is None or (state.status is BindStatus.BOUND and any(map(self.matched_listener, listener.routing_keys))):
                    return False
        return True

    def key_or_empty(self, key: str) -> KeyPlaces:
        return self.keys.get(key) or KeyPlaces()

    def offered(self, key: str, known: KeyPlaces) -> Offered:
        working = [c for c in known.connectors.values() if self.connector_works(c)]
        if not any(c.name in self.verdicts for c in working):
            return offered_targets(working, {}, better_elsewhere=False)
        elsewhere = any(target.cost < LAST_RESORT and target.router in self.paths for target in self.targets(key))
        return offered_targets(working, self.verdicts, better_elsewhere=elsewhere)

    def offers(self, known: KeyPlaces) -> list[ServicePort]:
        """The services that work here and that others would take."""
        services = {c.service for c in known.connectors.values() if c.service is not None and self.connector_works(c)}
        return sorted(service for service in services if not refusal(service))

    # ---- one listener, connector, port or site -----------------------------------------------------------------------------------------

    def connector_works(self, connector: LocalConnector) -> bool:
        return not self.ports.connector_clash(connector)

    def listener_works(self, name: str) -> bool:
        return self.bound(name) and self.difference.wants("listener", name)

    def connector_error(self, name: str) -> str:
        """Why no stream goes to this target: it fails its checks or, unchecked, its connects. Empty: streams go there."""
        verdict = self.verdicts.get(name)
        if verdict is not None and verdict.is_out and not self.difference.wants("connector", name):
            return f"it fails its checks: {verdict.error}"
        return verdict.error if verdict is not None and verdict.connects_failed and verdict.check.type == "none" else ""

    def bound(self, name: str) -> bool:
        state = self.binds.get(name)
        return state is not None and state.status not in BROKEN

    def taken(self, port: int) -> str:
        return self.ports.taken(self.service_address, port)

    def site(self, router: str) -> str:
        site = router.partition("/")[0]
        return self.site_names.get(site, site)


def _same_port(_address: str, port: int) -> int:
    return port


def refusal(service: ServicePort) -> str:
    """Why nobody would take this service; empty: they would."""
    try:
        service.check()
    except ConfigError as err:
        return str(err)
    return ""
