"""Listeners, connectors, expose, and the site as resources: what is written, what stays, what is refused."""

from __future__ import annotations

import json
import stat
from typing import Any

import msgspec
import pytest
import yaml
from fake_site import FakeSite, cond, link_element, listener_element, service_element
from van_calls import Van

from vanrouter.cli.connector import NOUN as CONNECTOR
from vanrouter.cli.listener import NOUN as LISTENER
from vanrouter.cli.multikeylistener import NOUN as MULTI_KEY
from vanrouter.resources import kinds, read_resources, to_dict
from vanrouter.stores import SiteHome


def documents(home: SiteHome) -> dict[str, Any]:
    """What stands in the files of the site, by file name."""
    return {path.name: yaml.safe_load(path.read_text()) for path in sorted(home.resources.directory.iterdir()) if "Site" not in path.name}


def takes_up(site: FakeSite) -> None:
    """A site that has in force, after each reconcile, what stands in its files."""

    def reconcile(_params: object) -> dict[str, Any]:
        for kind in ("Listener", "Connector"):
            site.document[f"{kind.lower()}s"] = [
                listener_element(r.name, spec={**msgspec.to_builtins(r.spec)}, routingKey=r.spec.routing_key, port=r.spec.port)
                for r in SiteHome(site.directory).resources.of_kind(kind)
            ]
        return {"generation": 2, "problems": []}

    site.on["reconcile"] = reconcile


@pytest.mark.parametrize(
    ("noun", "spec"), [(LISTENER, kinds.ListenerSpec), (CONNECTOR, kinds.ConnectorSpec), (MULTI_KEY, kinds.MultiKeyListenerSpec)]
)
def test_every_field_of_the_resource_is_a_flag(noun: Any, spec: type) -> None:
    nested = (kinds.Expose, kinds.HealthCheck, kinds.Strategy, kinds.Priority, kinds.Weighted)

    def keys(struct: type, prefix: str = "") -> set[str]:
        found = set()
        for field in msgspec.structs.fields(struct):
            inner = next((inner for inner in nested if inner.__name__ in str(field.type)), None)
            found |= keys(inner, f"{prefix}{field.encode_name}.") if inner else {prefix + field.encode_name}
        return found

    assert {field.key for field in noun.fields} == keys(spec)


@pytest.mark.parametrize("command", ["listener", "connector"])
def test_create_writes_the_resource_and_returns_when_it_is_in_force(van: Van, site: FakeSite, stopped: SiteHome, command: str) -> None:
    takes_up(site)
    result = van(f"{command} create hello 9090")
    assert (result.exit_code, result.stdout) == (0, f"{command}/hello created\n"), result.stderr
    kind = command.capitalize()
    assert documents(stopped) == {
        f"{kind}-hello.yaml": {
            "apiVersion": "vanrouter.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": "hello"},
            "spec": {"routingKey": "hello", "host": "127.0.0.3" if command == "listener" else "127.0.0.1", "port": 9090},
        }
    }, "a listener is at the service address of its site"
    assert stat.S_IMODE((stopped.resources.directory / f"{kind}-hello.yaml").stat().st_mode) == 0o600
    assert van(f"{command} create hello 9090").stdout == f"{command}/hello unchanged\n"
    result = van(f"{command} create hello 9091")
    assert result.exit_code == 1
    assert f"there is a {command} 'hello' already, with other settings" in result.stderr
    assert f"van {command} update hello" in result.stderr


def takes_up_multi_key(site: FakeSite) -> None:
    def reconcile(_params: object) -> dict[str, Any]:
        found = []
        for r in SiteHome(site.directory).resources.of_kind("MultiKeyListener"):
            strategy = r.spec.strategy
            keys = dict.fromkeys(strategy.priority.routing_keys, 1) if strategy.priority else strategy.weighted.routing_keys
            element = listener_element(r.name, host=r.spec.host, port=r.spec.port, spec=to_dict(r)["spec"], routingKey="")
            element["strategy"] = "priority" if strategy.priority else "weighted"
            element["routingKeys"] = [{"routingKey": key, "weight": n, "matched": key != "b"} for key, n in keys.items()]
            found.append(element)
        site.document["multiKeyListeners"] = found
        return {"generation": 2, "problems": []}

    site.document["multiKeyListeners"] = []
    site.on["reconcile"] = reconcile


def test_a_multi_key_listener_has_all_verbs_and_both_strategies(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    takes_up_multi_key(site)
    result = van("multikeylistener create db 5432 --priority b --priority a")
    assert (result.exit_code, result.stdout) == (0, "multikeylistener/db created\n"), result.stderr
    spec = documents(stopped)["MultiKeyListener-db.yaml"]["spec"]
    assert spec == {"host": "127.0.0.3", "port": 5432, "strategy": {"priority": {"routingKeys": ["b", "a"]}}}
    assert van("multikeylistener update db --weight a=3 --weight b=1 --require-client-cert").exit_code == 0
    spec = documents(stopped)["MultiKeyListener-db.yaml"]["spec"]
    assert spec["strategy"] == {"weighted": {"routingKeys": {"a": 3, "b": 1}}}, "the one takes the place of the other"
    assert spec["requireClientCert"] is True
    lines = [line.split() for line in van("multikeylistener status -o wide").stdout.splitlines()]
    assert lines[0][:5] == ["NAME", "ROUTING", "KEYS", "HOST", "PORT"]
    assert lines[1][:8] == ["db", "a=3,", "b=1", "127.0.0.3", "5432", "yes", "ready", "weighted"]
    assert lines[1][8] == "b", "the key without a target"
    assert van("multikeylistener update db --priority a --unset require-client-cert").exit_code == 0
    assert documents(stopped)["MultiKeyListener-db.yaml"]["spec"] == {
        "host": "127.0.0.3",
        "port": 5432,
        "strategy": {"priority": {"routingKeys": ["a"]}},
    }
    assert van("multikeylistener status db -o name").stdout == "multikeylistener/db\n"
    assert van("multikeylistener delete db").stdout == "multikeylistener/db deleted\n"
    assert van("multikeylistener status").stdout == "No multikeylisteners.\n"
    (resource,) = read_resources(van("multikeylistener generate db 1 --weight a=2 --weight x=y=1 --host 0.0.0.0 --observer none").stdout)
    assert resource.spec.strategy.weighted.routing_keys == {"a": 2, "x=y": 1}  # type: ignore[attr-defined]


def test_update_changes_only_what_is_named(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    takes_up(site)
    before = {
        "apiVersion": "vanrouter.io/v1alpha1",
        "kind": "Connector",
        "metadata": {"name": "db", "labels": {"team": "blue"}, "annotations": {"why": "because"}},
        "spec": {"routingKey": "k", "host": "db.internal", "port": 5432, "tlsCredentials": "tls", "expose": {"port": 1, "address": "a"}},
    }
    file = stopped.resources.directory / "Connector-db.yaml"
    file.write_text(yaml.safe_dump(before))
    assert van("connector update db --port 5433 --expose-port 2 --setting a=b").stdout == "connector/db updated\n"
    after = json.loads(json.dumps(before))
    after["spec"] |= {"port": 5433, "expose": {"port": 2, "address": "a"}, "settings": {"a": "b"}}
    assert yaml.safe_load(file.read_text()) == after
    assert van("connector update db --unset tls-credentials --unset setting").exit_code == 0
    del after["spec"]["tlsCredentials"], after["spec"]["settings"]
    assert yaml.safe_load(file.read_text()) == after
    assert van("connector update db --port 5433").stdout == "connector/db unchanged\n"


def test_a_dry_run_prints_and_changes_nothing(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    result = van("listener create hello 80 --routing-key other --dry-run")
    assert yaml.safe_load(result.stdout)["spec"] == {"routingKey": "other", "host": "127.0.0.3", "port": 80}
    assert "host: 127.0.0.9\n" in van("listener create hello 80 --host 127.0.0.9 --dry-run").stdout
    assert van("listener create hello 80 --dry-run -o json").stdout.startswith("{")
    assert documents(stopped) == {}
    assert van("listener create hello 80 --no-wait").exit_code == 0
    assert "port: 81" in van("listener update hello --port 81 --dry-run").stdout
    assert van("listener delete hello --dry-run").stdout == "listener/hello would be deleted\n"
    assert "port: 80\n" in (stopped.resources.directory / "Listener-hello.yaml").read_text()


@pytest.mark.parametrize("what", ["listener generate hello 8080", "multikeylistener generate hello 8080 --priority a"])
def test_the_host_of_a_generated_listener_is_a_service_of_its_name_in_a_namespace(van: Van, what: str) -> None:
    assert yaml.safe_load(van(f"-p kubernetes {what}").stdout)["spec"]["host"] == "hello"
    assert yaml.safe_load(van(f"-p linux {what}").stdout)["spec"]["host"] == "127.0.0.1"


def test_generate_needs_no_site_and_what_it_prints_is_readable(van: Van) -> None:
    for line, kind in (
        ("listener generate hello 80 --host 0.0.0.0 --tls-credentials tls --setting a=b", "Listener"),
        ("connector generate hello 80 --selector app=hello --include-not-ready-pods --expose-port 8080", "Connector"),
        ("site generate north --link-access 127.0.0.1:7001 --no-service-sync", "Site"),
    ):
        for output in ("yaml", "json"):
            (resource,) = read_resources(van(f"{line} -o {output}").stdout)
            assert resource.kind == kind


def test_delete_removes_one_or_all(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    takes_up(site)
    for name in "abc":
        assert van(f"listener create {name} 9{ord(name)}").exit_code == 0
    assert van("listener delete b").stdout == "listener/b deleted\n"
    assert sorted(documents(stopped)) == ["Listener-a.yaml", "Listener-c.yaml"]
    assert van("listener delete --all -o name").stdout == "listener/a\nlistener/c\n"
    assert documents(stopped) == {}
    result = van("listener delete b")
    assert (result.exit_code, "there is no listener 'b'" in result.stderr) == (1, True)


def test_a_listener_whose_port_is_taken_is_told_at_once(van: Van, site: FakeSite) -> None:
    takes_up(site)
    before = site.on["reconcile"]

    def reconcile(params: dict[str, Any]) -> Any:
        answer = before(params)
        site.document["listeners"][0]["conditions"] = [
            cond("Listening", "False", "PortInUse", "port 9090 of 127.0.0.1 is in use", "stop it")
        ]
        return answer

    site.on["reconcile"] = reconcile
    result = van("listener create hello 9090 --timeout 20s")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: listener hello: port 9090 of 127.0.0.1 is in use\n"
        "Next:  stop it; listener hello stays as it was created in the site's resources, and is in force once that is mended; "
        "take it back: van listener delete hello\n"
    )
    assert (SiteHome(site.directory).resources.directory / "Listener-hello.yaml").exists()


def test_a_change_for_a_site_that_does_not_run_is_written_and_said_to_wait(van: Van, stopped: SiteHome) -> None:
    result = van("listener create hello 9090")
    assert result.exit_code == 3
    assert "takes effect when it starts" in result.stderr
    assert list(documents(stopped)) == ["Listener-hello.yaml"]
    assert van("listener create two 9091 --no-wait").exit_code == 0


def test_a_broken_file_of_somebody_is_named_and_does_not_stop_a_change(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    takes_up(site)
    (stopped.resources.directory / "mine.yaml").write_text("kind: [")
    site.on["reconcile"](None)
    site.on["reconcile"] = lambda _: {"generation": 1, "problems": [{"path": "mine.yaml", "message": "not valid YAML", "hint": "mend it"}]}
    site.document["listeners"] = [listener_element("hello", host="127.0.0.3")]
    result = van("listener create hello 9090")
    assert result.exit_code == 0
    assert result.stderr == "Warning: mine.yaml: not valid YAML\nNext:    mend it\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("listener create hello", "Missing argument 'PORT'"),
        ("listener create hello 0", "0 is not in the range"),
        ("listener create hello 70000", "70000 is not in the range"),
        ("listener create hello http", "'http' is not a valid port"),
        ("listener create HELLO 80", "must be 1 to 63 characters"),
        ("listener create ../x 80", "must be 1 to 63 characters"),
        ("listener create hello 80 --host 1.2.3", "neither an IP address nor a host name"),
        ("listener create hello 80 --type udp", "'udp' is not 'tcp'"),
        ("listener create hello 80 --setting novalue", "'novalue' is not KEY=VALUE"),
        ("listener update hello", "nothing to change is named"),
        ("listener update hello --unset nonsense", "not a field; fields are: port, routing-key"),
        ("multikeylistener create db 1", "no routing key is named; name them in their order (--priority KEY"),
        ("multikeylistener create db 1 --priority a --weight b=1", "exactly one of priority and weighted"),
        ("multikeylistener create db 1 --priority a --priority a", "has a routing key twice"),
        ("multikeylistener create db 1 --weight a", "'a' is not KEY=NUMBER"),
        ("multikeylistener create db 1 --weight a=0", "has a weight below 1"),
        ("multikeylistener create db 1 --weight a=1 --weight a=2", "'a' is given twice"),
        ("listener delete", "name one listener, or say --all"),
        ("connector create c 80 --host h --selector a=b", "exactly one of spec.host and spec.selector is needed"),
        ("expose host --address a", "host HOST:PORT"),
        ("expose host 127.0.0.1 --address a", "the port is missing"),
        ("expose host 127.0.0.1:99999 --address a", "port 99999"),
        ("expose host 127.0.0.1:80", "Missing option '--address'"),
        ("-p kubernetes connector generate back 8080", "the server is not named: --selector LABELS, or --host HOST"),
        ("-p kubernetes expose deployment/a --port 80 --target-port http,https", "with several ports write PORT:TARGET for each"),
        ("apply --force-conflicts -f -", "are for Kubernetes; this is a host"),
        ("expose nonsense --address a", "'nonsense' cannot be exposed"),
        ("expose host 127.0.0.1:80 --address a --protocol sctp", "'sctp' is not one of"),
        ("unexpose", "Missing argument"),
        ("unexpose a b", "name one service"),
        ("update", "nothing to change is named"),
        ("update --link-access nowhere", "or write none"),
        ("init --link-access 127.0.0.1", "the port is missing"),
        ("init --site-name NORTH", "must be 1 to 63 characters"),
        ("init --service-address 300.1.1.1", "neither an IP address nor a host name"),
        ("init --plane gold", "'gold' is not one of"),
    ],
)
def test_wrong_values_are_usage_errors_and_change_nothing(van: Van, site: FakeSite, stopped: SiteHome, line: str, says: str) -> None:
    result = van(line)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert documents(stopped) == {}


# ---- expose, unexpose ----


def exposes(site: FakeSite, *, linked: bool = True) -> None:
    """A site that takes up connectors, and whose neighbour gets the service with the third status."""
    takes_up(site)
    site.document["links"] = [link_element("south")] if linked else []
    status = site.on["status"]

    def answer(params: dict[str, Any]) -> Any:
        site.document["services"] = []
        for r in SiteHome(site.directory).resources.of_kind("Connector"):
            service = service_element(r.spec.expose.address, r.spec.expose.port)
            service["targets"][0]["connector"] = r.name
            if linked and len(site.called("status")) < 3:
                service["listeners"].pop()
            site.document["services"].append(service)
        return status(params)

    site.on["status"] = answer


def test_expose_writes_one_connector_and_waits_until_the_linked_sites_have_it(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    exposes(site)
    result = van("expose host 127.0.0.1:8080 --port 9090 --address hello")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Service hello is exposed on port 9090.\n", "")
    assert len(site.called("status")) >= 3
    spec = {"routingKey": "hello", "host": "127.0.0.1", "port": 8080, "expose": {"port": 9090, "address": "hello"}}
    assert documents(stopped)["Connector-hello.yaml"]["spec"] == spec
    result = van("expose host/127.0.0.1:8080 --port 9090 --address hello")
    assert result.stdout == "Service hello is exposed on port 9090 (it was already).\n"
    assert len(documents(stopped)) == 1


def test_a_second_server_and_a_second_port_are_further_connectors(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    exposes(site, linked=False)
    assert van("expose host 127.0.0.1:8080 --address hello").exit_code == 0
    assert van("expose host 127.0.0.1:8081 --port 8080 --address hello").exit_code == 0
    assert van("expose host 127.0.0.1:8082 --port 8080 --address hello").exit_code == 0
    assert van("expose host 127.0.0.1:8080 --port 443 --address hello").exit_code == 0
    assert sorted(documents(stopped)) == [
        "Connector-hello-443.yaml",
        "Connector-hello-8080-2.yaml",
        "Connector-hello-8080.yaml",
        "Connector-hello.yaml",
    ]
    taken_back = "Server 127.0.0.1:8081 is taken back from service hello, port 8080; 2 other servers of this site still serve it.\n"
    assert van("unexpose host 127.0.0.1:8081").stdout == taken_back
    assert len(documents(stopped)) == 3
    assert van("unexpose hello --port 443").stdout == "Service hello is no longer exposed on port 443 by this site.\n"
    assert van("unexpose hello").stdout.count("no longer exposed") == 2
    assert documents(stopped) == {}


def test_a_site_that_does_not_get_it_is_named_when_time_is_up(van: Van, site: FakeSite) -> None:
    exposes(site)
    site.document["links"].append(link_element("west", remoteSiteId="c" * 52, remoteSiteName="west"))
    site.document["links"].append(link_element("down", remoteSiteId="d" * 52, remoteSiteName="down", active=False))
    result = van("expose host 127.0.0.1:8080 --address hello --timeout 500ms")
    assert result.exit_code == 4
    assert "connector hello: not within 500ms; not there yet: west" in result.stderr
    assert "down" not in result.stderr


def test_a_site_that_cannot_take_it_is_said_and_not_waited_for(van: Van, site: FakeSite) -> None:
    exposes(site)
    site.document["links"].append(link_element("west", remoteSiteId="c" * 52, remoteSiteName="west"))
    status = site.on["status"]

    def answer(params: dict[str, Any]) -> Any:
        answer = status(params)
        for service in answer["services"]:
            service["problems"] = [{"site": "west", "siteId": "c" * 52, "port": 8080, "message": "127.0.0.1:8080 is in use"}]
        return answer

    site.on["status"] = answer
    result = van("expose host 127.0.0.1:8080 --address hello --timeout 5s")
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: site west does not listen for hello: 127.0.0.1:8080 is in use\n")
    assert "service hello: at site west: 127.0.0.1:8080 is in use" in van("status").stdout


def test_several_ports_are_the_documents_of_one_stream_and_one_list(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    exposes(site, linked=False)
    for more in ("--dry-run", "--dry-run -o yaml", "--no-wait -o yaml"):
        result = van(f"expose host 127.0.0.1:8080 --port 80,443 --address hello {more}")
        assert [r["spec"]["expose"]["port"] for r in yaml.safe_load_all(result.stdout)] == [80, 443], result.output
    shown = json.loads(van("expose host 127.0.0.1:8080 --port 80,443 --address hello --no-wait -o json").stdout)
    assert [r["spec"]["expose"]["port"] for r in shown["items"]] == [80, 443]
    assert json.loads(van("expose host 127.0.0.1:8080 --port 80 --address hello --no-wait -o json").stdout)["kind"] == "Connector"


@pytest.mark.parametrize("line", ["unexpose hello", "connector delete --all"])
def test_all_of_several_go_also_where_the_site_does_not_run(van: Van, stopped: SiteHome, line: str) -> None:
    assert van("expose host 127.0.0.1:8080 --port 80,443 --address hello --no-wait").exit_code == 0
    assert len(documents(stopped)) == 2
    assert van(line).exit_code == 3
    assert documents(stopped) == {}


def test_a_workload_is_not_for_this_platform(van: Van, stopped: SiteHome) -> None:
    for line in ("expose deployment/hello --port 80 --address hello", "unexpose deployment/hello"):
        result = van(line)
        assert result.exit_code == 1
        assert "a deployment lives on Kubernetes, and this is a host" in result.stderr


def test_unexposing_what_is_not_exposed_says_so(van: Van, site: FakeSite) -> None:
    result = van("unexpose hello")
    assert (result.exit_code, "exposes nothing that matches 'hello'" in result.stderr) == (1, True)


# ---- the site ----


def test_update_of_the_site_changes_only_what_is_named(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    file = stopped.resources.directory / "Site-north.yaml"
    assert van("update --no-service-sync").stdout == "site/north updated\n"
    assert yaml.safe_load(file.read_text())["spec"] == {"serviceAddress": "127.0.0.3", "serviceSync": False}
    assert van("update --link-access 127.0.0.1:7001 --service-sync").exit_code == 0
    assert yaml.safe_load(file.read_text())["spec"] == {"serviceAddress": "127.0.0.3", "linkAccess": "127.0.0.1:7001"}
    assert van("site update --link-access none --dry-run").exit_code == 0
    assert "127.0.0.1:7001" in file.read_text()
    assert site.called("reconcile")


def test_init_on_a_running_site_says_so_and_changes_only_what_is_named(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    result = van("init")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "Site north existed already; it is unchanged.\nOthers can link to it at 127.0.0.1:7001.\n"
    assert van("init --site-name north --no-service-sync").stdout.startswith("Site north existed already; it was updated.\n")
    spec = yaml.safe_load((stopped.resources.directory / "Site-north.yaml").read_text())["spec"]
    assert spec == {"serviceAddress": "127.0.0.3", "serviceSync": False}
    result = van("init --site-name other")
    assert result.exit_code == 1
    assert "site 'default' exists and is called 'north'" in result.stderr


def test_init_in_a_directory_of_something_else_is_refused(van: Van, home: Any) -> None:
    (home / "default").mkdir()
    (home / "default" / "thesis.tex").write_text("years of work")
    result = van("init")
    assert (result.exit_code, "holds other files" in result.stderr) == (1, True)
    result = van("delete")
    assert result.exit_code == 1
    assert (home / "default" / "thesis.tex").exists()


def test_init_without_starting_makes_the_directory_and_the_resource(van: Van, home: Any) -> None:
    result = van("-n north init --no-start --link-access 127.0.0.1:7001")
    assert result.stdout == f"Site north is in {home}/north. Start it: vanrouter run {home}/north\n"
    assert sorted(entry.name for entry in (home / "north").iterdir()) == ["resources", "run", "state"]
    assert stat.S_IMODE((home / "north").stat().st_mode) == 0o700
    (resource,) = read_resources((home / "north" / "resources" / "Site-north.yaml").read_text())
    assert (resource.name, resource.spec.link_access) == ("north", "127.0.0.1:7001")  # type: ignore[attr-defined]
    assert van("-n north status").exit_code == 3


def test_init_dry_run_makes_nothing(van: Van, home: Any) -> None:
    assert "name: north" in van("-n north init --link-access 127.0.0.1:1 --dry-run").stdout
    assert list(home.iterdir()) == []


def test_delete_removes_a_site_that_does_not_run(van: Van, stopped: SiteHome, home: Any) -> None:
    assert van("delete").stdout == "Site north is deleted.\n"
    assert list(home.iterdir()) == []
    assert van("delete").exit_code == 1


def test_delete_refuses_a_directory_with_files_that_are_not_the_sites(van: Van, stopped: SiteHome) -> None:
    (stopped.directory / "notes.txt").write_text("mine")
    result = van("delete")
    assert result.exit_code == 1
    assert "it holds notes.txt" in result.stderr
    assert stopped.exists


def test_delete_removes_a_site_whose_resources_are_broken(van: Van, stopped: SiteHome, home: Any) -> None:
    (stopped.resources.directory / "Site-north.yaml").write_text("kind: [")
    assert van("delete").exit_code == 0
    assert list(home.iterdir()) == []
