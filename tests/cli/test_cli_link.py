"""Tokens and links: what is asked of the site, what is written, what is refused."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from fake_site import SOUTH, FakeSite, Refusal, cond, link_element
from van_calls import Van

from vanrouter.links.status import words_for_silence
from vanrouter.pki.secret import Secret
from vanrouter.resources import read_resources
from vanrouter.stores import SiteHome
from vanrouter.tokens.token import AccessToken, Endpoint, format_token, parse_token

TEXT = "apiVersion: v1\nkind: Secret\n"


@pytest.fixture
def issuing(site: FakeSite) -> FakeSite:
    site.on["token.issue"] = lambda p: {
        "name": p.get("name", "north-1"),
        "yaml": TEXT,
        "expires": "2026-01-02T03:19:05Z",
        "uses": p["uses"],
    }
    return site


@pytest.fixture(scope="session")
def token_text() -> str:
    trustme = pytest.importorskip("trustme")
    ca = trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes().decode()
    now = time.time()
    return format_token(
        AccessToken(
            name="north-1", id="a" * 26, secret=Secret(b"s" * 32), endpoints=(Endpoint("127.0.0.1", 7001),), ca=ca,
            issuer="a" * 52, issuer_name="north", expires=now + 900, issued=now,
        )
    )  # fmt: skip


# ---- token create ----


def test_a_token_is_written_for_its_owner_alone_and_says_what_to_do_next(van: Van, issuing: FakeSite, tmp_path: Path) -> None:
    result = van("token create north.yaml")
    assert result.stdout == (
        "Token north-1 is in north.yaml. It can be redeemed once, within 15m.\n"
        "It is a secret. Take it to the other site and run there: van -p linux link create north.yaml\n"
    )
    file = tmp_path / "north.yaml"
    assert file.read_text() == TEXT
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert issuing.called("token.issue") == [{"uses": 1, "expiry_seconds": 900, "cost": 1}]
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "home"] == ["north.yaml"]


def test_what_is_named_reaches_the_site(van: Van, issuing: FakeSite) -> None:
    result = van("token create t.yaml --uses 3 --expiry 1h30m --cost 7 --name mine --host gate.example -o json")
    assert issuing.called("token.issue") == [{"uses": 3, "expiry_seconds": 5400, "cost": 7, "name": "mine", "host": "gate.example"}]
    assert json.loads(result.stdout) == {"name": "mine", "file": "t.yaml", "uses": 3, "expires": "2026-01-02T03:19:05Z"}


def test_a_token_goes_to_stdout_and_nothing_else_does(van: Van, issuing: FakeSite) -> None:
    assert van("token create -").stdout == TEXT


def test_no_file_is_written_over_and_no_grant_made_for_nothing(van: Van, issuing: FakeSite, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("precious")
    result = van("token create old")
    assert result.exit_code == 1
    assert "old exists already" in result.stderr
    assert "--force" in result.stderr
    assert (tmp_path / "old").read_text() == "precious"
    assert issuing.called("token.issue") == []
    assert van("token create old --force").exit_code == 0
    assert (tmp_path / "old").read_text() == TEXT
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("token create no/such/dir", 1, "mkdir -p no/such"),
        ("token create home", 2, "is a directory"),
        ("token create t --uses 0", 2, "--uses"),
        ("token create t --expiry soon", 2, "'soon' is not a duration"),
        ("token create t --expiry 0s", 2, "duration '0s'"),
        ("token create t --cost 0", 2, "--cost"),
        ("token create t --name A_B", 2, "'A_B' must be 1 to 63 characters"),
        ("token create t --host not/a/host", 2, "neither an IP address nor a host name"),
        ("token create - -o json", 2, "leave -o away"),
        ("token create", 2, "Missing argument 'FILE'"),
    ],
)
def test_wrong_tokens_are_refused_before_anything_is_asked(van: Van, issuing: FakeSite, line: str, code: int, says: str) -> None:
    result = van(line)
    assert (result.exit_code, issuing.called("token.issue")) == (code, [])
    assert says in result.stderr


# ---- token status, delete ----


def test_what_became_of_a_token_is_told_to_who_issued_it(van: Van, site: FakeSite) -> None:
    assert van("token status").stdout == "No tokens. Make one: van token create FILE\n"
    site.document["grants"] = [
        {
            "name": "north-1",
            "id": "x",
            "spec": {"redemptionsAllowed": 2, "cost": 1},
            "state": "open",
            "uses": 2,
            "used": 1,
            "created": "2026-01-02T03:04:05Z",
            "expires": "2026-01-02T03:19:05Z",
            "redeemedBy": [{"siteId": SOUTH, "site": "south", "at": "2026-01-02T03:05:05Z"}],
            "conditions": [],
        }
    ]
    assert van("token status").stdout == (
        "NAME      STATE   USED     EXPIRES                REDEEMED BY\nnorth-1   open    1 of 2   2026-01-02T03:19:05Z   south\n"
    )
    assert json.loads(van("token status north-1 -o json").stdout)["uses"] == 2
    grant = site.document["grants"][0]
    for source, said in (
        ("ConfigMap/shop: grants.yaml", "url, code, ca and a token file are in Secret/van-token.north-1."),
        ("accessgrants.vanrouter.io/north-1", "kubectl get accessgrants.vanrouter.io/north-1 -o yaml"),
    ):
        grant["source"] = source
        assert said in van("token status").stdout
    del grant["source"]
    assert van("token status other").exit_code == 1
    site.document["grants"][0]["state"] = "elsewhere"
    assert "another router of this site made it" in van("token status").stdout
    site.on["grant.delete"] = lambda params: {"deleted": params["name"]}
    assert van("token delete north-1").stdout == "Token north-1 can no longer be redeemed.\n"
    assert site.called("grant.delete") == [{"name": "north-1"}]


# ---- link create ----


def redeems(site: FakeSite, **element: Any) -> None:
    def redeem(params: dict[str, Any]) -> dict[str, str]:
        name = params.get("name", "north")
        site.document["links"].append(link_element(name, remoteSiteName="north", **element))
        return {"link": name}

    site.on["token.redeem"] = redeem


def test_a_link_is_made_from_a_file_or_from_stdin_and_waited_for(van: Van, site: FakeSite, tmp_path: Path, token_text: str) -> None:
    redeems(site)
    (tmp_path / "t.yaml").write_text(token_text)
    (tmp_path / "t.yaml").chmod(0o600)
    result = van("link create t.yaml")
    assert (result.stdout, result.stderr) == ("Link north to site north is active.\n", "")
    assert van("link create - --name two --cost 5 -o name", input=token_text).stdout == "link/two\n"
    first, second = site.called("token.redeem")
    assert parse_token(first["token"]) == parse_token(token_text)
    assert (second["name"], second["cost"]) == ("two", 5)
    assert json.loads(van("link create - --name three -o json", input=token_text).stdout)["active"] is True


def test_the_name_of_a_link_is_an_argument_or_an_option(van: Van, site: FakeSite, tmp_path: Path, token_text: str) -> None:
    (tmp_path / "t.yaml").write_text(token_text)
    (tmp_path / "t.yaml").chmod(0o600)
    site.on["token.redeem"] = lambda params: {"link": params["name"]}
    for line in ("t.yaml backup", "t.yaml --name backup", "t.yaml backup --name backup"):
        assert van(f"link create {line} --no-wait -o name").stdout == "link/backup\n"
    result = van("link create t.yaml backup --name other --no-wait")
    assert (result.exit_code, "two names are given" in result.stderr) == (2, True)


def test_a_link_to_a_router_that_another_link_leads_to_says_so_at_once(van: Van, site: FakeSite, token_text: str) -> None:
    double = cond("Distinct", "False", "SameRouter", "link two leads to the same router as link one", "delete one: van link delete two")
    found = link_element("two", cost=50, costInForce=3, routers=["r"])
    found["conditions"].append(double)
    other = link_element("one", cost=3, costInForce=3, routers=["r"])
    other["conditions"].append(double | {"message": "link one leads to the same router as link two"})
    site.document["links"] = [other, found]
    site.on["token.redeem"] = lambda _: {"link": "two"}
    result = van("-n default link create -", input=token_text)
    assert result.exit_code == 0
    assert "Warning: link two leads to the same router as link one\nNext:    delete one: van -n default link delete two\n" in result.stderr
    shown = van("link status").stdout
    assert "two    active   outgoing    south   50 (3 counts)" in shown
    assert "\nlink two: link two leads to the same router" in shown
    assert "\nlink one: link one leads to the same router" in shown
    assert van("status").stdout.count("leads to the same router") == 1, "one entry for one cause"


def test_joining_two_networks_is_said_before_and_after(van: Van, site: FakeSite, token_text: str) -> None:
    redeems(site)
    site.document["links"] = [link_element("east")]
    known = [("north", True), ("east", False)]

    def network(_: dict[str, Any]) -> dict[str, Any]:
        far = ["far"] if site.called("token.redeem") else []
        sites = [{"id": name * 10, "name": name, "self": own} for name, own in [*known, *((name, False) for name in far)]]
        return {"sites": sites, "links": [], "services": []}

    site.on["network"] = network
    result = van("link create -", input=token_text)
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: this site is linked to east already: if ")
    assert result.stderr.splitlines()[1].endswith("van link delete north-1")
    assert result.stderr.splitlines()[2].endswith(" came far")
    assert result.stderr.splitlines()[3].endswith("van link delete north"), "the name that it got"
    order = [name for name, _ in site.calls if name in ("network", "token.redeem")]
    assert order == ["network", "token.redeem", "network"]


@pytest.mark.parametrize("case", ["the issuer is known", "this site is an edge", "a second link to the issuer"])
def test_where_no_networks_are_joined_nothing_is_said_of_it(van: Van, site: FakeSite, token_text: str, case: str) -> None:
    redeems(site)
    issuer = parse_token(token_text).issuer
    site.document["links"] = [link_element("east")]
    sites = [{"id": "h" * 52, "name": "here", "self": True}, {"id": SOUTH, "name": "east", "self": False}]
    if case == "the issuer is known":
        sites.append({"id": issuer, "name": "north", "self": False})
    elif case == "this site is an edge":
        site.document["site"]["edge"] = True
    else:
        site.document["links"].append(link_element("to-north", active=False, remoteSiteId=issuer))
    site.on["network"] = lambda _: {"sites": sites, "links": [], "services": []}
    result = van("link create -", input=token_text)
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_token_that_others_may_have_read_is_used_with_a_warning(van: Van, site: FakeSite, tmp_path: Path, token_text: str) -> None:
    redeems(site)
    (tmp_path / "t.yaml").write_text(token_text)
    (tmp_path / "t.yaml").chmod(0o644)
    result = van("link create t.yaml")
    assert result.exit_code == 0
    assert "t.yaml has mode 0644: others on this machine may have read the token" in result.stderr


def test_a_link_that_does_not_come_up_says_why_and_exits_4(van: Van, site: FakeSite, token_text: str) -> None:
    redeems(site, active=False)
    result = van("link create - --timeout 300ms", input=token_text)
    assert result.exit_code == 4
    assert result.stderr.startswith("Error: link north: not within 300ms; nothing listens there\nNext:  ")
    assert van("link create - --no-wait --name x", input=token_text).stdout == "Link x is being dialled. See: van link status x\n"


def test_a_link_that_cannot_work_fails_at_once(van: Van, site: FakeSite, token_text: str) -> None:
    redeems(site, active=False, conditions=[cond("Configured", "False", "NoCredential", "its credential is gone", "redeem a new token")])
    result = van("link create - --timeout 20s", input=token_text)
    assert result.exit_code == 1
    assert result.stderr == "Error: link north: its credential is gone\nNext:  redeem a new token\n"


def test_a_refused_token_is_said_as_the_site_says_it(van: Van, site: FakeSite, token_text: str) -> None:
    def refuse(_params: object) -> object:
        raise Refusal("token", "this site has used the token already", "make a new one")

    site.on["token.redeem"] = refuse
    result = van("link create -", input=token_text)
    assert (result.exit_code, result.stderr) == (1, "Error: this site has used the token already\nNext:  make a new one\n")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Secret"),
        (b"\xff\xfe", "UTF-8"),
        (b"a: [", "is not YAML"),
        (b"kind: Pod\napiVersion: v1\n", "Secret"),
        (b"x" * 70_000, "at most 65536"),
    ],
)
def test_what_is_not_a_token_is_refused_before_the_site_is_asked(
    van: Van, site: FakeSite, tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "t").write_bytes(content)
    for line, given in (("link create t", None), ("link create -", content)):
        result = van(line, input=given)
        assert result.exit_code == 1
        assert says in result.stderr
        assert "Traceback" not in result.output
    assert site.called("token.redeem") == []


@pytest.mark.parametrize(("file", "says"), [("absent", "there is no file absent"), ("home", "home")])
def test_files_that_cannot_be_read(van: Van, site: FakeSite, file: str, says: str) -> None:
    result = van(f"link create {file}")
    assert result.exit_code in (1, 2)
    assert says in result.stderr


# ---- link status ----


def test_both_directions_are_shown(van: Van, site: FakeSite) -> None:
    site.document["links"] = [link_element("from-west", direction="incoming", remoteSiteName="west"), link_element("south", active=False)]
    result = van("link status")
    assert result.stdout == (
        "NAME        STATE     DIRECTION   SITE    COST   ENDPOINT\n"
        "south       Refused   outgoing    south   1      127.0.0.1:7001\n"
        "from-west   active    incoming    west    1      127.0.0.1:7001\n"
        "\n"
        "link south: nothing listens there\n"
        "  next: check the port\n"
    )
    assert [x["active"] for x in json.loads(van("link status -o json").stdout)] == [False, True]
    assert van("link status -o name").stdout == "link/south\nlink/from-west\n"
    assert van("link status from-west").exit_code == 0
    assert van("link status south").exit_code == 3
    assert van("link status --wait --timeout 200ms").exit_code == 4
    result = van("link status absent")
    assert (result.exit_code, "links of this site: from-west, south" in result.stderr) == (1, True)


def test_a_silent_link_is_suspect_in_every_sentence_and_active_still_for_programs(van: Van, site: FakeSite) -> None:
    silent = words_for_silence("south")
    said = [cond("Operational", "Unknown", "Suspect", silent, "nothing yet"), cond("Ready", "Unknown", "Suspect", silent, "nothing yet")]
    for direction in ("incoming", "outgoing"):
        site.document["links"] = [link_element("south", direction=direction, conditions=[cond("Configured"), *said])]
        shown = van("link status").stdout
        assert shown.splitlines()[1].split()[:3] == ["south", "suspect", direction]
        assert shown.endswith(f"\nlink south: {silent}\n  next: nothing yet\n")
        assert f"\nProblem:\n  link south: {silent}\n    next: nothing yet\n" in van("status").stdout
        assert json.loads(van("link status south -o json").stdout)["active"] is True
        assert van("link status south").exit_code == 0


def test_no_links_says_how_to_make_one(van: Van, site: FakeSite) -> None:
    assert van("link status").stdout == "No links. Make one: van token create FILE at the other site, then van link create FILE\n"


# ---- link update, delete ----

LINK = """\
apiVersion: vanrouter.io/v1alpha1
kind: Link
metadata: {name: south, labels: {team: blue}}
spec: {endpoints: [{host: 127.0.0.1, port: 7001}], tlsCredentials: south, cost: 1}
"""


def test_update_changes_the_cost_and_nothing_else(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    file = stopped.resources.directory / "Link-south.yaml"
    file.write_text(LINK)
    site.document["links"] = [link_element("south")]
    site.on["reconcile"] = lambda _: site.document["links"][0]["spec"].update(cost=4) or {"generation": 2, "problems": []}
    result = van("link update south --cost 4")
    assert (result.exit_code, result.stdout) == (0, "link/south updated\n"), result.stderr
    (link,) = read_resources(file.read_text())
    (old,) = read_resources(LINK)
    assert link.spec.cost == 4  # type: ignore[attr-defined]
    assert link.metadata == old.metadata
    assert link.spec.endpoints == old.spec.endpoints  # type: ignore[attr-defined]
    assert "cost: 9" in van("link update south --cost 9 --dry-run").stdout
    assert "cost: 4" in file.read_text()


def test_what_others_dial_is_theirs_to_change(van: Van, site: FakeSite) -> None:
    site.document["links"] = [link_element("from-west", direction="incoming", remoteSiteName="west")]
    for line in ("link update from-west --cost 3", "link delete from-west"):
        result = van(line)
        assert result.exit_code == 1
        assert result.stderr == "Error: link from-west is incoming: west dials it\nNext:  change or delete it there, in west\n"


def test_links_are_deleted_one_by_one_or_all_at_once(van: Van, site: FakeSite) -> None:
    def drop(params: dict[str, Any]) -> dict[str, Any]:
        site.document["links"] = [x for x in site.document["links"] if x["name"] != params["name"]]
        return {}

    site.on["link.delete"] = drop
    site.document["links"] = [link_element("a"), link_element("b"), link_element("c"), link_element("in", direction="incoming")]
    assert van("link delete b").stdout == "Link b is deleted.\n"
    assert van("link delete --all").stdout == "Link a is deleted.\nLink c is deleted.\n"
    assert van("link delete --all").stdout == "No links that this site dials; nothing to delete.\n"
    assert [x["name"] for x in site.document["links"]] == ["in"]


@pytest.mark.parametrize("line", ["link delete", "link delete a --all", "link update a", "link update a --cost nothing", "link create"])
def test_wrong_words_about_links_are_usage_errors(van: Van, site: FakeSite, line: str) -> None:
    assert van(line).exit_code == 2
    assert {name for name, _ in site.calls} <= {"ping", "status"}
