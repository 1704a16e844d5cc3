"""
What a member with a good key may say that is not true: it is bounded and named where it arrives, with what to do, and the rest goes on.

    north ── middle ── south            south lies; hello is in middle
"""

from __future__ import annotations

import base64
import json
import struct
import time
from typing import Any

import msgspec
import pytest
import trio
from site_world import World, condition, free_port
from test_many_sites import line

from vanrouter.messages import Fragment, Neighbour, encode_signed
from vanrouter.model import RouterId, SiteId
from vanrouter.pki import IdentityKey, PrivateKey, certificates_to_pem
from vanrouter.pki.statements import make_admission
from vanrouter.sites.site import RunningSite
from vanrouter.stores import SiteHome


class Liar:
    """south, which says what the test wants it to."""

    north: SiteHome
    middle: SiteHome
    south: SiteHome

    def __init__(self, world: World) -> None:
        self.world = world

    async def start(self, backend: int) -> None:
        self.north, self.middle, self.south = await line(self.world)
        self.port = free_port()
        await self.world.expose(self.middle, "hello", backend, self.port, at=(self.north, self.middle, self.south))

    def site(self, name: str) -> RunningSite:
        return self.world.running[name]

    @property
    def own(self) -> str:
        return str(self.site("south").context.own)

    def signed(self, content: Fragment, *, by: IdentityKey | None = None, admissions: tuple[bytes, ...] = ()) -> bytes:
        key = by or self.site("south").context.keys.identity
        return encode_signed(content, identity=key.public_der, sign=key.sign, admissions=list(admissions))

    async def tell(self, *messages: bytes) -> None:
        """As far as the plane takes them; it takes further ones when middle has read some."""
        plane, middle = self.site("south").context.plane, str(self.site("middle").context.own)
        for message in messages:
            while not plane.send_message(middle, message):  # noqa: ASYNC110
                await trio.sleep(0.01)

    async def named(self, reason: str) -> Any:
        """The problem that middle shows; everything else goes on, and north has nothing to say."""

        async def told() -> Any:
            return [p for p in (await self.world.status(self.middle))["problems"] if p["path"] == f"network: {reason}"]

        problem = (await self.world.until(f"middle names {reason}", told))[0]
        assert problem["hint"]
        assert (await self.world.status(self.middle))["site"]["ready"]
        assert (await self.world.status(self.north))["problems"] == []
        for host in ("127.0.0.1", "127.0.0.2"):
            assert await self.world.get(self.port, host) == b'{"message":"Hello"}'
        return problem


@pytest.fixture
async def liar(world: World, backend: int) -> Liar:
    found = Liar(world)
    await found.start(backend)
    return found


def lie(liar: Liar, **changes: Any) -> Fragment:
    return Fragment(**{"origin": liar.own, "number": 7, "sequence": 1} | changes)


def altered(data: bytes, old: bytes, new: bytes, key: IdentityKey) -> bytes:
    """The body of a signed message with other bytes in it, signed again."""
    raw = msgspec.msgpack.decode(data[2:])
    body = raw["body"].replace(old, new)
    assert body != raw["body"]
    domain = b"vanrouter advertisement v1\0"
    return data[:2] + msgspec.msgpack.encode(raw | {"body": body, "signature": key.sign(domain + body)})


async def test_who_speaks_for_another_site_loses_its_link_and_is_named(liar: Liar) -> None:
    north = str(liar.site("north").context.own)
    await liar.tell(liar.signed(lie(liar, origin=north, sequence=99)))
    problem = await liar.named("BrokeRules")
    assert problem["message"].startswith("site south (")
    assert "its link was cut" in problem["message"]

    async def again() -> Any:
        return [link["active"] for link in (await liar.world.status(liar.south))["links"]] == [True]

    await liar.world.until("south is linked again, and behaves", again)


@pytest.mark.parametrize("cost", [0, 0xFFFFFFFF])
async def test_a_cost_of_zero_or_beyond_the_format_costs_the_link_and_is_named(liar: Liar, cost: int) -> None:
    key = liar.site("south").context.keys.identity
    middle = str(liar.site("middle").context.own)
    good = liar.signed(lie(liar, neighbours=[Neighbour(router=middle, cost=70_000)]))
    bad = b"\xce" + struct.pack(">I", cost)
    await liar.tell(altered(good, b"\xce" + struct.pack(">I", 70_000), bad, key))
    problem = await liar.named("BrokeRules")
    assert problem["message"].startswith("site south (")


async def test_an_advertisement_that_is_too_large_costs_the_link_and_is_named(liar: Liar) -> None:
    await liar.tell(liar.signed(lie(liar, number=8)) + bytes(20_000))
    problem = await liar.named("BrokeRules")
    assert "bytes" in problem["message"]


async def test_advertisements_that_come_too_often_are_named_and_the_last_one_counts(liar: Liar) -> None:
    await liar.tell(*(liar.signed(lie(liar, sequence=n)) for n in range(1, 300)))
    problem = await liar.named("TooFrequent")
    assert problem["message"].startswith("site south (")
    database = liar.site("middle").services.engine.database

    async def last() -> bool:
        record = database.record(liar.own, 7)
        return record is not None and record.sequence == 299

    await liar.world.until("the last one is taken in the end", last, seconds=15.0)


async def test_who_signs_as_a_router_that_runs_is_named_by_it(liar: Liar) -> None:
    """south has a copy of middle's key, and says that it is middle, under the number of its present start."""
    running = liar.site("middle").context
    await liar.tell(liar.signed(lie(liar, origin=str(running.own), sequence=5_000), by=running.keys.identity))
    problem = await liar.named("DuplicateRouter")
    assert "another router signs as this start of this router" in problem["message"]
    assert "copy of this site's identity key" in problem["hint"]


async def test_phantom_sites_take_no_more_room_than_one_member_has(liar: Liar) -> None:
    """600 sites that are not there, each with a key and an admission by south."""
    mine = liar.site("south").context.keys.identity
    lies = []
    for n in range(600):
        key = IdentityKey.generate()
        site = SiteId(key.site_id)
        admission = make_admission(mine, site, not_after=4e9)
        fragment = Fragment(origin=str(RouterId(site, n + 1)), number=0, sequence=1, neighbours=[Neighbour(router=liar.own)])
        lies.append(liar.signed(fragment, by=key, admissions=(admission,)))
    await liar.tell(*lies)
    problem = await liar.named("TooManySites")
    assert "delete the links" in problem["hint"]
    assert len(liar.site("middle").services.engine.database.origins) <= 3 + 512


async def test_a_link_with_a_cost_that_is_none_is_named_with_its_file_and_is_not_dialled(world: World) -> None:
    home = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    await world.start(home)

    async def is_ready() -> bool:
        return bool((await world.status(home))["site"]["ready"])

    await world.until("the site is ready", is_ready)
    for cost in (0, 1_000_001):
        file = home.resources.directory / "zero.yaml"
        file.write_text(
            "apiVersion: vanrouter.io/v1alpha1\nkind: Link\nmetadata: {name: zero}\n"
            f"spec: {{endpoints: [{{host: 127.0.0.1, port: 1}}], cost: {cost}}}\n"
        )
        await world.call(home, "reconcile")
        status = await world.status(home)
        (problem,) = [p for p in status["problems"] if p["path"].startswith("zero.yaml")]
        assert "spec.cost" in problem["message"]
        assert status["links"] == []
        assert status["site"]["ready"]


def link_file(site: RunningSite, port: int, how: str) -> str:
    """As somebody may write it by hand: with the site's own id, or with a certificate of its own CA."""
    text = "apiVersion: vanrouter.io/v1alpha1\nkind: Link\nmetadata: {name: loop}\n"
    text += f"spec: {{endpoints: [{{host: 127.0.0.1, port: {port}}}]"
    if how == "site id":
        return f"{text}, siteId: {site.context.keys.site_id}}}\n"
    keys, key = site.context.keys, PrivateKey.generate()
    leaf = keys.authority.issue_client(key.public_der, keys.site_id, now=time.time(), lifetime=3600.0)
    data = {"tls.crt": certificates_to_pem([leaf]), "tls.key": key.pem().reveal(), "ca.crt": keys.authority.certificate_pem()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}}
    encoded = {name: base64.b64encode(pem if isinstance(pem, bytes) else pem.encode()).decode() for name, pem in data.items()}
    return f"{text}, tlsCredentials: mine}}\n---\n{json.dumps(secret | {'data': encoded})}\n"


@pytest.mark.parametrize("how", ["site id", "certificate"])
async def test_a_link_to_itself_from_a_file_is_named(world: World, backend: int, how: str) -> None:
    port = free_port()
    home = world.home("north", linkAccess=f"127.0.0.1:{port}")
    site = await world.start(home)
    other = world.home("other", serviceAddress="127.0.0.2")
    await world.start(other)
    await world.link(home, other)
    hello = free_port()
    await world.expose(home, "hello", backend, hello, at=(home, other))
    file = home.resources.directory / "loop.yaml"
    file.write_text(link_file(site, port, how))
    file.chmod(0o600)
    await world.call(home, "reconcile")

    async def told() -> Any:
        found = next((x for x in (await world.status(home))["links"] if x["name"] == "loop"), None)
        operational = condition(found, "Operational") if found else {"reason": ""}
        return operational if operational["reason"] == "SelfLink" else None

    operational = await world.until("the link to itself is named", told)
    assert operational["status"] == "False"
    assert f"127.0.0.1:{port}" in operational["message"]
    assert "delete" in operational["next"]
    assert (await world.status(home))["site"]["ready"]
    assert await world.get(hello, "127.0.0.2") == b'{"message":"Hello"}'
