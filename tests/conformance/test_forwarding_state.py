"""Generations, changes and ports: what the control plane may rely on."""

from __future__ import annotations

import os
import socket

import pytest
import trio
from applications import connect, echo, echo_through, served
from plane_harness import Pair, Router, free_port, path
from site_credentials import Site

from vanrouter.errors import StaleGeneration
from vanrouter.plane import BindStatus, Changes, Connector, Listener, Ref, Snapshot


async def test_the_generation_in_force_is_reported(router: Router) -> None:
    router.add_connector(9)
    await router.until(lambda: router.in_force == router.generation)


async def test_changes_on_another_generation_are_refused_and_change_nothing(router: Router) -> None:
    port = free_port()
    listener = Listener(name="l", host="127.0.0.1", port=port, routing_key="k")
    with pytest.raises(StaleGeneration):
        router.plane.apply(Changes(base=router.generation + 5, generation=router.generation + 6, put=[listener]))
    with pytest.raises(StaleGeneration):
        router.plane.apply(Changes(base=router.generation - 1, generation=router.generation + 1, put=[listener]))
    await trio.sleep(0.1)
    assert "l" not in router.listeners
    router.put(listener)
    await router.until(lambda: "l" in router.listeners)


async def test_the_first_changes_need_a_snapshot(kind: str, nursery: trio.Nursery) -> None:
    router = Router(kind, Site("fresh"))
    await nursery.start(router.plane.run)
    with pytest.raises(StaleGeneration):
        router.plane.apply(Changes(base=0, generation=1))
    router.plane.apply(Snapshot(generation=7, entries=[]))
    router.plane.apply(Changes(base=7, generation=9))


async def test_a_snapshot_drops_what_is_not_in_it_and_leaves_the_rest_alone(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        ingress = pair.ingress
        gone = await ingress.add_listener("k", name="gone")
        async with await connect(port) as client:
            await client.send_all(b"1")
            assert await client.receive_some() == b"1"
            entries = [
                ingress.site.credential(pair.authority),  # a rotation by the way
                Listener(name="l", host="127.0.0.1", port=port, routing_key="k"),
                path(pair.egress.id),
                pair.route("k"),
            ]
            from vanrouter.plane import Link

            entries.append(Link(name="link", credential="main", expected_site=pair.egress.site.id))
            ingress.apply_snapshot(entries)
            await ingress.until(lambda: ingress.listeners["gone"].gone)
            with pytest.raises(OSError, match="failed"):
                await connect(gone)
            await client.send_all(b"2")
            assert await client.receive_some() == b"2"
            await echo_through(port, 1000)


async def test_no_change_touches_a_live_stream(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        async with await connect(port) as client:
            await client.send_all(b"before")
            assert await client.receive_some() == b"before"
            pair.ingress.drop(Ref("listener", "l"), Ref("route", "k"), Ref("path", pair.egress.id))
            pair.egress.drop(Ref("connector", "c"), Ref("access", "access"))
            await pair.ingress.until(lambda: pair.ingress.listeners["l"].gone)
            await pair.egress.until(lambda: pair.egress.accesses["access"].gone)
            await client.send_all(b"after")
            assert await client.receive_some() == b"after"
            await client.send_eof()
            assert await client.receive_some() == b""


async def test_dropping_a_link_resets_its_streams(pair: Pair) -> None:
    from applications import is_reset

    async with served(echo) as target:
        port = await pair.expose(target.port)
        client = await connect(port)
        await client.send_all(b"x")
        assert await client.receive_some() == b"x"
        pair.ingress.drop(Ref("link", "link"))
        assert await is_reset(client)
        await pair.ingress.until(lambda: pair.ingress.links[pair.egress.id].lanes == 0)
        await pair.egress.until(lambda: pair.egress.links[pair.ingress.id].lanes == 0)
        await pair.ingress.until(lambda: pair.ingress.ends)
        assert pair.ingress.ends[0].stream_class == "link"


async def test_a_port_in_use_is_reported_and_taken_when_it_becomes_free(router: Router) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        router.put(Listener(name="l", host="127.0.0.1", port=port, routing_key="k"))
        await router.until(lambda: "l" in router.listeners)
        assert router.listeners["l"].status is BindStatus.IN_USE
        assert str(port) in router.listeners["l"].error
    await router.until(lambda: router.listeners["l"].status is BindStatus.BOUND)


async def test_a_port_that_another_router_holds_without_listening_is_in_use(kind: str, nursery: trio.Nursery) -> None:
    """With SO_REUSEADDR on both sides the kernel would let two routers bind it, and the second would learn of it too late."""
    port = free_port()
    first, second = Router(kind, Site("first")), Router(kind, Site("second"))
    listener = Listener(name="l", host="127.0.0.1", port=port, routing_key="nobody")
    await first.start(nursery, [listener])
    await first.until(lambda: "l" in first.listeners)
    assert first.listeners["l"].status is BindStatus.BOUND
    await second.start(nursery, [listener])
    await second.until(lambda: "l" in second.listeners)
    assert second.listeners["l"].status is BindStatus.IN_USE


async def test_a_port_that_was_just_used_can_be_bound_again(kind: str, nursery: trio.Nursery) -> None:
    """Connections in TIME_WAIT are in the way of a plain bind."""

    async def end_first(stream: trio.SocketStream) -> None:
        await stream.send_eof()  # so that the router's side of the client connection is the one that waits
        await stream.receive_some()

    async with served(end_first) as target:
        first = Router(kind, Site("first"))
        await first.start(nursery)
        first.add_connector(target.port)
        port = await first.add_listener()
        for _ in range(3):
            async with await connect(port) as client:
                assert await client.receive_some() == b""
        await first.until(lambda: len(first.ends) == 3)
        await first.stop()
        second = Router(kind, Site("second"))
        await second.start(nursery, [Listener(name="l", host="127.0.0.1", port=port, routing_key="k")])
        await second.until(lambda: "l" in second.listeners)
        assert second.listeners["l"].status is BindStatus.BOUND


async def test_an_address_that_is_not_ours_is_denied(router: Router) -> None:
    router.put(Listener(name="l", host="192.0.2.1", port=free_port(), routing_key="k"))
    await router.until(lambda: "l" in router.listeners)
    assert router.listeners["l"].status in (BindStatus.DENIED, BindStatus.FAILED)
    assert router.listeners["l"].error


async def test_a_socket_that_is_handed_over_serves_on_without_a_gap(kind: str, nursery: trio.Nursery) -> None:
    async with served(echo) as target:
        old = Router(kind, Site("old"))
        await old.start(nursery)
        old.add_connector(target.port)
        port = await old.add_listener()
        live = await connect(port)
        await live.send_all(b"1")
        assert await live.receive_some() == b"1"

        ((host, number, fd),) = [row for row in old.plane.listening_sockets() if row[1] == port]
        new = Router(kind, Site("new"))
        new.plane.adopt(host, number, os.dup(fd))
        await new.start(
            nursery,
            [
                Listener(name="l", host="127.0.0.1", port=port, routing_key="k"),
                Connector(name="c", routing_key="k", host="127.0.0.1", port=target.port),
            ],
        )
        await new.until(lambda: "l" in new.listeners)
        assert new.listeners["l"].status is BindStatus.LISTENING
        old.plane.leave()
        old.plane.refuse()
        for _ in range(20):
            await echo_through(port, 10)
        await live.send_all(b"2")  # the old router finishes what it has
        assert await live.receive_some() == b"2"
        await old.stop()
        for _ in range(20):
            await echo_through(port, 10)


async def test_an_adopted_socket_counts_as_just_matched_and_waits_for_the_link(kind: str, nursery: trio.Nursery) -> None:
    """A restarted router has no link yet; its clients are not refused meanwhile."""
    inherited = socket.socket()
    inherited.bind(("127.0.0.1", 0))
    inherited.listen()
    port = inherited.getsockname()[1]
    async with served(echo) as target:
        router = Router(kind, Site("successor"), listener_linger=2.0)
        router.plane.adopt("127.0.0.1", port, inherited.detach())
        await router.start(nursery, [Listener(name="l", host="127.0.0.1", port=port, routing_key="k")])
        await router.until(lambda: "l" in router.listeners)
        assert router.listeners["l"].status is BindStatus.LISTENING
        client = await connect(port)
        await client.send_all(b"early")
        await trio.sleep(0.3)
        router.add_connector(target.port)
        with trio.fail_after(4):
            assert await client.receive_some() == b"early"


async def test_an_adopted_socket_nobody_wants_is_closed(kind: str, nursery: trio.Nursery) -> None:
    inherited = socket.socket()
    inherited.bind(("127.0.0.1", 0))
    inherited.listen()
    port = inherited.getsockname()[1]
    router = Router(kind, Site("successor"))
    router.plane.adopt("127.0.0.1", port, inherited.detach())
    await router.start(nursery)
    await router.until(lambda: router.in_force == 1)
    with pytest.raises(OSError, match="failed"):
        await connect(port)


async def test_dropped_entries_do_not_leave_their_counters_behind(router: Router) -> None:
    async with served(echo) as target:
        router.add_connector(target.port)
        port = await router.add_listener()
        await echo_through(port, 10)
        await router.until(lambda: router.plane.counters().by_listener["l"][2:] == [10, 10])
        router.drop(Ref("listener", "l"), Ref("connector", "c"))
        await router.until(lambda: "l" not in router.plane.counters().by_listener and "c" not in router.plane.counters().by_connector)
