"""
Keeps a router's site directory in step with its namespace: watches what the routers read, and writes it as files.

    ConfigMaps of type resource ──▶ resources/MAP KEY.yaml       Secret van-identity    ──▶ state/identity.key
    custom resources            ──▶ resources/~KINDS.GROUP NAME.yaml
    ConfigMap van-router        ──▶ state/router.json            Secret van-router-keys ──▶ state/ca.crt, own.json, credentials/
    Pods                        ──▶ state/pods.json: targets and other routers

What the directory has is in force until something newer is heard. A watch that fails changes nothing, an object that is wrong leaves the
file with its last good form, a Secret that is gone leaves the keys. Reads only: nothing here writes to the API server.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import trio

from vanrouter.errors import StoreError, VanrouterError
from vanrouter.kube.calls import Object, get
from vanrouter.kube.client import KubeClient
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.errors import KubeError
from vanrouter.kube.following import CustomWatch
from vanrouter.kube.kinds import CONFIG_MAPS, PODS, SECRETS
from vanrouter.kube.names import IDENTITY_SECRET, KEYS_SECRET, RESOURCE, ROUTER_MAP, selector, status_map
from vanrouter.kube.pods import Pod, keep_pod
from vanrouter.kube.records import Records
from vanrouter.kube.state import files_in
from vanrouter.kube.watching import Watcher
from vanrouter.pki import IdentityKey, load_certificates
from vanrouter.pki.authority import names_of, van_name
from vanrouter.stores import SiteHome
from vanrouter.stores.files import remove, write_atomic
from vanrouter.stores.resources import Problem

__all__ = ["Fed", "Feeder"]

log: Final = logging.getLogger("vanrouter.kube")

AGAIN: Final = 2.0  # seconds until files that could not be written are tried again
OWN_FILE: Final = "own.json"
ROUTER_FILE: Final = "router.json"
PODS_FILE: Final = "pods.json"
PATIENCE: Final = 10.0  # in which a first start waits for custom resources, when all else is there
CUSTOM: Final = "~"  # sorts after every name of a ConfigMap: of two with one name the ConfigMap counts
FOLLOWED: Final = tuple(kind for kind in CUSTOM_KINDS if kind not in ("AccessGrant", "AccessToken"))
"""Grants and tokens are the controller's: no router may read the codes in them."""


class Fed(msgspec.Struct):
    """What is new since the last time."""

    resources: bool = False
    ports: bool = False
    own: bool = False  # the CA or a leaf of our own
    pods: bool = False
    credentials: set[str] = set()

    def __bool__(self) -> bool:
        return self.resources or self.ports or self.own or self.pods or bool(self.credentials)


class Feeder:
    """``changed`` is set by whoever wants to be told; it may not block."""

    def __init__(self, client: KubeClient, namespace: str, home: SiteHome, *, rng: random.Random) -> None:
        self._client, self._namespace, self._home = client, namespace, home
        self._records = Records()
        self._remembered: dict[str, Object] = {}  # by name of the source: status ConfigMaps that were asked for its last good form
        self._woken = trio.Event()
        self._pods_unsaved = trio.Event()
        self._remembered_pods = self._load_pods()
        self._pods_seen: Mapping[str, Pod] | None = self._remembered_pods
        self._is_first = not home.state.path("identity.key").exists()  # else the directory has what an earlier start heard
        self._customs_written = False
        self._patient_until: float | None = None
        self.changed: Callable[[Fed], None] = lambda _: None
        self.problems: list[Problem] = []
        self.problem: Problem | None = None  # files that cannot be written
        self.replaced = trio.Event()  # the namespace is another site than the directory is for, with keys of its own

        def watcher(kind: object, labels: str = "", name: str = "", **more: object) -> Watcher:
            fields = f"metadata.name={name}" if name else ""
            return Watcher(client, kind, namespace, heard=self._heard, rng=rng, labels=labels, fields=fields, **more)  # type: ignore[arg-type]

        self._maps = watcher(CONFIG_MAPS, selector(RESOURCE))
        self._router = watcher(CONFIG_MAPS, name=ROUTER_MAP)
        self._identity = watcher(SECRETS, name=IDENTITY_SECRET)
        self._keys = watcher(SECRETS, name=KEYS_SECRET)
        self.customs = CustomWatch(client, namespace, heard=self._heard, rng=rng, kinds=FOLLOWED)
        self._pods = Watcher(client, PODS, namespace, heard=self._heard_pods, rng=rng, keep=keep_pod)
        self._watchers = {
            "its resources (ConfigMaps)": self._maps,
            f"ConfigMap/{ROUTER_MAP}": self._router,
            f"Secret/{IDENTITY_SECRET}": self._identity,
            f"Secret/{KEYS_SECRET}": self._keys,
            "Pods": self._pods,
        }

    # ---- What is known -------------------------------------------------------------------------------------------------------------------

    @property
    def pods(self) -> Mapping[str, Pod] | None:
        """As heard, else as an earlier start of this router wrote them down. None: not heard of yet."""
        return {name: pod for (_, name), pod in self._pods.objects.items()} if self._pods.synced else self._remembered_pods

    def troubles(self) -> list[str]:
        """Why what we have may be old, for people; one sentence per watch."""
        found = [f"{what}: {watcher.problem}" for what, watcher in self._watchers.items() if watcher.problem is not None]
        return found + self.customs.troubles()

    def missing(self) -> list[str]:
        """What a first start still waits for; empty: the directory has all that a router needs."""
        state, found = self._home.state, []
        if not state.path("identity.key").exists():
            found.append(f"Secret/{IDENTITY_SECRET}, which the controller makes")
        if not state.path(OWN_FILE).exists() or not state.path("ca.crt").exists():
            found.append(f"Secret/{KEYS_SECRET}, which the controller makes")
        if not any(key[0] == "Site" for key in self._home.resources.load().resources):
            found.append("a Site among the ConfigMaps with vanrouter.io/type: resource (van init makes it)")
        if not found and self._is_first and not self._customs_written:
            if self._patient_until is None:
                self._patient_until = trio.current_time() + PATIENCE
            if trio.current_time() < self._patient_until:
                found.append("its custom resources, or the word that there are none")
        return found

    # ---- Tasks ---------------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for watcher in self._watchers.values():
                nursery.start_soon(watcher.run)
            nursery.start_soon(self.customs.run)
            nursery.start_soon(self._follow)
            nursery.start_soon(self._save_pods)

    def _heard(self, _changes: object) -> None:
        self._woken.set()

    def _heard_pods(self, _changes: object) -> None:
        self._pods_unsaved.set()
        self._woken.set()

    async def _follow(self) -> None:
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            before, self._pods_seen = self._pods_seen, self.pods
            fed = Fed(pods=before != self._pods_seen)  # most changes of a pod are nothing to us
            try:
                self._write_state(fed)
                await self._write_resources(fed)
                self.problem = None
            except StoreError as exc:
                self.problem = Problem(str(self._home.directory), str(exc), exc.hint)
                log.warning("what was heard cannot be written", extra={"error": str(exc), "hint": exc.hint})
            if fed:
                self.changed(fed)
            if self.problem is not None:
                with trio.move_on_after(AGAIN):
                    await self._woken.wait()
                self._woken.set()

    async def _save_pods(self) -> None:
        """So that a start without the API server knows the targets. Best effort, at most once a second."""
        while True:
            await self._pods_unsaved.wait()
            self._pods_unsaved = trio.Event()
            if (pods := self.pods) is not None:
                with contextlib.suppress(StoreError):
                    write_atomic(self._home.state.path(PODS_FILE), msgspec.json.encode(list(pods.values())), durable=False)
            await trio.sleep(1.0)

    def _load_pods(self) -> dict[str, Pod] | None:
        try:
            raw = self._home.state.read(PODS_FILE)
            return {pod.name: pod for pod in msgspec.json.decode(raw, type=list[Pod])} if raw is not None else None
        except (VanrouterError, msgspec.DecodeError):
            return None

    # ---- Resources -----------------------------------------------------------------------------------------------------------------------

    async def _write_resources(self, fed: Fed) -> None:
        if not self._maps.synced:
            return
        maps, customs = list(self._maps.objects.values()), list(self.customs.objects.values())
        there = {value["metadata"]["name"] for value in maps}
        self._remembered = {source: status for source, status in self._remembered.items() if source in there}
        loaded = self._records.feed(maps, statuses=self._remembered.values(), customs=customs)
        if await self._recall(maps):
            self._records = Records()
            loaded = self._records.feed(maps, statuses=self._remembered.values(), customs=customs)
        self.problems = loaded.problems
        directory, wanted = self._home.resources.directory, self._files(maps)
        self._customs_written |= self.customs.synced
        unseen = tuple(f"{CUSTOM}{resource} " for resource in self.customs.unseen)
        wanted |= dict.fromkeys((path.name for path in directory.iterdir() if path.name.startswith(unseen)), b"")
        wanted |= {
            _file_name(CUSTOM + where.replace("/", " "), "resource.yaml"): u.good.encode() for where, u in self._records.customs().items()
        }
        for path in sorted(directory.iterdir()):
            if path.suffix in (".yaml", ".yml", ".json") and path.name not in wanted:
                fed.resources |= remove(path)
        for name, text in wanted.items():
            path = directory / name
            if text and (not path.exists() or path.read_bytes() != text):
                write_atomic(path, text, durable=False)
                fed.resources = True

    def _files(self, maps: list[Object]) -> dict[str, bytes]:
        """Name to content; empty: there is no good form that we know, and the file stays as it is."""
        found: dict[str, bytes] = {}
        for value in maps:
            source = value["metadata"]["name"]
            if source in self._records.other_sites:
                continue
            good = self._records.good_texts(source)
            for key in value.get("data") or {}:
                if key.endswith((".yaml", ".yml", ".json")):
                    found[_file_name(source, key)] = good.get(key, "").encode()
        return found

    async def _recall(self, maps: list[Object]) -> bool:
        """What is broken at the first look: its last good form, as the controller remembers it. Whether there is news."""
        news = False
        for value in maps:
            source = value["metadata"]["name"]
            good = self._records.good_texts(source)
            broken = [k for k in value.get("data") or {} if k.endswith((".yaml", ".yml", ".json")) and not good.get(k)]
            broken = [k for k in broken if not (self._home.resources.directory / _file_name(source, k)).exists()]
            if broken and source not in self._remembered:
                try:
                    self._remembered[source] = await self._client.call(get(CONFIG_MAPS, self._namespace, status_map(source)))
                except KubeError:
                    continue
                news = True
        return news

    # ---- State ---------------------------------------------------------------------------------------------------------------------------

    def _write_state(self, fed: Fed) -> None:
        state = self._home.state
        for value in self._identity.objects.values():
            key = files_in(value).get("identity.key", b"")
            known = state.read("identity.key")
            if known is None and key:
                state.write("identity.key", key)
            elif key and known != key:
                self._look_at_other(key)
        for value in self._router.objects.values():
            text = str((value.get("data") or {}).get(ROUTER_FILE) or "").encode()
            if text and state.read(ROUTER_FILE) != text:
                state.write(ROUTER_FILE, text)
                fed.ports = True
        for value in self._keys.objects.values():
            self._write_keys(files_in(value), fed)

    def _look_at_other(self, key: bytes) -> None:
        """Another identity than this directory has. Somebody's mistake, unless the controller made keys for it."""
        files = [files_in(value) for value in self._keys.objects.values()]
        try:
            site = IdentityKey.load(key, f"Secret/{IDENTITY_SECRET}").site_id
            shown = [load_certificates(f.get("own__server.crt", b""), "own__server.crt")[0] for f in files]
        except VanrouterError as exc:
            log.warning("Secret/%s is not usable: %s", IDENTITY_SECRET, exc)
            return
        if any(van_name(site) in names_of(leaf) for leaf in shown):
            if not self.replaced.is_set():
                log.warning("this namespace is another site now; this router starts anew", extra={"site_id": str(site)})
            self.replaced.set()
        else:
            log.error("Secret/%s holds another identity than this router started with, and no keys fit to it", IDENTITY_SECRET)

    def _write_keys(self, files: Mapping[str, bytes], fed: Fed) -> None:
        state = self._home.state
        own = {name.removeprefix("own__"): data.decode("ascii", "replace") for name, data in files.items() if name.startswith("own__")}
        for name, data in (("ca.crt", files.get("ca.crt", b"")), (OWN_FILE, msgspec.json.encode(own, order="sorted") if own else b"")):
            if data and state.read(name) != data:
                state.write(name, data)
                fed.own = True
        credentials: dict[str, dict[str, bytes]] = {}
        for name, data in files.items():
            if name.startswith("credentials__"):
                whose, _, file = name.removeprefix("credentials__").rpartition("__")
                credentials.setdefault(whose, {})[file] = data
        for whose in state.credential_names():
            if whose not in credentials:
                state.delete_credential(whose)
                fed.credentials.add(whose)
        for whose, its in credentials.items():
            try:
                if state.read_credential(whose) != its:
                    state.write_credential(whose, its)
                    fed.credentials.add(whose)
            except StoreError:
                raise
            except VanrouterError as exc:
                log.warning("a credential is not usable", extra={"credential": whose, "error": str(exc)})


def _file_name(source: str, key: str) -> str:
    """In the order of ConfigMaps: a space sorts before all that a name may have."""
    name = f"{source} {key}"
    if len(name) > 200:
        suffix = key[key.rindex(".") :]
        name = f"{name[:150]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}{suffix}"
    return name
