"""Resources in ConfigMaps: what only this home has, status, owners, other people's labels, and writes that are not made."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from vanrouter.errors import StoreError
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Object, apply, delete, get, merge_patch
from vanrouter.kube.errors import Forbidden, NotFound
from vanrouter.kube.home import ResourceMaps
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS
from vanrouter.kube.names import resource_map, status_map
from vanrouter.kube.records import Records, StatusRecord, resource_object, spec_hash
from vanrouter.resources import Resource, read_document, to_yaml


def listener(name: str = "web", port: int = 8080) -> Resource:
    spec = {"routingKey": "web", "host": "127.0.0.1", "port": port}
    return read_document({"apiVersion": "vanrouter.io/v1alpha1", "kind": "Listener", "metadata": {"name": name}, "spec": spec})


@pytest.fixture
def client(cluster: Any) -> Iterator[BlockingClient]:
    with BlockingClient(cluster) as made:
        yield made


@pytest.fixture
def keeper(client: BlockingClient, namespace: str) -> ResourceMaps:
    """As the controller uses it."""
    return ResourceMaps(client, namespace, keeper=True)


def versions(client: BlockingClient, namespace: str) -> dict[str, str]:
    kinds = (CONFIG_MAPS, SECRETS)
    return {o["metadata"]["name"]: o["metadata"]["resourceVersion"] for kind in kinds for o in client.pages(kind, namespace)}


def said(resource: Resource, reason: str) -> StatusRecord:
    return StatusRecord(kind=resource.kind, name=resource.name, spec_hash=spec_hash(resource), status={"reason": reason})


def test_a_status_tells_whether_it_speaks_of_what_is_wanted_now(keeper: ResourceMaps, client: BlockingClient, namespace: str) -> None:
    keeper.put(listener())
    keeper.load()
    keeper.put_status([said(listener(), "Listening")])
    reader = ResourceMaps(client, namespace)
    assert reader.get("Listener", "web") == listener()
    status = reader.statuses()["Listener", "web"]
    assert status.status == {"reason": "Listening"}
    assert status.spec_hash == spec_hash(listener())
    reader.put(listener(port=9))
    reader.load()
    assert reader.statuses()["Listener", "web"].spec_hash != spec_hash(listener(port=9)), "not yet seen by the controller"


def test_the_hash_of_a_spec_is_that_of_what_it_means(keeper: ResourceMaps) -> None:
    written = {"type": "tcp", "port": 8080, "host": "127.0.0.1", "routingKey": "web"}
    other = read_document({"apiVersion": "skupper.io/v2alpha1", "kind": "Listener", "metadata": {"name": "web"}, "spec": written})
    assert spec_hash(other) == spec_hash(listener())
    assert spec_hash(listener(port=1)) != spec_hash(listener())


def test_a_status_of_several_in_one_text_is_kept_for_each(keeper: ResourceMaps, client: BlockingClient, namespace: str) -> None:
    a, b = listener("a", 1), listener("b", 2)
    value = {"metadata": {"name": "all", "labels": {"vanrouter.io/type": "resource"}}, "data": {"all.yaml": to_yaml([a, b]), "README": "x"}}
    client.call(apply(CONFIG_MAPS, namespace, value))
    keeper.load()
    keeper.put_status([said(a, "one"), said(listener("stranger"), "nowhere")])
    keeper.put_status([said(b, "two")])
    keeper.load()
    assert {name: r.status["reason"] for (_, name), r in keeper.statuses().items()} == {"a": "one", "b": "two"}


def test_a_status_that_somebody_edited_is_nothing_and_is_written_again(
    keeper: ResourceMaps, client: BlockingClient, namespace: str
) -> None:
    keeper.put(listener())
    keeper.load()
    keeper.put_status([said(listener(), "Listening")])
    name = status_map(resource_map("Listener", "web"))
    client.call(merge_patch(CONFIG_MAPS, namespace, name, {"data": {"status.json": "{nonsense"}}))
    keeper.load()
    assert keeper.statuses() == {}
    keeper.put_status([said(listener(), "Listening")])
    assert keeper.statuses()["Listener", "web"].status == {"reason": "Listening"}


def test_nothing_is_written_while_nothing_changes_nor_by_a_reader(keeper: ResourceMaps, client: BlockingClient, namespace: str) -> None:
    reader = ResourceMaps(client, namespace)
    for number in range(3):
        reader.put(listener(f"l{number}", 1 + number))
    before = versions(client, namespace)
    reader.load()
    assert versions(client, namespace) == before, "who is not the keeper writes no last good form"
    keeper.load()
    after = versions(client, namespace)
    assert set(after) - set(before) == {status_map(resource_map("Listener", f"l{n}")) for n in range(3)}
    for _ in range(3):
        keeper.load()
        keeper.put(listener("l0", 1))
    assert versions(client, namespace) == after


def test_who_is_not_the_keeper_keeps_the_last_good_form_that_it_has_read_itself(client: BlockingClient, namespace: str) -> None:
    reader = ResourceMaps(client, namespace)
    reader.put(listener())
    reader.load()
    client.call(merge_patch(CONFIG_MAPS, namespace, resource_map("Listener", "web"), {"data": {"resource.yaml": "["}}))
    assert reader.get("Listener", "web") == listener()
    assert ResourceMaps(client, namespace).get("Listener", "web") is None


def test_a_status_belongs_to_its_source_and_goes_with_it(keeper: ResourceMaps, client: BlockingClient, namespace: str) -> None:
    keeper.put(listener())
    keeper.load()
    source = client.call(get(CONFIG_MAPS, namespace, resource_map("Listener", "web")))
    status = client.call(get(CONFIG_MAPS, namespace, status_map(resource_map("Listener", "web"))))
    (owner,) = status["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("ConfigMap", source["metadata"]["name"], source["metadata"]["uid"])
    assert "blockOwnerDeletion" not in owner, "that would need a right to finalizers"
    keeper.delete("Listener", "web")
    assert set(versions(client, namespace)) - {"kube-root-ca.crt"} == set()


def test_a_status_goes_with_a_source_that_somebody_else_deletes(keeper: ResourceMaps, client: BlockingClient, namespace: str) -> None:
    if "VAN_TEST_KUBECONFIG" not in os.environ:
        pytest.skip("needs a cluster with a garbage collector: name one in VAN_TEST_KUBECONFIG")
    keeper.put(listener())
    keeper.load()
    client.call(delete(CONFIG_MAPS, namespace, resource_map("Listener", "web")))
    until = time.monotonic() + 30
    while set(versions(client, namespace)) - {"kube-root-ca.crt"}:
        assert time.monotonic() < until, versions(client, namespace)
        time.sleep(0.2)


def test_labels_and_annotations_of_others_stay(keeper: ResourceMaps, client: BlockingClient, namespace: str) -> None:
    keeper.put(listener())
    name = resource_map("Listener", "web")
    client.call(merge_patch(CONFIG_MAPS, namespace, name, {"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}}}))
    keeper.put(listener(port=9))
    metadata = client.call(get(CONFIG_MAPS, namespace, name))["metadata"]
    assert metadata["labels"]["team"] == "a"
    assert metadata["annotations"] == {"note": "b"}
    assert metadata["labels"]["app.kubernetes.io/part-of"] == "vanrouter"


def test_what_somebody_else_put_in_its_place_meanwhile_is_not_deleted(keeper: ResourceMaps, client: BlockingClient, namespace: str) -> None:
    keeper.put(listener())
    name = resource_map("Listener", "web")
    load = keeper.load

    def then_made_anew() -> Any:
        loaded = load()
        client.call(delete(CONFIG_MAPS, namespace, name))
        client.call(apply(CONFIG_MAPS, namespace, resource_object(listener(port=7))))
        return loaded

    keeper.load = then_made_anew  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="changed by somebody else"):
        keeper.delete("Listener", "web")
    keeper.load = load  # type: ignore[method-assign]
    assert keeper.get("Listener", "web") == listener(port=7)


def test_a_secret_in_a_config_map_is_refused_without_showing_it(keeper: ResourceMaps, client: BlockingClient, namespace: str) -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {tls.key: canary, tls.crt: canary, ca.crt: canary}\n"
    value = {"metadata": {"name": "bad", "labels": {"vanrouter.io/type": "resource"}}, "data": {"x.yaml": text}}
    client.call(apply(CONFIG_MAPS, namespace, value))
    loaded = keeper.load()
    assert loaded.resources == {}
    (problem,) = loaded.problems
    assert problem.path == "ConfigMap/bad: x.yaml"
    assert "a Secret does not belong into a ConfigMap" in problem.message
    assert "canary" not in f"{problem.message}{problem.hint}"


def test_one_document_that_is_wrong_does_not_touch_another_key(keeper: ResourceMaps, client: BlockingClient, namespace: str) -> None:
    data = {"a.yaml": to_yaml(listener("a", 1)), "b.yaml": "kind: ["}
    client.call(apply(CONFIG_MAPS, namespace, {"metadata": {"name": "two", "labels": {"vanrouter.io/type": "resource"}}, "data": data}))
    loaded = keeper.load()
    assert loaded.resources.keys() == {("Listener", "a")}
    assert [p.path for p in loaded.problems] == ["ConfigMap/two: b.yaml"]


def test_a_namespace_or_a_right_that_is_missing_is_an_error_and_not_an_empty_home(api_server: Any, client: BlockingClient) -> None:
    with pytest.raises(NotFound, match="there is no namespace nowhere"):
        ResourceMaps(client, "nowhere").put(listener())
    with BlockingClient(api_server.access("nobody", ())) as nobody, pytest.raises(Forbidden, match="you may not list configmaps"):
        ResourceMaps(nobody, "default").load()


def test_without_the_right_to_list_secrets_the_rest_is_read(keeper: ResourceMaps, client: BlockingClient, namespace: str) -> None:
    document: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s"},
        "data": dict.fromkeys(("tls.crt", "tls.key", "ca.crt"), "YQ=="),
    }
    keeper.put(read_document(document))
    keeper.put(listener())
    assert keeper.load().resources.keys() == {("Listener", "web"), ("Secret", "s")}
    assert ResourceMaps(client, namespace, secrets=False).load().resources.keys() == {("Listener", "web")}


def test_a_change_of_one_among_a_thousand_is_read_alone(record_property: Any) -> None:
    """What did not change is not parsed again."""
    objects = [
        {**resource_object(listener(f"l{n}", 1 + n)), "metadata": {"name": f"l{n}", "uid": f"u{n}", "resourceVersion": "1"}}
        for n in range(1000)
    ]
    records = Records()
    began = time.process_time()
    assert len(records.feed(objects).resources) == 1000
    first = time.process_time() - began
    changed = {**objects[5], "data": {"resource.yaml": to_yaml(listener("l5", 9999))}}
    changed["metadata"] = {**changed["metadata"], "resourceVersion": "2"}
    began = time.process_time()
    loaded = records.feed([*objects[:5], changed, *objects[6:]])
    second = time.process_time() - began
    assert msgspec.structs.asdict(loaded.resources["Listener", "l5"])["resource"] == listener("l5", 9999)
    record_property("figure", f"1,000 resources in ConfigMaps: read in {first:.2f} s of CPU, after one change in {second * 1000:.1f} ms")
    assert second < first / 5
