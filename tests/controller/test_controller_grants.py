"""What the status of an AccessGrant and of an AccessToken says, without a cluster."""

from __future__ import annotations

import types
from typing import Any

import msgspec

from vanrouter.controller.granting import grant_status, tokens_in_maps
from vanrouter.controller.offers import ResourceOffer
from vanrouter.errors import TokenError
from vanrouter.kube.calls import Kind
from vanrouter.kube.custom import custom_status, read_custom
from vanrouter.model import parse_site_id
from vanrouter.pki.secret import Secret
from vanrouter.resources import AccessToken, Metadata
from vanrouter.resources.kinds import AccessTokenSpec
from vanrouter.stores.resources import Located
from vanrouter.tokens import AccessGrant, Redemption
from vanrouter.tokens.issuer import Shown
from vanrouter.tokens.token import AccessToken as Token

NOW = 1_800_000_000.0
GRANT = AccessGrant(id="a" * 26, name="g", secret_hash=b"h" * 32, uses=2, created=NOW, expires=NOW + 900)
SHOWN = Shown(url="https://a:1/b", code="c" * 24, ca="pem", endpoints=["a:1", "[::1]:1"])
OBJECT = {
    "apiVersion": "vanrouter.io/v1alpha1",
    "kind": "AccessGrant",
    "metadata": {"name": "g", "uid": "u", "generation": 3},
    "spec": {"redemptionsAllowed": 2},
}
TOKEN = AccessToken(metadata=Metadata(name="t"), spec=AccessTokenSpec(url="https://a:1/b", code="c", ca="pem"))


def token_until(expires: float) -> Token:
    site = parse_site_id("a" * 52)
    return Token(
        name="t", id="a" * 26, secret=Secret(b"s"), endpoints=(), ca="pem", issuer=site, issuer_name="north", expires=expires, issued=NOW
    )


def used(times: int) -> AccessGrant:
    redemptions = [
        Redemption(key_hash=bytes([i]), site=parse_site_id("a" * 52), site_name="south", taken_at=NOW + 10 + i) for i in range(times)
    ]
    return msgspec.structs.replace(GRANT, redemptions=redemptions)


def status(grant: AccessGrant, now: float, value: Any = None) -> Any:
    value = value or OBJECT
    return custom_status(value, read_custom(value), grant_status(value, grant, SHOWN, now), seen=True, problem=None, date="")


def conditions(said: Any) -> Any:
    return {c["type"]: (c["status"], c["reason"], c["lastTransitionTime"]) for c in said["conditions"]}


def test_a_grant_shows_what_a_token_needs_and_how_often_it_was_redeemed_and_until_when() -> None:
    said = status(used(1), NOW + 899)
    assert {key: said[key] for key in ("url", "code", "ca", "endpoints")} == {
        "url": SHOWN.url,
        "code": SHOWN.code,
        "ca": "pem",
        "endpoints": "a:1, [::1]:1",
    }
    assert (said["status"], said["redemptions"], said["expirationTime"]) == ("Ready", 1, "2027-01-15T08:15:00Z")
    assert conditions(said)["Redeemable"] == ("True", "Ok", "2027-01-15T08:00:00Z")
    assert said["observedGeneration"] == 3


def test_one_that_expired_says_so_and_is_not_ready() -> None:
    said = status(used(1), NOW + 900)
    assert said["status"] == "Error"
    assert "it expired at 2027-01-15T08:15:00Z; redeemed 1 of 2 times; delete it and make it again" in said["message"]
    assert conditions(said) == dict.fromkeys(("Ready", "Redeemable"), ("False", "Expired", "2027-01-15T08:15:00Z"))


def test_one_that_was_redeemed_as_often_as_it_may_be_is_well_also_when_its_time_is_over() -> None:
    said = status(used(2), NOW + 10_000)
    assert (said["status"], said["redemptions"]) == ("Ready", 2)
    assert conditions(said)["Redeemable"] == ("False", "Used", "2027-01-15T08:00:11Z")


def test_what_the_status_says_already_is_said_again_as_it_is() -> None:
    """Or each start of a controller would write it."""
    before = status(used(1), NOW + 5)
    assert status(used(1), NOW + 500, {**OBJECT, "status": before}) == before


class Copies:
    """Of a namespace with the ConfigMaps ``maps``."""

    def __init__(self, *maps: str) -> None:
        self.maps, self.customs = dict.fromkeys(maps, OBJECT), types.SimpleNamespace(objects={})

    def current(self, _kind: Kind) -> bool:
        return True

    def get(self, _kind: Kind, name: str) -> Any:
        return self.maps.get(name)


def offer(now: float, said: Any, value: Any = None, *maps: str) -> ResourceOffer:
    value, copies = value or {**OBJECT, "kind": "AccessToken"}, Copies(*maps)
    return ResourceOffer("accesstokens.vanrouter.io/t", TOKEN, value, copies, said=said, clock=lambda: now)  # type: ignore[arg-type]


def test_who_holds_a_token_that_is_refused_hears_whether_it_expired_or_was_used() -> None:
    refused = TokenError("north refuses", reason="refused")
    expired = str(offer(NOW + 901, {}).explained(refused, token_until(NOW + 900)))
    assert expired == "north refuses this token: it expired at 2027-01-15T08:15:00Z"
    assert "redeemed as often as it may be, or its AccessGrant was deleted" in str(
        offer(NOW, {}).explained(refused, token_until(NOW + 900))
    )
    later = TokenError("not now", reason="later")
    assert offer(NOW, {}).explained(later, token_until(NOW)) is later


async def test_what_was_said_of_a_token_is_not_said_of_another_one_with_its_name() -> None:
    said: dict[str, Any] = {}
    first = offer(NOW, said)
    await first.say_redeemed("north")
    assert offer(NOW, said).is_done
    assert not offer(NOW, said, {**OBJECT, "metadata": {"name": "t", "uid": "other", "generation": 1}}).is_done


async def test_a_start_anew_says_of_a_redeemed_token_what_its_status_says() -> None:
    said: dict[str, Any] = {}
    value = {**OBJECT, "kind": "AccessToken", "spec": {"url": "https://a:1/b", "code": "c", "ca": "pem"}}
    await offer(NOW, said, value, "van.link.north").say_redeemed("north")
    before = custom_status(value, read_custom(value), said["accesstokens.vanrouter.io/t"], seen=True, problem=None, date="")
    assert (before["redeemed"], before["link"]) == (True, "north")
    again: dict[str, Any] = {}
    offer(NOW + 500, again, {**value, "status": before}, "van.link.north").say()
    assert custom_status(value, read_custom(value), again["accesstokens.vanrouter.io/t"], seen=True, problem=None, date="") == before
    offer(NOW + 500, again, {**value, "status": before}).say()
    assert "link north was made of it, and is gone" in again["accesstokens.vanrouter.io/t"]["conditions"][0]["message"]


async def test_a_token_that_is_tried_again_is_pending_and_one_that_is_refused_for_good_is_an_error() -> None:
    for for_good, words in ((False, "Pending"), (True, "Error")):
        said: dict[str, Any] = {}
        value = {**OBJECT, "kind": "AccessToken", "spec": {"url": "https://a:1/b", "code": "c", "ca": "pem"}}
        await offer(NOW, said, value).say_failed(TokenError("why", hint="what to do"), for_good=for_good)
        made = custom_status(value, read_custom(value), said["accesstokens.vanrouter.io/t"], seen=True, problem=None, date="")
        assert (made["status"], made["message"], made["redeemed"]) == (words, "why; what to do", False)


def test_a_token_in_a_config_map_is_named_and_one_elsewhere_is_not() -> None:
    (problem,) = tokens_in_maps([Located(TOKEN, "ConfigMap/a: b.yaml"), Located(TOKEN, "accesstokens.vanrouter.io/t")])
    assert (problem.path, "it is not redeemed" in problem.message) == ("AccessToken/t", True)
