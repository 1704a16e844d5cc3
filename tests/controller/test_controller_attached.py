"""Attached connectors: both sides have to agree, and what follows then. And turns: whoever has much to write waits for itself."""

from __future__ import annotations

import random
from typing import Any, cast

import trio
import trio.testing

from vanrouter.controller.attached import connectors_of, consent, targets_of, verdict_of_binding, verdict_of_connector
from vanrouter.controller.attaching import Attaching
from vanrouter.kube.calls import Call, Object, get
from vanrouter.kube.cluster_customs import ClusterCustoms, CustomView
from vanrouter.kube.kinds import SERVICES
from vanrouter.kube.pods import Pod
from vanrouter.kube.sharing import SharedWatches
from vanrouter.kube.turns import ALL, EACH, TurnClient
from vanrouter.resources.kinds import (
    AttachedConnector,
    AttachedConnectorBinding,
    AttachedConnectorBindingSpec,
    AttachedConnectorSpec,
    Metadata,
)


def connector(site: str = "north", **spec: Any) -> AttachedConnector:
    return AttachedConnector(
        metadata=Metadata(name="db"), spec=AttachedConnectorSpec(site_namespace=site, selector="app=db", port=5432, **spec)
    )


def binding(namespace: str = "shop", **spec: Any) -> AttachedConnectorBinding:
    return AttachedConnectorBinding(
        metadata=Metadata(name="db"), spec=AttachedConnectorBindingSpec(connector_namespace=namespace, routing_key="db", **spec)
    )


def pod(name: str, **how: Any) -> Pod:
    return Pod(**{"name": name, "labels": {"app": "db"}, "address": "10.0.0.1", "ready": True, **how})


def test_each_has_to_name_the_other_under_one_name() -> None:
    both = {("shop", "db"): connector()}, {("north", "db"): binding()}
    assert consent(*both) == {("north", "db"): (("shop", "db"), connector())}
    assert not consent({("shop", "db"): connector("south")}, {("north", "db"): binding()})
    assert not consent({("shop", "db"): connector()}, {("north", "db"): binding("other")})
    assert not consent({("shop", "web"): connector()}, {("north", "db"): binding()})
    assert not consent({("thief", "db"): connector()}, {("north", "db"): binding()}), "a third one with the same words"


def test_who_lacks_the_word_of_the_other_is_told_what_that_has_to_write_and_nothing_of_what_is_there() -> None:
    alone = verdict_of_connector(connector(), "shop", agreed=False, pods=None)
    assert (alone.matched, alone.reason) == (False, "NoBinding")
    assert alone.next == "in north: an AttachedConnectorBinding db with connectorNamespace: shop"
    other = verdict_of_binding(binding(), "north", agreed=False, targets=None)
    assert (other.matched, other.next) == (False, "in shop: an AttachedConnector db with siteNamespace: north")


def test_pods_that_take_streams_are_targets_and_those_that_leave_are_not() -> None:
    pods = [pod("db-0"), pod("db-1", ready=False), pod("db-2", leaving=True), pod("db-3", address=""), pod("web", labels={"app": "web"})]
    assert [p.name for p in targets_of(connector(), pods)] == ["db-0"]
    assert [p.name for p in targets_of(connector(include_not_ready_pods=True), pods)] == ["db-0", "db-1"]
    assert verdict_of_connector(connector(), "shop", agreed=True, pods=pods).message == "1 of 3 pods are targets of the site in north"
    nothing = verdict_of_connector(connector(), "shop", agreed=True, pods=[pod("web", labels={"app": "web"})])
    assert (nothing.ready, nothing.reason) == (False, "NoPods")
    assert "app=web" in nothing.next, "the labels that there are"


def test_what_wants_tls_does_not_connect_without() -> None:
    (made,) = connectors_of(binding(), connector(tls_credentials="db-tls", use_client_cert=True), [pod("db-0")])
    assert (made.spec.tls_credentials, made.spec.use_client_cert, made.spec.verify_hostname) == ("db-tls", True, False)
    named = connector(tls_credentials="db-tls", settings={"tls-server-name": "db.example"})
    (made,) = connectors_of(binding(), named, [pod("db-0")])
    assert (made.spec.verify_hostname, made.spec.settings) == (True, {"tls-server-name": "db.example"})


def test_each_pod_is_a_connector_and_by_name_two() -> None:
    made = connectors_of(binding(expose_pods_by_name=True), connector(), [pod("db-0"), pod("a" * 63)])
    assert [c.spec.routing_key for c in made] == ["db", "db.db-0", "db", f"db.{'a' * 63}"]
    assert len({c.name for c in made}) == 4
    assert all(len(c.name) <= 63 for c in made)


def test_what_was_there_stays_when_the_right_to_list_it_is_taken_away() -> None:
    nobody: Any = None
    customs = ClusterCustoms(nobody, told=lambda _: None, rng=random.Random(1))
    site = {"kind": "Site", "metadata": {"namespace": "north", "name": "north"}}
    customs._kept["Site"] = [site]
    assert customs.of_kind("Site") == {("north", "north"): site}
    assert CustomView(customs, "north").objects == {"sites.vanrouter.io/north": site}
    assert CustomView(customs, "south").objects == {}


class Slow:
    """A server that takes 0.1 s for each call, however many there are."""

    def __init__(self) -> None:
        self.most = self.now = 0

    async def call(self, call: Call, *, deadline: float | None = None) -> Object:
        self.now += 1
        self.most = max(self.most, self.now)
        await trio.sleep(0.1)
        self.now -= 1
        return {}


class Stuck:
    """A server whose answers for one namespace never come."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def call(self, call: Call, *, deadline: float | None = None) -> Object:
        self.said.append(call.namespace)
        if call.namespace == "stuck":
            await trio.sleep_forever()
        return {}


class Known(ClusterCustoms):
    """What a test says that there is."""

    def __init__(self) -> None:
        nobody: Any = None
        super().__init__(nobody, told=lambda _: None, rng=random.Random(1))

    def is_current(self, kind: str) -> bool:
        return True

    def put(self, *namespaces: str) -> None:
        spec = {"siteNamespace": "north", "selector": "app=db", "port": 5432}
        self._kept["AttachedConnector"] = [
            {
                "apiVersion": "vanrouter.io/v1alpha1", "kind": "AttachedConnector", "spec": spec,
                "metadata": {"namespace": namespace, "name": "db", "uid": namespace, "generation": 1},
            }
            for namespace in namespaces
        ]  # fmt: skip


async def test_a_status_that_is_not_answered_keeps_no_other_waiting_and_what_is_gone_is_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    del autojump_clock
    server, customs, nobody = Stuck(), Known(), cast("Any", None)
    customs.put("stuck", "one")
    attaching = Attaching(
        cast("Any", server), customs, SharedWatches(nobody, rng=random.Random(1)), is_ours=lambda _: True, wake=print, clock=lambda: 0.0
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attaching.run)
        await trio.sleep(1.0)
        assert set(server.said) == {"one", "stuck"}
        customs.put("stuck", "two")
        attaching.wake()
        await trio.sleep(1.0)
        assert set(server.said) == {"one", "stuck", "two"}
        assert server.said.count("stuck") == 1, "one at a time"
        assert {namespace for _, (namespace, _) in attaching._units} == {"stuck", "two"}
        nursery.cancel_scope.cancel()


async def test_a_namespace_with_a_thousand_calls_does_not_keep_the_others_waiting(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    server: Any = Slow()
    everybody = trio.Semaphore(ALL)
    busy, quiet = TurnClient(server, everybody), TurnClient(server, everybody)
    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(busy.call, get(SERVICES, "busy", "x"))
        await trio.sleep(0.25)
        began = trio.current_time()
        await quiet.call(get(SERVICES, "quiet", "x"))
        assert trio.current_time() - began < 0.11, "at once"
        assert server.most == EACH + 1
