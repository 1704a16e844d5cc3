"""Redeeming of many tokens at once, and of names that are taken, without a cluster."""

from __future__ import annotations

import random
import types
from typing import Any

import trio

from vanrouter.controller.redeeming import KEEP_PENDING, Redeeming
from vanrouter.errors import TokenError
from vanrouter.kube.calls import Kind
from vanrouter.model import parse_site_id
from vanrouter.pki.secret import Secret
from vanrouter.tokens.token import AccessToken as Token

NOW = 1_800_000_000.0


def redeeming(*customs: str) -> Redeeming:
    """In a namespace with these custom resources."""

    def of(_kind: Kind) -> dict[str, Any]:
        return {"van.link.there": {}}

    copies: Any = types.SimpleNamespace(of=of, customs=types.SimpleNamespace(objects={where: {} for where in customs}))
    return Redeeming(copies, None, "south", rng=random.Random(1), clock=lambda: NOW)  # type: ignore[arg-type]


def token_until(expires: float) -> Token:
    site = parse_site_id("a" * 52)
    return Token(
        name="t", id="a" * 26, secret=Secret(b"s"), endpoints=(), ca="pem", issuer=site, issuer_name="north", expires=expires, issued=NOW
    )


async def test_one_token_is_redeemed_in_one_place_at_a_time_however_often_it_stands_somewhere() -> None:
    here, inside, most = redeeming(), 0, 0

    async def one(begin: float) -> None:
        nonlocal inside, most
        await trio.sleep(begin)
        async with here._turn("a"):
            inside += 1
            most = max(most, inside)
            await trio.sleep(0.02)
            inside -= 1

    async with trio.open_nursery() as nursery:
        for begin in (0.0, 0.01, 0.03, 0.05):  # the third comes while the second, which waited, has it
            nursery.start_soon(one, begin)
    assert (most, here._turns) == (1, {})


def test_a_link_of_a_token_takes_no_name_of_a_link_that_is_a_custom_resource() -> None:
    """The ConfigMap would count, and the link that somebody wrote would be another one."""
    here = redeeming("links.vanrouter.io/north", "listeners.vanrouter.io/web")
    assert [here._free_name(name, {}) for name in ("north", "web", "there", "new")] == ["north-2", "web", "there-2", "new"]


def test_a_token_that_expired_long_ago_and_whose_issuer_does_not_answer_is_given_up() -> None:
    here, later = redeeming(), TokenError("north could not be asked: a:1: it was closed", reason="unreachable")
    over = here._given_up(later, token_until(NOW - KEEP_PENDING))
    assert isinstance(over, TokenError)
    assert not over.retryable
    assert str(over).startswith("it expired at 2027-01-15T07:50:00Z")
    for kept, token in (
        (later, token_until(NOW - KEEP_PENDING + 1)),  # its issuer may know it still
        (later, None),
        (TokenError("the clocks", reason="clock"), token_until(NOW - 9999)),
        (TokenError("no", reason="refused"), token_until(NOW - 9999)),
    ):
        assert here._given_up(kept, token) is kept
