"""
What the controller wants there to be, and how it writes it: listeners' hosts and ports, ``van-router``, and status.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
import trio

import vanrouter
from vanrouter.controller.access import Reached
from vanrouter.controller.copies import Copies
from vanrouter.controller.ports import PodPorts
from vanrouter.controller.report import Doc, Said, condition_doc, rfc3339, status_records
from vanrouter.controller.routers import Routers
from vanrouter.controller.services import Note, WantedService, is_ours, is_taken
from vanrouter.errors import VanrouterError
from vanrouter.kube.calls import Object
from vanrouter.kube.kinds import CONFIG_MAPS, SERVICES
from vanrouter.kube.leaf_dates import LeafDates
from vanrouter.kube.names import ROUTER, ROUTER_MAP, labelled, resource_map, status_map
from vanrouter.kube.records import Records, put_site_text, site_text, status_object, statuses_in
from vanrouter.kube.workloads import MADE_FROM
from vanrouter.resources import Resource
from vanrouter.resources.kinds import Connector, Listener, MultiKeyListener, Site, SiteSpec
from vanrouter.stores.resources import Problem

__all__ = ["Statuses", "Wishes", "told_endpoints", "wished", "write_router_map"]

ROUTER_JSON: Final = "router.json"
LINGER: Final = 10.0
BETWEEN: Final = 0.5  # between two writes of status
AT_A_TIME: Final = 200  # the rest after ``BETWEEN``: a Service, or a token, does not wait for a thousand statuses
ANOTHER: Final = 30.0  # a controller that wrote the site's status so lately may still be there
Slot = tuple[str, int]


class Wishes:
    """(host, port) of listeners. ``named``: hosts that a resource of this site says."""

    def __init__(self) -> None:
        self.slots: set[Slot] = set()
        self.own: set[Slot] = set()  # what a resource of this site says
        self.deleted: set[Slot] = set()  # what one said, as long as there are traces of it
        self.lingering: dict[Slot, float] = {}  # withdrawn by others, since when
        self.automatic: set[Slot] = set()
        self.named: set[str] = set()
        self.ports: PodPorts | None = None

    @property
    def deadline(self) -> float:
        return min(self.lingering.values(), default=math.inf) + LINGER

    def services(self, router_map: Object | None) -> dict[str, WantedService]:
        """Only with ports that ``van-router`` has: a Service never comes before the port that it leads to."""
        given = _router_json(router_map).get("ports") or {}
        found: dict[str, WantedService] = {}
        for host, port in sorted(self.slots):
            number = given.get(f"{host}:{port}")
            want = found.setdefault(host, WantedService(host, {}, host in self.named))
            if isinstance(number, int):
                want.ports[port] = number
        return {host: want for host, want in found.items() if want.ports}


def wished(
    resources: Iterable[Resource],
    spec: SiteSpec,
    routers: Routers,
    before: Wishes,
    router_map: Object | None,
    *,
    now: float,
    all_seen: bool = True,
) -> Wishes:
    """What service sync made is what the routers say; while none of them is certain, nothing of it is withdrawn.

    ``all_seen``: whether each kind of listener may be looked at. If not, those that the routers have from before stay.

    What others withdraw lingers for 10 s, with its port: a router over there that restarts offers it again. What a person deletes here
    goes at once.
    """
    wishes = Wishes()
    wishes.ports = before.ports
    known = {str(k): v for k, v in (_router_json(router_map).get("ports") or {}).items() if isinstance(v, int)}
    if wishes.ports is None:
        wishes.ports = PodPorts(known)
    for resource in resources:
        if isinstance(resource, Listener | MultiKeyListener):
            wishes.own.add((resource.spec.host, resource.spec.port))
            wishes.named.add(resource.spec.host)
        elif isinstance(resource, Connector) and resource.spec.expose is not None:
            address = resource.spec.expose.address or resource.spec.routing_key
            if not resource.metadata.annotations.get(MADE_FROM, "").startswith("connector/"):  # nobody named a pod's Service
                wishes.named.add(address)
            if spec.service_sync:
                wishes.own.add((address, resource.spec.expose.port))
    written = {(host, int(port)) for host, _, port in (slot.rpartition(":") for slot in known) if port.isdigit()}
    wishes.deleted = ((before.deleted | before.own) - wishes.own) & (written | before.slots)
    wishes.automatic = routers.slots()
    if not routers.are_certain:  # what a predecessor wrote, or another controller writes, stays too
        wishes.automatic |= (before.automatic | written) - wishes.deleted
    kept = set() if all_seen else routers.slots_by_resources() - wishes.deleted
    wishes.slots = wishes.own | kept | (wishes.automatic if spec.service_sync else set())
    for slot in before.slots - wishes.slots - wishes.deleted:
        since = before.lingering.get(slot, now)
        if now < since + LINGER:
            wishes.lingering[slot] = since
    wishes.slots |= wishes.lingering.keys()
    return wishes


async def write_router_map(
    copies: Copies, wishes: Wishes, reached: Reached, owners: tuple[Object, ...], *, document: Doc, now: float
) -> None:
    """``van-router``: ports, endpoints, and what routers have learned, with a generation that grows when they change."""
    assert wishes.ports is not None
    known = copies.get(CONFIG_MAPS, ROUTER_MAP)
    before = _router_json(known)
    wishes.ports.adopt({str(k): v for k, v in (before.get("ports") or {}).items() if isinstance(v, int)})
    # A port that a Service still leads to stays until that Service is changed or gone.
    leads = {slot for slot, port in _led_to(copies.of(SERVICES)) if wishes.ports.given.get(slot) == port}
    wishes.ports.want({f"{host}:{port}" for host, port in wishes.slots} | leads, now=now)
    endpoints: list[Doc] = [{"host": h, "port": p} | ({"going": True} if (h, p) in reached.going else {}) for h, p in reached.endpoints]
    said = {"ports": dict(sorted(wishes.ports.given.items())), "endpoints": endpoints, "learned": _learned(document, before)}
    generation = before.get("generation", 0) if isinstance(before.get("generation", 0), int) else 0
    if {key: before.get(key) for key in said} != said:
        generation += 1
    data = {ROUTER_JSON: json.dumps({"generation": generation, **said}, separators=(",", ":"))}
    # Under the version on which this was decided: of two controllers one decides anew.
    await copies.ensure(CONFIG_MAPS, {"metadata": labelled(ROUTER_MAP, ROUTER, owners=owners), "data": data}, fenced=True)


def _learned(document: Doc, before: Mapping[str, Any]) -> dict[str, Any]:
    """By site: where those that our links lead to say that they are linked to. For a router that starts after the one that heard it."""
    known = before.get("learned")
    known = known if isinstance(known, dict) else {}
    if not document:
        return known
    found: dict[str, Any] = {}
    for link in document.get("links") or []:
        site = str(link.get("remoteSiteId") or "")
        places = [[p.get("host"), p.get("port")] for p in link.get("learned") or []] or known.get(site)
        if site and places and link.get("direction") == "outgoing":
            found[site] = places
    return dict(sorted(found.items()))


def told_endpoints(router_map: Object | None) -> list[tuple[str, int]]:
    """Where others were told last that this site is reached."""
    listed = _router_json(router_map).get("endpoints")
    found = [(e.get("host"), e.get("port")) for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []
    return [(host, port) for host, port in found if isinstance(host, str) and isinstance(port, int)]


def _led_to(services: Mapping[str, Object]) -> Iterator[tuple[str, int]]:
    """(slot, port of the pod) of each port of the Services that lead to routers."""
    for name, service in services.items():
        if is_ours(service) or is_taken(service):
            for port in (service.get("spec") or {}).get("ports") or []:
                yield f"{name}:{port.get('port')}", port.get("targetPort")


def _router_json(value: Object | None) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(((value or {}).get("data") or {}).get(ROUTER_JSON, "{}"))
    except (msgspec.DecodeError, RecursionError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


class Statuses:
    """Status of resources and of the site, written when it differs and at most each half second."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[str, tuple[str, float]] = {}  # of what: how it is, since when
        self._remembered: set[str] = set()
        self._problems: dict[str, Problem] = {}
        self._next = 0.0
        self._tried: dict[str, float] = {}  # what did not fit into one slice, or was refused: when it was tried last
        self._root = ""  # the name of the site's status
        self._seen = ("", 0.0)  # version of the site's status, and when it was first seen
        self.notes: dict[str, Note] = {}  # of Services
        self.remarks: dict[str, Note] = {}  # of Services that are as they should be again
        self.leaf: LeafDates | None = None  # what the site shows of itself, as it was written last
        self.whole: Doc = {}  # the site's status document, as it was written last
        self.deadline = math.inf

    def since(self, what: str, how: str) -> str:
        """The date since when it is so."""
        return self._date(what, how)

    def problem(self, step: str, error: VanrouterError | None) -> None:
        """A step of the controller fails, or does no longer."""
        if error is None:
            self._problems.pop(step, None)
        else:
            self._problems[step] = Problem(f"controller: {step}", str(error), error.hint)

    async def write(
        self,
        copies: Copies,
        records: Records,
        document: Doc,
        reached: Reached,
        *,
        site: Site,
        grants: list[Doc],
        problems: list[Problem],
        name: str,
        routers: Routers,
        root: Object,
    ) -> None:
        """``root``: the reference to what owns all. Where that is a custom resource, the status document has a ConfigMap all the same."""
        now = trio.current_time()
        if now < self._next:
            self.deadline = self._next
            return
        self.deadline = math.inf
        maps, of_all = copies.of(CONFIG_MAPS), Said(document)
        values: list[Object] = []
        refs: set[str] = set()
        custom_root = [resource_map("Site", site.name)] if root["kind"] == "Site" else []
        for source in [*records.sources(), *custom_root]:
            resources = records.resources_in(source) or ([site] if source in custom_root else [])
            refs |= {r.ref for r in resources}
            is_root = any(r.kind == "Site" and r.name == site.name for r in resources)
            if (source not in maps and not is_root) or not (document or is_root or routers.are_silent):
                continue  # deleted meanwhile; or a router will say it soon
            known = maps.get(status_map(source))
            self._remember(known)
            whole = self._site_document(document, known, reached, grants, problems, name, routers) if is_root else {}
            said = Said(whole) if is_root and document else of_all
            listed = status_records(resources, said, self.notes, since=self._date) if document else statuses_in(known or {})
            present = {(r.kind, r.name) for r in resources}
            kept = [r for r in listed if (r.kind, r.name) in present]
            if source in maps:
                value = status_object(maps[source], kept, records.good_texts(source))
            else:
                value = status_object({"metadata": {"name": source}}, kept, {}, owner=root)
            if is_root and not (routers.has_any or self._is_mine(known, name, now)):
                continue
            if is_root:
                self.whole, self._root = whole, value["metadata"]["name"]
                put_site_text(value, msgspec.json.encode(whole, order="sorted").decode())
            if copies.differs(CONFIG_MAPS, value):
                values.insert(0 if is_root else len(values), value)
        if values:
            self._next = now + BETWEEN
        if len(values) > AT_A_TIME:
            self.deadline = self._next
        refs |= {r.ref for unit in records.customs().values() for r in unit.resources}
        self._forget({value["metadata"]["uid"] for value in maps.values()}, refs, {value["metadata"]["name"] for value in values})
        # What the server refuses comes again and again, and keeps nothing else from its turn.
        values.sort(key=lambda value: self._tried.get(value["metadata"]["name"], -math.inf))
        self._tried |= {value["metadata"]["name"]: now for value in values[:AT_A_TIME] if value["metadata"]["name"] != self._root}
        await copies.each(values[:AT_A_TIME], lambda value: copies.ensure(CONFIG_MAPS, value))

    def _forget(self, uids: set[str], refs: set[str], differing: set[str]) -> None:
        """What is gone, and what is as it should be."""
        self._remembered &= uids
        self._since = {what: since for what, since in self._since.items() if "/" not in what or what in refs}
        self._tried = {name: at for name, at in self._tried.items() if name in differing}

    def _is_mine(self, known: Object | None, name: str, now: float) -> bool:
        """Whether a controller without routers may speak of the site: not while another one does."""
        version = str((known or {}).get("metadata", {}).get("resourceVersion", ""))
        if version != self._seen[0]:
            self._seen = version, now
        if (_last(known).get("site") or {}).get("controller", {}).get("name", name) == name:
            return True
        if now < self._seen[1] + ANOTHER:
            self.deadline = min(self.deadline, self._seen[1] + ANOTHER)
            return False
        return True

    def _site_document(
        self, document: Doc, known: Object | None, reached: Reached, grants: list[Doc], problems: list[Problem], name: str, routers: Routers
    ) -> Doc:
        """The document with what the routers cannot know. Without any router what was said last, and that nobody says it now."""
        whole = dict(document) or _last(known)
        site = whole["site"] = dict(whole.get("site") or {})
        site["controller"] = {"name": name, "version": vanrouter.__version__}
        site["endpoints"] = [{"host": host, "port": port} for host, port in reached.endpoints]
        if self.leaf is not None:
            site["certificate"] = self.leaf.doc()
        if reached.condition is not None:
            wall = self._clock() - (trio.current_time() - reached.condition.since)
            said = condition_doc(reached.condition, self._date("access", f"{reached.condition.status} {reached.condition.reason}", wall))
            others = [c for c in site.get("conditions") or [] if c.get("type") != "LinkAccess"]
            is_theirs = bool(document) and reached.condition.status == "True" and len(others) < len(site.get("conditions") or [])
            if not is_theirs:
                site["conditions"] = [*others, said]
        whole["grants"] = grants
        found = [{"path": p.path, "message": p.message, "hint": p.hint} for p in [*problems, *self._problems.values()]]
        found += [
            {"path": f"Service/{host}", "message": n.message, "hint": n.next} for host, n in sorted({**self.remarks, **self.notes}.items())
        ]
        if routers.are_silent:
            site["ready"] = False
            text = "no router is connected to the controller; what is said of links and services is what was said last"
            todo = "see why: kubectl get pods, and kubectl logs deployment/van-router (no connection to the controller)"
            found.append({"path": "routers", "message": f"{text} ({routers.why_none})", "hint": todo})
        theirs = document.get("problems") or []
        whole["problems"] = theirs + [p for p in found if p not in theirs]
        return whole

    def _remember(self, known: Object | None) -> None:
        """Dates that a predecessor gave: a controller that starts anew changes nothing."""
        if known is None or known["metadata"]["uid"] in self._remembered:
            return
        self._remembered.add(known["metadata"]["uid"])
        for record in statuses_in(known):
            for condition in (c for c in record.status.get("conditions") or [] if c.get("type") == "Service"):
                self._seed(f"{record.kind}/{record.name}", str(condition.get("reason")), condition)
        for condition in (_last(known).get("site") or {}).get("conditions") or []:
            if condition.get("type") == "LinkAccess":
                self._seed("access", f"{condition.get('status')} {condition.get('reason')}", condition)

    def _seed(self, what: str, how: str, condition: Doc) -> None:
        try:
            self._since[what] = how, dt.datetime.fromisoformat(str(condition.get("since"))).timestamp()
        except ValueError:
            return

    def _date(self, what: str, how: str, wall: float | None = None) -> str:
        """Since when it is so."""
        known = self._since.get(what)
        if known is None or known[0] != how:
            self._since[what] = known = how, self._clock() if wall is None else wall
        return rfc3339(known[1])


def _last(known: Object | None) -> Doc:
    try:
        found = json.loads(site_text(known or {}) or "{}")
    except (ValueError, RecursionError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
