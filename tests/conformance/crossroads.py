"""A router between two peers by hand, and an honest neighbour of it, for tests of what it does with streams that cross it.

opener (by hand) ══▶ [router] ══▶ next hop (by hand)
                     ║
honest neighbour ════╝
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import scripted_peer as wire
import trio
from applications import echo, echo_through, served
from network import Network, still_counted
from plane_harness import Router, path
from scripted_peer import ScriptedPeer, dialled_in, frame, u32, waiting_for_a_dial
from site_credentials import Site

from vanrouter.plane import Link, Route, RouteTarget

LINK, POLICY, DRAIN, REFUSED, RESOURCE = 3, 4, 6, 7, 8
EDGE = {12: b"\1"}
CREDIT = 65_536


class Crossroads:
    def __init__(
        self,
        router: Router,
        network: Network,
        opener: ScriptedPeer,
        next_hop: ScriptedPeer,
        honest_port: int,
        dial: Callable[[], Awaitable[ScriptedPeer]],
    ) -> None:
        self.router = router
        self.network = network
        self.opener = opener
        self.next_hop = next_hop
        self._honest_port = honest_port
        self._dial = dial
        self.granted = 0  # with the last OPEN_OK

    def open(self, stream: int = 1, **fields: object) -> bytes:
        return self.opener.open(stream, destination=self.next_hop.id, **fields)  # type: ignore[arg-type]

    async def opened(self, stream: int = 1, *, credit: int = CREDIT, **fields: object) -> int:
        """A stream that is open on both hops. Its id on the second one."""
        await self.opener.send(self.open(stream, **fields))
        onward = (await self.next_hop.until_open()).stream
        await self.next_hop.send(frame(onward, wire.OPEN_OK, u32(credit)))
        (self.granted,) = struct.unpack(">I", (await self.opener.until(wire.OPEN_OK, stream))[:4])
        return onward

    async def another_lane_ahead(self, hello: dict[int, bytes | None] | None = None) -> ScriptedPeer:
        """One more lane with the next hop."""
        before = self.router.links[self.next_hop.id].lanes
        lane = await self._dial()
        lane.boot = self.next_hop.boot
        await lane.greet(hello)
        await self.router.until(lambda: self.router.links[lane.id].lanes > before)
        return lane

    @asynccontextmanager
    async def another_lane_behind(self, hello: dict[int, bytes | None] | None = None) -> AsyncIterator[ScriptedPeer]:
        """One more lane with the opener."""
        opener, before = self.opener, self.router.links[self.opener.id].lanes
        async with dialled_in(self.network.ports[self.router.id], opener.site, opener.credential) as lane:
            lane.boot = opener.boot
            await lane.greet(hello)
            await self.router.until(lambda: self.router.links[lane.id].lanes > before)
            yield lane

    @asynccontextmanager
    async def neighbour(self, name: str, hello: dict[int, bytes | None] | None = None) -> AsyncIterator[ScriptedPeer]:
        """Another one, by hand, and the path to it."""
        site = Site(name)
        async with dialled_in(self.network.ports[self.router.id], site, site.credential(self.network.authority)) as peer:
            await peer.greet(hello)
            await self.router.until(lambda: peer.id in self.router.links)
            self.router.put(path(peer.id))
            await self.settled()
            yield peer

    async def settled(self) -> None:
        """What was put and dropped is in force."""
        await self.router.until(lambda: self.router.in_force == self.router.generation)

    async def is_unharmed(self) -> None:
        """The honest neighbour's link lives and carries bytes, and nothing is left of the others' streams."""
        with trio.fail_after(5):
            await echo_through(self._honest_port, 20_000)
        await self.router.until(lambda: not still_counted(self.router))


@asynccontextmanager
async def crossroads(
    kind: str,
    nursery: trio.Nursery,
    *,
    opener: dict[int, bytes | None] | None = None,
    next_hop: dict[int, bytes | None] | None = None,
    **config: object,
) -> AsyncIterator[Crossroads]:
    """``opener``, ``next_hop``: attributes of their HELLOs. ``config``: of the router in between."""
    network = Network(refuse_after=0.6)
    router = await network.add(nursery, kind, "crossroads", **config)
    honest = await network.add(nursery, kind, "honest")
    await network.link(honest, router)
    honest.put(path(router.id), Route(name="honest", targets=[RouteTarget(router.id)]))
    there, here = Site("there"), Site("here")
    async with (
        served(echo) as target,
        waiting_for_a_dial(there, network.authority) as (port, peers),
        dialled_in(network.ports[router.id], here, here.credential(network.authority)) as dialler,
        trio.open_nursery() as helpers,
    ):
        router.add_connector(target.port, "honest")
        honest_port = await honest.add_listener("honest")
        router.put(Link(name="there", credential="main"))

        async def dial() -> None:
            await router.dial(port, link="there")

        async def next_lane() -> ScriptedPeer:
            helpers.start_soon(dial)
            return await peers.receive()

        acceptor = await next_lane()
        await acceptor.greet(next_hop)
        await dialler.greet(opener)
        await router.until(lambda: acceptor.id in router.links and dialler.id in router.links)
        router.put(path(acceptor.id), path(dialler.id))
        yield Crossroads(router, network, dialler, acceptor, honest_port, next_lane)
        helpers.cancel_scope.cancel()


async def collected(peer: ScriptedPeer, stream: int, size: int, kinds: tuple[int, ...] = (wire.DATA, wire.EARLY)) -> bytes:
    """So many bytes of a stream."""
    got = b""
    with trio.fail_after(5):
        while len(got) < size:
            one = await peer.frame()
            assert one is not None
            if one[1] == wire.PING:
                await peer.send(frame(0, wire.PONG, one[2]))
            if one[0] == stream and one[1] in (wire.DATA, wire.EARLY):
                assert one[1] in kinds, wire.NAMES[one[1]]
                got += one[2]
    return got
