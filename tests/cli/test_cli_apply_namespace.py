"""``van apply`` in a namespace, on a real API server: the objects that hold the resources, and fields that another manager keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from declared_tokens import access_token, north, shown_by
from test_cli_namespace import EVERYTHING, Here, ok
from van_calls import Van

from vanrouter.kube.calls import Call, apply, merge_patch
from vanrouter.kube.kinds import CONFIG_MAPS, DEPLOYMENTS, SECRETS
from vanrouter.tokens import parse_token

WEST = Path(__file__).parents[1] / "resources" / "skupper" / "west.yaml"
LISTENER = "apiVersion: skupper.io/v2alpha1\nkind: Listener\nmetadata: {name: hello}\nspec: {routingKey: hello, host: hello, port: %d}\n"


@pytest.fixture
def here(van: Van, api_server: Any, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    found = Here(van, api_server, namespace, monkeypatch)
    with found.client:
        yield found


def as_manager(call: Call, manager: str) -> Call:
    """The same call, made by another tool."""
    return msgspec.structs.replace(call, query={**call.query, "fieldManager": manager})


def of_vanrouter(value: dict[str, Any]) -> dict[str, Any]:
    """What of an object is ours, by its managed fields."""
    (entry,) = [e for e in value["metadata"]["managedFields"] if e["manager"] == "vanrouter"]
    assert entry["operation"] == "Apply"
    return _picked(value, entry["fieldsV1"])


def _picked(value: Any, fields: dict[str, Any]) -> Any:
    if not {name for name in fields if name != "."}:
        return value
    picked: Any = [] if isinstance(value, list) else {}
    for name, below in fields.items():
        if name.startswith("f:"):
            picked[name[2:]] = _picked(value[name[2:]], below)
        elif name.startswith("k:"):
            key = json.loads(name[2:])
            picked.append(_picked(next(x for x in value if key.items() <= x.items()), below))
        elif name.startswith("v:"):
            picked.append(json.loads(name[2:]))
    return sorted(picked, key=lambda x: _place(value, x)) if isinstance(picked, list) else picked


def _place(items: list[Any], picked: Any) -> int:
    """Where it stands in the object: managed fields are in an order of their own."""
    return next(i for i, item in enumerate(items) if _within(picked, item))


def _within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and _within(part[key], whole[key]) for key in part)
    return isinstance(part, list) or bool(part == whole)


def differences(said: Any, held: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every field that is not so in both: its path, what was printed, what the server has."""
    if isinstance(said, dict) and isinstance(held, dict):
        for key in said | held:
            yield from differences(said.get(key), held.get(key), f"{path}.{key}")
    elif isinstance(said, list) and isinstance(held, list) and len(said) == len(held):
        for index, (one, other) in enumerate(zip(said, held, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif said != held:
        yield path, said, held


def test_yaml_of_the_incumbent_makes_a_site_with_everything_in_it(here: Here) -> None:
    text = WEST.read_text().replace("namespace: west", f"namespace: {here.name}")
    result = ok(here.van("apply --no-wait -f -", input=text))
    assert result.stdout.splitlines() == [
        "site/west created",
        "secret/link-east created",
        "accessgrant/for-south created",
        "connector/backend created",
        "link/link-east-skupper-router created",
        "listener/backend created",
        "multikeylistener/any created",
        "routeraccess/skupper-router created",
    ]
    assert {"Deployment/van-router", "Deployment/van-controller", "ConfigMap/van.listener.backend", "Secret/link-east"} <= here.listing()
    assert here.site()["spec"]["ha"] is True
    owners = here.get(CONFIG_MAPS, "van.listener.backend")["metadata"]["ownerReferences"]
    assert [owner["name"] for owner in owners] == ["van.site.west"]
    again = ok(here.van("apply --no-wait -f -", input=text))
    assert {line.split()[-1] for line in again.stdout.splitlines()} == {"unchanged"}
    assert "Deployment/frontend" in again.stderr


def test_a_dry_run_changes_nothing_and_says_what_it_would(here: Here) -> None:
    before = here.listing()
    text = WEST.read_text().replace("namespace: west", f"namespace: {here.name}")
    assert "listener/backend would be created\n" in ok(here.van("apply --dry-run -f -", input=text)).stdout
    assert here.listing() == before


def test_what_the_files_do_not_name_of_an_install_stays(here: Here) -> None:
    ok(here.van("init --site-name west --no-wait --image example.com/van:1"))
    ok(here.van("apply --no-wait -f -", input="apiVersion: skupper.io/v2alpha1\nkind: Site\nmetadata: {name: west}\nspec: {ha: true}\n"))
    assert here.site()["spec"]["settings"]["image"] == "example.com/van:1"


def test_the_printed_objects_are_byte_for_byte_what_is_applied(here: Here) -> None:
    """For a GitOps tool: what it commits and what the command writes are the same objects."""
    ok(here.van("init --site-name west --no-wait"))
    text = WEST.read_text().replace("namespace: west", f"namespace: {here.name}")
    printed = list(yaml.safe_load_all(ok(here.van("apply --objects -f -", input=text)).stdout))
    ok(here.van("apply --no-wait -f -", input=text))
    for value in printed:
        if value["metadata"]["name"] == "van.site.west":
            continue  # no owner
        found = of_vanrouter(here.get(SECRETS if value["kind"] == "Secret" else CONFIG_MAPS, value["metadata"]["name"]))
        found["metadata"].pop("ownerReferences")  # known only in the cluster
        name = value["metadata"].pop("name")
        assert {"apiVersion": "v1", "kind": value["kind"], **found} == value, name


def test_what_init_prints_is_byte_for_byte_what_the_server_then_has_of_us(here: Here) -> None:
    ok(here.van("init --site-name west --routers 2 --no-wait"))
    printed = ok(here.van("init -o yaml")).stdout
    assert printed == ok(here.van("manifest")).stdout
    kinds = {kind.kind: kind for kind in EVERYTHING}
    for value in yaml.safe_load_all(printed):
        name = value["metadata"].pop("name")
        assert value["metadata"].pop("namespace") == here.name
        kind = kinds[value["kind"]]
        found = of_vanrouter(here.get(kind, name))
        for owner in found["metadata"].get("ownerReferences", []):
            assert owner.keys() == {"apiVersion", "kind", "name", "uid"}
        whole = {"apiVersion": value["apiVersion"], "kind": value["kind"], **found}
        assert not list(differences(value, whole)), f"{kind.kind}/{name}"


def test_an_object_of_an_install_that_a_gitops_tool_keeps_is_named(here: Here) -> None:
    ok(here.van("init --site-name west --no-wait"))
    (deployment,) = [
        d for d in yaml.safe_load_all(ok(here.van("manifest")).stdout) if (d["kind"], d["metadata"]["name"]) == ("Deployment", "van-router")
    ]
    here.client.call(as_manager(apply(DEPLOYMENTS, here.name, deployment), "argocd-controller"))
    refused = here.van("update --routers 2 --no-wait")
    assert refused.exit_code == 1
    assert "Deployment/van-router" in refused.stderr
    assert "argocd-controller keeps .spec.replicas, with another value" in refused.stderr


def test_what_a_gitops_tool_keeps_is_not_taken_from_it_unless_told(here: Here) -> None:
    ok(here.van("init --site-name west --no-wait"))
    printed = yaml.safe_load(ok(here.van("apply --objects -f -", input=LISTENER % 80)).stdout)
    here.client.call(as_manager(apply(CONFIG_MAPS, here.name, printed), "kustomize-controller"))
    unchanged = ok(here.van("apply -f -", input=LISTENER % 80))
    assert unchanged.stdout == "listener/hello unchanged\n"
    refused = here.van("apply -f -", input=LISTENER % 81)
    assert refused.exit_code == 1
    assert "ConfigMap/van.listener.hello" in refused.stderr
    assert "kustomize-controller keeps .data.resource.yaml, with another value" in refused.stderr
    updated = here.van("listener update hello --port 82 --no-wait")
    assert "kustomize-controller keeps .data.resource.yaml" in updated.stderr
    assert "port: 80" in here.get(CONFIG_MAPS, "van.listener.hello")["data"]["resource.yaml"]
    assert ok(here.van("apply --force-conflicts -f -", input=LISTENER % 81)).stdout == "listener/hello configured\n"


def test_what_a_person_edited_with_kubectl_is_overwritten(here: Here) -> None:
    ok(here.van("init --site-name west --no-wait"))
    ok(here.van("apply -f -", input=LISTENER % 80))
    value = yaml.safe_load(ok(here.van("apply --objects -f -", input=LISTENER % 90)).stdout)
    here.client.call(as_manager(apply(CONFIG_MAPS, here.name, value), "kubectl-edit"))
    assert ok(here.van("apply -f -", input=LISTENER % 81)).stdout == "listener/hello configured\n"


LINK = """
apiVersion: vanrouter.io/v1alpha1
kind: Link
metadata: {name: north}
spec: {endpoints: [{host: 10.0.0.1, port: 7001}], tlsCredentials: own}
"""


def test_a_link_whose_secret_is_not_there_or_not_seen_is_said_with_what_to_do(here: Here) -> None:
    ok(here.van("init --site-name west --no-wait"))
    assert "Link/north: there is no Secret own yet; the link waits for it" in ok(here.van("apply -f -", input=LINK)).stderr
    here.create(SECRETS, "own", type="kubernetes.io/tls", stringData={"tls.crt": "a", "tls.key": "b", "ca.crt": "c"})
    secure = ok(here.van("apply -f -", input=(LISTENER % 80).replace("port:", "tlsCredentials: web, port:"))).stderr
    assert "Listener/hello: there is no Secret web yet; it waits for it" in secure
    unseen = ok(here.van("apply -f -", input=LINK)).stderr
    assert f"kubectl label secret own -n {here.name} vanrouter.io/type=resource" in unseen
    here.client.call(merge_patch(SECRETS, here.name, "own", {"metadata": {"labels": {"vanrouter.io/type": "resource"}}}))
    assert ok(here.van("apply -f -", input=LINK)).stderr == ""


def test_an_install_that_a_gitops_tool_brought_is_one_that_van_knows_and_deletes(here: Here) -> None:
    before = here.listing()
    kinds = {kind.kind: kind for kind in EVERYTHING}
    for value in yaml.safe_load_all(ok(here.van("init --site-name west -o yaml")).stdout):
        here.client.call(as_manager(apply(kinds[value["kind"]], here.name, value), "kustomize-controller"))
    assert "is installed in namespace" in here.van("status").stderr
    assert "existed already; it is unchanged" in ok(here.van("init --no-wait")).stdout
    assert ok(here.van("apply -f -", input=LISTENER % 80)).stdout == "listener/hello created\n"
    ok(here.van("delete"))
    assert here.listing() == before


SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\ntype: Opaque\nstringData: {tls.crt: a, tls.key: b, ca.crt: c}\n"


def test_secrets_of_the_site_and_of_others_are_not_written_over(here: Here) -> None:
    ok(here.van("init --site-name west --no-wait"))
    here.create(SECRETS, "theirs", stringData={"password": "x"})
    for name, said in (("van-ca", "one that the controller of a site keeps"), ("theirs", "it is no resource of this site")):
        before = here.client.pages(SECRETS, here.name)
        result = here.van("apply --no-wait -f -", input=f"{SECRET % name}---\n{LISTENER % 80}")
        assert (result.exit_code, f"Secret/{name}" in result.stderr, said in result.stderr) == (1, True, True), result.output
        assert here.client.pages(SECRETS, here.name) == before
    assert "theirs -n" in result.stderr
    assert ok(here.van("apply --no-wait --force-conflicts -f -", input=SECRET % "theirs")).stdout == "secret/theirs created\n"


def test_a_token_is_kept_as_a_secret_and_never_in_a_config_map(here: Here, tmp_path: Path) -> None:
    ok(here.van("init --site-name west --no-wait"))
    shown = shown_by(north(tmp_path))
    token = access_token(shown)
    printed = yaml.safe_load(ok(here.van("apply --objects -f -", input=token)).stdout)
    assert (printed["kind"], printed["metadata"]["labels"]["vanrouter.io/type"]) == ("Secret", "access-token")
    result = ok(here.van("apply -f -", input=token))
    assert (result.stdout, result.stderr) == ("secret/from-north created\n", "")
    kept = here.get(SECRETS, "from-north")
    assert parse_token(yaml.safe_dump({"apiVersion": "v1", "kind": "Secret", **{k: kept[k] for k in ("metadata", "data")}})).cost == 1
    assert not any(shown.code in str(value) for value in here.client.pages(CONFIG_MAPS, here.name))
    assert ok(here.van("apply -f -", input=token)).stdout == "secret/from-north unchanged\n"
    here.client.call(merge_patch(SECRETS, here.name, "from-north", {"metadata": {"annotations": {"vanrouter.io/redeemed": "north"}}}))
    assert ok(here.van("apply -f -", input=token)).stdout == "secret/from-north unchanged\n", "what became of it is no change of it"
    edited = here.van("apply -f -", input=token.replace("site=north", "site=nowhere"))
    assert (edited.exit_code, "do not belong together" in edited.stderr, shown.code in edited.stderr) == (1, True, False)


def test_a_grant_in_a_config_map_is_kept_and_a_code_in_it_warned_of(here: Here) -> None:
    ok(here.van("init --site-name west --no-wait"))
    grant = "apiVersion: skupper.io/v2alpha1\nkind: AccessGrant\nmetadata: {name: g}\nspec: {redemptionsAllowed: 2%s}\n"
    result = ok(here.van("apply -f -", input=grant % ""))
    assert (result.stdout, result.stderr) == ("accessgrant/g created\n", "")
    refused = here.van("apply --strict -f -", input=grant % ", code: a-code-that-nobody-guesses-1")
    assert (refused.exit_code, "AccessGrant/g: spec.code: counts in a custom resource" in refused.stderr) == (1, True)


def test_a_good_file_mends_what_somebody_broke_by_hand(here: Here) -> None:
    ok(here.van("init --site-name west --no-wait"))
    ok(here.van("apply -f -", input=LISTENER % 80))
    kept = here.get(CONFIG_MAPS, "van.listener.hello")
    (key,) = kept["data"]
    note = {
        "metadata": {"name": "van-status.listener.hello", "labels": {"vanrouter.io/type": "status"}},
        "data": {f"good.{key}": kept["data"][key]},
    }
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "van.listener.hello", "uid": kept["metadata"]["uid"]}
    note["metadata"] |= {"annotations": {"vanrouter.io/status-of": "van.listener.hello"}, "ownerReferences": [owner]}
    here.client.call(apply(CONFIG_MAPS, here.name, note))
    broken = merge_patch(CONFIG_MAPS, here.name, "van.listener.hello", {"data": {key: "kind: ["}})
    here.client.call(as_manager(broken, "kubectl-edit"))
    assert ok(here.van("apply -f -", input=LISTENER % 80)).stdout == "listener/hello configured\n"
    assert here.get(CONFIG_MAPS, "van.listener.hello")["data"] == kept["data"]


def test_beside_a_site_that_cannot_be_read_nothing_is_written(here: Here) -> None:
    ok(here.van("init --site-name west --no-wait"))
    (key,) = here.get(CONFIG_MAPS, "van.site.west")["data"]
    here.client.call(as_manager(merge_patch(CONFIG_MAPS, here.name, "van.site.west", {"data": {key: "kind: ["}}), "kubectl-edit"))
    before = here.listing()
    result = here.van("apply --no-wait -f -", input="apiVersion: skupper.io/v2alpha1\nkind: Site\nmetadata: {name: other}\n")
    assert (result.exit_code, "the Site of this namespace cannot be read: ConfigMap/van.site.west" in result.stderr) == (1, True), (
        result.output
    )
    assert here.listing() == before


SITE_TEXT = "apiVersion: vanrouter.io/v1alpha1\nkind: Site\nmetadata: {name: west}\nspec: {linkAccess: local, settings: {%s}}\n"


@pytest.mark.parametrize("words", ["--objects", "-o yaml"])
def test_a_site_is_printed_as_it_would_be_written_or_refused_as_it_would_be(here: Here, words: str) -> None:
    ok(here.van("init --site-name west --link-access local --routers 2 --no-wait"))
    printed = ok(here.van(f"apply {words} -f -", input=SITE_TEXT % "log-level: debug")).stdout
    assert "routers: '2'" in printed.replace('"', "'"), "what the install keeps is part of it"
    assert "log-level: debug" in printed
    refused = here.van(f"apply {words} -f -", input=SITE_TEXT % "routers: many")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "routers" in refused.stderr


def test_two_listeners_may_swap_their_ports_and_two_new_ones_may_not_have_the_same(here: Here) -> None:
    ok(here.van("init --site-name west --link-access none --no-wait"))

    def two(first: int, second: int) -> str:
        return "---\n".join((LISTENER % port).replace("{name: hello", f"{{name: {name}") for name, port in (("a", first), ("b", second)))

    ok(here.van("apply -f -", input=two(80, 81)))
    assert ok(here.van("apply -f -", input=two(81, 80))).stdout == "listener/a configured\nlistener/b configured\n"
    refused = here.van("apply -f -", input=two(82, 82))
    assert refused.exit_code == 1
    assert "has host" in refused.stderr
