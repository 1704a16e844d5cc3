"""
AttachedConnectors in action: follows the pods of those that agree with a binding, and says in their status how it is. Drives ``attached``.

The connectors that follow are written in the namespace of the site, by its own controller: ``AttachedHere`` is its part.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import trio

from vanrouter.controller.attached import (
    Key,
    Verdict,
    connectors_of,
    consent,
    map_name,
    targets_of,
    verdict_of_binding,
    verdict_of_connector,
)
from vanrouter.controller.report import Doc, rfc3339
from vanrouter.controller.shared import Look
from vanrouter.errors import VanrouterError
from vanrouter.kube.calls import Object, apply
from vanrouter.kube.cluster_customs import ClusterCustoms
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.custom import custom_stamp, custom_status, read_custom
from vanrouter.kube.kinds import CONFIG_MAPS, PODS
from vanrouter.kube.names import RESOURCE, labelled
from vanrouter.kube.pods import Pod, keep_pod
from vanrouter.kube.records import RECORD_KEY
from vanrouter.kube.sharing import Share, SharedWatches
from vanrouter.kube.turns import TurnClient
from vanrouter.kube.units import Unit
from vanrouter.kube.workloads import MADE_FROM
from vanrouter.resources import to_yaml
from vanrouter.resources.kinds import AttachedConnector, AttachedConnectorBinding, Connector
from vanrouter.stores.resources import Problem

__all__ = ["AttachedHere", "Attaching"]

log: Final = logging.getLogger("vanrouter.controller")

SETTLE: Final = 0.05
BETWEEN: Final = 0.5  # between two writes of one status
AGAIN: Final = 20.0


class Agreement(msgspec.Struct, frozen=True):
    """The other side of a binding. ``targets``: None: its pods are not known."""

    connector: AttachedConnector
    targets: list[Pod] | None


class Attaching:
    """Of the whole cluster. ``wake`` is told the namespace of a site of whose bindings something changed."""

    def __init__(
        self,
        client: TurnClient,
        customs: ClusterCustoms,
        watches: SharedWatches,
        *,
        is_ours: Callable[[str], bool],
        wake: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._client, self._customs, self._watches = client, customs, watches
        self._is_ours, self._wake_one, self._clock = is_ours, wake, clock
        self._units: dict[tuple[str, Key], tuple[tuple[str, str], Unit]] = {}
        self._pods: dict[str, tuple[Share, trio.CancelScope]] = {}
        self._agreed: dict[Key, Agreement] = {}
        self._tried: dict[Key, tuple[Object, float]] = {}  # the status that was written last, and not before when again
        self._writing: set[Key] = set()  # whose status is on its way: one that is slow keeps nothing else waiting
        self._woken = trio.Event()

    def wake(self) -> None:
        self._woken.set()

    @property
    def is_current(self) -> bool:
        """Whether what is not there is known not to be."""
        return self._customs.is_current("AttachedConnector")

    def agreement(self, namespace: str, binding: AttachedConnectorBinding) -> Agreement | None:
        found = self._agreed.get((namespace, binding.name))
        return found if found is not None and self._still(namespace, binding) else None

    def _still(self, namespace: str, binding: AttachedConnectorBinding) -> bool:
        """The binding may be newer than our last look."""
        key = (binding.spec.connector_namespace, binding.name)
        value = self._customs.of_kind("AttachedConnector").get(key)
        if value is None or not self._is_ours(key[0]):
            return False
        read = self._unit("AttachedConnector", key, value).resources
        return any(isinstance(c, AttachedConnector) and c.spec.site_namespace == namespace for c in read)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                self._woken = trio.Event()
                try:
                    again = self._look(nursery)
                except Exception:  # the next change, or the next try, goes on
                    log.exception("a bug in the controller")
                    again = trio.current_time() + AGAIN
                with trio.move_on_at(again):
                    await self._woken.wait()
                await trio.sleep(SETTLE)

    def _look(self, nursery: trio.Nursery) -> float:
        """When to look again at the latest."""
        self._forget_gone()
        connectors = {k: r for k, r in self._read("AttachedConnector").items() if isinstance(r, AttachedConnector)}
        bindings = {k: r for k, r in self._read("AttachedConnectorBinding").items() if isinstance(r, AttachedConnectorBinding)}
        pairs = consent(connectors, bindings)
        self._follow(nursery, {other[0] for other, _ in pairs.values()})
        agreed = {}
        for key, (other, connector) in pairs.items():
            pods = self._pods_of(other[0])
            agreed[key] = Agreement(connector, None if pods is None else targets_of(connector, pods))
        changed = {key[0] for key in agreed.keys() | self._agreed.keys() if agreed.get(key) != self._agreed.get(key)}
        self._agreed = agreed
        for namespace in changed:
            self._wake_one(namespace)
        theirs = {other for other, _ in pairs.values()}
        return self._say(nursery, {k: self._verdict(k, c, agreed=k in theirs) for k, c in connectors.items()})

    def _verdict(self, key: Key, connector: AttachedConnector, *, agreed: bool) -> Verdict:
        return verdict_of_connector(connector, key[0], agreed=agreed, pods=self._pods_of(key[0]) if agreed else None)

    # ---- Reading -------------------------------------------------------------------------------------------------------------------------

    def _read(self, kind: str) -> Mapping[Key, object]:
        """Of namespaces that are ours, in their last good form."""
        found: dict[Key, object] = {}
        for key, value in self._customs.of_kind(kind).items():
            if not self._is_ours(key[0]):
                continue
            unit = self._unit(kind, key, value)
            if unit.resources:
                found[key] = unit.resources[0]
        return found

    def _unit(self, kind: str, key: Key, value: Object) -> Unit:
        stamp, known = custom_stamp(value), self._units.get((kind, key))
        if known is None or known[0] != stamp:
            is_same = known is not None and known[0][0] == stamp[0]  # and not another object of that name
            known = self._units[kind, key] = stamp, read_custom(value, known[1] if known is not None and is_same else None)
        return known[1]

    def _forget_gone(self) -> None:
        """What is kept of objects that are known not to be there any more."""
        for kind in ("AttachedConnector", "AttachedConnectorBinding"):
            if self._customs.is_current(kind):
                there = self._customs.of_kind(kind)
                for gone in [unit for unit in self._units if unit[0] == kind and unit[1] not in there]:
                    del self._units[gone]

    def _follow(self, nursery: trio.Nursery, namespaces: set[str]) -> None:
        for namespace in self._pods.keys() - namespaces:
            self._pods.pop(namespace)[1].cancel()
        for namespace in namespaces - self._pods.keys():
            share = self._watches.follow(PODS, namespace, heard=lambda _: self.wake(), keep=keep_pod, lasting=False)
            scope = trio.CancelScope()
            self._pods[namespace] = share, scope
            nursery.start_soon(self._run_share, share, scope)

    async def _run_share(self, share: Share, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(share.run)
                await share.wait_synced()
                self.wake()

    def _pods_of(self, namespace: str) -> list[Pod] | None:
        found = self._pods.get(namespace)
        return list(found[0].objects.values()) if found is not None and found[0].synced else None

    # ---- Writing -------------------------------------------------------------------------------------------------------------------------

    def _say(self, nursery: trio.Nursery, verdicts: Mapping[Key, Verdict]) -> float:
        now, again = trio.current_time(), math.inf
        values = {key: value for key, value in self._customs.of_kind("AttachedConnector").items() if self._is_ours(key[0])}
        self._tried = {key: tried for key, tried in self._tried.items() if key in values}
        for key, value in values.items():
            if key in self._writing:
                continue
            unit = self._unit("AttachedConnector", key, value)
            said = _status(verdicts[key], value, self._clock) if key in verdicts else {}
            problem = unit.problem
            date = _since(value, problem, self._clock) if problem is not None else ""
            status = custom_status(value, unit, said, seen=problem is None, problem=problem, date=date)
            tried, at = self._tried.get(key, ({}, 0.0))
            if status == value.get("status"):
                continue
            if now < at and (tried == status or at - now <= BETWEEN):
                again = min(again, at)
                continue
            self._writing.add(key)
            nursery.start_soon(self._send, key, value, status)
        return again

    async def _send(self, key: Key, value: Object, status: Object) -> None:
        body = {"metadata": {"name": key[1], "uid": value["metadata"]["uid"]}, "status": status}
        try:
            await self._client.call(apply(CUSTOM_KINDS["AttachedConnector"], key[0], body, subresource="status"))
            self._tried[key] = status, trio.current_time() + BETWEEN
        except VanrouterError as error:
            self._tried[key] = status, trio.current_time() + AGAIN
            log.info("a status cannot be written", extra={"namespace": key[0], "connector": key[1], "reason": str(error)})
        except Exception:
            self._tried[key] = status, trio.current_time() + AGAIN
            log.exception("a bug in the controller", extra={"namespace": key[0], "connector": key[1]})
        finally:
            self._writing.discard(key)
            self.wake()


class AttachedHere:
    """The part of the site in ``namespace``: a chore of its controller."""

    name = "attached connectors"
    deadline = math.inf

    def __init__(self, attaching: Attaching, namespace: str, *, clock: Callable[[], float]) -> None:
        self._attaching, self._namespace, self._clock = attaching, namespace, clock
        self.said: Mapping[tuple[str, str], Doc] = {}  # for the status of bindings
        self._maps: dict[str, tuple[tuple[Sequence[Connector], tuple[Object, ...]], Object]] = {}

    @property
    def problems(self) -> list[Problem]:
        return []

    async def do(self, look: Look) -> None:
        bindings = [r for r in look.resources if isinstance(r, AttachedConnectorBinding)]
        copies, matched = look.copies, _matched(look.document)
        customs = {str(v["metadata"]["name"]): v for v in copies.customs.objects.values() if v.get("kind") == "AttachedConnectorBinding"}
        kept: set[str] = set()
        said: dict[tuple[str, str], Doc] = {}
        wanted: list[Object] = []
        for binding in bindings:
            agreement = self._attaching.agreement(self._namespace, binding)
            targets = agreement.targets if agreement is not None else []
            verdict = verdict_of_binding(
                binding, self._namespace, agreed=agreement is not None, targets=None if targets is None else len(targets)
            )
            doc = _status(verdict, customs.get(binding.name, {}), self._clock)
            said[binding.kind, binding.name] = doc
            name = map_name(binding.name)
            if agreement is None or targets == []:
                continue
            kept.add(name)
            if targets is not None:
                value, names = self._map(binding, agreement.connector, targets, look.owners)
                doc["matched"] = not names.isdisjoint(matched)
                wanted.append(value)
        self.said = said
        await copies.each([v for v in wanted if copies.differs(CONFIG_MAPS, v)], lambda v: copies.ensure(CONFIG_MAPS, v))
        for name, value in copies.of(CONFIG_MAPS).items():
            if (value["metadata"].get("labels") or {}).get(MADE_FROM) == "attached" and name not in kept and self._attaching.is_current:
                await copies.remove(CONFIG_MAPS, name)

    def _map(
        self, binding: AttachedConnectorBinding, connector: AttachedConnector, targets: Sequence[Pod], owners: tuple[Object, ...]
    ) -> tuple[Object, set[str]]:
        """And the names in it. Writing YAML takes its time: as long as nothing changes it is the same."""
        made = connectors_of(binding, connector, targets)
        known = self._maps.get(binding.name)
        if known is None or known[0] != (made, owners):
            metadata = labelled(map_name(binding.name), RESOURCE, owners=owners)
            metadata["labels"][MADE_FROM] = "attached"
            known = (made, owners), {"metadata": metadata, "data": {RECORD_KEY: to_yaml(made)}}
            self._maps[binding.name] = known
        return known[1], {connector.name for connector in made}


def _matched(document: Doc) -> set[str]:
    """Connectors for which there is a listener somewhere."""
    return {str(c.get("name")) for c in document.get("connectors") or [] if c.get("matched")}


def _status(verdict: Verdict, value: Object, clock: Callable[[], float]) -> Doc:
    """As the routers would say it of a resource. Dates are those of ``value``, where that says the same."""
    known = {c.get("type"): c for c in (value.get("status") or {}).get("conditions") or []}

    def condition(type_: str, holds: bool) -> Doc:
        status, reason = ("True", "Ok") if holds else ("False", verdict.reason)
        old = known.get(type_, {})
        same = (old.get("status"), old.get("reason")) == (status, reason)
        since = str(old.get("lastTransitionTime") or "") if same else ""
        next_ = "" if holds else verdict.next
        said = {"type": type_, "status": status, "reason": reason, "message": verdict.message, "next": next_}
        return {**said, "since": since or rfc3339(clock())}

    return {"conditions": [condition("Ready", verdict.ready), condition("Matched", verdict.matched)]}


def _since(value: Object, problem: Problem, clock: Callable[[], float]) -> str:
    conditions = (value.get("status") or {}).get("conditions") or []
    alike = [c for c in conditions if c.get("type") == "Ready" and c.get("message") == problem.message]
    return str(alike[0].get("lastTransitionTime")) if alike else rfc3339(clock())
