"""
Every way in which a router finds its controller late, or not: what answers of the DNS, places that say nothing, a controller that comes
late, one that is of no use.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trio
from test_kube_channel import Site, serving

from vanrouter.controller.routers import Routers
from vanrouter.kube.channel import Channel, Leaf, serve_channels
from vanrouter.kube.controller_link import ControllerLink, Place
from vanrouter.kube.pods import Pod
from vanrouter.sites.controller_places import controller_places

CONTROLLER_POD = {"app.kubernetes.io/component": "controller", "app.kubernetes.io/part-of": "vanrouter"}


async def _answer(_channel: Channel, _method: str, params: dict[str, Any]) -> Any:
    return params


@contextlib.asynccontextmanager
async def looking(places: Callable[[], list[Place]], leaf: Leaf) -> AsyncIterator[ControllerLink]:
    link = ControllerLink(places, leaf=lambda: leaf, greet=lambda: {"pod": "p"}, handler=_answer, rng=random.Random(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        yield link
        nursery.cancel_scope.cancel()


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while True:
            if is_so():
                return
            await trio.sleep(0.01)


@pytest.fixture
def mute() -> Iterator[Place]:
    """Connections to it are neither taken nor refused: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        place: Place = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(place)
        yield place


class Names(trio.abc.HostnameResolver):
    """A DNS that answers ``van-controller`` as the test says."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer, self.asked = answer, 0

    async def getaddrinfo(self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        self.asked += 1
        found = self.answer()
        if found is None:
            await trio.sleep_forever()  # what was sent is lost
        if isinstance(found, Exception):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, port))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    made = Names(lambda: None)
    before = trio.socket.set_custom_hostname_resolver(made)
    yield made
    trio.socket.set_custom_hostname_resolver(before)


async def test_a_dns_that_says_no_at_first_is_asked_again(names: Names) -> None:
    site = Site()
    answers = iter([socket.gaierror(-2, "Name or service not known")] * 2)
    names.answer = lambda: next(answers, "127.0.0.1")
    async with serving(site) as (port, _), looking(lambda: [("van-controller", port)], site.client) as link:
        assert await link.ask("x", {"n": 1}, seconds=5.0) == {"n": 1}
        assert names.asked == 3


async def test_with_a_dns_that_loses_what_is_asked_the_address_of_the_pod_is_enough(names: Names) -> None:
    site = Site()
    async with serving(site) as (port, _), looking(lambda: [("127.0.0.1", port), ("van-controller", port)], site.client) as link:
        assert await link.ask("x", seconds=2.0) == {}
        assert names.asked == 0


async def test_with_an_address_that_says_nothing_the_name_is_enough(names: Names, mute: Place) -> None:
    """A node that does not know the Service yet, or a pod of another network."""
    site = Site()
    names.answer = lambda: "127.0.0.1"
    async with serving(site) as (port, _), looking(lambda: [mute, ("van-controller", port)], site.client) as link:
        assert await link.ask("x", seconds=2.0) == {}


async def test_a_controller_that_comes_late_is_found_while_the_dns_is_still_waited_for(names: Names) -> None:
    site = Site()
    places: list[Place] = [("van-controller", 55672)]
    async with looking(lambda: list(places), site.client) as link:
        await trio.sleep(0.3)
        assert not link.is_connected
        async with serving(site) as (port, _):
            places.insert(0, ("127.0.0.1", port))
            link.places_changed()
            assert await link.ask("x", seconds=2.0) == {}


async def test_one_that_closes_and_one_of_another_site_do_not_hide_the_one_that_answers() -> None:
    """A second controller that only waits for the Lease; a Service that got the address of one that is gone."""
    site, other = Site(), Site()
    async with serving(site) as (port, _), serving(other) as (wrong, _), trio.open_nursery() as nursery:
        (closing,) = await nursery.start(functools.partial(trio.serve_tcp, trio.aclose_forcefully, 0, host="127.0.0.1"))
        closes: Place = closing.socket.getsockname()
        async with looking(lambda: [closes, ("127.0.0.1", wrong), ("127.0.0.1", port)], site.client) as link:
            assert await link.ask("x", seconds=2.0) == {}
        nursery.cancel_scope.cancel()


async def test_one_that_refuses_after_shaking_hands_is_tried_last_the_next_time() -> None:
    """One with another idea of the CA: in TLS 1.3 who dials learns that only when it reads."""
    site, old = Site(), Site()
    refusing = Leaf(site.identity.site_id, site.server.certificate, site.server.key, old.server.ca)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    refusals: list[str] = []

    async def serve() -> None:
        await serve_channels(listeners, lambda: refusing, _answer, refused=lambda _, why: refusals.append(why))

    async with serving(site) as (port, _), trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        wrong: Place = listeners[0].socket.getsockname()
        async with looking(lambda: [wrong, ("127.0.0.1", port)], site.client) as link:
            assert await link.ask("x", seconds=3.0) == {}
        nursery.cancel_scope.cancel()
    assert [why for why in refusals if "handshake failed" in why] == refusals[:1]


async def test_why_there_is_no_connection_names_each_place_and_what_it_said(names: Names) -> None:
    site = Site()
    names.answer = lambda: socket.gaierror(-2, "Name or service not known")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place: Place = taken.getsockname()
        async with looking(lambda: [place, ("van-controller", 55672)], site.client) as link:
            await until(lambda: "van-controller" in link.problem)
            assert f"127.0.0.1:{place[1]}: Connection refused" in link.problem
            assert "van-controller:55672: [Errno -2] Name or service not known" in link.problem


async def test_who_is_refused_is_said_and_who_only_knocks_is_not() -> None:
    site, other = Site(), Site()
    routers = Routers(wake=lambda: None, hello=dict)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_channels(listeners, lambda: site.server, routers.handle, changed=routers.changed, refused=routers.refused)

        nursery.start_soon(serve)
        place: Place = listeners[0].socket.getsockname()
        await (await trio.open_tcp_stream(*place)).aclose()  # as a probe does
        await trio.sleep(0.1)
        assert "none has come" in routers.why_none
        stranger = Leaf(site.identity.site_id, other.client.certificate, other.client.key, site.client.ca)
        async with looking(lambda: [place], stranger):
            await until(lambda: "refused" in routers.why_none)
        assert routers.why_none.startswith("one that came, from 127.0.0.1, was refused: the TLS handshake failed")
        nursery.cancel_scope.cancel()


def test_the_pods_come_first_then_the_address_of_the_service_then_its_name() -> None:
    def pod(name: str, address: str, **more: Any) -> Pod:
        return Pod(name=name, labels=CONTROLLER_POD, address=address, **more)

    pods = [
        pod("b", "10.0.0.2"), pod("c", "10.0.0.3", ready=True), pod("d", "10.0.0.4", leaving=True), pod("e", ""),
        Pod(name="a", labels={"app": "hello"}, address="10.0.0.1", ready=True),
    ]  # fmt: skip
    environ = {"VAN_CONTROLLER_SERVICE_HOST": "10.96.0.9", "VAN_CONTROLLER_SERVICE_PORT": "55672"}
    named = ("van-controller", 55672)
    assert controller_places(pods, environ, named) == [("10.0.0.3", 55672), ("10.0.0.2", 55672), ("10.96.0.9", 55672), named]
    assert controller_places([], {"VAN_CONTROLLER_SERVICE_PORT": "tcp://x"}, named) == [named]


async def test_while_nobody_answers_it_is_asked_at_most_each_two_and_a_half_to_five_seconds(names: Names, autojump_clock: Any) -> None:
    """A quarter of an hour without a controller, in virtual time."""
    times: list[float] = []

    def no() -> Exception:
        times.append(trio.current_time())
        return socket.gaierror(-2, "Name or service not known")

    names.answer = no
    async with looking(lambda: [("van-controller", 55672)], Site().client):
        await trio.sleep(900)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits[0] <= 0.25, "the first time soon: it may be coming up"
    assert 2.5 <= min(waits[6:]) <= max(waits[6:]) <= 5.0
    assert len(set(waits[6:])) > 100, "many routers do not ask in step"


async def test_a_question_to_the_dns_that_is_lost_is_given_the_time_in_which_a_resolver_asks_again(
    names: Names, autojump_clock: Any
) -> None:
    async with looking(lambda: [("van-controller", 55672)], Site().client) as link:
        await trio.sleep(15.9)
        assert names.asked == 1
        await trio.sleep(5)
        assert names.asked == 2
        assert link.problem == "van-controller:55672: nobody answered within 16 s"
