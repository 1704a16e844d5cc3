"""``--link-access`` in a namespace: what is missing is named first, and what one choice made goes with another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from foreign_kinds import installed
from test_cli_namespace import Here, here, may_ask_about_itself, ok

from vanrouter.cli.site_options import _IN_NAMESPACES
from vanrouter.kube.calls import Kind, apply
from vanrouter.kube.entrances import ACCESS_TYPES, FRONT_KINDS
from vanrouter.kube.kinds import ROLE_BINDINGS, ROLES, ROUTES
from vanrouter.kube.names import labelled

__all__ = ["here"]


@pytest.fixture
def routes(api_server: Any) -> Iterator[None]:
    with installed(api_server.access(), "routes"):
        yield


def rules_for_fronts(text: str) -> list[dict[str, Any]]:
    (role,) = [d for d in yaml.safe_load_all(text) if (d["kind"], d["metadata"]["name"]) == ("Role", "van-controller")]
    return [rule for rule in role["rules"] if rule["apiGroups"][0] in {kind.group for kind in FRONT_KINDS}]


def mine(here: Here, kind: Kind) -> list[str]:
    return [value["metadata"]["name"] for value in here.client.pages(kind, here.name)]


def put_route(here: Here) -> None:
    """As the controller makes it."""
    spec = {"to": {"kind": "Service", "name": "van-router", "weight": 100}, "tls": {"termination": "passthrough"}}
    here.client.call(apply(ROUTES, here.name, {"metadata": labelled("van-router", "access"), "spec": spec}))


def test_the_command_line_knows_the_kinds_that_there_are() -> None:
    assert {*_IN_NAMESPACES, "none"} == set(ACCESS_TYPES)


@pytest.mark.parametrize(
    ("kind", "needs"), [("route", "Route"), ("contour-http-proxy", "HTTPProxy"), ("gateway --ingress-class a", "Gateway")]
)
def test_what_the_cluster_does_not_have_is_named_before_anything_is_created(here: Here, kind: str, needs: str) -> None:
    before = here.listing()
    result = here.van(f"init --no-wait --link-access {kind}")
    assert result.exit_code == 1
    assert f"the cluster has no {needs} (" in result.stderr
    assert f"which --link-access {kind.split()[0]} needs" in result.stderr
    assert "loadbalancer" in result.stderr.partition("Next:")[2]
    assert here.listing() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("gateway", "spec.settings.ingress-class: is missing: a Gateway that is made needs a class"),
        ("gateway --gateway infra/shared", "only a name leads through Gateway infra/shared"),
        ("route --ingress-host 192.0.2.1", "route tells sites apart by host names"),
        ("nowhere", "Invalid value for '--link-access'"),
    ],
)
def test_a_choice_that_cannot_work_is_refused(here: Here, options: str, words: str) -> None:
    result = here.van(f"init --no-wait --link-access {options}")
    assert result.exit_code in (1, 2)
    assert words in result.stderr
    assert not here.listing() - {"ConfigMap/kube-root-ca.crt"}


def test_the_controller_may_do_what_the_choice_takes_and_no_more(here: Here) -> None:
    assert rules_for_fronts(ok(here.van("manifest")).stdout) == []
    rules = rules_for_fronts(ok(here.van("manifest --link-access gateway --ingress-class envoy")).stdout)
    assert {rule["resources"][0] for rule in rules} == {"gateways", "tlsroutes"}
    rules = rules_for_fronts(ok(here.van("manifest --link-access gateway --gateway infra/shared --ingress-host a.example")).stdout)
    assert {rule["resources"][0] for rule in rules} == {"tlsroutes"}, "it never touches a Gateway of others"
    (named, unnamed) = rules_for_fronts(ok(here.van("manifest --link-access ingress")).stdout)
    assert named["resourceNames"] == ["van-router"]
    assert unnamed["verbs"] == ["create"], "which cannot be granted by name"


def test_rights_to_what_the_choice_takes_are_asked_for_first(here: Here, routes: None) -> None:
    verbs = {"apiGroups": ["", "apps", "policy", "rbac.authorization.k8s.io"], "resources": ["*"], "verbs": ["*"]}
    here.create(ROLES, "most", rules=[verbs])
    subject = {"kind": "User", "name": "most", "apiGroup": ROLES.group}
    here.create(ROLE_BINDINGS, "most", roleRef={"kind": "Role", "name": "most", "apiGroup": ROLES.group}, subjects=[subject])
    before = here.listing()
    may_ask_about_itself(here, "most")
    here.use(here.server.kubeconfig("most", ("strangers",)))
    result = here.van("init --no-wait --link-access route --ingress-host van.example.com")
    assert result.exit_code == 1
    for right in ("create routes.route.openshift.io", "watch routes.route.openshift.io/van-router", "create routes/custom-host"):
        assert right in result.stderr
    assert here.listing() == before
    assert rules_for_fronts(ok(here.van("manifest")).stdout) == [], "Routes are the default for those who may make them"


def test_routes_are_the_default_where_they_are_and_another_choice_removes_ours(here: Here, routes: None) -> None:
    ok(here.van("init --no-wait --site-name north"))
    assert here.site()["spec"]["linkAccess"] == "default"
    put_route(here)
    assert {rule["resources"][0] for rule in rules_for_fronts(ok(here.van("manifest")).stdout)} == {"routes"}
    ok(here.van("update --no-wait"))
    assert mine(here, ROUTES) == ["van-router"]
    result = ok(here.van("update --no-wait --link-access nodeport --ingress-host 192.0.2.1 --ingress-host 192.0.2.2 --ingress-class a"))
    assert "spec.settings.ingress-class has no effect with this link access" in result.stderr
    assert here.site()["spec"]["settings"]["ingress-host"] == "192.0.2.1,192.0.2.2"
    assert mine(here, ROUTES) == []
    put_route(here)
    ok(here.van("delete"))
    assert mine(here, ROUTES) == []


def test_a_route_of_others_stays(here: Here, routes: None) -> None:
    spec = {"to": {"kind": "Service", "name": "web", "weight": 1}}
    here.client.call(apply(ROUTES, here.name, {"metadata": {"name": "van-router"}, "spec": spec}))
    ok(here.van("init --no-wait --link-access local"))
    ok(here.van("update --no-wait --link-access none"))
    assert mine(here, ROUTES) == ["van-router"]
