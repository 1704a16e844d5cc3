"""How a connection finds its target, and what happens while there is none."""

from __future__ import annotations

import pytest
import trio
from applications import body, connect, echo, echo_through, is_reset, read_to_end, reset, served
from plane_harness import Pair, Router, free_port

from vanrouter.plane import BindStatus, Connector, Listener, Ref


async def test_a_listener_that_is_not_matched_refuses_clients_and_keeps_its_port(router: Router) -> None:
    port = await router.add_listener("nobody", status=BindStatus.BOUND)
    with pytest.raises(OSError, match="failed"):
        await connect(port)


async def test_a_listener_listens_from_its_first_match_until_the_linger_after_the_last(router: Router) -> None:
    async with served(echo) as target:
        port = await router.add_listener(status=BindStatus.BOUND)
        router.add_connector(target.port)
        await router.until(lambda: router.listeners["l"].status is BindStatus.LISTENING)
        async with await connect(port) as client:
            await client.send_all(b"before")
            assert await client.receive_some() == b"before"
            router.drop(Ref("connector", "c"))
            await trio.sleep(0.2)
            late = await connect(port)  # within the linger of 0.5 s: it waits for a target, and then is refused
            assert await is_reset(late)
            await router.until(lambda: router.listeners["l"].status is BindStatus.BOUND)
            with pytest.raises(OSError, match="failed"):
                await connect(port)
            await client.send_all(b"after")  # live streams are not touched by any of it
            assert await client.receive_some() == b"after"
        router.add_connector(target.port)
        await router.until(lambda: router.listeners["l"].status is BindStatus.LISTENING)
        await echo_through(port, 10)


async def test_a_connection_waits_for_a_target_and_then_is_reset(router: Router) -> None:
    dead = free_port()
    router.add_connector(dead)
    port = await router.add_listener()
    client = await connect(port)
    began = trio.current_time()
    assert await is_reset(client)
    assert 0.4 < trio.current_time() - began < 2.5  # refuse_after is 0.6 here
    await router.until(lambda: router.ends)
    assert router.ends[0].stream_class == "refused"
    await router.until(lambda: router.connectors["c"].failures > 0)
    assert router.connectors["c"].error


async def test_the_wait_for_a_target_is_three_seconds_by_default(kind: str, nursery: trio.Nursery) -> None:
    from site_credentials import Site

    router = Router(kind, Site("alone"))
    await router.start(nursery)
    router.add_connector(free_port())
    port = await router.add_listener()
    client = await connect(port)
    began = trio.current_time()
    assert await is_reset(client)
    assert 2.5 < trio.current_time() - began < 4.5


@pytest.mark.parametrize("ends", [False, True])
async def test_a_target_that_appears_in_time_gets_the_waiting_connection_with_all_it_said(
    kinds: str, nursery: trio.Nursery, ends: bool
) -> None:
    pair = Pair(kinds)  # waits for 3 s
    await pair.start(nursery)
    dead = free_port()
    port = await pair.expose(dead)
    client = await connect(port)
    await client.send_all(b"hello?")
    if ends:
        await client.send_eof()
    await trio.sleep(0.5)
    async with served(echo, port=dead):
        with trio.fail_after(5):
            assert await client.receive_some() == b"hello?"
            if not ends:
                await client.send_eof()
            assert await client.receive_some() == b""


async def test_early_data_of_every_size_survives_a_refusal(pair: Pair) -> None:
    """The first target refuses; what the client had said by then goes to the second one, once and in order."""
    async with served(echo) as target:
        pair.egress.put(
            Connector(name="a-dead", routing_key="k", host="127.0.0.1", port=free_port()),
            Connector(name="b-live", routing_key="k", host="127.0.0.1", port=target.port),
        )
        pair.ingress.put(Connector(name="a-dead-here", routing_key="k", host="127.0.0.1", port=free_port()))
        port = await pair.ingress.add_listener()
        for size in (0, 1, 4_096, 16_375, 16_376, 16_377, 100_000):
            with trio.fail_after(5):
                await echo_through(port, size, seed=size)


async def test_a_key_nobody_serves_at_the_far_router_is_refused(pair: Pair) -> None:
    port = await pair.ingress.add_listener()  # there is a route, but no connector at its end
    assert await is_reset(await connect(port))
    await pair.ingress.until(lambda: pair.ingress.ends)
    assert pair.ingress.ends[0].stream_class == "refused"


async def test_a_client_that_leaves_while_its_target_is_being_connected_leaves_nothing_behind(pair: Pair) -> None:
    pair.egress.put(Connector(name="c", routing_key="k", host="127.0.0.1", port=free_port()))
    port = await pair.ingress.add_listener()
    for _ in range(20):
        client = await connect(port)
        await client.send_all(b"quick")
        reset(client)
    await pair.nothing_is_left()


async def test_a_local_target_is_reached_without_a_link(router: Router) -> None:
    async with served(echo) as target:
        router.add_connector(target.port)
        port = await router.add_listener()
        for size in (0, 1, 65_537, 4 << 20):
            with trio.fail_after(10):
                await echo_through(port, size)
        await router.until(lambda: len(router.ends) == 4)
        assert {end.stream_class for end in router.ends} == {""}
        await router.until(lambda: router.plane.counters().by_connector["c"][0] == 0)


async def test_a_reset_passes_a_local_connection_both_ways(router: Router) -> None:
    async def abort_if_told(stream: trio.SocketStream) -> None:
        if await stream.receive_some() == b"abort":
            reset(stream)
        else:
            await read_to_end(stream)

    async with served(abort_if_told) as target:
        router.add_connector(target.port)
        port = await router.add_listener()
        client = await connect(port)
        await client.send_all(b"abort")
        assert await is_reset(client)
        client = await connect(port)
        await client.send_all(b"wait")
        await router.until(lambda: target.accepted == 2)
        reset(client)
        await router.until(lambda: target.endings.count("reset") >= 1)


async def test_two_targets_share_the_streams(pair: Pair) -> None:
    async with served(echo) as one, served(echo) as two:
        pair.egress.add_connector(one.port, name="one")
        pair.egress.add_connector(two.port, name="two")
        port = await pair.ingress.add_listener()
        clients = [await connect(port) for _ in range(10)]
        for client in clients:
            await client.send_all(b"x")
            assert await client.receive_some() == b"x"
        assert (one.accepted, two.accepted) == (5, 5)
        for client in clients:
            await client.aclose()


async def test_a_target_here_is_preferred_to_one_across_a_link(pair: Pair) -> None:
    async with served(echo) as here, served(echo) as there:
        pair.egress.add_connector(there.port)
        pair.ingress.add_connector(here.port)
        port = await pair.ingress.add_listener()
        for _ in range(3):
            await echo_through(port, 100)
        assert (here.accepted, there.accepted) == (3, 0)


async def test_a_client_that_has_not_spoken_yet_is_not_waited_for(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        async with await connect(port) as client:
            await pair.egress.until(lambda: target.accepted == 1)  # before the client said anything
            await client.send_all(body(5))
            assert await client.receive_some() == body(5)


async def test_a_second_listener_for_the_same_key_works_too(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        other = await pair.ingress.add_listener("k", name="other")
        await echo_through(port, 10)
        await echo_through(other, 10)


async def test_moving_a_listener_to_another_key_keeps_its_port_and_its_streams(router: Router) -> None:
    async def say_two(stream: trio.SocketStream) -> None:
        await stream.send_all(b"two")

    async with served(echo) as one, served(say_two) as two:
        router.add_connector(one.port, "one", name="one")
        router.add_connector(two.port, "two", name="two")
        port = await router.add_listener("one")
        async with await connect(port) as client:
            await client.send_all(b"1")
            assert await client.receive_some() == b"1"
            router.put(Listener(name="l", host="127.0.0.1", port=port, routing_key="two"))
            async with await connect(port) as other:
                assert await other.receive_some() == b"two"
            await client.send_all(b"2")
            assert await client.receive_some() == b"2"
