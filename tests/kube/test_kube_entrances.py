"""What stands in front of the link access, on a real API server with the real definitions of those who read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from controllers import Namespace, in_namespace
from foreign_kinds import installed

from vanrouter.kube.calls import Kind, apply, merge_patch
from vanrouter.kube.kinds import CONFIG_MAPS, GATEWAYS, HTTP_PROXIES, INGRESSES, ROUTES, SECRETS, SERVICES, TLS_ROUTES
from vanrouter.kube.state import files_in
from vanrouter.pki import load_certificates
from vanrouter.pki.authority import names_of

NAME = "van-router"
DATE = "2026-01-01T00:00:00Z"
ADDRESS = {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}


@pytest.fixture(scope="module")
def _definitions(api_server: Any) -> Iterator[None]:
    with installed(api_server.access(), "routes", "httpproxies", "gateways", "tlsroutes"):
        yield


@pytest.fixture
def cluster(api_server: Any, _definitions: None) -> Any:
    return api_server.access()


def condition(kind: str) -> dict[str, Any]:
    return {"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": DATE}


def admitted(host: str) -> dict[str, Any]:
    return {"ingress": [{"host": host, "routerName": "default", "conditions": [{"type": "Admitted", "status": "True"}]}]}


def accepted(gateway: str = NAME) -> dict[str, Any]:
    parent = {"group": GATEWAYS.group, "kind": "Gateway", "name": gateway}
    return {"parents": [{"parentRef": parent, "controllerName": "example.com/gateway", "conditions": [condition("Accepted")]}]}


PROGRAMMED = {"addresses": [{"type": "IPAddress", "value": "203.0.113.9"}], "conditions": [condition("Programmed")]}
HOST = "settings: {ingress-host: van.example.com"
GATEWAY, TLS_ROUTE = GATEWAYS, TLS_ROUTES[0]
CASES = {
    "route": ("route}", [(ROUTES, admitted("van-north.apps.example"))], ["van-north.apps.example", 443]),
    "route with a host": (f"route, {HOST}}}}}", [(ROUTES, admitted("van.example.com"))], ["van.example.com", 443]),
    "ingress": ("ingress}", [(INGRESSES, ADDRESS)], ["203.0.113.9", 443]),
    "ingress with a host": (
        f"ingress, {HOST}, ingress-class: haproxy, ingress-port: '8443'}}}}",
        [(INGRESSES, {})],
        ["van.example.com", 8443],
    ),
    "ingress-nginx": ("ingress-nginx}", [(INGRESSES, ADDRESS)], ["203.0.113.9", 443]),
    "contour": ("contour-http-proxy}", [(HTTP_PROXIES, {"currentStatus": "valid", **ADDRESS})], ["203.0.113.9", 443]),
    "contour with a host": (
        f"contour-http-proxy, {HOST}, ingress-class: contour}}}}",
        [(HTTP_PROXIES, {"currentStatus": "valid"})],
        ["van.example.com", 443],
    ),
    "gateway": ("gateway, settings: {ingress-class: envoy}}", [(GATEWAY, PROGRAMMED), (TLS_ROUTE, accepted())], ["203.0.113.9", 443]),
    "a gateway that is there": (f"gateway, {HOST}, gateway: infra/shared}}}}", [(TLS_ROUTE, accepted("shared"))], ["van.example.com", 443]),
}


async def endpoints(here: Namespace, wanted: list[Any]) -> None:
    """What routers tell others, and the names in the certificate that they show."""
    said = [{"host": wanted[0], "port": wanted[1]}]
    await here.until(CONFIG_MAPS, NAME, lambda v: v and json.loads(v["data"]["router.json"])["endpoints"] == said)

    def shows_name(value: Any) -> bool:
        return value and wanted[0] in names_of(load_certificates(files_in(value)["own__server.crt"], "own")[0])

    await here.until(SECRETS, "van-router-keys", shows_name)


async def taken_strictly(here: Namespace, kind: Kind) -> dict[str, Any]:
    """The object that the controller made, applied once more by a server that refuses fields it does not know."""
    made: dict[str, Any] = await here.until(kind, NAME, bool)
    metadata = {key: made["metadata"][key] for key in ("name", "labels", "annotations")}
    call = apply(kind, here.name, {"metadata": metadata, "spec": made["spec"]}, dry_run=True)
    await here.client.call(msgspec.structs.replace(call, query=call.query | {"fieldValidation": "Strict"}))
    return made


@pytest.mark.parametrize("case", CASES)
async def test_the_address_in_the_status_of_what_is_in_front_becomes_that_of_the_site(cluster: Any, namespace: str, case: str) -> None:
    spec, fronts, wanted = CASES[case]
    async with in_namespace(cluster, namespace) as here:
        await here.site(spec=f"{{linkAccess: {spec}")
        async with here.controller() as controller:
            waits = await here.until(CONFIG_MAPS, "van-status.site.north", lambda v: v and "LinkAccess" in v["data"]["site.json"])
            for kind, status in fronts:
                made = await taken_strictly(here, kind)
                said = json.dumps(made["spec"])
                assert wanted[0] in said or f"{controller.keys.site_id}.van" in said or kind in (ROUTES, GATEWAYS), "it chooses by name"
                if status:
                    assert f'"{wanted[0]}"' not in (await here.get(CONFIG_MAPS, NAME) or {}).get("data", {}).get("router.json", "")
                    assert f"{kind.kind}/{NAME} in {namespace}" in waits["data"]["site.json"] or len(fronts) > 1
                    await here.client.call(merge_patch(kind, namespace, NAME, {"status": status}, subresource="status"))
            await endpoints(here, wanted)
            service = await here.until(SERVICES, NAME, bool)
            assert service["spec"]["type"] == "ClusterIP"
            assert controller.copies.problems == []


async def test_another_choice_removes_what_the_last_one_made(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site(spec="{linkAccess: route}")
        async with here.controller():
            await here.until(ROUTES, NAME, bool)
            settings = "ingress-host: van.example.com, ingress-class: one, ingress-annotations: 'example.com/a=b'"
            await here.site(spec=f"{{linkAccess: ingress, settings: {{{settings}}}}}")
            await here.until(ROUTES, NAME, lambda v: v is None)
            await endpoints(here, ["van.example.com", 443])
            made = await here.until(INGRESSES, NAME, bool)
            assert (made["spec"]["ingressClassName"], made["metadata"]["annotations"]["example.com/a"]) == ("one", "b")
            await here.site(spec="{linkAccess: ingress, settings: {ingress-host: van.example.com}}")

            def has_neither(value: Any) -> bool:
                return "ingressClassName" not in value["spec"] and "example.com/a" not in value["metadata"]["annotations"]

            await here.until(INGRESSES, NAME, has_neither)


async def test_the_default_is_a_route_where_the_cluster_has_them(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site(spec="{linkAccess: default}")
        async with here.controller():
            await here.until(ROUTES, NAME, bool)
            assert (await here.until(SERVICES, NAME, bool))["spec"]["type"] == "ClusterIP"


async def test_a_controller_that_starts_anew_tells_no_other_address_meanwhile(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site(spec="{linkAccess: route}")
        async with here.controller():
            await here.until(ROUTES, NAME, bool)
            await here.client.call(merge_patch(ROUTES, namespace, NAME, {"status": admitted("a.example")}, subresource="status"))
            await endpoints(here, ["a.example", 443])
        before = [(await here.get(kind, name)) for kind, name in ((CONFIG_MAPS, NAME), (SECRETS, "van-router-keys"), (ROUTES, NAME))]
        async with here.controller():
            await here.until(CONFIG_MAPS, "van-status.site.north", lambda v: "a.example:443" in v["data"]["site.json"])
        after = [(await here.get(kind, name)) for kind, name in ((CONFIG_MAPS, NAME), (SECRETS, "van-router-keys"), (ROUTES, NAME))]
        assert after == before


async def test_what_is_there_under_the_name_and_not_ours_is_left_alone(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site(spec="{linkAccess: route}")
        theirs = {"metadata": {"name": NAME}, "spec": {"to": {"kind": "Service", "name": "web", "weight": 1}}}
        before = await here.client.call(apply(ROUTES, namespace, theirs))
        async with here.controller():
            await here.until(CONFIG_MAPS, "van-status.site.north", lambda v: v and "that is not ours" in v["data"]["site.json"])
            assert await here.get(ROUTES, NAME) == before
