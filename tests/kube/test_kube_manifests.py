"""The objects of an install: as they are kept beside this file, as a real API server takes them, and as the Site's settings say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vanrouter.errors import InvalidResource
from vanrouter.kube.access import Access
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import apply
from vanrouter.kube.kinds import DEPLOYMENTS, POD_DISRUPTION_BUDGETS
from vanrouter.kube.manifests import CONTROLLER_RULES, LEASE_RULES, ROUTER_RULES, Manifest, manifests
from vanrouter.kube.plan import plan
from vanrouter.kube.rights import Right, needed, role_granting
from vanrouter.resources.kinds import Metadata, Site, SiteSpec

GOLDEN = Path(__file__).with_name("install.golden.yaml")
IMAGE = "registry.local/vanrouter:1"

Objects = dict[tuple[str, str], dict[str, Any]]


def install(namespace: str = "here", *, root: dict[str, Any] | None = None, **spec: Any) -> list[Manifest]:
    site = Site(metadata=Metadata(name="north"), spec=SiteSpec(**spec))
    return manifests(site, plan(site, image=IMAGE), namespace, root=root)


def by_name(made: list[Manifest]) -> Objects:
    return {(m.kind.kind, m.name): m.value for m in made}


def pods(made: list[Manifest]) -> list[dict[str, Any]]:
    return [m.value["spec"]["template"]["spec"] for m in made if m.kind == DEPLOYMENTS]


def test_the_objects_are_those_that_are_kept_beside_the_test() -> None:
    made = [m.value for m in install(link_access="default")]
    text = yaml.safe_dump_all(made, sort_keys=False)
    assert list(yaml.safe_load_all(GOLDEN.read_text())) == list(yaml.safe_load_all(text)), f"if that is meant, write it anew:\n{text}"


@pytest.mark.parametrize("settings", [{}, {"routers": "3", "router-cpu-limit": "2", "node-selector": "disk=ssd", "labels": "team=a"}])
def test_an_api_server_takes_every_object(cluster: Access, namespace: str, settings: dict[str, str]) -> None:
    with BlockingClient(cluster) as client:
        for manifest in install(namespace, settings=settings):
            answer = client.call(apply(manifest.kind, namespace, manifest.value, dry_run=True))
            assert answer["metadata"]["name"] == manifest.name


def test_all_but_the_root_are_owned_by_it_and_block_nobody() -> None:
    root, *others = install(root={"metadata": {"name": "van.site.north", "uid": "u-1"}})
    assert "ownerReferences" not in root.value["metadata"]
    for manifest in others:
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "van.site.north", "uid": "u-1"}
        assert manifest.value["metadata"]["ownerReferences"] == [owner], manifest.ref


def test_no_pod_has_more_than_it_needs() -> None:
    for pod in pods(install()):
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        for container in pod["containers"]:
            confined = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == confined
            assert {"requests", "limits"} <= set(container["resources"])
            assert {"readinessProbe", "livenessProbe"} <= set(container)


def test_routers_are_replaced_without_being_missed_and_the_controller_never_twice() -> None:
    objects = by_name(install())
    router, controller = objects["Deployment", "van-router"]["spec"], objects["Deployment", "van-controller"]["spec"]
    assert router["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert router["template"]["spec"]["terminationGracePeriodSeconds"] == 95
    assert controller["strategy"] == {"type": "Recreate"}
    assert controller["replicas"] == 1


def test_several_routers_are_spread_and_have_a_disruption_budget() -> None:
    one, two = install(), install(settings={"routers": "2"})
    assert not [m for m in one if m.kind == POD_DISRUPTION_BUDGETS]
    objects = by_name(two)
    assert objects["PodDisruptionBudget", "van-router"]["spec"]["maxUnavailable"] == 1
    router = objects["Deployment", "van-router"]["spec"]
    assert router["replicas"] == 2
    assert [s["topologyKey"] for s in router["template"]["spec"]["topologySpreadConstraints"]] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]


def test_what_the_site_says_is_in_both_pods() -> None:
    settings = {
        "image": "mine:2",
        "image-pull-policy": "Never",
        "image-pull-secret": "pull",
        "node-selector": "disk=ssd,zone=a",
        "tolerations": '[{"key": "gpu", "operator": "Exists"}]',
        "affinity": '{"nodeAffinity": {}}',
        "log-level": "debug",
    }
    for pod in pods(install(settings=settings)):
        (container,) = pod["containers"]
        assert (container["image"], container["imagePullPolicy"]) == ("mine:2", "Never")
        assert {"name": "VAN_LOG_LEVEL", "value": "debug"} in container["env"]
        assert pod["imagePullSecrets"] == [{"name": "pull"}]
        assert pod["nodeSelector"] == {"disk": "ssd", "zone": "a"}
        assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
        assert pod["affinity"] == {"nodeAffinity": {}}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"settings": {"routers": "0"}}, "spec.settings.routers"),
        ({"settings": {"routers": "many"}}, "spec.settings.routers"),
        ({"edge": True, "settings": {"routers": "2"}}, "spec.settings.routers"),
        ({"settings": {"router-cpu": "a lot"}}, "spec.settings.router-cpu"),
        ({"settings": {"node-selector": "ssd"}}, "spec.settings.node-selector"),
        ({"settings": {"tolerations": "{}"}}, "spec.settings.tolerations"),
        ({"settings": {"affinity": "{"}}, "spec.settings.affinity"),
        ({"settings": {"image-pull-policy": "Sometimes"}}, "spec.settings.image-pull-policy"),
        ({"link_access": "carrier-pigeon"}, "spec.linkAccess"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_its_path(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource, match=rf"Site/north: {path}"):
        install(**spec)


def test_whoever_installs_needs_every_right_that_he_gives() -> None:
    rights = set(needed())
    for rule in (*ROUTER_RULES, *CONTROLLER_RULES):
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                for name in rule.get("resourceNames", [""]):
                    right = Right(rule["apiGroups"][0], resource, verb, name)
                    assert right in rights or right._replace(name="") in rights, right


def test_a_role_for_what_is_missing_can_be_applied_as_it_is_printed() -> None:
    missing = [
        Right("", "secrets", "create"),
        Right("", "secrets", "list"),
        Right("apps", "deployments", "patch"),
        Right("", "secrets", "get", "a"),
    ]
    role = yaml.safe_load(role_granting(missing, "north"))
    assert role["metadata"] == {"name": "van-installer", "namespace": "north"}
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "list"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"]},
    ]


def test_the_rights_to_custom_resources_are_roles_of_their_own_where_the_cluster_has_definitions() -> None:
    site = Site(metadata=Metadata(name="north"), spec=SiteSpec())
    plain, custom = (by_name(manifests(site, plan(site, image=IMAGE), "here", custom=has)) for has in (False, True))
    roles = {(kind, f"van-{who}-resources") for kind in ("Role", "RoleBinding") for who in ("router", "controller")}
    assert custom.keys() - plain.keys() == roles
    assert {key: custom[key] for key in plain} == plain
    (rule,) = custom["Role", "van-router-resources"]["rules"]
    assert rule["verbs"] == ["list", "watch"]
    assert not {"accesstokens", "accessgrants"} & set(rule["resources"]), "codes stand in them"
    for who in ("router", "controller"):
        binding = custom["RoleBinding", f"van-{who}-resources"]
        assert (binding["roleRef"]["name"], binding["subjects"][0]["name"]) == (f"van-{who}-resources", f"van-{who}")


def test_several_controllers_have_a_lease_and_the_right_to_it_and_one_has_neither() -> None:
    one, two = by_name(install()), by_name(install(settings={"controllers": "2"}))
    assert two.keys() - one.keys() == {("Lease", "van-controller")}
    rules = [rule for rule in two["Role", "van-controller"]["rules"] if rule not in one["Role", "van-controller"]["rules"]]
    assert rules == LEASE_RULES
    spec = two["Deployment", "van-controller"]["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (2, "RollingUpdate")
    assert spec["template"]["spec"]["containers"][0]["args"] == ["controller", "--lease"]
    with pytest.raises(InvalidResource, match=r"settings\.controllers"):
        install(settings={"controllers": "4"})
