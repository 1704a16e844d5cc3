"""Grants and tokens as resources, without a cluster: one grant for one spec, codes that nobody guesses, and tokens that were changed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import yaml
from declared_tokens import access_token
from token_parts import AUTHORITY, NORTH, NOW, MemoryLedger, ask_for, make_issuer

from vanrouter.errors import TokenError
from vanrouter.pki import CertificateAuthority
from vanrouter.tokens import AccessToken, Endpoint, Issuer
from vanrouter.tokens.declared import _check, check_code, declared_id, parse_any, read_declared
from vanrouter.tokens.files import read_token, write_private_new
from vanrouter.tokens.issuer import KEEP_ENDED, Shown
from vanrouter.tokens.ledger import AccessGrant

ID = declared_id(NORTH.site_id, "uid-1", "AccessGrant/g", "spec")
CHOSEN = "a-code-that-nobody-guesses-1"
TWO = [Endpoint("127.0.0.1", 7001), Endpoint("fd00::1", 7001)]

THEIRS = (
    "apiVersion: skupper.io/v2alpha1\nkind: AccessToken\nmetadata: {name: west}\n"
    "spec: {url: 'https://10.0.0.5:9090/0a1b', code: hP4f, ca: pem}\n"
)


def declare(issuer: Issuer, *, code: str = "", now: float = NOW, uses: int = 1, grant_id: str = ID) -> AccessGrant:
    return issuer.declare(grant_id, "g", source="somewhere", code=code, now=now, uses=uses, lifetime=900.0)


def shown_by(issuer: Issuer, code: str = "") -> Shown:
    return issuer.shown(declare(issuer, code=code), code)


def read(shown: Shown, **more: str) -> AccessToken:
    said = {"url": shown.url, "code": shown.code, "ca": shown.ca, "endpoints": ",".join(shown.endpoints)} | more
    return read_declared("t", **said)


def status_of(issuer: Issuer, token: AccessToken, now: float = NOW + 1) -> int:
    return issuer.redeem_untrusted(ask_for(token).request.reveal(), source="192.0.2.1", now=now).status


@pytest.mark.parametrize("code", ["", CHOSEN])
def test_what_a_grant_shows_is_a_token_that_its_issuer_redeems_as_often_as_it_says(code: str) -> None:
    issuer = make_issuer(MemoryLedger(), endpoints=TWO)
    shown = shown_by(issuer, code)
    token = read(shown)
    assert (token.endpoints, token.issuer, token.issuer_name) == (tuple(TWO), NORTH.site_id, "north")
    assert (token.issued, token.expires) == (NOW, NOW + 900)
    assert [status_of(issuer, token), status_of(issuer, token)] == [200, 403]
    assert not code or shown.code == code


def test_a_grant_is_made_once_and_whoever_has_the_key_of_the_ca_finds_its_code_again() -> None:
    ledger = MemoryLedger()
    first = shown_by(make_issuer(ledger))
    later = make_issuer(ledger)
    assert later.shown(declare(later, now=NOW + 60), "") == first
    assert (ledger.swaps, len(ledger.rows)) == (1, 1)
    assert first.code not in str(ledger.rows)


def test_one_that_is_made_again_has_another_code() -> None:
    """Or what was used up could be used again by whoever kept it."""
    ledger = MemoryLedger()
    issuer = make_issuer(ledger)
    first = shown_by(issuer)
    token = read(first)
    assert status_of(issuer, token) == 200
    assert issuer.delete_grant(ID)
    again = issuer.shown(declare(issuer, now=NOW + 60), "")
    assert again.code != first.code
    assert status_of(issuer, token, now=NOW + 61) == 403


def test_a_grant_whose_code_went_with_the_key_of_the_ca_is_made_anew() -> None:
    ledger = MemoryLedger()
    first = declare(make_issuer(ledger))
    other = make_issuer(ledger, authority=CertificateAuthority.create("north", NORTH.site_id, now=NOW))
    second = declare(other, now=NOW + 60)
    assert (len(ledger.rows), second.created) == (1, NOW + 60)
    assert second.secret_hash != first.secret_hash
    assert status_of(other, read(other.shown(second, "")), now=NOW + 61) == 200


def test_each_spec_of_each_object_has_its_own_grant() -> None:
    said = list(itertools.product(("site-1", "site-2"), ("uid-1", "uid-2"), ("AccessGrant/a", "AccessGrant/b"), ("1", "2")))
    assert len({declared_id(*one) for one in said}) == len(said)
    assert len(ID) == 26


@pytest.mark.parametrize("code", ["hunter2", "a" * 30, "one two three four five six", "x\u00e9" * 15, "abcdefghij" * 30])
def test_a_code_that_others_could_find_is_refused_with_words(code: str) -> None:
    ledger = MemoryLedger()
    with pytest.raises(TokenError) as raised:
        declare(make_issuer(ledger), code=code)
    assert (raised.value.reason, code in str(raised.value), ledger.rows) == ("weak", False, {})
    check_code(CHOSEN)


def test_a_token_of_which_anything_was_changed_says_so_before_anybody_is_asked() -> None:
    shown = shown_by(make_issuer(MemoryLedger()))
    other = CertificateAuthority.create("north", NORTH.site_id, now=NOW).certificate_pem().decode()
    changes = {
        "a letter of the code": {"code": shown.code.swapcase()},
        "half of the code": {"code": shown.code[:10]},
        "the CA": {"ca": other},
        "half of the CA": {"ca": shown.ca[:200]},
        "the grant": {"url": shown.url.replace(ID, ID[::-1])},
        "the time": {"url": shown.url.replace(f"until={int(NOW + 900)}", f"until={int(NOW + 901)}")},
        "the end of the url": {"url": shown.url.partition("&until")[0]},
        "all behind the grant": {"url": shown.url.partition("?")[0]},
        "the port": {"url": shown.url.replace(":7001/", "/")},
        "another endpoint": {"endpoints": "nowhere"},
    }
    for what, change in changes.items():
        with pytest.raises(TokenError) as raised:
            read(shown, **change)
        assert (what, raised.value.reason, raised.value.retryable) == (what, "malformed", False)
        assert shown.code not in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize("until", ["1" + "0" * 400, "-5", "\u0661"], ids=["long", "early", "digits"])
@pytest.mark.parametrize("check", ["aaaa", "%C3%A9\u00e9", "\ud800"], ids=["other", "letters", "half"])
def test_a_url_that_somebody_made_up_is_refused_and_breaks_nothing_of_whoever_reads_it(until: str, check: str) -> None:
    """Its check is for anybody to make: a host reads such a resource when it starts."""
    shown = shown_by(make_issuer(MemoryLedger()))
    made_up = f"{shown.url.partition('&until')[0]}&until={until}&check={check}"
    for url in (made_up, f"{shown.url.partition('&check')[0]}&check={check}"):
        with pytest.raises(TokenError) as raised:
            read(shown, url=url)
        assert raised.value.reason == "malformed"


@pytest.mark.parametrize("until", [10**400, 253_402_300_800], ids=["long", "year 10000"])
def test_a_time_that_no_calendar_has_is_refused_also_with_a_check(until: int) -> None:
    shown = shown_by(make_issuer(MemoryLedger()))
    check = _check(NORTH.site_id, ID, "north", int(NOW), until, shown.code, shown.ca)
    with pytest.raises(TokenError, match="a time that is none"):
        read(shown, url=f"{shown.url.partition('&until')[0]}&until={until}&check={check}")


def test_a_file_with_an_access_token_is_a_token_file(tmp_path: Path) -> None:
    shown = shown_by(make_issuer(MemoryLedger()))
    file = tmp_path / "t.yaml"
    write_private_new(file, access_token(shown, name="t").encode())
    assert read_token(file) == (read(shown, endpoints=""), [])
    assert parse_any(json.dumps(yaml.safe_load(file.read_text())).encode(), "stdin") == read(shown, endpoints="")
    for text, said in (
        (THEIRS, "by its own sites only"),
        (f"{THEIRS}---\n{THEIRS}", "more than an AccessToken"),
        ("kind: AccessToken", ""),
    ):
        with pytest.raises(TokenError) as raised:
            parse_any(text.encode(), "stdin")
        assert said in str(raised.value)


def test_how_the_lines_of_the_ca_are_broken_changes_nothing() -> None:
    shown = shown_by(make_issuer(MemoryLedger()))
    assert read(shown, ca=f"\n{shown.ca.strip()}").secret == read(shown).secret


@pytest.mark.parametrize("url", ["https://10.0.0.5:9090/0a1b", "https://[::1/x", "http://a:1/b", "https://a", ""])
def test_a_token_of_the_incumbent_is_known_for_what_it_is(url: str) -> None:
    with pytest.raises(TokenError) as raised:
        read_declared("t", url, "hP4f", AUTHORITY.certificate_pem().decode())
    assert (raised.value.reason, "by its own sites only" in str(raised.value)) == ("foreign", True)


def test_a_grant_that_a_resource_keeps_is_not_forgotten_as_long_as_that_is_there() -> None:
    """Or it would be made anew, a week after it ended."""
    ledger = MemoryLedger()
    issuer = make_issuer(ledger)
    declare(issuer)
    issuer.grant("by-hand", now=NOW)
    assert issuer.prune(NOW + 900 + KEEP_ENDED + 1) == 1
    assert list(ledger.rows) == [ID]


def test_without_a_way_to_the_site_there_is_no_grant() -> None:
    ledger = MemoryLedger()
    with pytest.raises(TokenError, match="no link access"):
        declare(make_issuer(ledger, endpoints=[]))
    assert not ledger.rows
