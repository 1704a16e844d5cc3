"""What `van status` says, to the letter: a person's first look."""

from __future__ import annotations

import json

import pytest
import yaml
from fake_site import FakeSite, cond, link_element, listener_element, service_element
from van_calls import Van


def test_a_site_in_order_is_one_line(van: Van, site: FakeSite) -> None:
    site.document["site"] |= {"linkedSites": 1, "exposedServices": 1}
    result = van("status")
    assert result.stdout == "Site north is ready. It is linked to 1 other site. It has 1 exposed service.\n"
    assert (result.exit_code, result.stderr) == (0, "")


def test_counts_are_spelled_right_for_none_and_many(van: Van, site: FakeSite) -> None:
    assert van("status").stdout == "Site north is ready. It is not linked to any other site. It has no exposed services.\n"
    site.document["site"] |= {"linkedSites": 3, "exposedServices": 12}
    assert van("status").stdout == "Site north is ready. It is linked to 3 other sites. It has 12 exposed services.\n"


def test_a_site_that_only_consumes_says_what_it_reaches(van: Van, site: FakeSite) -> None:
    unreachable = service_element("nowhere")
    unreachable["listeners"] = unreachable["listeners"][1:]
    site.document["services"] = [service_element("hello"), unreachable]
    site.document["site"] |= {"linkedSites": 1}
    assert van("status").stdout == "Site north is ready. It is linked to 1 other site. It reaches 1 service of another site.\n"
    site.document["services"] += [service_element("more")]
    site.document["site"] |= {"linkedSites": 2}
    assert van("status").stdout == "Site north is ready. It is linked to 2 other sites. It reaches 2 services of other sites.\n"


def test_problems_come_with_reason_and_next_action(van: Van, site: FakeSite) -> None:
    site.document["links"] = [link_element("to-south", active=False)]
    in_use = cond(
        "Listening", "False", "PortInUse", "port 9090 of 127.0.0.1 is in use by another program", "stop it, or van update --service-address"
    )
    site.document["listeners"] = [
        listener_element("hello", conditions=[cond("Configured"), in_use, cond("Ready", "False", "PortInUse", "same")])
    ]
    site.document["problems"] = [{"path": "Listener-x.yaml", "message": "not valid YAML: line 3", "hint": "check the indentation"}]
    assert van("status").stdout == (
        "Site north is ready. It is not linked to any other site. It has no exposed services.\n"
        "\n"
        "Problems:\n"
        "  Listener-x.yaml: not valid YAML: line 3\n"
        "    next: check the indentation\n"
        "  link to-south: nothing listens there\n"
        "    next: check the port\n"
        "  listener hello: port 9090 of 127.0.0.1 is in use by another program\n"
        "    next: stop it, or van update --service-address\n"
    )


def test_an_address_that_is_waited_for_is_said_with_since_when(van: Van, site: FakeSite) -> None:
    waits = cond("LinkAccess", "False", "Pending", "waiting for a host of Route/van-router in north", "oc describe route van-router")
    site.document["site"]["conditions"] = [cond("Ready"), waits | {"since": "2026-01-01T00:00:00Z"}]
    assert van("status").stdout.endswith(
        "  site north: waiting for a host of Route/van-router in north (since 2026-01-01T00:00:00Z)\n"
        "    next: oc describe route van-router\n"
    )


def test_a_problem_that_the_site_lists_is_not_said_twice(van: Van, site: FakeSite) -> None:
    site.document["links"] = [link_element("to-south", active=False)]
    site.document["problems"] = [{"path": "link to-south", "message": "nothing listens there", "hint": "check the port"}]
    assert van("status").stdout.count("nothing listens there") == 1


def test_a_site_that_is_not_ready_says_why_and_exits_3(van: Van, site: FakeSite) -> None:
    site.document["site"] |= {
        "ready": False,
        "conditions": [cond("Ready", "False", "AccessInUse", "port 7001 is in use", "choose another")],
    }
    result = van("status")
    assert result.exit_code == 3
    assert result.stdout.startswith("Site north is not ready: port 7001 is in use. It is not linked")
    assert "next: choose another" in result.stdout


def test_a_site_of_several_routers_says_how_many_and_how_many_of_them_are_ready(van: Van, site: FakeSite) -> None:
    routers = [{"pod": "van-router-a", "ready": True}, {"pod": "van-router-b", "ready": True}]
    site.document["site"] |= {"controller": {"name": "c", "version": "1"}, "routers": routers}
    assert van("status").stdout.startswith("Site north is ready, in interior mode, with 2 routers. It is not linked")
    routers[1]["ready"] = False
    assert van("status").stdout.startswith("Site north is ready, in interior mode, with 2 routers, 1 of them ready. It is")
    site.document["site"]["routers"] = routers[:1]
    assert van("status").stdout.startswith("Site north is ready, in interior mode. It is")


def test_waiting_ends_when_it_is_ready_or_with_exit_code_4(van: Van, site: FakeSite) -> None:
    site.document["site"]["ready"] = False
    result = van("status --wait --timeout 200ms")
    assert result.exit_code == 4
    assert "site default: not within 200ms" in result.stderr

    answer = site.on["status"]

    def later(params: dict[str, object]) -> object:
        site.document["site"]["ready"] = len(site.called("status")) > 3
        return answer(params)

    site.on["status"] = later
    assert van("status --wait --timeout 5s").exit_code == 0


def test_formats(van: Van, site: FakeSite) -> None:
    assert json.loads(van("status -o json").stdout) == site.document
    assert yaml.safe_load(van("status -o yaml").stdout) == site.document
    assert van("status -o name").stdout == "site/north\n"
    assert van("status -o table").stdout == (
        "SITE    STATE   LINKED SITES   EXPOSED SERVICES   PROBLEMS\nnorth   ready   0              0                  0\n"
    )
    assert "127.0.0.1:7001" in van("status -o wide").stdout


def test_services_show_where_they_come_from_and_where_they_are_here(van: Van, site: FakeSite) -> None:
    assert van("service status").stdout == "No services. Offer one: van expose host HOST:PORT --port PORT --address NAME\n"
    lost = service_element("lost")
    lost["targets"] = []
    site.document["services"] = [lost, service_element("hello")]
    assert van("service status").stdout == (
        "ADDRESS   PORTS   HERE             SITES   STATE\n"
        "hello     9090    127.0.0.1:9090   south   ready\n"
        "lost      9090    127.0.0.1:9090   -       no server\n"
    )
    assert "south/hello" in van("service status -o wide").stdout
    assert van("service status -o name").stdout == "service/hello\nservice/lost\n"
    assert json.loads(van("service status hello -o json").stdout)["address"] == "hello"
    result = van("service status absent")
    assert result.exit_code == 1
    assert "nobody in the network offers or asks for 'absent'" in result.stderr


def test_a_conflict_is_told_with_its_text(van: Van, site: FakeSite) -> None:
    site.document["services"] = [service_element("hello") | {"conflict": "south offers hello as udp; the tcp of north was first"}]
    result = van("service status")
    assert "conflict" in result.stdout
    assert "hello: south offers hello as udp" in result.stdout
    assert "south offers hello as udp" in van("status").stdout


def test_hosts_lines_are_those_of_the_listeners_here(van: Van, site: FakeSite) -> None:
    site.document["listeners"] = [
        listener_element("hello"),
        listener_element("hello-two", routingKey="hello", port=9091),
        listener_element("six", host="::", port=1),
        listener_element("odd", routingKey="not/a/name"),
    ]
    result = van("hosts")
    assert result.stdout == "127.0.0.1\thello\n::1\tsix\n"
    assert "service not/a/name: not a name that /etc/hosts can hold" in result.stderr
    assert json.loads(van("hosts -o json").stdout)[0] == {"address": "127.0.0.1", "name": "hello"}


@pytest.mark.parametrize("command", ["listener", "connector"])
def test_lists_of_resources(van: Van, site: FakeSite, command: str) -> None:
    assert van(f"{command} status").stdout == f"No {command}s.\n"
    lonely = [cond("Configured"), cond("Matched", "False", "NoPartner", "nobody serves it", "expose it somewhere")]
    site.document[f"{command}s"] = [listener_element("hello"), listener_element("alone", matched=False, conditions=lonely)]
    assert van(f"{command} status").stdout == (
        "NAME    ROUTING KEY   HOST        PORT   MATCHED   STATE\n"
        "alone   alone         127.0.0.1   9090   no        NoPartner\n"
        "hello   hello         127.0.0.1   9090   yes       ready\n"
        "\n"
        f"{command} alone: nobody serves it\n"
        "  next: expose it somewhere\n"
    )
    assert van(f"{command} status -o name").stdout == f"{command}/alone\n{command}/hello\n"
    assert json.loads(van(f"{command} status hello -o json").stdout)["name"] == "hello"
    result = van(f"{command} status other")
    assert result.exit_code == 1
    assert f"there is no {command} 'other'; {command}s of this site: alone, hello" in result.stderr
