"""Router and controller talk over mutual TLS: either asks, answers find their questions, a stranger gets nowhere, silence ends it."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
import trio.testing

from vanrouter.controller.shared import Door
from vanrouter.errors import ConfigError, DeadlineExceeded, NotReady, RemoteProtocolError
from vanrouter.kube.channel import MAX_HANDSHAKES, Channel, Leaf, Served, one_error, serve_channels, serve_sites
from vanrouter.kube.controller_link import ControllerLink
from vanrouter.kube.conversation import MAX_LINE, MAX_UNANSWERED, Answered, Asked, Conversation, Size, Told
from vanrouter.kube.plan import most_connections
from vanrouter.kube.room import LINE_SECONDS, SHORT, WAIT, Full, Held, Room
from vanrouter.model import SiteId
from vanrouter.pki import CertificateAuthority, IdentityKey, PrivateKey, certificates_to_pem
from vanrouter.pki.authority import van_name
from vanrouter.resources import Site as SiteResource
from vanrouter.resources import read_resources

# ---- The conversation -------------------------------------------------------------------------------------------------------------------


def test_how_bytes_are_chunked_never_changes_what_is_said() -> None:
    here, there = Conversation(now=0.0), Conversation(now=0.0)
    number, asked = here.ask("join", {"visitor": "10.0.0.1"})
    told = here.tell("status", {"document": {"n": 1}})
    wire = asked + told
    heard = [event for index in range(len(wire)) for event in there.receive_untrusted(wire[index : index + 1], now=1.0)]
    assert heard == [Asked(number, "join", {"visitor": "10.0.0.1"}), Told("status", {"document": {"n": 1}}, Size(len(told) - 1, 4))]
    assert here.receive_untrusted(there.answer(number, {"status": 200}), now=2.0) == [Answered(number, {"status": 200})]


def test_an_error_arrives_as_the_class_that_was_raised() -> None:
    here, there = Conversation(now=0.0), Conversation(now=0.0)
    number, line = here.ask("trace", {})
    there.receive_untrusted(line, now=0.0)
    (answered,) = here.receive_untrusted(there.refuse(number, ConfigError("no such key", hint="look")), now=0.0)
    assert isinstance(answered, Answered)
    assert isinstance(answered.error, ConfigError)
    assert (str(answered.error), answered.error.hint) == ("no such key", "look")


def test_silence_is_asked_about_after_15_seconds_and_is_the_end_after_30() -> None:
    here = Conversation(now=100.0)
    assert here.deadline == 115.0
    assert here.handle_timeout(114.9) == b""
    assert json.loads(here.handle_timeout(115.0))["method"] == "ping"
    assert here.deadline == 130.0
    with pytest.raises(RemoteProtocolError, match="silent for 30 s"):
        here.handle_timeout(130.0)


@pytest.mark.parametrize(
    "line",
    [
        b"x\n",
        b"[]\n",
        b'{"id": 7, "result": 1}\n',
        b'{"id": true, "method": "x"}\n',
        b'{"method": 3}\n',
        b'{"id": 1, "method": "x", "params": 1}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (MAX_LINE + 1),
        b'{"id":1,"method":"x"}\n{"id":1,"method":"x"}\n',
    ],
)
def test_what_is_no_message_ends_the_conversation(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Conversation(now=0.0).receive_untrusted(line, now=0.0)


def test_at_most_64_questions_are_open_either_way() -> None:
    here, there = Conversation(now=0.0), Conversation(now=0.0)
    lines = [here.ask("x", {})[1] for _ in range(MAX_UNANSWERED)]
    with pytest.raises(NotReady, match="64 questions"):
        here.ask("x", {})
    there.receive_untrusted(b"".join(lines), now=0.0)
    with pytest.raises(RemoteProtocolError, match="64"):
        there.receive_untrusted(b'{"id":1000,"method":"x"}\n', now=0.0)


# ---- The connection ---------------------------------------------------------------------------------------------------------------------


class Site:
    def __init__(self) -> None:
        self.identity = IdentityKey.generate()
        self.authority = CertificateAuthority.create("north", self.identity.site_id, now=time.time())
        self.server, self.client = self._leaf(server=True), self._leaf(server=False)

    def _leaf(self, *, server: bool, site: str = "") -> Leaf:
        key, now = PrivateKey.generate(), time.time()
        name = SiteId(site) if site else self.identity.site_id
        if server:
            leaf = self.authority.issue_server(key.public_der, name, [], now=now)
        else:
            leaf = self.authority.issue_client(key.public_der, name, now=now)
        return Leaf(self.identity.site_id, certificates_to_pem([leaf]), key.pem().reveal(), self.authority.certificate_pem())

    def guest(self, other: Site) -> Leaf:
        """What a site shows to which we gave a token: signed by our CA, for another site."""
        return self._leaf(server=False, site=other.identity.site_id)


async def _echo(channel: Channel, method: str, params: dict[str, Any]) -> Any:
    if method == "hello":
        channel.peer = params
        return {"controller": "c"}
    if method == "fail":
        raise ConfigError("no", hint="never")
    if method == "hang":
        await trio.sleep_forever()
    return params


@contextlib.asynccontextmanager
async def serving(site: Site, *, port: int = 0) -> AsyncIterator[tuple[int, list[Channel]]]:
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    here: list[Channel] = []

    async def serve() -> None:
        await serve_channels(
            listeners, lambda: site.server, _echo, changed=lambda channel, is_here: here.append(channel) if is_here else None
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield listeners[0].socket.getsockname()[1], here
        nursery.cancel_scope.cancel()


def _link(port: int, leaf: Leaf) -> ControllerLink:
    places = [("127.0.0.1", port)]
    return ControllerLink(lambda: places, leaf=lambda: leaf, greet=lambda: {"pod": "p"}, handler=_echo, rng=random.Random(1))


async def test_either_end_asks_and_gets_its_answer() -> None:
    site = Site()
    async with serving(site) as (port, here), trio.open_nursery() as nursery:
        link = _link(port, site.client)
        nursery.start_soon(link.run)
        assert await link.ask("x", {"n": 1}) == {"n": 1}
        with pytest.raises(ConfigError, match="no") as caught:
            await link.ask("fail")
        assert caught.value.hint == "never"
        with pytest.raises(DeadlineExceeded):
            await link.ask("hang", seconds=0.2)
        assert here[0].peer == {"pod": "p"}
        assert await here[0].ask("network", {"a": "ä" * 100_000}) == {"a": "ä" * 100_000}
        nursery.cancel_scope.cancel()


async def test_a_controller_that_comes_back_is_found_again() -> None:
    site = Site()
    async with trio.open_nursery() as nursery:
        async with serving(site) as (port, _):
            link = _link(port, site.client)
            nursery.start_soon(link.run)
            assert await link.ask("x") == {}
        with pytest.raises(NotReady):
            await link.ask("x", seconds=0.3)
        async with serving(site, port=port):
            assert await link.ask("x", seconds=5.0) == {}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("who", ["guest", "stranger", "server leaf"])
async def test_nobody_but_a_router_of_this_site_gets_in(who: str) -> None:
    """A guest's leaf is signed by our CA: the site id tells it apart."""
    site, other = Site(), Site()
    leaf = (
        site.guest(other)
        if who == "guest"
        else site.server
        if who == "server leaf"
        else Leaf(site.identity.site_id, other.client.certificate, other.client.key, site.client.ca)
    )
    async with serving(site) as (port, here), trio.open_nursery() as nursery:
        link = _link(port, leaf)
        nursery.start_soon(link.run)
        with pytest.raises(NotReady):
            await link.ask("x", seconds=1.0)
        assert here == []
        nursery.cancel_scope.cancel()


async def test_a_router_does_not_talk_to_another_sites_controller() -> None:
    site, other = Site(), Site()
    async with serving(other) as (port, _), trio.open_nursery() as nursery:
        link = _link(port, site.client)
        nursery.start_soon(link.run)
        with pytest.raises(NotReady, match="handshake failed"):
            await link.ask("x", seconds=1.0)
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def door(find: Callable[[str], Served | None]) -> AsyncIterator[int]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_sites, listeners, find)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_who_connects_and_says_nothing_keeps_no_router_out() -> None:
    site = Site()
    async with serving(site) as (port, _), contextlib.AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(MAX_HANDSHAKES + 20)]
        async with trio.open_nursery() as nursery:
            link = _link(port, site.client)
            nursery.start_soon(link.run)
            assert await link.ask("x", {"n": 1}, seconds=2.0) == {"n": 1}
            nursery.cancel_scope.cancel()
        with trio.fail_after(2.0), contextlib.suppress(trio.BrokenResourceError):
            assert await silent[0].receive_some() == b"", "it gave way"


async def test_what_fails_at_one_connection_does_not_end_the_others() -> None:
    site, broken = Site(), Site()

    def fail(_channel: Channel, _is_here: bool) -> None:
        raise RuntimeError("a bug")

    sites = {van_name(site.identity.site_id): Served(lambda: site.server, _echo)}
    sites[van_name(broken.identity.site_id)] = Served(lambda: broken.server, _echo, fail)
    async with door(sites.get) as port, trio.open_nursery() as nursery:
        good, bad = _link(port, site.client), _link(port, broken.client)
        nursery.start_soon(good.run)
        nursery.start_soon(bad.run)
        with pytest.raises(NotReady):
            await bad.ask("x", seconds=1.0)
        assert await good.ask("x", {"n": 1}) == {"n": 1}
        nursery.cancel_scope.cancel()


async def test_routers_of_a_site_that_is_served_by_another_one_now_go_there() -> None:
    site = Site()

    async def first(_channel: Channel, _method: str, _params: dict[str, Any]) -> Any:
        return {"controller": "first"}

    async def second(_channel: Channel, _method: str, _params: dict[str, Any]) -> Any:
        return {"controller": "second"}

    name, places = van_name(site.identity.site_id), Door()
    async with door(places.find) as port, trio.open_nursery() as nursery:
        link = _link(port, site.client)
        with places.place("north", name) as open_to:
            open_to(Served(lambda: site.server, first))
            nursery.start_soon(link.run)
            assert await _controller(link) == "first"
        with places.place("north", name) as open_to:
            open_to(Served(lambda: site.server, second))
            assert await _controller(link) == "second"
        nursery.cancel_scope.cancel()


async def _controller(link: ControllerLink) -> Any:
    """Who answers, once somebody does."""
    with trio.fail_after(5.0):
        while True:
            with contextlib.suppress(NotReady):
                return (await link.ask("x"))["controller"]
            await trio.sleep(0.05)


async def test_a_connection_that_fails_while_it_is_cancelled_is_a_cancellation_and_a_bug_is_a_bug() -> None:
    async def run(error: Exception) -> bool:
        async def fail() -> None:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                raise error from None

        with trio.CancelScope() as scope, one_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                nursery.start_soon(trio.sleep_forever)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        return scope.cancelled_caught

    assert await run(NotReady("hello: the connection ended"))
    with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError), allow_unwrapped=True, flatten_subgroups=True):
        await run(ZeroDivisionError())


# ---- How much there is room for -------------------------------------------------------------------------------------------------------


async def test_a_site_has_as_many_connections_as_its_routers_need_and_another_site_as_many_again(caplog: pytest.LogCaptureFixture) -> None:
    north, south = Site(), Site()
    sites = {van_name(s.identity.site_id): Served(lambda s=s: s.server, _echo, most=lambda: 2) for s in (north, south)}
    async with door(sites.get) as port, trio.open_nursery() as nursery:
        links = [_link(port, north.client) for _ in range(2)]
        for link in links:
            nursery.start_soon(link.run)
            assert await link.ask("x") == {}
        third, other = _link(port, north.client), _link(port, south.client)
        nursery.start_soon(third.run)
        nursery.start_soon(other.run)
        assert await other.ask("x") == {}
        with pytest.raises(NotReady):
            await third.ask("x", seconds=2.0)
        assert [await link.ask("x") for link in links] == [{}, {}]
        said = [r for r in caplog.records if r.message == "no room for a router" and r.levelname == "WARNING"]
        assert len(said) == 1, "it came several times, and is said once"
        assert "has 2 connections already" in said[0].__dict__["reason"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("routers", "most"), [("1", 8), ("3", 12), ("16", 38)])
def test_in_a_rollout_as_many_routers_go_as_come(routers: str, most: int) -> None:
    text = f"apiVersion: vanrouter.io/v1alpha1\nkind: Site\nmetadata: {{name: north}}\nspec: {{settings: {{routers: '{routers}'}}}}\n"
    (site,) = read_resources(text)
    assert isinstance(site, SiteResource)
    assert most_connections(site) == most


async def test_a_long_message_waits_for_its_turn_and_short_ones_beside_it_do_not(autojump_clock: trio.testing.MockClock) -> None:
    site, all_ = Room(lines=1, questions=100), Room(lines=2, questions=100)
    first, second, other = Held((site, all_)), Held((site, all_)), Held((Room(lines=1, questions=100), all_))
    await first.line(SHORT + 1)
    await other.line(SHORT + 1)
    await second.line(SHORT)  # costs nothing
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.line, SHORT + 1)
        await trio.testing.wait_all_tasks_blocked()
        first.line_over()
    assert second.deadline == trio.current_time() + LINE_SECONDS
    began = trio.current_time()
    with pytest.raises(Full):
        await first.line(SHORT + 1)
    assert trio.current_time() == began + WAIT
    second.close()
    await first.line(SHORT + 1)


def test_questions_that_no_room_is_left_for_take_none() -> None:
    site, all_ = Room(lines=1, questions=10), Room(lines=1, questions=15)
    first, second = Held((site, all_)), Held((Room(lines=1, questions=10), all_))
    assert first.asked(1, 8)
    assert not first.asked(2, 3)
    assert second.asked(1, 7)
    assert not second.asked(2, 1)
    first.answered(1)
    assert second.asked(2, 1)
    first.close()
    second.close()
    assert (site.questions, all_.questions) == (10, 15)


async def test_a_router_that_asks_more_than_there_is_room_for_is_told_to_come_later() -> None:
    site = Site()
    sites = {van_name(site.identity.site_id): Served(lambda: site.server, _echo, room=Room(lines=1, questions=50_000))}
    async with door(sites.get) as port, trio.open_nursery() as nursery:
        link = _link(port, site.client)
        nursery.start_soon(link.run)
        assert await link.ask("x", {"a": "x" * 20_000}, seconds=5.0)
        nursery.start_soon(_hang, link, 40_000)
        with trio.fail_after(5.0):
            while sites[van_name(site.identity.site_id)].room.questions > 10_000:  # noqa: ASYNC110 - of another end
                await trio.sleep(0.01)
        with pytest.raises(NotReady, match="too many questions"):
            await link.ask("x", {"a": "x" * 20_000})
        assert await link.ask("x", {"n": 1}) == {"n": 1}
        nursery.cancel_scope.cancel()


async def _hang(link: ControllerLink, size: int) -> None:
    await link.ask("hang", {"a": "x" * size}, seconds=60.0)


async def test_a_message_that_does_not_end_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """A line of which more comes all the time keeps its place for 30 s."""
    near, far = trio.testing.memory_stream_pair()

    class Plain:
        receive_some, send_all, aclose = staticmethod(near.receive_some), staticmethod(near.send_all), staticmethod(near.aclose)

    channel = Channel(Plain(), _echo, rooms=(Room(lines=1, questions=100),))  # type: ignore[arg-type]

    async def trickle() -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await far.send_all(b"x" * (SHORT + 1))
            while True:
                await trio.sleep(5.0)
                await far.send_all(b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        with pytest.raises(Full, match="did not end in time"):
            await channel.run()
        assert trio.current_time() == pytest.approx(LINE_SECONDS, abs=5.0)
        nursery.cancel_scope.cancel()
