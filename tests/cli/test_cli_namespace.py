"""
``van`` in a namespace, on a real API server and nothing behind it: what is created, what is refused and how, and that all of it goes again.

No pod runs here and nobody collects garbage, so `--no-wait`; the walk-through on whole clusters is in tests/cluster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from custom_resources import install_definitions, remove_definitions
from van_calls import Van

from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Kind, Object, create, delete, get, merge_patch
from vanrouter.kube.crds import CUSTOM_KINDS, cluster_roles
from vanrouter.kube.errors import Forbidden
from vanrouter.kube.kinds import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    STATEFUL_SETS,
)
from vanrouter.kube.rights import Right, ask

DB = {"routingKey": "db", "host": "db", "port": 5432}
EVERYTHING = (CONFIG_MAPS, DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, ROLE_BINDINGS, ROLES, SECRETS, SERVICE_ACCOUNTS, SERVICES)


class Here:
    """A namespace, and ``van`` as its owner."""

    def __init__(self, van: Van, server: Any, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self.name, self._van, self._monkeypatch = server, namespace, van, monkeypatch
        self.client = BlockingClient(server.access())
        monkeypatch.delenv("VAN_PLATFORM")
        self.use(server.kubeconfig())

    def use(self, kubeconfig: Path) -> None:
        self._monkeypatch.setenv("KUBECONFIG", str(kubeconfig))

    def van(self, line: str, *more: str, **given: Any) -> Result:
        return self._van(f"-n {self.name} {line}", *more, **given)

    def create(self, kind: Kind, name: str, **content: Any) -> Object:
        return self.client.call(create(kind, self.name, {"metadata": {"name": name}, **content}))

    def get(self, kind: Kind, name: str) -> Object:
        return self.client.call(get(kind, self.name, name))

    def listing(self) -> set[str]:
        return {f"{kind.kind}/{o['metadata']['name']}" for kind in EVERYTHING for o in self.client.pages(kind, self.name)}

    def site(self) -> dict[str, Any]:
        (root,) = [o for o in self.client.pages(CONFIG_MAPS, self.name) if o["metadata"]["name"].startswith("van.site.")]
        found: dict[str, Any] = yaml.safe_load(root["data"]["resource.yaml"])
        return found


@pytest.fixture
def here(van: Van, api_server: Any, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    found = Here(van, api_server, namespace, monkeypatch)
    with found.client:
        yield found


def ok(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


# ---- Ways to the cluster ----------------------------------------------------------------------------------------------------------------


def test_where_nothing_is_installed_status_says_what_to_type(here: Here) -> None:
    result = here.van("status")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: not installed in namespace {here.name}\nNext:  install it: van -n {here.name} init --site-name NAME\n"


@pytest.mark.parametrize("line", ["status", "init", "update", "delete", "link status", "token create t", "expose deployment/a --port 1"])
def test_a_namespace_that_is_not_there_is_told_from_one_without_a_site(here: Here, van: Van, line: str) -> None:
    result = van(f"-n nowhere {line}")
    assert result.exit_code == 1
    assert "there is no namespace nowhere" in result.stderr
    assert "kubectl create namespace nowhere" in result.stderr


def test_the_namespace_is_that_of_the_context(here: Here, van: Van, tmp_path: Path) -> None:
    document = yaml.safe_load(here.server.kubeconfig().read_text())
    document["contexts"][0]["context"]["namespace"] = here.name
    path = here.server.directory / "with-namespace.kubeconfig"
    path.write_text(yaml.safe_dump(document))
    assert f"not installed in namespace {here.name}\n" in van(f"--kubeconfig {path} status").stderr
    assert "there is no context 'other'" in van(f"--kubeconfig {path} -c other status").stderr


def test_a_cluster_that_nobody_serves_is_said_with_its_address_and_its_source(here: Here) -> None:
    from free_ports import free_port

    port = free_port()
    here.use(here.server.kubeconfig(port=port))
    result = here.van("status")
    assert result.exit_code == 1
    assert f"the cluster at https://127.0.0.1:{port} cannot be reached" in result.stderr
    assert "is the cluster running?" in result.stderr


def test_a_cluster_that_does_not_answer_costs_the_timeout_and_no_more(here: Here) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        here.use(here.server.kubeconfig(port=silent.getsockname()[1]))
        began = time.monotonic()
        result = here.van("status --timeout 700ms")
        assert time.monotonic() - began < 5
    assert result.exit_code == 1
    assert "did not answer within" in result.stderr


def test_credentials_that_are_not_accepted_are_said_to_be_that(here: Here) -> None:
    document = yaml.safe_load(here.server.kubeconfig().read_text())
    document["users"][0]["user"] = {"token": "expired"}
    path = here.server.directory / "expired.kubeconfig"
    path.write_text(yaml.safe_dump(document))
    here.use(path)
    result = here.van("status")
    assert result.exit_code == 1
    assert "does not accept the credentials (401 Unauthorized)" in result.stderr
    assert "log in again" in result.stderr


def test_a_missing_right_is_named_with_a_role_that_grants_it(here: Here) -> None:
    here.use(here.server.kubeconfig("nobody", ("strangers",)))
    result = here.van("status")
    assert result.exit_code == 1
    assert f"you may not list configmaps in namespace {here.name}" in result.stderr
    assert 'rules: [{apiGroups: [""], resources: [configmaps], verbs: [list]}]' in result.stderr


def may_ask_about_itself(here: Here, user: str) -> None:
    """A server that was just started has not made its own roles yet, system:basic-user among them."""
    until = time.monotonic() + 30
    with BlockingClient(here.server.access(user, ("strangers",))) as client:
        while True:
            try:
                client.call(ask(Right("", "configmaps", "list"), here.name))
            except Forbidden:
                assert time.monotonic() < until, "the server's own roles are not there"
                time.sleep(0.1)
            else:
                return


def test_init_names_every_missing_right_before_it_creates_anything(here: Here) -> None:
    rules = [
        {"apiGroups": [""], "resources": ["configmaps", "secrets", "services", "serviceaccounts", "pods"], "verbs": ["*"]},
        {"apiGroups": ["apps", "policy"], "resources": ["*"], "verbs": ["*"]},
    ]
    here.create(ROLES, "some", rules=rules)
    subject = {"kind": "User", "name": "half", "apiGroup": "rbac.authorization.k8s.io"}
    here.create(ROLE_BINDINGS, "some", roleRef={"kind": "Role", "name": "some", "apiGroup": ROLES.group}, subjects=[subject])
    before = here.listing()
    may_ask_about_itself(here, "half")
    here.use(here.server.kubeconfig("half", ("strangers",)))
    result = here.van("init --no-wait")
    assert result.exit_code == 1
    assert "create roles.rbac.authorization.k8s.io, patch roles.rbac.authorization.k8s.io" in result.stderr
    assert "configmaps" not in result.stderr, "only what is missing"
    role = yaml.safe_load(result.stderr.partition("missing:\n")[2])
    assert {rule["resources"][0] for rule in role["rules"]} == {"roles", "rolebindings"}
    assert here.listing() == before


# ---- init, update -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def defined(here: Here) -> Iterator[None]:
    install_definitions(here.client)
    yield
    remove_definitions(here.client)  # what others print depends on them


@pytest.mark.usefixtures("defined")
def test_a_site_that_is_a_custom_resource_is_installed_changed_and_deleted_as_any_other(here: Here) -> None:
    before = here.listing()
    spec = {"linkAccess": "local"}
    site = here.client.call(create(CUSTOM_KINDS["Site"], here.name, {"metadata": {"name": "north"}, "spec": spec}))
    ok(here.van("init --routers 2 --no-wait"))
    assert "ConfigMap/van.site.north" not in here.listing(), "there is one Site"
    changed = here.client.call(get(CUSTOM_KINDS["Site"], here.name, "north"))
    assert changed["spec"] == {"linkAccess": "local", "settings": {"routers": "2"}}
    (owner,) = here.get(DEPLOYMENTS, "van-router")["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Site", site["metadata"]["uid"])
    assert {"Role/van-router-resources", "RoleBinding/van-controller-resources"} <= here.listing()
    here.client.call(create(CUSTOM_KINDS["Listener"], here.name, {"metadata": {"name": "db"}, "spec": DB}))
    ok(here.van("listener update db --routing-key other --no-wait"))
    assert here.client.call(get(CUSTOM_KINDS["Listener"], here.name, "db"))["spec"] == {**DB, "routingKey": "other"}
    ok(here.van("listener delete db --no-wait"))
    assert here.client.pages(CUSTOM_KINDS["Listener"], here.name) == []
    ok(here.van("delete"))
    assert here.client.pages(CUSTOM_KINDS["Site"], here.name) == []
    assert here.listing() == before


@pytest.mark.usefixtures("defined")
@pytest.mark.parametrize("as_admin", [True, False])
def test_the_rights_to_custom_resources_are_given_by_whoever_has_them_and_else_it_is_a_site_without(here: Here, as_admin: bool) -> None:
    rules = [{"apiGroups": ["", "apps", "policy", ROLES.group], "resources": ["*"], "verbs": ["*"]}]
    if as_admin:  # what the definitions add to the ClusterRole admin
        label = "rbac.authorization.k8s.io/aggregate-to-admin"
        rules += [rule for role in cluster_roles() if label in role["metadata"]["labels"] for rule in role["rules"]]
    here.create(ROLES, "some", rules=rules)
    subject = {"kind": "User", "name": "owner", "apiGroup": ROLES.group}
    here.create(ROLE_BINDINGS, "some", roleRef={"kind": "Role", "name": "some", "apiGroup": ROLES.group}, subjects=[subject])
    may_ask_about_itself(here, "owner")
    here.use(here.server.kubeconfig("owner", ("strangers",)))
    result = ok(here.van("init --no-wait"))
    given = {f"{kind}/van-{who}-resources" for kind in ("Role", "RoleBinding") for who in ("router", "controller")}
    assert here.listing() & given == (given if as_admin else set())
    assert ("custom resources will not count" in result.stderr) is not as_admin
    assert ("van manifest crds" in result.stderr) is not as_admin


def test_what_init_prints_is_what_it_applies(here: Here) -> None:
    before = here.listing()
    printed = ok(here.van("init --site-name north --routers 2 -o yaml"))
    assert here.listing() == before, "printing changes nothing"
    assert printed.stdout == ok(here.van("manifest --site-name north --routers 2")).stdout
    ok(here.van("init --site-name north --routers 2 --no-wait"))
    documents = list(yaml.safe_load_all(printed.stdout))
    assert here.listing() - before == {f"{d['kind']}/{d['metadata']['name']}" for d in documents}
    after = list(yaml.safe_load_all(ok(here.van("manifest")).stdout))
    for document in after[1:]:
        assert document["metadata"].pop("ownerReferences")[0]["name"] == "van.site.north"
    assert after == documents, "nothing else than that it has an owner now"


def versions(here: Here) -> dict[str, str]:
    found = [o for kind in EVERYTHING for o in here.client.pages(kind, here.name)]
    return {f"{o['metadata']['name']} {o['metadata']['uid']}": o["metadata"]["resourceVersion"] for o in found}


def test_init_twice_writes_nothing_the_second_time(here: Here) -> None:
    ok(here.van("init --site-name north --no-wait"))
    before = versions(here)
    assert "existed already; it is unchanged" in ok(here.van("init --no-wait")).stdout
    assert versions(here) == before


def test_init_with_other_options_changes_those_and_keeps_the_rest(here: Here) -> None:
    ok(here.van("init --site-name north --link-access local --image mine:1 --routers 2 --no-wait"))
    ok(here.van("init --image mine:2 --no-wait"))
    assert here.site()["spec"] == {"linkAccess": "local", "settings": {"image": "mine:2", "routers": "2"}}
    assert here.get(DEPLOYMENTS, "van-router")["spec"]["template"]["spec"]["containers"][0]["image"] == "mine:2"
    ok(here.van("update --routers 1 --no-wait"))
    assert here.get(DEPLOYMENTS, "van-router")["spec"]["replicas"] == 1
    assert not here.client.pages(POD_DISRUPTION_BUDGETS, here.name), "with one router there is nothing to keep up"


def test_the_image_of_the_environment_is_remembered(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAN_IMAGE", "mine:1")
    ok(here.van("init --site-name north --no-wait"))
    monkeypatch.delenv("VAN_IMAGE")
    ok(here.van("update --log-level debug --no-wait"))
    assert here.get(DEPLOYMENTS, "van-controller")["spec"]["template"]["spec"]["containers"][0]["image"] == "mine:1"


def test_a_half_of_an_install_becomes_a_whole(here: Here) -> None:
    ok(here.van("init --site-name north --no-wait"))
    whole = here.listing()
    for kind, name in (
        (DEPLOYMENTS, "van-router"),
        (ROLES, "van-controller"),
        (SERVICES, "van-controller"),
        (SERVICE_ACCOUNTS, "van-router"),
    ):
        here.client.call(delete(kind, here.name, name))
    said = ok(here.van("init --no-wait")).stdout
    lacked = (
        "what was missing of it was made: ServiceAccount/van-router, Role/van-controller, Service/van-controller, Deployment/van-router"
    )
    assert lacked in said
    assert here.listing() == whole


def test_a_site_keeps_its_name(here: Here) -> None:
    ok(here.van("init --site-name north --no-wait"))
    result = here.van("init --site-name south --no-wait")
    assert result.exit_code == 1
    assert "a site keeps its name" in result.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("init --link-access 127.0.0.1:7001", "is for hosts"),
        ("init --service-address 127.0.0.2", "is for hosts"),
        ("init --foreground", "are for hosts"),
        ("init --routers 0", "not in the range"),
        ("init --router-memory lots", "is no quantity"),
        ("init --node-selector ssd", "is not KEY=VALUE"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_created(here: Here, line: str, said: str) -> None:
    before = here.listing()
    result = here.van(line)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert here.listing() == before


def test_a_site_whose_pods_are_not_there_is_not_ready_and_says_so(here: Here) -> None:
    ok(here.van("init --site-name north --no-wait"))
    result = here.van("status")
    assert result.exit_code == 3
    assert f"site north is installed in namespace {here.name} and not ready" in result.stderr


# ---- delete -----------------------------------------------------------------------------------------------------------------------------


def take_over(here: Here, name: str) -> Object:
    """As a controller does it."""
    from vanrouter.controller.services import ServicePlan, WantedService

    ports = [{"name": "web", "port": 80, "targetPort": 8080}]
    before = here.create(SERVICES, name, spec={"selector": {"app": name}, "ports": ports})
    wanted = {name: WantedService(name, {80: 20000}, named=True)}
    for call in ServicePlan(here.name).calls(wanted, {name: before}, owners=(), current=True):
        here.client.call(call)
    assert here.get(SERVICES, name)["spec"]["selector"] != {"app": name}
    return before


def test_delete_leaves_everything_as_it_was_also_without_a_controller(here: Here) -> None:
    here.create(CONFIG_MAPS, "mine", data={"a": "b"})
    before = take_over(here, "hello")
    listing = here.listing()
    ok(here.van("init --site-name north --routers 2 --no-wait"))
    here.create(SECRETS, "van-identity-of-somebody-else")
    assert "is deleted" in ok(here.van("delete")).stdout
    assert here.listing() == listing | {"Secret/van-identity-of-somebody-else"}
    after = here.get(SERVICES, "hello")
    assert after["spec"] == before["spec"]
    assert not after["metadata"].get("annotations")
    assert "not installed" in here.van("delete").stderr


def test_delete_gives_back_a_service_after_somebody_deleted_the_root(here: Here) -> None:
    before = take_over(here, "hello")
    ok(here.van("init --site-name north --no-wait"))
    here.client.call(delete(CONFIG_MAPS, here.name, "van.site.north"))
    ok(here.van("delete"))
    assert here.get(SERVICES, "hello")["spec"] == before["spec"]
    assert here.listing() == {"Service/hello"}


def test_a_service_that_somebody_changed_since_stays_as_he_wants_it(here: Here) -> None:
    take_over(here, "hello")
    ok(here.van("init --site-name north --no-wait"))
    here.client.call(merge_patch(SERVICES, here.name, "hello", {"spec": {"selector": {"app": "other"}}}))
    result = ok(here.van("delete"))
    assert "Service hello was changed by" in result.stderr
    assert here.get(SERVICES, "hello")["spec"]["selector"]["app"] == "other"
    assert not here.get(SERVICES, "hello")["metadata"].get("annotations")


# ---- expose -----------------------------------------------------------------------------------------------------------------------------


def workload(here: Here, name: str, *, replicas: int = 1, ready: bool = True, labels: dict[str, str] | None = None) -> None:
    labels = labels or {"app": name}
    container = {"name": "c", "image": "x", "ports": [{"containerPort": 8080, "name": "web"}, {"containerPort": 9090, "name": "stats"}]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    here.create(DEPLOYMENTS, name, spec={"replicas": replicas, "selector": {"matchLabels": labels}, "template": template})
    if replicas:
        pod = {
            "metadata": {"name": f"{name}-1", "labels": labels},
            "spec": {"containers": [container], "automountServiceAccountToken": False},
        }
        here.client.call(create(PODS, here.name, pod))
        if ready:
            status = {"status": {"phase": "Running", "podIP": "10.9.9.9", "conditions": [{"type": "Ready", "status": "True"}]}}
            here.client.call(merge_patch(PODS, here.name, f"{name}-1", status, subresource="status"))


@pytest.fixture
def installed(here: Here) -> Here:
    ok(here.van("init --site-name north --no-wait"))
    workload(here, "hello", labels={"tier": "backend", "app": "hello"})
    workload(here, "idle", replicas=0)
    workload(here, "starting", ready=False)
    return here


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("expose deployment/none --port 80", 1, "there is no deployment none"),
        ("expose statefulset/hello --port 80", 1, "there is no statefulset hello"),
        ("expose deployment/hello --port 81", 1, "has no port 81; it has: 8080 (web), 9090 (stats)"),
        ("expose deployment/hello --port 80 --target-port wbe", 1, "has no port named 'wbe'; it has: 8080 (web), 9090 (stats)"),
        ("expose deployment/hello", 2, "has ports 8080 (web), 9090 (stats); name one or several: --port 8080,9090"),
        ("expose deployment/hello --port 8080,81", 1, "has no port 81; it has: 8080 (web), 9090 (stats)"),
        ("expose deployment/hello --port 80 --port 90 --target-port web", 2, "with several ports write PORT:TARGET"),
        ("expose deployment/hello --port 80 --target-port 81:web", 2, "there is no --port 81"),
        ("expose deployment/hello --port 80,x", 2, "'x' is not a port"),
        ("expose deployment/hello --port 8080 --protocol udp", 2, "'udp' is not one of 'tcp', 'http', 'http2'"),
        ("expose pods/app=hallo --port 8080 --address a", 3, "no pod matches app=hallo; the labels of pods here: app=hello"),
        ("expose pods/app=hello --port 8080", 2, "Missing option '--address'"),
        ("expose deployment/hello --port 8080 --address 1st", 1, "cannot be the name of a Service"),
        ("expose service/none --port 80", 1, "there is no service none"),
        ("expose nonsense --port 80", 2, "'nonsense' cannot be exposed"),
    ],
)
def test_what_would_answer_nobody_is_refused_before_anything_is_written(installed: Here, line: str, code: int, said: str) -> None:
    before = installed.listing()
    result = installed.van(line)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output
    assert installed.listing() == before


def test_of_several_ports_none_is_exposed_when_one_cannot_be(installed: Here) -> None:
    ok(installed.van("expose deployment/hello --port 9090 --protocol http --no-wait"))
    before = installed.listing()
    result = installed.van("expose deployment/hello --port 8080,9090 --no-wait")
    assert (result.exit_code, "already, with other settings" in result.stderr) == (1, True), result.output
    assert installed.listing() == before


def test_a_port_that_is_not_tcp_is_not_one_to_be_exposed(installed: Here) -> None:
    ports = [{"name": "dns", "port": 53, "protocol": "TCP"}, {"name": "dns-udp", "port": 53, "protocol": "UDP"}]
    installed.create(SERVICES, "dns", spec={"selector": {"app": "hello"}, "ports": ports})
    installed.create(SERVICES, "logs", spec={"selector": {"app": "hello"}, "ports": [{"port": 514, "protocol": "UDP"}]})
    shown = yaml.safe_load(ok(installed.van("expose service/dns --dry-run --address names")).stdout)
    assert shown["spec"]["expose"]["port"] == 53
    assert "service logs has no TCP port" in installed.van("expose service/logs --dry-run --address x").stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("expose deployment/idle --port 8080", "it is scaled to 0"),
        ("expose deployment/starting --port 8080", "has no ready pod"),
    ],
)
def test_what_only_answers_nobody_yet_is_exposed_with_a_warning(installed: Here, line: str, said: str) -> None:
    result = ok(installed.van(f"{line} --no-wait"))
    assert f"Warning: {line.split()[1].replace('/', ' ')}" in result.stderr
    assert said in result.stderr
    assert len([n for n in installed.listing() if n.startswith("ConfigMap/van.connector.")]) == 1


def test_what_the_controller_made_from_something_else_is_not_deleted_but_where_it_comes_from_is_said(installed: Here) -> None:
    text = """\
apiVersion: vanrouter.io/v1alpha1
kind: Connector
metadata:
  name: deployment.web.80
  annotations: {vanrouter.io/target: deployment/web, vanrouter.io/made-from: "deployment/web: vanrouter.io/proxy"}
spec: {routingKey: web, selector: app=web, port: 80, expose: {port: 80}}
"""
    metadata = {"name": "van.made.deployment.web", "labels": {"vanrouter.io/type": "resource"}}
    installed.client.call(create(CONFIG_MAPS, installed.name, {"metadata": metadata, "data": {"resource.yaml": text}}))
    for line in ("unexpose deployment/web", "connector delete deployment.web.80", "connector update deployment.web.80 --port 81"):
        result = installed.van(f"{line} --no-wait")
        assert result.exit_code == 1
        assert "is made from the annotation vanrouter.io/proxy of deployment/web" in result.stderr
        assert "kubectl annotate deployment/web vanrouter.io/proxy-" in result.stderr
    ok(installed.van("connector delete --all --no-wait"))
    assert "ConfigMap/van.made.deployment.web" in installed.listing()


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--workload deployment/none", 1, "there is no deployment none"),
        ("--workload deployment/hello --selector a=b", 2, "say one of --workload, --selector and --host"),
        ("--workload pods/a=b", 2, "write it like deployment/hello"),
    ],
)
def test_a_connector_names_its_pods_by_their_workload(installed: Here, line: str, code: int, said: str) -> None:
    result = installed.van(f"connector create hello 8080 {line} --no-wait")
    assert (result.exit_code, said in result.stderr) == (code, True), result.output
    ok(installed.van("connector create hello 8080 --workload deployment/hello --no-wait"))
    assert connectors(installed)["hello"] == {"routingKey": "hello", "port": 8080, "selector": "app=hello,tier=backend"}


def test_pods_by_name_are_asked_for_of_a_stateful_set_only(installed: Here) -> None:
    result = installed.van("expose deployment/hello --port 8080 --expose-pods-by-name")
    assert (result.exit_code, "for a StatefulSet" in result.stderr) == (2, True)
    labels = {"app": "db"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    installed.create(STATEFUL_SETS, "db", spec={"serviceName": "db", "selector": {"matchLabels": labels}, "template": template})
    ok(installed.van("expose statefulset/db --port 5432 --address db-any --expose-pods-by-name --no-wait"))
    assert connectors(installed)["db-any"]["exposePodsByName"] is True


def connectors(here: Here) -> dict[str, Any]:
    maps = [o for o in here.client.pages(CONFIG_MAPS, here.name) if o["metadata"]["name"].startswith("van.connector.")]
    found = [yaml.safe_load(o["data"]["resource.yaml"]) for o in maps]
    return {f["metadata"]["name"]: f["spec"] for f in found}


def test_each_port_of_a_service_is_a_connector_with_a_key_of_its_own(installed: Here) -> None:
    """All servers of one routing key get the same streams: port 90 must not lead to what listens for port 80."""
    line = "expose deployment/hello --port 80,90 --target-port 80:web,90:9090 --protocol http --no-wait"
    ok(installed.van(line))
    first = connectors(installed)
    assert {name: (c["routingKey"], c["port"], c["expose"]) for name, c in first.items()} == {
        "hello": ("hello", 8080, {"port": 80, "address": "hello", "protocol": "http"}),
        "hello-90": ("hello:90", 9090, {"port": 90, "address": "hello", "protocol": "http"}),
    }
    assert ok(installed.van(line)).stdout.count("unchanged") == 2
    ok(installed.van("expose deployment/hello --port 70 --target-port stats --no-wait"))
    assert connectors(installed)["hello-70"]["routingKey"] == "hello:70"
    ok(installed.van("unexpose deployment/hello --port 80,70 --no-wait"))
    assert set(connectors(installed)) == {"hello-90"}


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ({"spec": {"clusterIP": "None", "selector": {"app": "a"}, "ports": [{"port": 80}]}}, "it is headless"),
        ({"spec": {"type": "ExternalName", "externalName": "example.com"}}, "it is of type ExternalName"),
    ],
)
def test_a_service_that_cannot_be_taken_over_is_said_at_once(installed: Here, service: dict[str, Any], said: str) -> None:
    installed.create(SERVICES, "taken", **service)
    result = installed.van("expose deployment/hello --port 8080 --address taken")
    assert result.exit_code == 1
    assert said in result.stderr
    assert "--address" in result.stderr


def test_a_service_of_another_controller_is_left_to_it(installed: Here) -> None:
    owner = installed.get(DEPLOYMENTS, "hello")
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "hello", "uid": owner["metadata"]["uid"], "controller": True}
    value = {"metadata": {"name": "taken", "ownerReferences": [reference]}, "spec": {"ports": [{"port": 80}]}}
    installed.client.call(create(SERVICES, installed.name, value))
    result = installed.van("expose deployment/hello --port 8080 --address taken")
    assert result.exit_code == 1
    assert "Deployment/hello owns it" in result.stderr


@pytest.mark.parametrize(
    ("line", "spec", "words"),
    [
        ("deployment/hello --port 80 --target-port web", ("hello", "app=hello,tier=backend", 8080, 80), "deployment/hello"),
        ("deployment hello --port 9090 --address stats", ("stats", "app=hello,tier=backend", 9090, 9090), "deployment/hello"),
        ("pods/app=hello --target-port 8080 --address a", ("a", "app=hello", 8080, 8080), "pods/app=hello"),
        ("deployment/starting --port 8080 --include-not-ready-pods", ("starting", "app=starting", 8080, 8080), "deployment/starting"),
        ("service/web", ("web", "app=hello", 8080, 80), "service/web"),
    ],
)
def test_expose_writes_one_connector_that_says_what_it_was_made_of(
    installed: Here, line: str, spec: tuple[str, str, int, int], words: str
) -> None:
    installed.create(SERVICES, "web", spec={"selector": {"app": "hello"}, "ports": [{"port": 80, "targetPort": "web"}]})
    ok(installed.van(f"expose {line} --no-wait"))
    (name,) = [n for n in installed.listing() if n.startswith("ConfigMap/van.connector.")]
    document = yaml.safe_load(installed.get(CONFIG_MAPS, name.partition("/")[2])["data"]["resource.yaml"])
    address, selector, port, service_port = spec
    assert document["metadata"]["annotations"] == {"vanrouter.io/target": words}
    assert document["spec"]["expose"] == {"port": service_port, "address": address}
    assert (document["spec"]["routingKey"], document["spec"]["selector"], document["spec"]["port"]) == (address, selector, port)
    again = ok(installed.van(f"expose {line} --no-wait -o json"))
    assert json.loads(again.stdout)["spec"] == document["spec"], "the same again is no change"
    ok(installed.van(f"unexpose {words} --no-wait"))
    assert name not in installed.listing()
