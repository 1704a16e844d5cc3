"""
Resources and their status as they stand in ConfigMaps and Secrets. Sans-IO: objects in, ``Loaded`` out.

A ConfigMap with the label ``vanrouter.io/type: resource`` is read key by key; each key is YAML or JSON with any number of resources, and we
write one per ConfigMap. What is wrong in a key is a problem that names ConfigMap, key and position; the key's last good form stays in
force, also over a restart of whoever reads: it is kept in the ConfigMap with the status, which only the controller writes. Of two resources
with one kind and name the first ConfigMap counts, in the order of names, and a ConfigMap before a custom resource (``custom``). A Secret is
a resource by itself and never stands in a ConfigMap.
"""

from __future__ import annotations

import base64
import binascii
import functools
import gzip
import hashlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from vanrouter.errors import InvalidResource, VanrouterError
from vanrouter.kube.calls import Object
from vanrouter.kube.custom import custom_stamp, custom_where, read_custom
from vanrouter.kube.names import PART_OF, RESOURCE, STATUS, STATUS_OF, TYPE, labelled, resource_map, status_map
from vanrouter.kube.units import Unit
from vanrouter.resources import Resource, Secret, read_document, read_resources, to_dict, to_yaml
from vanrouter.resources.kinds import API_VERSION, Site
from vanrouter.stores.resources import Key, Loaded, Located, Problem

__all__ = [
    "RECORD_KEY",
    "ROOT",
    "SITE_KEY",
    "Records",
    "StatusRecord",
    "hash_of",
    "owner_of",
    "put_site_text",
    "root_order",
    "reference_to",
    "resource_object",
    "site_text",
    "spec_hash",
    "stamp_of",
    "status_object",
    "statuses_in",
]

RECORD_KEY: Final = "resource.yaml"
ROOT: Final = "van.site."  # how the ConfigMap begins that owns all else
STATUS_KEY: Final = "status.json"
SITE_KEY: Final = "site.json"  # of the root's status ConfigMap: the status document of the site
SITE_PACKED: Final = "site.json.gz"  # the same, where there is so much that it would not fit as it is
LONGEST_TEXT: Final = 500_000  # of 1 MiB that Kubernetes keeps
MAX_UNPACKED: Final = 64 << 20
GOOD: Final = "good."
_SUFFIXES: Final = (".yaml", ".yml", ".json")
MAX_OBJECTS: Final = 20_000

Stamp = tuple[str, str]


class StatusRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller says of one resource. ``spec_hash`` is that of the spec that it speaks of: another one is not yet seen."""

    kind: str
    name: str
    spec_hash: str
    status: dict[str, Any] = {}


class Records:
    """Feed it the objects whenever they changed; what did not change is not parsed again."""

    def __init__(self) -> None:
        self._maps: dict[str, tuple[Stamp, dict[str, Unit]]] = {}
        self._secrets: dict[str, tuple[Stamp, Unit]] = {}
        self._customs: dict[str, tuple[Stamp, Unit]] = {}
        self._created: dict[str, str] = {}
        self.root = ""  # the ConfigMap with the Site that counts
        self.other_sites: set[str] = set()  # ConfigMaps that have nothing but a Site that is not in force

    @property
    def stamps(self) -> dict[str, Stamp]:
        """By ``ConfigMap/NAME``, ``Secret/NAME`` and ``listeners.vanrouter.io/NAME``: what ``feed`` saw the last time."""
        maps = {f"ConfigMap/{name}": stamp for name, (stamp, _) in self._maps.items()}
        secrets = {f"Secret/{name}": stamp for name, (stamp, _) in self._secrets.items()}
        return maps | secrets | {where: stamp for where, (stamp, _) in self._customs.items()}

    def feed(
        self, maps: Iterable[Object], secrets: Iterable[Object] = (), *, statuses: Iterable[Object] = (), customs: Iterable[Object] = ()
    ) -> Loaded:
        """All of them, every time. ``statuses`` (ConfigMaps) are asked only for the last good form of what is broken at the first look."""
        good = {owner: _data(s) for s in statuses for owner in _owners(s)}
        maps = list(maps)
        self._created = {n: str(o["metadata"].get("creationTimestamp", "")) for n, o in _by_name(maps)}
        self._maps = {n: self._read_map(n, o, good.get(stamp_of(o)[0], {})) for n, o in _by_name(maps)}
        self._secrets = {n: self._read_secret(n, o) for n, o in _by_name(secrets)}
        self._customs = {where: self._read_custom(where, o) for where, o in sorted(((custom_where(o), o) for o in customs), key=_first)}
        return self._merge()

    def good_texts(self, source: str) -> dict[str, str]:
        """What the status of the ConfigMap ``source`` should remember: key to text."""
        units = self._maps[source][1] if source in self._maps else {}
        return {key: unit.good for key, unit in units.items() if unit.good}

    def sources(self) -> list[str]:
        return list(self._maps)

    def shared(self, source: str) -> int:
        """How many resources stand in this ConfigMap."""
        return sum(len(unit.resources) for unit in self._maps[source][1].values()) if source in self._maps else 0

    def resources_in(self, source: str) -> list[Resource]:
        return [r for unit in self._maps[source][1].values() for r in unit.resources] if source in self._maps else []

    def _read_map(self, name: str, value: Object, good: Mapping[str, str]) -> tuple[Stamp, dict[str, Unit]]:
        stamp, known = stamp_of(value), self._maps.get(name)
        if known is not None and known[0] == stamp:
            return known
        before = known[1] if known is not None else {}
        units = {}
        for key, text in sorted(_data(value).items()):
            if not key.endswith(_SUFFIXES):
                continue
            unit = before.get(key)
            units[key] = unit if unit is not None and unit.text == text else _read(name, key, text, unit, good.get(GOOD + key, ""))
        return stamp, units

    def _read_secret(self, name: str, value: Object) -> tuple[Stamp, Unit]:
        stamp, known = stamp_of(value), self._secrets.get(name)
        if known is not None and known[0] == stamp:
            return known
        before = known[1].resources if known is not None else []
        try:
            return stamp, Unit("", [_as_resource(value)], "")
        except VanrouterError as exc:
            return stamp, Unit("", before, "", Problem(f"Secret/{name}", str(exc), exc.hint))

    def custom(self, where: str) -> Unit | None:
        """What stands in the custom resource ``where``."""
        return self._customs[where][1] if where in self._customs else None

    def customs(self) -> dict[str, Unit]:
        return {where: unit for where, (_, unit) in self._customs.items()}

    def _read_custom(self, where: str, value: Object) -> tuple[Stamp, Unit]:
        stamp, known = custom_stamp(value), self._customs.get(where)
        if known is not None and known[0] == stamp:
            return known
        before = known[1] if known is not None and known[0][0] == stamp[0] else None
        return stamp, read_custom(value, before)

    def _merge(self) -> Loaded:
        resources: dict[Key, Located] = {}
        problems: list[Problem] = []
        units = [(f"ConfigMap/{name}: {key}", unit) for name, (_, keys) in self._maps.items() for key, unit in keys.items()]
        units += [(where, unit) for where, (_, unit) in self._customs.items()]
        units += [(f"Secret/{name}", unit) for name, (_, unit) in self._secrets.items()]
        site = self._site_in_force()
        for where, unit in units:
            if unit.problem is not None:
                problems.append(unit.problem)
            for resource in unit.resources:
                key = (resource.kind, resource.name)
                if isinstance(resource, Site) and site is not None and where.partition(":")[0] != f"ConfigMap/{site[0]}":
                    text = f"{resource.ref} is not in force: this namespace is site {site[1].name}, by ConfigMap/{site[0]}"
                    problems.append(Problem(where, text, "a namespace is one site: remove the other one"))
                elif key in resources:
                    first = resources[key].file
                    text = f"twice in {where}" if first == where else f"in {first} and in {where}; {first} counts"
                    problems.append(Problem(where, f"{resource.ref} is {text}", f"remove or rename it in {where}"))
                else:
                    resources[key] = Located(resource, where)
        return Loaded(resources, problems)

    def _site_in_force(self) -> tuple[str, Resource] | None:
        """Of several Sites that which `van init` wrote, and of those the oldest: one that comes later takes nothing over."""
        sites = [(name, r) for name in self._maps for r in self.resources_in(name) if isinstance(r, Site)]
        chosen = min(sites, key=lambda s: root_order(s[0], self._created.get(s[0], "")), default=None)
        others = [(name, r) for name, r in sites if chosen is not None and r.name != chosen[1].name]
        self.root = chosen[0] if chosen is not None else ""
        self.other_sites = {name for name, _ in others if self.shared(name) == 1}
        return chosen


def _read(name: str, key: str, text: str, known: Unit | None, remembered: str) -> Unit:
    where = f"ConfigMap/{name}: {key}"
    try:
        return Unit(text, _parse(text, where), text)
    except VanrouterError as exc:
        good = known.good if known is not None and known.good else remembered
        try:
            kept = _parse(good, where) if good else []
        except VanrouterError:  # written by a version that knew more
            kept, good = [], ""
        said = "; its last good form stays in force" if kept else ""
        return Unit(text, kept, good, Problem(where, f"{str(exc).removeprefix(f'{where}: ')}{said}", exc.hint))


def _parse(text: str, where: str) -> list[Resource]:
    resources = read_resources(text, source=where)
    for resource in resources:
        if isinstance(resource, Secret):
            raise InvalidResource(resource.ref, "a Secret does not belong into a ConfigMap", hint="apply it as the Secret that it is")
    return resources


def _as_resource(value: Object) -> Resource:
    """A Secret of the cluster, without what we added to find it."""
    ours = ((TYPE, RESOURCE), (PART_OF, "vanrouter"))
    metadata = {**value["metadata"], "labels": {k: v for k, v in _labels(value).items() if (k, v) not in ours}}
    metadata.pop("namespace", None)
    return read_document({"apiVersion": "v1", "kind": "Secret", **value, "metadata": metadata})


# ---- Objects that we write --------------------------------------------------------------------------------------------------------------


def resource_object(resource: Resource, *, name: str = "", key: str = RECORD_KEY, owners: tuple[Object, ...] = ()) -> Object:
    """The ConfigMap (of a Secret: the Secret) that says it, for server-side apply."""
    if isinstance(resource, Secret):
        value = to_dict(resource)
        metadata = labelled(resource.name, RESOURCE, owners=owners)
        metadata["labels"] = {**metadata["labels"], **resource.metadata.labels}
        if resource.metadata.annotations:
            metadata["annotations"] = dict(resource.metadata.annotations)
        return {"metadata": metadata, "type": value["type"], "data": value["data"]}
    return {
        "metadata": labelled(name or resource_map(resource.kind, resource.name), RESOURCE, owners=owners),
        "data": {key: to_yaml(resource)},
    }


def status_object(source: Object, records: Iterable[StatusRecord], good: Mapping[str, str], *, owner: Object | None = None) -> Object:
    """The ConfigMap with the status of what the ConfigMap ``source`` says. It is owned by its source, and goes with it.

    ``owner``: of a Site that is a custom resource; ``source`` is then the ConfigMap that it would stand in.
    """
    name = source["metadata"]["name"]
    owners = (owner or {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": source["metadata"]["uid"]},)
    texts = {GOOD + key: text for key, text in sorted(good.items())}
    metadata = labelled(status_map(name), STATUS, owners=owners)
    metadata["annotations"] = {STATUS_OF: name}
    listed = sorted(records, key=lambda r: (r.kind, r.name))
    return {"metadata": metadata, "data": {STATUS_KEY: msgspec.json.encode(listed).decode(), **texts}}


def statuses_in(value: Object) -> list[StatusRecord]:
    """What a status ConfigMap says. Nothing where somebody edited it beyond reading: the controller writes it again."""
    try:
        return msgspec.json.decode(_data(value).get(STATUS_KEY, "[]"), type=list[StatusRecord])
    except msgspec.DecodeError:
        return []


def put_site_text(value: Object, text: str) -> None:
    """Into the root's status ConfigMap: packed above half a megabyte (1,000 services and their listeners)."""
    if len(text) <= LONGEST_TEXT:
        value["data"][SITE_KEY] = text
    else:
        value["binaryData"] = {SITE_PACKED: _packed(text)}


@functools.lru_cache(maxsize=1)
def _packed(text: str) -> str:
    """The last one is kept: what is there is compared with what should be far more often than it changes."""
    return base64.b64encode(gzip.compress(text.encode(), 5, mtime=0)).decode()


def site_text(value: Object) -> str:
    """What ``put_site_text`` put there; empty: nothing, or somebody edited it beyond reading."""
    text = _data(value).get(SITE_KEY, "")
    packed = (value.get("binaryData") or {}).get(SITE_PACKED, "")
    if text or not packed:
        return text
    try:
        unpacker = zlib.decompressobj(wbits=31)
        return unpacker.decompress(base64.b64decode(packed, validate=True), MAX_UNPACKED).decode()
    except (binascii.Error, zlib.error, ValueError):
        return ""


def owner_of(site: Site, records: Records) -> tuple[Object, ...]:
    """The reference to the object in which the Site stands; nothing when there is none."""
    for source in filter(None, (records.root,)):
        if any(r.kind == "Site" and r.name == site.name for r in records.resources_in(source)):
            return ({"apiVersion": "v1", "kind": "ConfigMap", "name": source, "uid": records.stamps[f"ConfigMap/{source}"][0]},)
    for where, unit in records.customs().items():
        if any(r.kind == "Site" and r.name == site.name for r in unit.resources):
            name = where.partition("/")[2]
            return ({"apiVersion": API_VERSION, "kind": "Site", "name": name, "uid": records.stamps[where][0]},)
    return ()


def reference_to(root: Object) -> Object:
    """As an ownerReference: of a ConfigMap, or of a custom resource, which says its kind."""
    metadata = root["metadata"]
    typed = {"apiVersion": API_VERSION, "kind": "Site"} if root.get("kind") == "Site" else {"apiVersion": "v1", "kind": "ConfigMap"}
    return {**typed, "name": metadata["name"], "uid": metadata["uid"]}


def spec_hash(resource: Resource) -> str:
    """Of what is wanted, however it is written: equal for equal resources."""
    return hash_of(to_dict(resource).get("spec", {}))


def hash_of(spec: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(spec, order="sorted")).hexdigest()


def root_order(name: str, created: str) -> tuple[bool, str, str]:
    """By this the first of several ConfigMaps with a Site counts."""
    return (not name.startswith(ROOT), created, name)


def stamp_of(value: Object) -> Stamp:
    metadata = value.get("metadata", {})
    return (str(metadata.get("uid", "")), str(metadata.get("resourceVersion", "")))


def _first(pair: tuple[str, Object]) -> str:
    return pair[0]


def _by_name(objects: Iterable[Object]) -> list[tuple[str, Object]]:
    return sorted(((str(o["metadata"]["name"]), o) for o in objects), key=lambda pair: pair[0])[:MAX_OBJECTS]


def _data(value: Object) -> dict[str, str]:
    data = value.get("data")
    return data if isinstance(data, dict) else {}


def _labels(value: Object) -> dict[str, str]:
    return value.get("metadata", {}).get("labels") or {}


def _owners(value: Object) -> list[str]:
    """The uids. The status of a ConfigMap that was deleted and made again says nothing of the new one."""
    return [str(owner.get("uid")) for owner in value.get("metadata", {}).get("ownerReferences") or []]
