"""Calls to an API server and what can go wrong with them: each failure says whose fault it is and what to do, within its deadline."""

from __future__ import annotations

import functools
import gc
import json
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import yaml
from free_ports import free_port
from scripted_server import Script, answer, drip, pieces, scripted, silence

from vanrouter.errors import StoreError
from vanrouter.kube import session
from vanrouter.kube.access import Access, ExecPlugin, Token
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Call, Kind, Object, apply, create, delete, get, list_page, merge_patch, replace, role_for, watch
from vanrouter.kube.client import KubeClient
from vanrouter.kube.errors import (
    AlreadyExists,
    Conflict,
    CredentialsRefused,
    Denied,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NoSuchKind,
    NotFound,
    ServerFailed,
    ServerUntrusted,
    Throttled,
    Unreachable,
)
from vanrouter.kube.kinds import CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, ROLE_BINDINGS, ROLES, SECRETS, SERVICES

Ask = Callable[..., Awaitable[Object]]


@pytest.fixture(params=["trio", "threads"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Both drivers keep the same promises."""

    async def with_trio(access: Access, call: Call, deadline: float = 5.0) -> Object:
        async with KubeClient(access, deadline=deadline) as client:
            return await client.call(call)

    async def with_threads(access: Access, call: Call, deadline: float = 5.0) -> Object:
        def run() -> Object:
            with BlockingClient(access, deadline=deadline) as client:
                return client.call(call)

        return await trio.to_thread.run_sync(run)

    return with_trio if request.param == "trio" else with_threads


@pytest.fixture
def cluster(api_server: Any) -> Access:
    """These tests stop the server and give rights away: their own one."""
    access: Access = api_server.access()
    return access


def config_map(name: str, **data: str) -> Object:
    return {"metadata": {"name": name}, "data": data}


# ---- A real API server ------------------------------------------------------------------------------------------------------------------


async def test_objects_are_made_read_changed_and_deleted(ask: Ask, cluster: Access, namespace: str) -> None:
    made = await ask(cluster, create(CONFIG_MAPS, namespace, config_map("x", a="1")))
    applied = await ask(cluster, apply(CONFIG_MAPS, namespace, config_map("x", b="2")))
    assert applied["data"] == {"a": "1", "b": "2"}, "what was created by Update stays beside what is applied"
    patched = await ask(cluster, merge_patch(CONFIG_MAPS, namespace, "x", {"data": {"a": None}}))
    assert patched["data"] == {"b": "2"}
    with pytest.raises(Conflict, match="changed by somebody else"):
        await ask(cluster, replace(CONFIG_MAPS, namespace, {**made, "data": {}}))
    with pytest.raises(Conflict):
        await ask(
            cluster,
            merge_patch(CONFIG_MAPS, namespace, "x", {"data": {"c": "3"}}, resource_version=made["metadata"]["resourceVersion"]),
        )
    with pytest.raises(Conflict):
        await ask(cluster, delete(CONFIG_MAPS, namespace, "x", uid="another"))
    with pytest.raises(AlreadyExists):
        await ask(cluster, create(CONFIG_MAPS, namespace, config_map("x")))
    await ask(cluster, delete(CONFIG_MAPS, namespace, "x", uid=made["metadata"]["uid"]))
    with pytest.raises(NotFound, match="get configmaps/x in "):
        await ask(cluster, get(CONFIG_MAPS, namespace, "x"))


async def test_what_we_apply_and_no_longer_name_goes_and_what_others_own_stays(ask: Ask, cluster: Access, namespace: str) -> None:
    await ask(cluster, apply(CONFIG_MAPS, namespace, config_map("x", ours="1", both="1")))
    await ask(cluster, merge_patch(CONFIG_MAPS, namespace, "x", {"data": {"theirs": "1"}}))
    after = await ask(cluster, apply(CONFIG_MAPS, namespace, config_map("x", both="2")))
    assert after["data"]["both"] == "2"
    assert "ours" not in after["data"]
    managers = {entry["manager"] for entry in after["metadata"]["managedFields"]}
    assert managers == {"vanrouter"}


async def test_a_status_is_written_apart_from_its_object(ask: Ask, cluster: Access, namespace: str) -> None:
    ports = [{"port": 80}]
    await ask(cluster, create(SERVICES, namespace, {"metadata": {"name": "s"}, "spec": {"ports": ports, "type": "LoadBalancer"}}))
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.9"}]}}}
    after = await ask(cluster, merge_patch(SERVICES, namespace, "s", {**status, "spec": {"ports": []}}, subresource="status"))
    assert after["status"]["loadBalancer"]["ingress"][0]["ip"] == "10.0.0.9"
    assert after["spec"]["ports"][0]["port"] == 80


async def test_a_list_in_pages_is_whole(cluster: Access, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = list_page
    monkeypatch.setattr("vanrouter.kube.client.list_page", lambda *args, **more: page(*args, limit=2, **more))
    async with KubeClient(cluster) as client:
        for number in range(7):
            await client.call(create(CONFIG_MAPS, namespace, config_map(f"x{number}", a="1")))
        found = await client.pages(CONFIG_MAPS, namespace)
        assert [o["metadata"]["name"] for o in found] == [f"x{n}" for n in range(7)]
        bare = await client.pages(CONFIG_MAPS, namespace, metadata_only=True)
        assert [("data" in o, o["metadata"]["name"]) for o in bare] == [(False, f"x{n}") for n in range(7)]


async def test_a_missing_right_is_named_with_a_role_that_grants_it(ask: Ask, api_server: Any, namespace: str) -> None:
    somebody = api_server.access(f"user-of-{namespace}", ())
    with pytest.raises(Forbidden, match=rf"you may not create deployments\.apps in namespace {namespace}") as caught:
        await ask(somebody, create(DEPLOYMENTS, namespace, {"metadata": {"name": "x"}}))
    error = caught.value
    assert (error.verb, error.resource, error.namespace) == ("create", "deployments.apps", namespace)
    assert error.role in error.hint
    role = yaml.safe_load(error.role)
    assert role["kind"] == "Role"
    assert role["rules"] == [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create"]}]
    binding = {
        "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role["metadata"]["name"]},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"user-of-{namespace}"}],
    }
    await ask(api_server.access(), create(ROLES, namespace, role))
    await ask(api_server.access(), create(ROLE_BINDINGS, namespace, binding))
    with trio.fail_after(10):
        while True:
            try:
                await ask(somebody, create(DEPLOYMENTS, namespace, {"metadata": {"name": "x"}}))
            except Forbidden:  # the server's authorizer follows by a watch of its own
                await trio.sleep(0.05)
            except Invalid:  # the right is there now; the object is none
                return


def test_a_right_in_the_whole_cluster_needs_a_cluster_role() -> None:
    assert "kind: ClusterRole\n" in role_for(get(NAMESPACES, "", "north"))


async def test_a_namespace_that_is_not_there_is_not_an_object_that_is_not_there(ask: Ask, cluster: Access) -> None:
    with pytest.raises(NotFound, match="there is no namespace nowhere") as caught:
        await ask(cluster, create(CONFIG_MAPS, "nowhere", config_map("x")))
    assert "kubectl create namespace nowhere" in caught.value.hint


async def test_a_kind_that_is_not_installed_is_named(ask: Ask, cluster: Access, namespace: str) -> None:
    sites = Kind("vanrouter.io", "v1alpha1", "sites", "Site")
    with pytest.raises(NoSuchKind, match=r"does not know sites\.vanrouter\.io"):
        await ask(cluster, list_page(sites, namespace))


async def test_a_quota_is_not_a_missing_right(ask: Ask, cluster: Access, namespace: str) -> None:
    quotas = Kind("", "v1", "resourcequotas", "ResourceQuota")
    await ask(cluster, create(quotas, namespace, {"metadata": {"name": "q"}, "spec": {"hard": {"secrets": "0"}}}))
    await ask(
        cluster, merge_patch(quotas, namespace, "q", {"status": {"hard": {"secrets": "0"}, "used": {"secrets": "0"}}}, subresource="status")
    )
    with pytest.raises(Denied, match="exceeded quota"):
        await ask(cluster, create(SECRETS, namespace, {"metadata": {"name": "x"}}))


async def test_a_wrong_object_is_refused_with_its_fields(ask: Ask, cluster: Access, namespace: str) -> None:
    with pytest.raises(Invalid) as caught:
        await ask(cluster, create(SERVICES, namespace, {"metadata": {"name": "x"}, "spec": {"ports": [{"port": 70_000}]}}))
    assert caught.value.fields == ("spec.ports[0].port", "spec.ports[0].targetPort")


async def test_expired_credentials_are_told_from_missing_rights(ask: Ask, api_server: Any) -> None:
    access = api_server.access()
    access.certificate, access.credentials = None, Token("expired")
    with pytest.raises(CredentialsRefused) as caught:
        await ask(access, list_page(NAMESPACES, ""))
    assert "log in again" in caught.value.hint


async def test_a_plugin_that_prints_new_credentials_is_asked_again_once(ask: Ask, api_server: Any, tmp_path: Any) -> None:
    script = tmp_path / "plugin"
    script.write_text('#!/bin/sh\necho x >> "$0.calls"\necho \'{"status": {"token": "old"}}\'\n')
    script.chmod(0o700)
    access = api_server.access()
    access.certificate, access.credentials = None, ExecPlugin(str(script))
    with pytest.raises(CredentialsRefused):
        await ask(access, list_page(NAMESPACES, ""))
    assert (tmp_path / "plugin.calls").read_text().count("x") == 2


async def test_a_server_with_another_ca_is_not_trusted(ask: Ask, api_server: Any) -> None:
    import trustme

    access = api_server.access()
    access.ca = trustme.CA().cert_pem.bytes()
    with pytest.raises(ServerUntrusted, match="certificate that is not to be trusted"):
        await ask(access, list_page(NAMESPACES, ""))


async def test_a_server_that_hangs_costs_the_deadline_and_no_more(ask: Ask, api_server: Any) -> None:
    access = api_server.access()
    api_server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="did not answer within 1 s"):
            await ask(access, list_page(NAMESPACES, ""), deadline=1.0)
        assert time.monotonic() - began < 5.0
    finally:
        api_server.signal(signal.SIGCONT)


# ---- Nobody, and servers that misbehave -------------------------------------------------------------------------------------------------


async def test_a_call_that_is_cancelled_in_the_handshake_leaves_no_socket_behind() -> None:
    begun, closed = trio.Event(), trio.Event()

    async def say_nothing(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            begun.set()
        closed.set()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(functools.partial(trio.serve_tcp, say_nothing, 0, host="127.0.0.1"))
        access = Access(f"https://127.0.0.1:{listener.socket.getsockname()[1]}", "test", insecure=True)
        async with KubeClient(access) as client:
            gc.disable()  # which would close it, some time
            try:
                with trio.fail_after(20):
                    async with trio.open_nursery() as calling:
                        calling.start_soon(client.call, get(CONFIG_MAPS, "x", "y"))
                        await begun.wait()
                        calling.cancel_scope.cancel()
                    await closed.wait()
            finally:
                gc.enable()
        nursery.cancel_scope.cancel()


async def test_where_nothing_listens_the_address_and_the_kubeconfig_are_named(ask: Ask) -> None:
    access = Access(server=f"https://127.0.0.1:{free_port()}", source="~/.kube/config, context west")
    with pytest.raises(Unreachable, match="cannot be reached") as caught:
        await ask(access, list_page(NAMESPACES, ""))
    assert access.server in str(caught.value)
    assert "is the cluster running? (~/.kube/config, context west)" in caught.value.hint


async def test_a_busy_server_is_waited_for_within_the_deadline(ask: Ask) -> None:
    async with scripted(answer(429, "{}", "Retry-After: 1"), answer(200, '{"kind": "ConfigMap"}')) as server:
        began = trio.current_time()
        assert await ask(server.access, get(CONFIG_MAPS, "north", "x")) == {"kind": "ConfigMap"}
        assert trio.current_time() - began >= 1.0
    async with scripted(answer(429, "{}", "Retry-After: 60")) as server:
        with pytest.raises(Throttled) as caught:
            await ask(server.access, get(CONFIG_MAPS, "north", "x"), deadline=2.0)
        assert caught.value.retry_after == 60.0
        assert caught.value.retryable
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("script", "expected", "match"),
    [
        (answer(500, '{"message": "etcd is away"}'), ServerFailed, "answered 500: etcd is away"),
        (answer(503, "no upstream"), ServerFailed, "no upstream"),
        (answer(200, "<html>log in</html>"), ServerFailed, "answered 200|log in"),
        (answer(200, "[]"), ServerFailed, None),
        (answer(200, "[" * 100_000), ServerFailed, None),
        (answer(302, "", "Location: http://127.0.0.1:1/"), ServerFailed, "302"),
        (answer(410, '{"message": "too old"}'), Gone, "too old"),
        (answer(404, "404 page not found"), NoSuchKind, None),
        (answer(409, '{"reason": 5, "message": [], "details": 7}'), Conflict, None),
        (answer(403, '{"message": null, "details": {"causes": [1, null, {}]}}'), Denied, None),
        (answer(422, '{"details": {"causes": [{"field": 5}, "x"]}}'), Invalid, None),
        (pieces(b'{"kind": "Conf', then="cut"), Unreachable, "the connection was cut|no HTTP answer"),
        (silence, Unreachable, "did not answer within"),
        (drip, Unreachable, "did not answer within"),
    ],
)
async def test_whatever_comes_back_is_an_error_of_ours(ask: Ask, script: Script, expected: type[KubeError], match: str | None) -> None:
    async with scripted(script) as server:
        with trio.fail_after(10), pytest.raises(expected, match=match) as caught:
            await ask(server.access, get(CONFIG_MAPS, "north", "x"), deadline=1.0)
        assert isinstance(caught.value, StoreError)
        assert caught.value.call == "get configmaps/x in north"


async def test_an_answer_without_end_is_cut(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("client", "blocking"):
        monkeypatch.setattr(f"vanrouter.kube.{module}.MAX_ANSWER", 10_000)
    monkeypatch.setattr(session, "MAX_ANSWER", 10_000)
    async with scripted(pieces(*[b" " * 4_000] * 100)) as server:
        with pytest.raises(ServerFailed, match="more than 10000 bytes"):
            await ask(server.access, get(CONFIG_MAPS, "north", "x"))


async def test_no_redirect_is_followed_and_no_proxy_of_the_environment_used(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with scripted(answer(200, "{}")) as server:
        server_access = server.access
        server_access.credentials = Token("t0ken")
        assert await ask(server_access, get(CONFIG_MAPS, "north", "x")) == {}
        assert b"Authorization: Bearer t0ken" in server.requests[0]
        assert "t0ken" not in repr(server_access)


# ---- Watches ----------------------------------------------------------------------------------------------------------------------------

EVENT = json.dumps({"type": "ADDED", "object": {"metadata": {"name": "x", "resourceVersion": "5"}}}).encode() + b"\n"
TOO_OLD = json.dumps({"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}).encode() + b"\n"


@pytest.mark.parametrize(
    ("script", "expected", "heard"),
    [
        (pieces(EVENT, then="end"), None, 1),
        (pieces(EVENT[:20], EVENT[20:] + EVENT, then="end"), None, 2),
        (pieces(*[EVENT[i : i + 1] for i in range(len(EVENT))], then="end"), None, 1),
        (pieces(EVENT, then="hang"), Unreachable, 1),
        (pieces(EVENT, then="cut"), Unreachable, 1),
        (pieces(EVENT, EVENT[:30], then="end"), ServerFailed, 1),
        (pieces(EVENT, TOO_OLD), Gone, 1),
        (pieces(EVENT, b"nonsense\n"), ServerFailed, 1),
        (pieces(b"[]\n"), ServerFailed, 0),
        (answer(410, '{"message": "too old"}'), Gone, 0),
        (answer(500, ""), ServerFailed, 0),
        (silence, Unreachable, 0),
    ],
)
async def test_a_watch_ends_with_its_reason(script: Script, expected: type[KubeError] | None, heard: int) -> None:
    events = []

    async def follow() -> None:
        async with KubeClient(server.access) as client:
            call = watch(CONFIG_MAPS, "north", resource_version="1", timeout=60)
            async with client.watch(call, idle=0.5) as stream:
                async for event in stream:
                    events.append(event)  # noqa: PERF401

    async with scripted(script) as server:
        with trio.fail_after(10):
            if expected is None:
                await follow()
            else:
                with pytest.raises(expected):
                    await follow()
    assert len(events) == heard
