"""The incumbent's YAML as resources of ours: every field means the same here, or a note names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from vanrouter.resources import read_document, read_resources, to_dict, to_yaml
from vanrouter.resources.effects import Platform
from vanrouter.resources.skupper import Source, Translation, translate

WEST = Path(__file__).parent / "skupper" / "west.yaml"
KNOWN = ("log-level", "image")

# Every field of the incumbent's CustomResourceDefinitions, each with a value that is not its default.
FIELDS: dict[str, dict[str, Any]] = {
    "Site": {"linkAccess": "default", "ha": True, "defaultIssuer": "ca", "serviceAccount": "sa", "settings": {"x": "y"}, "edge": True},
    "Link": {"endpoints": [{"host": "a", "port": 1}], "tlsCredentials": "t", "cost": 7, "settings": {"x": "y"}},
    "Listener": {
        "routingKey": "k",
        "host": "h",
        "port": 1,
        "tlsCredentials": "t",
        "type": "tcp",
        "observer": "http2",
        "exposePodsByName": True,
        "settings": {"x": "y"},
    },
    "Connector": {
        "routingKey": "k",
        "port": 1,
        "selector": "a=b",
        "host": "h",
        "tlsCredentials": "t",
        "useClientCert": True,
        "verifyHostname": True,
        "type": "tcp",
        "includeNotReadyPods": True,
        "exposePodsByName": True,
        "settings": {"x": "y"},
    },
    "MultiKeyListener": {
        "host": "h",
        "port": 1,
        "strategy": {"weighted": {"routingKeys": {"a": 1}}},
        "tlsCredentials": "t",
        "requireClientCert": True,
        "observer": "http1",
        "settings": {"x": "y"},
    },
    "RouterAccess": {
        "roles": [{"name": "inter-router", "port": 1}],
        "tlsCredentials": "t",
        "generateTlsCredentials": True,
        "issuer": "i",
        "accessType": "route",
        "bindHost": "127.0.0.1",
        "subjectAlternativeNames": ["a"],
        "settings": {"x": "y"},
    },
}
NEEDED = {
    "Site": {},
    "Link": {"endpoints": [{"host": "a", "port": 1}]},
    "Listener": {"routingKey": "k", "host": "h", "port": 2},
    "Connector": {"routingKey": "k", "port": 2, "host": "h"},
    "MultiKeyListener": {"host": "h", "port": 2, "strategy": {"priority": {"routingKeys": ["a"]}}},
    "RouterAccess": {"roles": [{"name": "inter-router", "port": 2}]},
}
IN_FORCE = {
    "Site": {"linkAccess", "edge"},
    "Link": {"endpoints", "tlsCredentials", "cost"},
    "Listener": {"routingKey", "host", "port", "type", "tlsCredentials"},
    "Connector": {"routingKey", "port", "host", "type", "tlsCredentials"},
    "MultiKeyListener": {"host", "port", "strategy", "tlsCredentials"},
    "RouterAccess": {"roles", "generateTlsCredentials", "bindHost", "subjectAlternativeNames"},
}
IN_FORCE_IN_A_NAMESPACE = {"Site": {"ha"}, "Connector": {"selector", "exposePodsByName"}}


def read(*documents: Any, platform: Platform = "kubernetes", namespace: str = "west") -> Translation:
    sources = [Source(f"f.yaml, document {number}", document) for number, document in enumerate(documents, 1)]
    return translate(sources, platform=platform, namespace=namespace, settings=KNOWN if platform == "kubernetes" else ())


def resource(kind: str, spec: dict[str, Any], *, name: str = "r", version: str = "skupper.io/v2alpha1", **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


def said(made: Translation) -> dict[str, str]:
    return {note.path: note.message for note in made.notes}


@pytest.mark.parametrize("platform", ["linux", "kubernetes"])
@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind, fields in FIELDS.items() for field in fields])
def test_each_field_of_the_incumbent_is_in_force_or_named_in_a_note(kind: str, field: str, platform: Platform) -> None:
    spec = NEEDED[kind] | {field: FIELDS[kind][field]}
    if kind == "Connector" and field in ("selector", "exposePodsByName"):
        del spec["host"]
        spec["selector"] = "a=b"
    made = read(resource(kind, spec), platform=platform)
    assert not made.faults
    (found,) = made.resources
    assert field in to_dict(found)["spec"] or FIELDS[kind][field] in ("tcp", {"x": "y"})
    in_force = IN_FORCE[kind] | (IN_FORCE_IN_A_NAMESPACE.get(kind, set()) if platform == "kubernetes" else set())
    if kind == "RouterAccess" and platform == "kubernetes":
        in_force = set()
    notes = [path for path in said(made) if path.startswith(f"{kind}/r: spec.{field}") or path == f"{kind}/r: spec"]
    is_link = kind == "Link" and field == "endpoints"  # says what is at the other end
    assert bool(notes) == (field not in in_force or is_link), said(made)


def test_example_files_of_the_incumbent_become_what_they_mean(pytestconfig: pytest.Config) -> None:
    documents = list(yaml.safe_load_all(WEST.read_text()))
    made = read(*documents)
    assert not made.faults
    golden = Path(__file__).parent / "skupper" / "west.golden.yaml"
    notes = "".join(f"# {note.path}: {note.message}{f'; {note.hint}' if note.hint else ''}\n" for note in made.notes)
    assert to_yaml(made.resources) + notes == golden.read_text()


def test_what_a_translation_writes_is_read_again_as_the_same_and_without_a_word() -> None:
    made = read(*yaml.safe_load_all(WEST.read_text()))
    again = read(*(to_dict(r) for r in made.resources))
    assert again.resources == made.resources == read_resources(to_yaml(made.resources))
    assert not again.faults
    assert not [note for note in again.notes if "left out" in note.message]


def test_a_document_that_is_nothing_of_a_site_is_left_out_by_name() -> None:
    made = read({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "hello"}})
    assert made.resources == []
    assert said(made) == {"Deployment/hello": "apps/v1 Deployment is no resource of a site; it is left out"}
    assert made.notes[0].hint == "apply it with kubectl"


def test_a_kind_of_another_group_that_is_called_like_one_of_ours_is_not_taken_for_it() -> None:
    made = read({"apiVersion": "example.com/v1", "kind": "Link", "metadata": {"name": "x"}, "spec": {"anything": 1}})
    assert (made.resources, made.faults) == ([], [])
    assert "Link/x" in said(made)


def test_every_document_is_checked_and_every_fault_is_told() -> None:
    made = read(
        resource("Listener", {"routingKey": "a", "host": "h", "prt": 1}), resource("Listner", {}), resource("Site", {}, namespace="east")
    )
    assert [fault.path for fault in made.faults] == [
        "f.yaml, document 1",
        "f.yaml, document 2",
        "f.yaml, document 3: Site/r: metadata.namespace",
    ]
    assert "did you mean Listener?" in made.faults[1].hint
    assert made.faults[2].hint.startswith("van -n east apply")


def test_two_sites_and_one_name_twice_are_faults() -> None:
    listener = resource("Listener", NEEDED["Listener"])
    made = read(resource("Site", {}, name="a"), resource("Site", {}, name="b"), listener, listener)
    assert [fault.path for fault in made.faults] == ["f.yaml, document 4: Listener/r", "Site/b"]


def test_a_secret_that_a_link_names_must_be_whole_and_another_one_is_left_out() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"ca.crt": "Y2E="}}
    assert "Secret/s" not in said(read(secret))  # a connector can use it
    broken = {**secret, "data": {"tls.crt": "Y2E="}}
    assert "is left out" in said(read(broken))["Secret/s"]
    made = read(secret, resource("Link", NEEDED["Link"] | {"tlsCredentials": "s"}))
    assert "data[tls.crt]: is missing" in made.faults[0].message


def test_tokens_of_the_incumbents_first_version_are_left_out_by_name() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "labels": {"skupper.io/type": "token-claim"}}, "data": {}}
    assert said(read(secret)) == {"Secret/s": "is left out: a token of the incumbent"}


def test_a_link_access_of_a_cluster_is_named_on_a_host() -> None:
    made = read(resource("Site", {"linkAccess": "route"}), platform="linux")
    assert "nobody can link to this site" in said(made)["Site/r: spec.linkAccess"]
    assert "Site/r: spec.linkAccess" not in said(read(resource("Site", {"linkAccess": "0.0.0.0:7000"}), platform="linux"))


def test_logging_is_the_log_level_where_it_is_one() -> None:
    made = read(resource("Site", {"settings": {"routerLogging": "Warning"}}))
    assert to_dict(made.resources[0])["spec"]["settings"] == {"log-level": "warning"}
    assert (
        "there are no modules"
        in said(read(resource("Site", {"settings": {"router-logging": "ROUTER_CORE:debug+"}})))["Site/r: spec.settings.router-logging"]
    )


def test_our_own_resources_pass_as_they_are() -> None:
    document = resource("Connector", {"routingKey": "k", "port": 1, "host": "h", "expose": {"port": 80}}, version="vanrouter.io/v1alpha1")
    made = read(document)
    assert (made.resources, made.notes, made.faults) == ([read_document(document)], [], [])


# ---- The incumbent's first version ------------------------------------------------------------------------------------------------


def first_version(what: str, **data: Any) -> dict[str, Any]:
    text = {key.replace("_", "-"): value if isinstance(value, str) else json.dumps(value) for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"skupper-{what}"}, "data": text}


POD = {"name": "hello", "selector": "app=hello", "targetPorts": {"80": 8080}}
HELLO = {"address": "hello", "protocol": "tcp", "ports": [80], "targets": [POD]}


def test_services_of_the_first_version_become_connectors_that_are_exposed() -> None:
    far = {"address": "far", "protocol": "http", "ports": [1], "targets": [{"name": "far", "selector": "a=b"}], "origin": "other"}
    several = {
        "address": "api",
        "protocol": "http2",
        "ports": [80, 443],
        "targets": [{**POD, "name": "one"}, {"name": "two", "service": "two", "namespace": "x"}],
        "aggregate": "json",
    }
    made = read(first_version("services", hello=HELLO, far=far, api=several))
    assert not made.faults
    specs = {r.name: to_dict(r)["spec"] for r in made.resources}
    assert specs["hello"] == {"routingKey": "hello", "port": 8080, "selector": "app=hello", "expose": {"port": 80, "address": "hello"}}
    assert specs.keys() == {"hello", "api-one", "api-one-443", "api-two", "api-two-443"}
    assert specs["api-one-443"]["routingKey"] == specs["api-two-443"]["routingKey"] == "api:443"
    assert (specs["api-two"]["host"], specs["api-two"]["expose"]["protocol"]) == ("two.x", "http2")
    assert said(made) == {
        "ConfigMap/skupper-services: data[far]": "is served by other sites: it comes from them by service sync",
        "ConfigMap/skupper-services: data[api].aggregate": "is left out",
    }
    assert "is pods; it is left out" in said(read(first_version("services", hello=HELLO), platform="linux")).popitem()[1]


def test_a_broken_service_of_the_first_version_is_a_fault_that_names_its_key() -> None:
    made = read(first_version("services", hello="{", other={"ports": [1]}))
    assert [f.path for f in made.faults] == [f"f.yaml, document 1: ConfigMap/skupper-services: data[{key}]" for key in ("hello", "other")]


def test_a_site_of_the_first_version_is_a_site() -> None:
    data = {"name": "west", "ingress": "nodeport", "ingress_host": "node.example", "service_sync": "false", "routers": "2"}
    made = read(first_version("site", **data))
    (site,) = made.resources
    assert (site.name, to_dict(site)["spec"]["linkAccess"], to_dict(site)["spec"]["serviceSync"]) == ("west", "nodeport", False)
    assert said(made)["ConfigMap/skupper-site: data[routers]"] == "2 is left out"
    assert to_dict(read(first_version("site", name="e", router_mode="edge")).resources[0])["spec"] == {"edge": True}
