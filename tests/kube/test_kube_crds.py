"""The CustomResourceDefinitions: a real API server takes and refuses what ``vanrouter.resources`` takes and refuses."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from custom_resources import install_definitions
from msgspec import inspect

from vanrouter.cli.main import van
from vanrouter.errors import VanrouterError
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Call, Object, apply, create, list_page
from vanrouter.kube.crds import CUSTOM_KINDS, cluster_roles, definitions
from vanrouter.kube.errors import Invalid
from vanrouter.resources import read_document, to_dict
from vanrouter.resources.fields import FIELDS, KIND_WORDS
from vanrouter.resources.kinds import API_VERSION, KINDS

DEPLOY = Path(__file__).parents[2] / "deploy" / "crds" / "vanrouter.yaml"
DOCS = Path(__file__).parents[2] / "docs"
ID = "a" * 52

GOOD: dict[str, list[dict[str, Any]]] = {
    "Site": [
        {},
        {"linkAccess": "default", "edge": True, "ha": False, "refusedSites": [ID], "settings": {"a": "b"}},
        {"linkAccess": "0.0.0.0:55671", "serviceAddress": "::1", "serviceSync": False, "defaultIssuer": "x", "serviceAccount": "y"},
    ],
    "Link": [
        {"endpoints": [{"host": "10.0.0.1", "port": 55671}]},
        {"endpoints": [{"host": "[fe80::1%eth0]", "port": "55671", "name": "inter-router", "group": "g"}], "cost": 5, "siteId": ID},
        {"endpoints": [{"host": "north.example.", "port": 1}], "tlsCredentials": "x", "verifyHost": True, "settings": {}},
    ],
    "RouterAccess": [
        {"roles": [{}]},
        {"roles": [{"name": "edge", "port": 45671}], "bindHost": "", "subjectAlternativeNames": ["a.b", "::1"], "admit": ["*.example"]},
        {"roles": [{"port": 1}], "admit": None, "tlsCredentials": "t", "generateTlsCredentials": True, "issuer": "", "accessType": "local"},
    ],
    "AccessGrant": [{}, {"redemptionsAllowed": 1_000, "expirationWindow": "1h30m", "code": "c", "issuer": "i"}],
    "AccessToken": [{"url": "https://a:1/b", "code": "c", "ca": "x"}, {"url": "https://", "code": "", "ca": "", "linkCost": 3}],
    "Listener": [
        {"routingKey": "web", "host": "web", "port": 65535},
        {"routingKey": "ä/b=c", "host": "10.1.2.3", "port": 1, "observer": "http2", "strategy": "closest", "exposePodsByName": True},
    ],
    "Connector": [
        {"routingKey": "k", "port": 80, "selector": "app in (a, b),!c"},
        {"routingKey": "k" * 255, "port": 80, "host": "::1", "selector": "", "useClientCert": True, "verifyHostname": True},
        {"routingKey": "k", "port": 80, "host": "h", "expose": {"port": 8, "address": "a.b-c"}, "healthCheck": None},
        {
            "routingKey": "k",
            "port": 80,
            "host": "h",
            "expose": None,
            "healthCheck": {"type": "http", "path": "/x?y", "status": "200, 204-299", "host": "h:80", "interval": "10", "timeout": "250ms"},
        },
        {"routingKey": "k", "port": 80, "host": "h", "healthCheck": {"type": "none", "failureThreshold": 10, "port": 0}},
    ],
    "MultiKeyListener": [
        {"host": "h", "port": 1, "strategy": {"priority": {"routingKeys": ["a", "b"]}}},
        {
            "host": "h",
            "port": 1,
            "strategy": {"weighted": {"routingKeys": {"a": 1, "b": 300}}, "priority": None},
            "requireClientCert": True,
        },
    ],
    "AttachedConnector": [{"siteNamespace": "north", "selector": "app=a", "port": 80, "includeNotReadyPods": True}],
    "AttachedConnectorBinding": [{"connectorNamespace": "apps", "routingKey": "k", "exposePodsByName": False}],
    "Policy": [{}, {"default": "strict", "rules": [{"routingKeys": ["a*"], "offer": [ID], "consume": ["north"]}]}],
}

BAD: list[tuple[str, int, str, Any]] = [
    ("Site", 1, "ha", True),
    ("Site", 0, "linkAccess", "host:"),
    ("Site", 0, "serviceAddress", "not a host"),
    ("Site", 0, "serviceAddress", ""),
    ("Site", 0, "refusedSites", ["A" * 52]),
    ("Link", 0, "endpoints", []),
    ("Link", 0, "endpoints", [{"host": "h", "port": 1}] * 17),
    ("Link", 0, "endpoints", [{"host": "h", "port": "x"}]),
    ("Link", 0, "endpoints", [{"host": "a b", "port": 1}]),
    ("RouterAccess", 0, "roles", []),
    ("RouterAccess", 0, "bindHost", "a/b"),
    ("RouterAccess", 0, "subjectAlternativeNames", ["a b"]),
    ("AccessGrant", 0, "redemptionsAllowed", 0),
    ("AccessGrant", 0, "redemptionsAllowed", 1_001),
    ("AccessGrant", 0, "expirationWindow", "soon"),
    ("AccessToken", 0, "url", "http://a"),
    ("Listener", 0, "routingKey", ""),
    ("Listener", 0, "routingKey", "a b"),
    ("Listener", 0, "routingKey", "a\x07b"),
    ("Listener", 0, "routingKey", "k" * 256),
    ("Listener", 0, "host", "Not A Host"),
    ("Listener", 0, "host", ""),
    ("Connector", 0, "host", "both"),
    ("Connector", 0, "selector", ""),
    ("Connector", 2, "expose", {"port": 0}),
    ("Connector", 2, "expose", {"port": 1, "address": "A_B"}),
    ("Connector", 2, "healthCheck", {"interval": "x"}),
    ("Connector", 2, "healthCheck", {"timeout": "1"} | {"failureThreshold": 11}),
    ("Connector", 2, "healthCheck", {"successThreshold": 0}),
    ("Connector", 2, "healthCheck", {"port": 65_536}),
    ("Connector", 2, "healthCheck", {"type": "http", "path": "x"}),
    ("Connector", 2, "healthCheck", {"type": "http", "path": "/" * 1025}),
    ("Connector", 2, "healthCheck", {"type": "http", "status": "600"}),
    ("Connector", 2, "healthCheck", {"path": "/x"}),
    ("MultiKeyListener", 0, "strategy", {}),
    ("MultiKeyListener", 0, "strategy", {"priority": {"routingKeys": ["a"]}, "weighted": {"routingKeys": {"a": 1}}}),
    ("MultiKeyListener", 0, "strategy", {"priority": {"routingKeys": []}}),
    ("MultiKeyListener", 0, "strategy", {"priority": {"routingKeys": ["a", "a"]}}),
    ("MultiKeyListener", 0, "strategy", {"priority": {"routingKeys": [f"k{n}" for n in range(257)]}}),
    ("MultiKeyListener", 0, "strategy", {"weighted": {"routingKeys": {}}}),
    ("MultiKeyListener", 0, "strategy", {"weighted": {"routingKeys": {"a": 0}}}),
    ("AttachedConnectorBinding", 0, "routingKey", "a b"),
]


def document(kind: str, spec: dict[str, Any]) -> Object:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "x"}, "spec": spec}


def strictly(value: Object, namespace: str) -> Call:
    """As `kubectl apply` asks: unknown fields are refused. Nothing is kept."""
    call = create(CUSTOM_KINDS[value["kind"]], namespace, value, dry_run=True)
    return Call(**{name: getattr(call, name) for name in call.__struct_fields__} | {"query": {**call.query, "fieldValidation": "Strict"}})


def wrong_by_type() -> Iterator[tuple[str, list[str], Any]]:
    """For each field of each kind, what its type excludes: (kind, path, value)."""
    for kind in CUSTOM_KINDS:
        shape = inspect.type_info(KINDS[kind])
        assert isinstance(shape, inspect.StructType)
        spec = next(f for f in shape.fields if f.encode_name == "spec")
        assert isinstance(spec.type, inspect.StructType)
        for field in spec.type.fields:
            for value in _wrong(field.type):
                yield kind, [field.encode_name], value
        yield kind, ["hots"], "unknown"


def _wrong(info: inspect.Type) -> list[Any]:
    match info:
        case inspect.StrType():
            return [5, ["x"], {}]
        case inspect.IntType():
            return ["x", 0, -1, 1.5, True] + ([70_000, 2_000_000] if info.le else [])
        case inspect.BoolType():
            return ["yes", 1]
        case inspect.LiteralType():
            return ["bogus", "", 3]
        case inspect.ListType():
            return ["x", {"a": 1}]
        case inspect.DictType():
            return ["x", [1], {"a": 1}]
        case inspect.UnionType():
            return ["x", 7]
        case _:
            return ["x", 7, []]


def test_what_is_committed_is_what_the_command_prints() -> None:
    result = CliRunner().invoke(van, ["manifest", "crds"])
    assert result.exit_code == 0
    assert result.output == DEPLOY.read_text(), "van manifest crds > deploy/crds/vanrouter.yaml"
    assert list(yaml.safe_load_all(result.output)) == [*definitions(), *cluster_roles()]


def test_every_kind_and_every_field_has_its_words_and_no_word_is_left_over() -> None:
    used: set[tuple[str, str]] = set()

    def walk(info: inspect.Type) -> None:
        for inner in (*getattr(info, "types", ()), getattr(info, "item_type", None)):
            if inner is not None:
                walk(inner)
        if isinstance(info, inspect.StructType):
            for field in info.fields:
                used.add((info.cls.__name__, field.encode_name))
                walk(field.type)

    for kind in CUSTOM_KINDS:
        walk(next(f.type for f in inspect.type_info(KINDS[kind]).fields if f.encode_name == "spec"))  # type: ignore[attr-defined]
    assert used == FIELDS.keys()
    assert CUSTOM_KINDS.keys() == KIND_WORDS.keys() == KINDS.keys() - {"Secret"}


@pytest.fixture
def client(cluster: Any, undefined_afterwards: None) -> Iterator[BlockingClient]:
    with BlockingClient(cluster) as client:
        install_definitions(client)
        yield client


def test_the_server_takes_every_good_resource_and_shows_it_as_it_is(client: BlockingClient, namespace: str) -> None:
    examples = [document(kind, spec) for kind, specs in GOOD.items() for spec in specs]
    for page in DOCS.rglob("*.md"):
        for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
            if f"apiVersion: {API_VERSION}" in text:
                found = [value for value in yaml.safe_load_all(text) if value["apiVersion"] == API_VERSION]
                examples += [to_dict(read_document(value)) for value in found]
    assert len(examples) > 20
    for value in examples:
        kept = client.call(strictly(value, namespace))
        assert to_dict(read_document(kept))["spec"] == to_dict(read_document(value))["spec"]


def test_the_server_refuses_what_we_refuse_by_shape(client: BlockingClient, namespace: str) -> None:
    cases = [(kind, GOOD[kind][number], [field], value) for kind, number, field, value in BAD]
    cases += [(kind, GOOD[kind][0], path, value) for kind, path, value in wrong_by_type()]
    cases += [
        (kind, {k: v for k, v in specs[0].items() if k != field}, [], None) for kind, specs in GOOD.items() for field in required(kind)
    ]
    taken = []
    for kind, good, path, wrong in cases:
        spec = copy.deepcopy(good)
        if path:
            spec[path[0]] = wrong
        value = document(kind, spec)
        try:
            read_document(value)
        except VanrouterError:
            pass
        else:
            continue  # nothing is wrong with it for us
        try:
            client.call(strictly(value, namespace))
        except Invalid:
            continue
        taken.append((kind, path, wrong))
    assert taken == []
    assert len(cases) > 300


def test_kubectl_get_shows_how_a_resource_is(client: BlockingClient, namespace: str) -> None:
    listeners = CUSTOM_KINDS["Listener"]
    client.call(create(listeners, namespace, {"metadata": {"name": "web"}, "spec": GOOD["Listener"][0]}))
    status = {"status": "Ready", "message": "OK", "hasMatchingConnector": True}
    client.call(apply(listeners, namespace, {"metadata": {"name": "web"}, "status": status}, subresource="status"))
    call = list_page(listeners, namespace)
    headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    shown = client.call(Call(**{name: getattr(call, name) for name in call.__struct_fields__} | {"headers": headers}))
    (row,) = shown["rows"]
    columns = dict(zip([c["name"] for c in shown["columnDefinitions"]], row["cells"], strict=True))
    del columns["Age"]
    assert columns == {
        "Name": "web",
        "Routing Key": "web",
        "Port": 65535,
        "Host": "web",
        "Status": "Ready",
        "Has Matching Connector": True,
        "Message": "OK",
    }


def required(kind: str) -> list[str]:
    spec = next(f.type for f in inspect.type_info(KINDS[kind]).fields if f.encode_name == "spec")  # type: ignore[attr-defined]
    return [field.encode_name for field in spec.fields if field.required]


def test_every_bad_value_of_the_table_is_one_that_we_refuse() -> None:
    for kind, number, field, value in BAD:
        with pytest.raises(VanrouterError):
            read_document(document(kind, {**GOOD[kind][number], field: value}))
