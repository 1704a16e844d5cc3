"""Links: who gets one, what it carries, and what happens when it goes."""

from __future__ import annotations

import contextlib

import pytest
import trio
from applications import body, connect, echo, echo_through, is_reset, read_to_end, served
from plane_harness import Pair, Router, free_port, path
from relay import relayed
from scripted_peer import POLICY, PROTOCOL, dialled_in, waiting_for_a_dial
from site_credentials import Authority, Site

from vanrouter.plane import BindStatus, Credential, Link


async def test_both_ends_of_a_link_say_the_same_about_it(pair: Pair) -> None:
    near, far = pair.ingress.links[pair.egress.id], pair.egress.links[pair.ingress.id]
    assert (near.site_name, far.site_name) == ("south", "north")
    assert (near.lanes, far.lanes) == (1, 1)
    assert (near.dialled, near.accepted) == (["link"], [])
    assert (far.dialled, far.accepted) == ([], ["access"])
    assert far.peer_link == "link"
    assert near.address.endswith(f":{pair.access_port}")
    assert near.software
    assert near.cost == far.cost == 1


async def test_the_larger_cost_of_both_ends_counts(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds)
    await pair.start(nursery, lanes=0)
    pair.ingress.put(Link(name="link", credential="main", expected_site=pair.egress.site.id, cost=7))
    await pair.link()
    assert pair.ingress.links[pair.egress.id].cost == 7
    assert pair.egress.links[pair.ingress.id].cost == 7


@pytest.mark.parametrize("edge", ["ingress", "egress"])
async def test_an_edge_says_that_it_is_one(kinds: str, nursery: trio.Nursery, edge: str) -> None:
    pair = Pair(kinds)
    near, far = kinds.split("-")
    pair.ingress = Router(near, Site("north"), edge=edge == "ingress")
    pair.egress = Router(far, Site("south"), edge=edge == "egress")
    await pair.start(nursery)
    assert pair.ingress.links[pair.egress.id].edge is (edge == "egress")
    assert pair.egress.links[pair.ingress.id].edge is (edge == "ingress")


# ---- Dialling -----------------------------------------------------------------------------------------------------------------


async def test_a_dial_to_a_closed_port_is_refused(pair: Pair) -> None:
    result = await pair.ingress.dial(free_port())
    assert (result.reason, result.router, result.retryable) == ("refused", "", True)
    assert result.error


async def test_a_dial_for_a_link_that_does_not_exist_fails(pair: Pair) -> None:
    result = await pair.ingress.dial(pair.access_port, link="no-such-link")
    assert result.router == ""
    assert not result.retryable


async def test_another_site_than_expected_is_refused(pair: Pair) -> None:
    pair.ingress.put(Link(name="picky", credential="main", expected_site=Site("other").id))
    result = await pair.ingress.dial(pair.access_port, link="picky")
    assert (result.reason, result.retryable) == ("policy", False)


async def test_a_dial_that_reaches_oneself_says_so(kind: str, nursery: trio.Nursery) -> None:
    authority, site = Authority(), Site("narcissus")
    router = Router(kind, site)
    await router.start(nursery, [site.credential(authority), Link(name="link", credential="main")])
    port = await router.add_access()
    result = await router.dial(port)
    assert (result.reason, result.retryable) == ("self", False)
    assert not [state for state in router.links.values() if state.lanes]


async def test_a_port_that_accepts_and_says_nothing_times_out_after_five_seconds(router: Router) -> None:
    async def say_nothing(stream: trio.SocketStream) -> None:
        await trio.sleep(20)

    async with served(say_nothing) as target:
        router.put(router.site.credential(Authority()), Link(name="link", credential="main"))
        began = trio.current_time()
        result = await router.dial(target.port, within=8)
        assert result.reason == "timeout"
        assert 4 < trio.current_time() - began < 7


async def test_a_dial_can_be_cancelled(router: Router) -> None:
    async def say_nothing(stream: trio.SocketStream) -> None:
        await trio.sleep(20)

    async with served(say_nothing) as target:
        router.put(router.site.credential(Authority()), Link(name="link", credential="main"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(router.dial, target.port)
            await trio.sleep(0.2)
            router.plane.cancel_dial(1)
            await router.until(lambda: router.dials)
        assert router.dials[1].reason == "cancelled"


async def test_a_port_that_speaks_something_else_is_a_tls_failure(router: Router) -> None:
    async def speak_http(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with served(speak_http) as target:
        router.put(router.site.credential(Authority()), Link(name="link", credential="main"))
        result = await router.dial(target.port)
        assert result.reason in ("tls", "protocol")


# ---- Who may link ----------------------------------------------------------------------------------------------------------------

DAY = 86_400


def _bad_credentials(site: Site, authority: Authority) -> dict[str, Credential]:
    import time

    from cryptography.hazmat.primitives.asymmetric import ec

    key, other_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    return {
        "another CA": site.credential(Authority("stranger"), trust=authority),
        "a leaf that has expired": site.credential(authority, begins=time.time() - 2 * DAY, ends=time.time() - DAY),
        "a leaf of next week": site.credential(authority, begins=time.time() + 7 * DAY, ends=time.time() + 8 * DAY),
        "a statement by another identity": site.credential(authority, key=key, statement=site.statement(key, signer=other_key)),
        "a statement about another leaf": site.credential(authority, key=key, statement=site.statement(other_key)),
        "a statement that has ended": site.credential(authority, key=key, statement=site.statement(key, not_after=time.time() - 60)),
        "a statement of nothing": site.credential(authority, key=key, statement=b""),
        "a statement of noise": site.credential(authority, key=key, statement=bytes(100)),
    }


@pytest.mark.parametrize("what", list(_bad_credentials(Site("any"), Authority())))
async def test_an_access_refuses_a_peer_that_shows(kind: str, nursery: trio.Nursery, what: str) -> None:
    router, authority, mallory = Router(kind, Site("victim")), Authority(), Site("mallory")
    await router.start(nursery, [router.site.credential(authority)])
    port = await router.add_access()
    try:
        async with dialled_in(port, mallory, _bad_credentials(mallory, authority)[what]) as peer:
            await peer.send(peer.hello())
            code, _ = await peer.the_end()
            assert code in (None, POLICY, PROTOCOL)
    except trio.BrokenResourceError:
        pass  # refused in the handshake already
    await trio.sleep(0.1)
    assert not router.links


@pytest.mark.parametrize("what", list(_bad_credentials(Site("any"), Authority())))
async def test_a_dialler_refuses_a_peer_that_shows(kind: str, nursery: trio.Nursery, what: str) -> None:
    router, authority, mallory = Router(kind, Site("victim")), Authority(), Site("mallory")
    await router.start(nursery, [router.site.credential(authority), Link(name="link", credential="main")])

    async def answer() -> None:
        peer = await peers.receive()
        with contextlib.suppress(trio.BrokenResourceError):
            await peer.send(peer.hello())
            await peer.the_end()

    bad = _bad_credentials(mallory, authority)[what]
    async with waiting_for_a_dial(mallory, authority, bad) as (port, peers), trio.open_nursery() as helpers:
        helpers.start_soon(answer)
        result = await router.dial(port)
        helpers.cancel_scope.cancel()
    assert result.router == ""
    assert result.reason in ("tls", "policy", "protocol"), result
    assert result.error
    assert not router.links


async def test_patterns_admit_and_refuse(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds)
    await pair.start(nursery, lanes=0)
    name = pair.ingress.site.id[:20]
    for admit, admitted in ([], False), (["other*"], False), ([name[:5] + "*"], True), (["local*"], True):
        pair.egress.put(pair.egress.site.credential(pair.authority, admit=admit))
        before = dict(pair.egress.links)
        await pair.ingress.dial(pair.access_port)
        await trio.sleep(0.2)
        links = [state for state in pair.egress.links.values() if state.lanes]
        assert bool(links) is admitted, (admit, before, links)
        if links:
            pair.ingress.plane.cut(pair.egress.id, "next")
            await pair.egress.until(lambda: not [state for state in pair.egress.links.values() if state.lanes])


async def test_verify_host_checks_the_name_of_the_endpoint(kinds: str, nursery: trio.Nursery) -> None:
    from vanrouter.plane import Dial

    pair = Pair(kinds)
    await pair.start(nursery, lanes=0)
    pair.ingress.put(pair.ingress.site.credential(pair.authority, verify_host=True))
    for number, name, reason in ((100, "elsewhere.example", "tls"), (101, "localhost", "")):
        pair.ingress.plane.dial(Dial(id=number, link="link", host="127.0.0.1", port=pair.access_port, server_name=name))
        await pair.ingress.until(lambda n=number: n in pair.ingress.dials)  # type: ignore[misc]
        assert pair.ingress.dials[number].reason == reason, pair.ingress.dials[number]


# ---- Lanes -----------------------------------------------------------------------------------------------------------------------


async def test_lanes_to_one_router_are_one_trunk(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds, workers=2)
    await pair.start(nursery, lanes=2)
    await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].lanes == 2)
    await pair.egress.until(lambda: pair.egress.links[pair.ingress.id].lanes == 2)
    assert pair.ingress.links[pair.egress.id].lanes_wanted == 2
    async with served(echo) as target:
        port = await pair.expose(target.port)
        async with trio.open_nursery() as clients:
            for number in range(16):
                clients.start_soon(echo_through, port, 50_000, number)


async def test_a_lane_that_is_cut_resets_its_streams_with_class_link_and_leaves_the_others(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds, workers=2)
    await pair.start(nursery)
    async with relayed(pair.access_port) as relay, served(echo) as target:
        await pair.link(relay.port)
        await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].lanes == 2)
        port = await pair.expose(target.port)
        clients = [await connect(port) for _ in range(8)]
        for client in clients:
            await client.send_all(b"x")
            assert await client.receive_some() == b"x"
        relay.cut()
        await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].lanes == 1)
        lost = 0
        for client in clients:
            try:
                await client.send_all(b"y")
                with trio.fail_after(3):
                    assert await client.receive_some() == b"y"
            except trio.BrokenResourceError:
                lost += 1
        assert 0 < lost < 8
        await pair.ingress.until(lambda: len(pair.ingress.ends) == lost)
        assert {end.stream_class for end in pair.ingress.ends} == {"link"}
        await echo_through(port, 1000)


async def test_the_loss_of_a_link_is_a_reset_at_both_ends_in_the_middle_of_bulk(kinds: str, nursery: trio.Nursery) -> None:
    endings: list[bool] = []

    async def pour(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(bytes(1 << 16))

    pair = Pair(kinds, refuse_after=0.6)
    await pair.start(nursery, lanes=0)
    async with relayed(pair.access_port) as relay, served(pour) as target:
        await pair.link(relay.port)
        port = await pair.expose(target.port)

        async def pull() -> None:
            endings.append(await is_reset(await connect(port)))

        async with trio.open_nursery() as clients:
            for _ in range(4):
                clients.start_soon(pull)
            await trio.sleep(0.4)
            relay.cut()
        assert endings == [True] * 4
        await pair.egress.until(lambda: target.endings == ["reset"] * 4)
        state = pair.ingress.links[pair.egress.id]
        await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].lanes == 0)
        assert pair.ingress.links[pair.egress.id].error, state


async def test_a_link_that_is_byte_by_byte_slow_still_works(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds)
    await pair.start(nursery, lanes=0)
    async with relayed(pair.access_port) as relay, served(echo) as target:
        relay.piece = 1
        await pair.link(relay.port)
        port = await pair.expose(target.port)
        with trio.fail_after(20):
            await echo_through(port, 3_000)


async def test_each_byte_of_a_record_that_is_long_under_way_is_a_sign_of_life(kinds: str, nursery: trio.Nursery) -> None:
    """One of 16 KiB takes twice as long as silence may last, and cannot be decrypted before it is whole."""
    pair = Pair(kinds, suspect_after=0.6, dead_after=1.2)
    await pair.start(nursery, lanes=0)
    arrived: list[int] = []

    async def beat(stream: trio.SocketStream) -> None:
        """The other direction is never silent."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while not arrived:
                await stream.send_all(b".")
                await trio.sleep(0.1)

    async def count(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as beating:
            beating.start_soon(beat, stream)
            arrived.append(len(await read_to_end(stream)))
        await stream.send_eof()

    async with relayed(pair.access_port) as relay, served(count) as target:
        relay.piece = 350
        await pair.link(relay.port)
        port = await pair.expose(target.port)
        async with await connect(port) as client:
            assert await client.receive_some() == b"."
            relay.pause = 0.05
            with trio.fail_after(20):
                await client.send_all(body(16_000))
                await client.send_eof()
                await read_to_end(client)
        assert arrived == [16_000]
        for router in (pair.ingress, pair.egress):
            assert not any(link.error for link in router.links.values()), router.links


async def test_silence_makes_a_link_suspect_and_a_word_makes_it_sound_again(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds, suspect_after=0.5, dead_after=20.0)
    await pair.start(nursery, lanes=0)
    async with relayed(pair.access_port) as relay, served(echo) as target:
        await pair.link(relay.port)
        port = await pair.expose(target.port)
        async with await connect(port) as client:
            await client.send_all(b"1")
            assert await client.receive_some() == b"1"
            relay.go_silent()
            await client.send_all(b"2")
            await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].suspect, within=4)
            relay.speak_again()
            await pair.ingress.until(lambda: not pair.ingress.links[pair.egress.id].suspect)
            assert await client.receive_some() == b"2"  # nothing was lost


async def test_all_lanes_of_a_link_that_falls_silent_are_suspect_together_also_the_idle_ones(kinds: str, nursery: trio.Nursery) -> None:
    """Else each new stream would go to the next idle lane, and wait for the suspicion of that one: twice as long with two lanes."""
    suspect_after = 2.0
    pair = Pair(kinds, suspect_after=suspect_after, dead_after=30.0)
    await pair.start(nursery, lanes=0)
    async with relayed(pair.access_port) as relay, served(echo) as target:
        await pair.link(relay.port)
        port = await pair.expose(target.port)
        await pair.link(relay.port)
        await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].lanes == 2)
        await echo_through(port, 1_000)
        relay.go_silent()
        began = trio.current_time()
        async with await connect(port) as client:  # one lane owes an answer, the other one nothing
            await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].suspect, within=6)
            assert suspect_after - 0.1 <= trio.current_time() - began < 1.5 * suspect_after
            relay.speak_again()
            await pair.ingress.until(lambda: not pair.ingress.links[pair.egress.id].suspect)
            await client.send_all(b"1")
            assert await client.receive_some() == b"1"


async def test_six_seconds_of_silence_are_the_end_of_a_link_and_its_streams(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds, refuse_after=0.6)
    await pair.start(nursery, lanes=0)
    async with relayed(pair.access_port) as relay, served(echo) as target:
        await pair.link(relay.port)
        port = await pair.expose(target.port)
        client = await connect(port)
        await client.send_all(b"1")
        assert await client.receive_some() == b"1"
        relay.go_silent()
        began = trio.current_time()
        assert await is_reset(client, within=9)
        assert 5 < trio.current_time() - began < 8
        await pair.egress.until(lambda: target.endings == ["reset"], within=4)
        await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].lanes == 0)


async def test_an_unanswered_open_without_data_goes_elsewhere_when_its_link_is_suspect(kind: str, nursery: trio.Nursery) -> None:
    from vanrouter.plane import Route, RouteTarget

    pair = Pair(f"{kind}-{kind}", suspect_after=0.4, dead_after=20.0)
    await pair.start(nursery, lanes=0)
    third = Router(kind, Site("third"), suspect_after=0.4, dead_after=20.0)
    await third.start(nursery, [third.site.credential(pair.authority)])
    third_port = await third.add_access()

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"welcome")
        await trio.sleep_forever()

    async with relayed(pair.access_port) as relay, served(greet) as target:
        await pair.link(relay.port)
        pair.ingress.put(Link(name="third", credential="main"))
        assert (await pair.ingress.dial(third_port, link="third")).router == third.id
        for router in (pair.egress, third):
            router.add_connector(target.port)
        pair.ingress.put(path(third.id, cost=100), Route(name="k", targets=[RouteTarget(pair.egress.id), RouteTarget(third.id)]))
        port = await pair.ingress.add_listener()
        relay.go_silent()
        client = await connect(port)
        with trio.fail_after(4):
            assert await client.receive_some() == b"welcome"
        assert third.plane.counters() is not None
        relay.speak_again()


# ---- Rotation, cutting, leaving ------------------------------------------------------------------------------------------------


async def test_a_new_credential_is_for_new_lanes_and_leaves_the_old_ones(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds, workers=2)
    await pair.start(nursery)
    async with served(echo) as target:
        port = await pair.expose(target.port)
        async with await connect(port) as client:
            await client.send_all(b"1")
            assert await client.receive_some() == b"1"
            for router in (pair.ingress, pair.egress):
                router.put(router.site.credential(pair.authority))
            await pair.link()
            await client.send_all(b"2")
            assert await client.receive_some() == b"2"
        await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].lanes == 2)


async def test_cutting_a_router_closes_its_lanes_with_policy(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        client = await connect(port)
        await client.send_all(b"x")
        assert await client.receive_some() == b"x"
        pair.egress.plane.cut(pair.ingress.id, "revoked")
        assert await is_reset(client)
        await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].lanes == 0)
        assert "revoked" in pair.ingress.links[pair.egress.id].error


async def test_a_router_that_leaves_is_seen_to_drain_and_serves_on(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        pair.egress.plane.leave()
        await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].draining)
        await echo_through(port, 1000)


async def test_after_the_grace_new_streams_are_refused_and_old_ones_finish(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        async with await connect(port) as client:
            await client.send_all(b"1")
            assert await client.receive_some() == b"1"
            pair.egress.plane.leave()
            pair.egress.plane.refuse()
            await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].draining)
            assert await is_reset(await connect(port))
            await client.send_all(b"2")
            assert await client.receive_some() == b"2"
            await client.send_eof()
            assert await client.receive_some() == b""


async def test_the_listeners_of_a_router_that_refuses_are_closed(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        async with await connect(port) as client:
            await client.send_all(b"1")
            assert await client.receive_some() == b"1"
            pair.ingress.plane.leave()
            pair.ingress.plane.refuse()
            await trio.sleep(0.3)
            try:
                refused = await is_reset(await connect(port))
            except OSError:
                refused = True
            assert refused
            await client.send_all(b"2")
            assert await client.receive_some() == b"2"


async def test_drain_under_load_loses_nothing(pair: Pair) -> None:
    """Streams that are under way when the grace begins and ends arrive whole."""
    async with served(echo) as target:
        port = await pair.expose(target.port)
        with trio.fail_after(40):
            async with trio.open_nursery() as clients:
                for number in range(16):
                    clients.start_soon(echo_through, port, 4 << 20, number)
                await pair.egress.until(lambda: target.accepted == 16)
                pair.egress.plane.leave()
                await trio.sleep(0.05)
                pair.egress.plane.refuse()
        await pair.nothing_is_left()


async def test_a_router_that_stops_resets_what_it_has_and_says_so(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        clients = [await connect(port) for _ in range(5)]
        for client in clients:
            await client.send_all(b"x")
            assert await client.receive_some() == b"x"
        with trio.fail_after(3):
            await pair.egress.stop()
        for client in clients:
            assert await is_reset(client)
        await pair.egress.until(lambda: target.endings == ["reset"] * 5)
        await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].lanes == 0)


# ---- Control messages ------------------------------------------------------------------------------------------------------------


async def test_control_messages_arrive_whole_and_in_order(pair: Pair) -> None:
    messages = [bytes([number]) * size for number, size in enumerate((1, 0, 100, 16_376, 16_377, 65_536, 5))]
    for message in messages:
        assert pair.ingress.plane.send_message(pair.egress.id, message)
        assert pair.egress.plane.send_message(pair.ingress.id, message)
    await pair.egress.until(lambda: len(pair.egress.messages) == len(messages))
    await pair.ingress.until(lambda: len(pair.ingress.messages) == len(messages))
    assert [message.data for message in pair.egress.messages] == messages
    assert [message.data for message in pair.ingress.messages] == messages
    assert {message.router for message in pair.egress.messages} == {pair.ingress.id}


async def test_a_new_link_says_that_messages_may_have_been_lost(pair: Pair) -> None:
    await pair.ingress.until(lambda: pair.ingress.message_resets == [pair.egress.id])
    await pair.egress.until(lambda: pair.egress.message_resets == [pair.ingress.id])


async def test_a_message_to_a_router_without_a_link_is_not_taken(router: Router) -> None:
    assert router.plane.send_message(router.id, b"hello?") is False


async def test_many_messages_pass_beside_bulk(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(echo_through, port, 16 << 20)
                sent = 0
                while sent < 200:
                    if pair.ingress.plane.send_message(pair.egress.id, sent.to_bytes(4, "big") + bytes(2_000)):
                        sent += 1
                    else:
                        await trio.sleep(0.01)
        await pair.egress.until(lambda: len(pair.egress.messages) == 200)
        assert [int.from_bytes(message.data[:4], "big") for message in pair.egress.messages] == list(range(200))


async def test_siblings_are_told_in_the_hello_of_new_lanes(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds)
    await pair.start(nursery, lanes=0)
    pair.egress.plane.set_siblings([3, 2**64 - 1])
    await pair.link()
    assert sorted(pair.ingress.links[pair.egress.id].siblings) == [3, 2**64 - 1]


@pytest.mark.parametrize("who", ["acceptor", "dialler"])
async def test_a_refused_site_gets_no_lane_whoever_dials_and_may_come_when_it_is_not_refused_any_more(
    kinds: str, who: str, nursery: trio.Nursery
) -> None:
    pair = Pair(kinds)
    await pair.start(nursery, lanes=0)
    refuser, refused = (pair.egress, pair.ingress) if who == "acceptor" else (pair.ingress, pair.egress)
    refuser.plane.set_refused([Site("other").id, refused.site.id])
    result = await pair.ingress.dial(pair.access_port, expected_site=pair.egress.site.id)
    if who == "dialler":
        assert (result.router, result.reason, result.retryable) == ("", "policy", False)
        assert refused.site.id in result.error
    await trio.sleep(0.3)  # the dialler may have heard HELLO before it heard that it is refused
    assert not refuser.links
    await refused.until(lambda: not any(link.lanes for link in refused.links.values()))
    refuser.plane.set_refused([])
    await pair.link()
    assert refuser.links[refused.id].lanes == 1


async def test_a_listener_follows_the_link(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds, listener_linger=0.3, refuse_after=0.3)
    await pair.start(nursery, lanes=0)
    port = await pair.ingress.add_listener(status=BindStatus.BOUND)
    async with served(echo) as target:
        pair.egress.add_connector(target.port)
        await pair.link()
        await pair.ingress.until(lambda: pair.ingress.listeners["l"].status is BindStatus.LISTENING)
        await echo_through(port, 100)
        pair.ingress.plane.cut(pair.egress.id, "test")
        await pair.ingress.until(lambda: pair.ingress.listeners["l"].status is BindStatus.BOUND)
