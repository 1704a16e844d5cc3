"""Resources: what is read, what is refused, and the path of what is wrong."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vanrouter.checks import Check
from vanrouter.errors import ConfigError, InvalidResource, VanrouterError
from vanrouter.resources import KINDS, parse_duration, parse_host_port, read_resources, to_dict, to_json, to_yaml
from vanrouter.resources.kinds import Connector, HealthCheck, Link, Resource, Secret


def one(text: str) -> Resource:
    (found,) = read_resources(text)
    return found


def doc(kind: str, spec: str, *, version: str = "vanrouter.io/v1alpha1") -> str:
    return f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: hello}}\nspec: {spec}\n"


GOOD = {
    "Site": "{linkAccess: '127.0.0.1:7001', serviceAddress: 127.0.0.2, serviceSync: false, settings: {size: small}}",
    "Link": "{endpoints: [{host: 10.0.0.1, port: 7001}], tlsCredentials: west, cost: 3}",
    "RouterAccess": "{roles: [{name: inter-router, port: 55671}], tlsCredentials: x, admit: ['*.example.com']}",
    "AccessGrant": "{redemptionsAllowed: 2, expirationWindow: 1h30m}",
    "AccessToken": "{url: 'https://10.0.0.5:9090/x', code: abc, ca: pem}",
    "Listener": "{routingKey: hello, host: 127.0.0.1, port: 8080}",
    "Connector": "{routingKey: hello, host: 127.0.0.1, port: 8080, expose: {port: 9090}}",
    "MultiKeyListener": "{host: a, port: 1, strategy: {weighted: {routingKeys: {a: 1, b: 2}}}}",
    "AttachedConnector": "{siteNamespace: a, selector: app=x, port: 1}",
    "AttachedConnectorBinding": "{connectorNamespace: a, routingKey: b}",
    "Policy": "{default: strict, rules: [{routingKeys: ['*'], offer: ['*']}]}",
}


@pytest.mark.parametrize("version", ["vanrouter.io/v1alpha1", "skupper.io/v2alpha1"])
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "Secret"])
def test_every_kind_survives_writing_and_reading(kind: str, version: str) -> None:
    resource = one(doc(kind, GOOD[kind], version=version))
    assert resource.kind == kind
    assert one(to_yaml(resource)) == resource
    assert one(to_json(resource)) == resource
    assert to_dict(resource)["apiVersion"] == "vanrouter.io/v1alpha1"


def test_the_incumbents_link_and_secret_as_its_cli_writes_them() -> None:
    link, secret = read_resources("""
apiVersion: skupper.io/v2alpha1
kind: Link
metadata: {name: link-west-skupper-router, uid: 0a1b, creationTimestamp: null, resourceVersion: "7"}
spec:
  cost: 1
  endpoints:
  - {group: skupper-router, host: 10.0.0.4, name: inter-router, port: "55671"}
  - {group: skupper-router, host: 10.0.0.4, name: edge, port: "45671"}
  tlsCredentials: link-west
status: {status: Ready}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {name: link-west}
data: {ca.crt: Y2E=, tls.crt: Y3J0, tls.key: a2V5}
""")
    assert isinstance(link, Link)
    assert [(e.host, e.port) for e in link.endpoints] == [("10.0.0.4", 55671)]
    assert isinstance(secret, Secret)
    assert secret.data == {"ca.crt": b"ca", "tls.crt": b"crt", "tls.key": b"key"}
    assert "a2V5" not in repr(secret)
    assert "key'" not in repr(secret)


@pytest.mark.parametrize(
    ("kind", "spec", "path", "words"),
    [
        ("Listener", "{routingKey: a, host: b, port: 70000}", "Listener/hello: spec.port", "65535"),
        ("Listener", "{routingKey: a, host: b, port: 0}", "Listener/hello: spec.port", "1"),
        ("Listener", "{routingKey: a, host: b, port: '80'}", "Listener/hello: spec.port", "expected int, got str"),
        ("Listener", "{routingKey: a, host: b}", "Listener/hello: spec.port", "is missing"),
        ("Listener", "{routingKey: a, host: b, prot: 1}", "Listener/hello: spec.prot", "not a field"),
        ("Listener", "{routingKey: 'a b', host: b, port: 1}", "Listener/hello: spec.routingKey", "spaces"),
        ("Listener", "{routingKey: a, host: 'b c', port: 1}", "Listener/hello: spec.host", "host name"),
        ("Listener", "{routingKey: a, host: b, port: 1, type: udp}", "Listener/hello: spec.type", "udp"),
        ("Listener", "3", "Listener/hello: spec", "expected object"),
        ("Connector", "{routingKey: a, port: 1}", "Connector/hello: spec.host", "neither is set"),
        ("Connector", "{routingKey: a, port: 1, host: a, selector: b}", "Connector/hello: spec.host", "both are set"),
        ("Connector", "{routingKey: a, port: 1, host: a, expose: {prot: 1}}", "Connector/hello: spec.expose.prot", "not a field"),
        ("Connector", "{routingKey: a, port: 1, host: a, expose: {port: 1, address: A}}", "Connector/hello: spec.expose.address", "'A'"),
        ("Link", "{endpoints: []}", "Link/hello: spec.endpoints", "empty"),
        ("Link", "{endpoints: [{host: a, port: 1}, {host: a, prt: 1}]}", "Link/hello: spec.endpoints[1].prt", "not a field"),
        ("Link", "{endpoints: [{host: a, port: 1}], cost: 0}", "Link/hello: spec.cost", "1"),
        ("Site", "{linkAccess: 'a:b'}", "Site/hello: spec.linkAccess", "not host:port"),
        ("Site", "{edge: true, ha: true}", "Site/hello: spec.ha", "edge"),
        ("AccessGrant", "{expirationWindow: 5x}", "AccessGrant/hello: spec.expirationWindow", "duration"),
        ("MultiKeyListener", "{host: a, port: 1, strategy: {}}", "MultiKeyListener/hello: spec.strategy", "exactly one"),
        ("Lisener", "{}", "Lisener/hello: kind", "not known"),
    ],
)
def test_a_wrong_field_is_named_with_its_path(kind: str, spec: str, path: str, words: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        read_resources(doc(kind, spec))
    assert caught.value.path == path
    assert str(caught.value).startswith(path)
    assert words in str(caught.value)


def test_a_likely_typing_error_is_guessed() -> None:
    with pytest.raises(InvalidResource) as caught:
        read_resources(doc("Listener", "{routingKey: a, host: b, prot: 1}"))
    assert caught.value.hint == "did you mean port?"
    with pytest.raises(InvalidResource) as caught:
        read_resources(doc("Conector", "{}"))
    assert caught.value.hint == "did you mean Connector?"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: {b: 1", "not valid YAML: line"),
        ("a: 1\na: 2", "line 2, column 1: the key 'a' comes twice"),
        ("? [1]\n: 2", "line 1"),
        ("<<: {a: 1}", "merge keys"),
        ("a: !!python/object:os.system 1", "the tag"),
        ("a: &x [*x]", "no anchor before it"),
        ("\x00", "not valid YAML"),
        (b"\xff\xfe\xff", "not valid YAML"),
        ("- " * 40 + "x", "nested deeper than 32"),
        ("1: 2", "is not text"),
    ],
)
def test_what_is_not_acceptable_yaml_is_refused_with_its_place(text: str | bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=r"demo\.yaml") as caught:
        read_resources(text, source="demo.yaml")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "bomb",
    [
        "[" * (1 << 20),
        "a: " + "{a: " * 200_000,
        "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)),
        "x" * ((1 << 20) + 1),
        "[" + "1," * 200_000 + "]",
    ],
    ids=["deep", "deep maps", "aliases", "large", "wide"],
)
def test_a_bomb_costs_little(bomb: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ConfigError):
        read_resources(bomb)
    assert time.perf_counter() - start < 3


def test_words_that_yaml_would_bend_stay_what_people_meant() -> None:
    resource = one(doc("Site", "{settings: {date: 2026-01-31, time: '12:30', version: '1.10'}}"))
    assert to_dict(resource)["spec"]["settings"] == {"date": "2026-01-31", "time": "12:30", "version": "1.10"}


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_gives_resources_or_one_error(text: str | bytes) -> None:
    try:
        read_resources(text)
    except VanrouterError as exc:
        assert str(exc)  # noqa: PT017


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["host", "port", "name", "spec", "x"]), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(sorted(KINDS)), json_values, json_values)
def test_any_values_give_a_resource_or_a_path(kind: str, metadata: object, spec: object) -> None:
    version = "v1" if kind == "Secret" else "vanrouter.io/v1alpha1"
    # Not with escapes: YAML has no surrogate pairs.
    text = json.dumps({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}, ensure_ascii=False)
    try:
        read_resources(text)
    except ConfigError as exc:
        assert kind in str(exc) or "not valid YAML" in str(exc)  # noqa: PT017 - a text of control characters is no YAML


@pytest.mark.parametrize(("text", "seconds"), [("15m", 900), ("1h30m", 5400), ("90s", 90), ("90", 90), ("2d", 172800), ("250ms", 0.25)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5x", "-1s", "0", "1m ", "99999d", "1h30"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "found"), [("127.0.0.1:1", ("127.0.0.1", 1)), ("[::1]:65535", ("::1", 65535)), ("a.example:80", ("a.example", 80))]
)
def test_host_and_port(text: str, found: tuple[str, int]) -> None:
    assert parse_host_port(text) == found


@pytest.mark.parametrize("text", ["", "a", "a:", ":1", "a:0", "a:65536", "::1:1", "1.2.3:4", "a b:1", "[zz]:1"])
def test_what_is_not_host_and_port(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_host_port(text)


# ---- Checks of targets ------------------------------------------------------------------------------------------------------------------


def checked(fields: str, *, version: str = "vanrouter.io/v1alpha1") -> Connector:
    found = one(doc("Connector", f"{{routingKey: k, host: 127.0.0.1, port: 80, healthCheck: {fields}}}", version=version))
    assert isinstance(found, Connector)
    return found


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ("{type: udp}", "spec.healthCheck.type", "invalid enum"),
        ("{kind: tcp}", "spec.healthCheck.kind", "failureThreshold"),
        ("{interval: fast}", "spec.healthCheck.interval", "is not a duration"),
        ("{interval: 500ms}", "spec.healthCheck.interval", "1s to 3600s"),
        ("{interval: 2h}", "spec.healthCheck.interval", "1s to 3600s"),
        ("{timeout: 2s}", "spec.healthCheck.timeout", "1.12s"),
        ("{timeout: soon}", "spec.healthCheck.timeout", "is not a duration"),
        ("{interval: 1h, timeout: 11s}", "spec.healthCheck.timeout", "10s"),
        ("{failureThreshold: 0}", "spec.healthCheck.failureThreshold", "1 to 10"),
        ("{successThreshold: 11}", "spec.healthCheck.successThreshold", "1 to 10"),
        ("{port: 65536}", "spec.healthCheck.port", "1 to 65535"),
        ("{path: /healthz}", "spec.healthCheck.path", "type to http"),
        ("{type: none, status: '200'}", "spec.healthCheck.status", "type to http"),
        ("{type: http, path: healthz}", "spec.healthCheck.path", "like /healthz"),
        ("{type: http, path: '/a b'}", "spec.healthCheck.path", "without spaces"),
        ('{type: http, path: "/a\\r\\nX-Evil: 1"}', "spec.healthCheck.path", "without spaces"),
        ('{type: http, host: "a\\r\\nX-Evil: 1"}', "spec.healthCheck.host", "host"),
        ("{type: http, status: 2xx}", "spec.healthCheck.status", "200-399"),
        ("{type: http, status: 399-200}", "spec.healthCheck.status", "200-399"),
        ("{type: http, status: '600'}", "spec.healthCheck.status", "200-399"),
    ],
)
def test_what_is_wrong_with_a_check_is_named_with_its_path(fields: str, path: str, words: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        checked(fields)
    assert path in str(caught.value)
    assert words in f"{caught.value} {caught.value.hint}"


def test_a_check_says_only_what_differs_and_the_rest_follows() -> None:
    assert HealthCheck().resolve() == Check()
    assert checked("{interval: 1s}").spec.health_check.resolve() == Check(interval=1.0, timeout=0.225)  # type: ignore[union-attr]
    found = checked(
        "{type: http, path: /up, port: 9000, status: '200,204', timeout: 300ms, failureThreshold: 3}", version="skupper.io/v2alpha1"
    )
    assert found.spec.health_check is not None
    assert found.spec.health_check.resolve() == Check(
        type="http", path="/up", port=9000, statuses=((200, 200), (204, 204)), timeout=0.3, failures=3
    )
    assert one(to_yaml(found)) == found


@given(interval=st.floats(1.0, 3600.0), failures=st.integers(1, 10))
def test_every_check_leaves_at_least_half_of_its_interval_between_checks_of_a_sound_target(interval: float, failures: int) -> None:
    check = HealthCheck(interval=f"{interval:.3f}", failure_threshold=failures).resolve()
    assert check.timeout > 0
    assert interval / 2 - 0.001 <= check.longest_pause <= interval
