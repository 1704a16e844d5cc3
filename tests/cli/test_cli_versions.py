"""``van version``: this program, and what runs at the site, on a host and in a namespace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fake_site import FakeSite
from test_cli_namespace import Here, ok
from van_calls import Van

from vanrouter import __version__
from vanrouter.kube.calls import apply
from vanrouter.kube.kinds import CONFIG_MAPS
from vanrouter.kube.names import STATUS, labelled


def test_without_a_site_it_says_what_this_program_is_and_why_it_knows_no_more(van: Van) -> None:
    result = van("version")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == ["client", __version__, "1", "this", "program"]
    assert "Of the site nothing is known: there is no site 'default'" in result.stdout
    assert json.loads(van("version --client -o json").stdout) == {"client": {"version": __version__, "wire": 1}}


def test_a_router_of_another_version_is_named_with_what_to_do(van: Van, site: FakeSite) -> None:
    site.document["site"] |= {"version": "0.0.9", "wire": 2}
    result = van("version")
    assert result.stdout.splitlines()[2].split() == ["router", "0.0.9", "2", "north"]
    assert f"router north is of version 0.0.9, and this program of {__version__}" in result.stderr
    assert "router north speaks version 2 of the link protocol, and this program 1" in result.stderr
    assert "takes over, and cuts no stream" in result.stderr


def test_the_same_everywhere_is_no_warning(van: Van, site: FakeSite) -> None:
    site.document["site"] |= {"version": __version__, "wire": 1}
    result = van("version")
    assert (result.stderr, len(result.stdout.splitlines())) == ("", 3)
    assert json.loads(van("version -o json").stdout)["differences"] == []


@pytest.fixture
def here(van: Van, api_server: Any, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    found = Here(van, api_server, namespace, monkeypatch)
    with found.client:
        yield found


def test_in_a_namespace_controller_and_each_router_have_their_own(here: Here) -> None:
    ok(here.van("init --site-name west --no-wait"))
    unknown = ok(here.van("version"))
    assert "Of the site nothing is known: site west is installed in namespace" in unknown.stdout
    routers = [{"pod": "van-router-a", "version": __version__, "wire": 1}, {"pod": "van-router-b", "version": "0.0.9", "wire": 1}]
    document = {"site": {"name": "west", "routers": routers, "controller": {"name": "van-controller-x", "version": "0.0.8"}}}
    value = {"metadata": labelled("van-status.site.west", STATUS), "data": {"site.json": json.dumps(document)}}
    here.client.call(apply(CONFIG_MAPS, here.name, value))
    result = ok(here.van("version"))
    rows = [line.split()[:2] for line in result.stdout.splitlines()[1:]]
    assert rows == [["client", __version__], ["controller", "0.0.8"], ["router", __version__], ["router", "0.0.9"]]
    assert f"controller van-controller-x is of version 0.0.8, and this program of {__version__}" in result.stderr
    assert f"bring all to this version: van -n {here.name} update" in result.stderr
    said = json.loads(ok(here.van("version -o json")).stdout)
    assert said["routers"][1] == {"name": "van-router-b", "version": "0.0.9", "wire": 1}
    assert len(said["differences"]) == 2
