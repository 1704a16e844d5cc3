"""What an authenticated peer may not do, and what it costs: its lane, and nobody else's."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import scripted_peer as wire
import trio
from applications import connect, echo, echo_through, is_reset, read_to_end, served, swallow
from plane_harness import Pair, Router, path
from scripted_peer import ScriptedPeer, dialled_in, frame, u32, u64, waiting_for_a_dial
from site_credentials import Authority, Site

from vanrouter.plane import Link, Route, RouteTarget


class Victim:
    """A router with an access, an echo target for the key "k", a good link beside the bad one, and a hostile site."""

    def __init__(self, pair: Pair, good_port: int) -> None:
        self.pair = pair
        self.router = pair.egress
        self.good_port = good_port  # a listener of an honest neighbour
        self.site = Site("mallory")
        self.credential = self.site.credential(pair.authority)

    @asynccontextmanager
    async def peer(self, *, greeted: bool = True) -> AsyncIterator[ScriptedPeer]:
        async with dialled_in(self.pair.access_port, self.site, self.credential) as peer:
            if greeted:
                await peer.greet()
            yield peer

    async def is_unharmed(self) -> None:
        """The honest neighbour's link lives, and carries bytes."""
        assert self.router.links[self.pair.ingress.id].lanes == 1
        with trio.fail_after(5):
            await echo_through(self.good_port, 20_000)


@pytest.fixture
async def victim(kind: str, nursery: trio.Nursery) -> AsyncIterator[Victim]:
    pair = Pair(f"{kind}-{kind}", refuse_after=0.6)
    await pair.start(nursery)
    ready: dict[str, int] = {}
    serving = trio.Event()

    async def serve() -> None:
        async with served(echo) as target:
            ready["port"] = await pair.expose(target.port)
            serving.set()
            await trio.sleep_forever()

    nursery.start_soon(serve)
    await serving.wait()
    mute = _mute_port()
    pair.egress.add_connector(mute[0].getsockname()[1], "never answers", name="mute")
    yield Victim(pair, ready["port"])
    for sock in mute:
        sock.close()


def _mute_port() -> list[socket.socket]:
    """A port whose queue is full: whoever connects hears nothing."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    return [listener, *fillers]


# ---- HELLO ---------------------------------------------------------------------------------------------------------------------

Frames = Callable[[ScriptedPeer], bytes]

BAD_HELLOS: dict[str, Frames] = {
    "version 0": lambda peer: peer.hello(version=0),
    "version 2": lambda peer: peer.hello(version=2),
    "nothing at all": lambda peer: frame(0, wire.HELLO),
    "no identity key": lambda peer: peer.hello({1: None}),
    "no statement": lambda peer: peer.hello({2: None}),
    "no boot number": lambda peer: peer.hello({3: None}),
    "no site name": lambda peer: peer.hello({4: None}),
    "no lanes wanted": lambda peer: peer.hello({5: None}),
    "no credit": lambda peer: peer.hello({6: None}),
    "an identity key of noise": lambda peer: peer.hello({1: os.urandom(91)}),
    "an empty identity key": lambda peer: peer.hello({1: b""}),
    "the identity key of another site": lambda peer: peer.hello({1: Site("other").identity_key}),
    "a statement of noise": lambda peer: peer.hello({2: os.urandom(110)}),
    "a boot number of 7 bytes": lambda peer: peer.hello({3: bytes(7)}),
    "an empty site name": lambda peer: peer.hello({4: b""}),
    "a site name with a newline": lambda peer: peer.hello({4: b"a\nb"}),
    "a site name in capitals": lambda peer: peer.hello({4: b"North"}),
    "a site name of 64 bytes": lambda peer: peer.hello({4: b"a" * 64}),
    "a site name that is not UTF-8": lambda peer: peer.hello({4: b"\xff\xfe"}),
    "no lanes": lambda peer: peer.hello({5: b"\0\0"}),
    "too little control credit": lambda peer: peer.hello({6: u32(65_539, 16, 65_536)}),
    "credit beyond 2^31 - 1": lambda peer: peer.hello({6: u32(2**31, 16, 65_536)}),
    "credit of 8 bytes": lambda peer: peer.hello({6: bytes(8)}),
    "siblings of 9 bytes": lambda peer: peer.hello({7: bytes(9)}),
    "65 siblings": lambda peer: peer.hello({7: bytes(8 * 65)}),
    "a role of 2 bytes": lambda peer: peer.hello({12: b"\0\1"}),
    "a role of nothing": lambda peer: peer.hello({12: b""}),
    "cost 0": lambda peer: peer.hello({8: u32(0)}),
    "cost 1,000,001": lambda peer: peer.hello({8: u32(1_000_001)}),
    "a link name of 64 bytes": lambda peer: peer.hello({9: b"a" * 64}),
    "an attribute twice": lambda peer: peer.hello(tail=wire.attributes((3, u64(1)))),
    "an attribute cut off": lambda peer: peer.hello(tail=b"\0\x63\0"),
    "an attribute longer than the frame": lambda peer: peer.hello(tail=b"\0\x63\xff\xff"),
    "another frame first": lambda peer: frame(0, wire.PING, bytes(8)) + peer.hello(),
    "an OPEN first": lambda peer: peer.open(1),
    "an unknown frame first": lambda peer: frame(0, 0x80),
    "HELLO on a stream": lambda peer: frame(1, wire.HELLO, peer.hello()[8:]),
}


@pytest.mark.parametrize("what", BAD_HELLOS)
async def test_a_hello_is_refused_that_has(victim: Victim, what: str) -> None:
    async with victim.peer(greeted=False) as peer:
        await peer.send(BAD_HELLOS[what](peer))
        code, _ = await peer.the_end()
        assert code in (None, wire.PROTOCOL, wire.POLICY)
        if what in ("the identity key of another site", "a statement of noise"):
            assert code in (None, wire.POLICY, wire.PROTOCOL)
    assert not [state for state in victim.router.links.values() if state.site_name == "mallory"]
    await victim.is_unharmed()


async def test_a_hello_with_things_nobody_knows_is_accepted(victim: Victim) -> None:
    async with victim.peer(greeted=False) as peer:
        await peer.send(peer.hello({200: b"from the future", 12: b"\xff", 11: u64(2**63), 10: "größer".encode()}))
        await peer.until(wire.HELLO)
        await peer.is_alive()
        assert not any(link.edge for link in victim.router.links.values()), "an unknown role is read as interior"


async def test_no_hello_within_five_seconds_ends_the_connection(victim: Victim) -> None:
    async with victim.peer(greeted=False) as peer:
        began = trio.current_time()
        await peer.the_end(within=8)
        assert 4 < trio.current_time() - began < 7


# ---- Frames --------------------------------------------------------------------------------------------------------------------

CLOSES_THE_LANE: dict[str, Frames] = {
    "a second HELLO": lambda peer: peer.hello(),
    "a frame that is one byte too long": lambda peer: frame(1, wire.DATA, b"", length=wire.MAX_PAYLOAD + 1),
    "a frame of 16 MiB": lambda peer: frame(1, wire.DATA, b"", length=2**24 - 1),
    "an unknown type below 0x80": lambda peer: frame(0, 0x10),
    "type 0": lambda peer: frame(0, 0),
    "ACK": lambda peer: frame(0, wire.ACK),
    "MOVE": lambda peer: frame(0, wire.MOVE),
    "PING on a stream": lambda peer: frame(1, wire.PING, bytes(8)),
    "PING of 7 bytes": lambda peer: frame(0, wire.PING, bytes(7)),
    "PONG of 9 bytes": lambda peer: frame(0, wire.PONG, bytes(9)),
    "GOAWAY on a stream": lambda peer: frame(1, wire.GOAWAY, b"\0"),
    "GOAWAY of nothing": lambda peer: frame(0, wire.GOAWAY),
    "GOAWAY with a reason of 256 bytes": lambda peer: frame(0, wire.GOAWAY, b"\0" + b"x" * 256),
    "GOAWAY with a reason that is not UTF-8": lambda peer: frame(0, wire.GOAWAY, b"\0\xff\xff"),
    "OPEN on stream 0": lambda peer: peer.open(0),
    "OPEN with an even id": lambda peer: peer.open(2),
    "OPEN with an id from 2^31": lambda peer: peer.open(2**31 + 1),
    "OPEN of 3 bytes": lambda peer: frame(1, wire.OPEN, bytes(3)),
    "OPEN without a key": lambda peer: frame(1, wire.OPEN, bytes(80) + bytes(16) + u32(1) + b"\x08\0" + b"\0\0"),
    "OPEN with a key longer than itself": lambda peer: frame(1, wire.OPEN, bytes(80) + bytes(16) + u32(1) + b"\x08\xff" + b"k"),
    "OPEN with attributes longer than itself": lambda peer: frame(1, wire.OPEN, bytes(80) + bytes(16) + u32(1) + b"\x08\x01k\xff\xff"),
    "OPEN with an attribute twice": lambda peer: frame(
        1, wire.OPEN, bytes(80) + bytes(16) + u32(1) + b"\x08\x01k\0\x08" + wire.attributes((9, b""), (9, b""))
    ),
    "OPEN with credit beyond 2^31 - 1": lambda peer: peer.open(1, credit=2**31),
    "OPEN twice with one id": lambda peer: peer.open(1) + peer.open(1),
    "OPEN with a lower id": lambda peer: peer.open(5) + peer.open(3),
    "17 OPENs where 16 are allowed": lambda peer: b"".join(peer.open(1 + 2 * n, key="nobody") for n in range(300)),
    "more early data than the lane has": lambda peer: b"".join(
        peer.open(1 + 2 * n, early=bytes(16_000)) + frame(1 + 2 * n, wire.EARLY, bytes(376)) for n in range(80)
    ),
    "more early data than a stream may have": lambda peer: peer.open(1, early=bytes(16_000)) + frame(1, wire.EARLY, bytes(377)),
    "EARLY of nothing": lambda peer: peer.open(1) + frame(1, wire.EARLY),
    "EARLY on stream 0": lambda peer: frame(0, wire.EARLY, b"x"),
    "EARLY after FIN": lambda peer: peer.open(1) + frame(1, wire.FIN, u64(0)) + frame(1, wire.EARLY, b"x"),
    "DATA before OPEN_OK": lambda peer: peer.open(1, "never answers") + frame(1, wire.DATA, b"x"),
    "DATA for a stream that was never opened": lambda peer: frame(1, wire.DATA, b"x"),
    "DATA for a stream that only the victim may open": lambda peer: frame(2, wire.DATA, b"x"),
    "DATA of nothing": lambda peer: peer.open(1) + frame(1, wire.DATA),
    "DATA of nothing on stream 0": lambda peer: frame(0, wire.DATA),
    "a FIN that promises more than came": lambda peer: peer.open(1, early=b"abc") + frame(1, wire.FIN, u64(4)),
    "a FIN that knows of less than came": lambda peer: peer.open(1, early=b"abc") + frame(1, wire.FIN, u64(2)),
    "a FIN of 4 bytes": lambda peer: peer.open(1) + frame(1, wire.FIN, u32(0)),
    "a FIN twice": lambda peer: peer.open(1) + frame(1, wire.FIN, u64(0)) + frame(1, wire.FIN, u64(0)),
    "a FIN on stream 0": lambda peer: frame(0, wire.FIN, u64(0)),
    "CREDIT of 0": lambda peer: peer.open(1) + frame(1, wire.CREDIT, u32(0)),
    "CREDIT of 3 bytes": lambda peer: peer.open(1) + frame(1, wire.CREDIT, bytes(3)),
    "CREDIT beyond 2^31 - 1": lambda peer: peer.open(1, credit=2**31 - 1) + frame(1, wire.CREDIT, u32(1)),
    "CREDIT of 2^32 - 1": lambda peer: peer.open(1, credit=1) + frame(1, wire.CREDIT, u32(2**32 - 1)),
    "CREDIT of 4 bytes on stream 0": lambda peer: frame(0, wire.CREDIT, u32(1)),
    "control credit beyond 2^31 - 1": lambda peer: frame(0, wire.CREDIT, u32(2**31 - 1, 0, 0)),
    "open credit beyond 2^31 - 1": lambda peer: frame(0, wire.CREDIT, u32(0, 2**32 - 1, 0)),
    "CREDIT_RETURN on stream 0": lambda peer: frame(0, wire.CREDIT_RETURN, u32(1)),
    "OPEN_OK for a stream of its own": lambda peer: peer.open(1) + frame(1, wire.OPEN_OK, u32(1)),
    "OPEN_ERR for a stream of its own": lambda peer: peer.open(1) + frame(1, wire.OPEN_ERR, b"\x07"),
    "OPEN_OK for a stream that was never opened": lambda peer: frame(2, wire.OPEN_OK, u32(1)),
    "RESET on stream 0": lambda peer: frame(0, wire.RESET, b"\x01"),
    "RESET of nothing": lambda peer: peer.open(1) + frame(1, wire.RESET),
    "RESET for a stream that was never opened": lambda peer: frame(7, wire.RESET, b"\x01"),
    "a control message of 65,537 bytes": lambda peer: frame(0, wire.DATA, u32(65_537) + bytes(100)),
    "a control message of 4 GiB": lambda peer: frame(0, wire.DATA, u32(2**32 - 1)),
    "more control bytes than were granted": lambda peer: b"".join(
        frame(0, wire.DATA, (u32(60_000) if n == 0 else b"") + bytes(16_000)) for n in range(20)
    ),
    "a flood of unknown frames": lambda peer: frame(0, 0xFF, b"") * 10_001,
    "a flood of PINGs": lambda peer: frame(0, wire.PING, bytes(8)) * 10_001,
    "a flood of empty-handed CREDIT": lambda peer: frame(0, wire.CREDIT, u32(0, 0, 0)) * 10_001,
}


# Their rest may still be on its way when the lane closes, and RST then takes the reason away.
IS_A_FLOOD = {what for what in CLOSES_THE_LANE if what.startswith(("a flood", "more", "17 OPENs"))}


@pytest.mark.parametrize("what", CLOSES_THE_LANE)
async def test_the_lane_is_closed_with_protocol_by(victim: Victim, what: str) -> None:
    async with victim.peer() as peer:
        await peer.send(CLOSES_THE_LANE[what](peer))
        code, _ = await peer.the_end()
        assert code == wire.PROTOCOL or (code is None and what in IS_A_FLOOD)
    await victim.router.until(lambda: not [s for s in victim.router.links.values() if s.site_name == "mallory" and s.lanes])
    await victim.is_unharmed()
    await victim.pair.nothing_is_left()


IS_IGNORED: dict[str, Frames] = {
    "unknown types from 0x80": lambda peer: frame(0, 0x80, b"?") + frame(77, 0xFE, bytes(16_376)),
    "a PONG nobody asked for": lambda peer: frame(0, wire.PONG, bytes(8)),
    "GOAWAY with an unknown code": lambda peer: frame(0, wire.GOAWAY, b"\xc8what?"),
    "GOAWAY drain, twice": lambda peer: frame(0, wire.GOAWAY, b"\0") * 2,
    "empty-handed CREDIT": lambda peer: frame(0, wire.CREDIT, u32(0, 0, 0)),
    "frames for a stream that it reset": lambda peer: (
        peer.open(1, early=b"x")
        + frame(1, wire.RESET, b"\x01")
        + frame(1, wire.DATA, b"late")
        + frame(1, wire.FIN, u64(99))
        + frame(1, wire.CREDIT, u32(5))
        + frame(1, wire.CREDIT_RETURN, u32(5))
        + frame(1, wire.RESET, b"\x01")
        + frame(1, wire.EARLY, b"late")
    ),
    "an id that it skipped": lambda peer: peer.open(9) + frame(3, wire.DATA, b"x"),
    "an unknown class": lambda peer: peer.open(1) + frame(1, wire.RESET, b"\xc8because"),
    "a control message in single bytes": lambda peer: b"".join(frame(0, wire.DATA, bytes([b])) for b in u32(3) + b"abc"),
    "an empty control message": lambda peer: frame(0, wire.DATA, u32(0)),
}


@pytest.mark.parametrize("what", IS_IGNORED)
async def test_the_lane_goes_on_after(victim: Victim, what: str) -> None:
    async with victim.peer() as peer:
        await peer.send(IS_IGNORED[what](peer))
        await peer.is_alive()
    await victim.is_unharmed()
    await victim.pair.nothing_is_left()


async def test_a_header_that_lies_about_its_length_costs_no_memory(victim: Victim) -> None:
    await victim.is_unharmed()  # the good lanes are with their workers, and what they granted is counted
    await victim.pair.nothing_is_left()
    before = victim.router.plane.counters().bytes_granted
    async with victim.peer() as peer:
        await peer.send(frame(0, wire.DATA, b"", length=2**24 - 1))
        await peer.the_end()
    await victim.router.until(lambda: victim.router.plane.counters().bytes_granted <= before)


# ---- Streams -------------------------------------------------------------------------------------------------------------------


async def test_a_scripted_stream_works_from_open_to_fin(victim: Victim) -> None:
    """The happy path by hand, so that the other tests fail for their own reasons."""
    async with victim.peer() as peer:
        await peer.send(peer.open(1, early=b"hello "), frame(1, wire.EARLY, b"early "))
        ok = await peer.until(wire.OPEN_OK, 1)
        (credit,) = struct.unpack(">I", ok[:4])
        assert credit >= 2_048
        await peer.send(frame(1, wire.DATA, b"data"), frame(1, wire.FIN, u64(16)))
        got = b""
        while len(got) < 16:
            got += await peer.until(wire.DATA, 1)
        assert got == b"hello early data"
        assert struct.unpack(">Q", await peer.until(wire.FIN, 1)) == (16,)
        await peer.is_alive()


async def test_data_beyond_the_credit_closes_the_lane(kind: str, nursery: trio.Nursery) -> None:
    """The target reads nothing, so credit comes to an end; the next byte is one too many."""

    async def read_nothing(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    router = Router(kind, Site("victim"))
    authority, mallory = Authority(), Site("mallory")
    await router.start(nursery, [router.site.credential(authority)])
    port = await router.add_access()
    async with served(read_nothing) as target, dialled_in(port, mallory, mallory.credential(authority)) as peer:
        router.add_connector(target.port)
        await peer.greet()
        await peer.send(peer.open(1))
        (credit,) = struct.unpack(">I", (await peer.until(wire.OPEN_OK, 1))[:4])
        sent = 0
        with trio.fail_after(20):
            while True:  # as long as there is credit, we use it
                if credit:
                    size = min(credit, wire.MAX_PAYLOAD)
                    await peer.send(frame(1, wire.DATA, bytes(size)))
                    credit, sent = credit - size, sent + size
                    continue
                with trio.move_on_after(0.5) as quiet:
                    credit += struct.unpack(">I", await peer.until(wire.CREDIT, 1))[0]
                if quiet.cancelled_caught:
                    break
        assert sent >= 65_536
        await peer.is_alive()
        await peer.send(frame(1, wire.DATA, b"x"))
        code, _ = await peer.the_end()
        assert code == wire.PROTOCOL


async def test_returning_more_credit_than_one_has_closes_the_lane(victim: Victim) -> None:
    async with victim.peer() as peer:
        await peer.send(peer.open(1))
        (credit,) = struct.unpack(">I", (await peer.until(wire.OPEN_OK, 1))[:4])
        await peer.send(frame(1, wire.CREDIT_RETURN, u32(credit - 2_048)))
        await peer.is_alive()
        await peer.send(frame(1, wire.CREDIT_RETURN, u32(2_049)))
        assert (await peer.the_end())[0] == wire.PROTOCOL


async def test_data_after_fin_closes_the_lane(victim: Victim) -> None:
    async with victim.peer() as peer:
        await peer.send(peer.open(1, credit=0))  # the echo cannot come back, so the stream stays
        await peer.until(wire.OPEN_OK, 1)
        await peer.send(frame(1, wire.DATA, b"abc"), frame(1, wire.FIN, u64(3)), frame(1, wire.DATA, b"d"))
        assert (await peer.the_end())[0] == wire.PROTOCOL


async def test_early_after_data_closes_the_lane(victim: Victim) -> None:
    async with victim.peer() as peer:
        await peer.send(peer.open(1))
        await peer.until(wire.OPEN_OK, 1)
        await peer.send(frame(1, wire.EARLY, b"still fine"), frame(1, wire.DATA, b"d"))
        await peer.until(wire.DATA, 1)
        await peer.send(frame(1, wire.EARLY, b"not any more"))
        assert (await peer.the_end())[0] == wire.PROTOCOL


async def test_a_truncated_stream_reaches_the_target_as_a_reset(victim: Victim) -> None:
    """A FIN whose total is wrong must not become a clean end anywhere."""
    async with served(swallow) as target:
        victim.router.add_connector(target.port, "other", name="other")
        async with victim.peer() as peer:
            await peer.send(peer.open(1, "other"))
            await peer.until(wire.OPEN_OK, 1)
            await peer.send(frame(1, wire.DATA, b"half of"), frame(1, wire.FIN, u64(1_000)))
            await peer.the_end()
        await victim.router.until(lambda: target.endings)
        assert target.endings == ["reset"]


async def test_a_lane_that_ends_without_a_word_resets_its_streams(victim: Victim) -> None:
    async with served(swallow) as target:
        victim.router.add_connector(target.port, "other", name="other")
        async with victim.peer() as peer:
            await peer.send(peer.open(1, "other"))
            await peer.until(wire.OPEN_OK, 1)
            await peer.send(frame(1, wire.DATA, b"half of"))
            await peer.is_alive()
        await victim.router.until(lambda: target.endings)
        assert target.endings == ["reset"]


async def test_an_edge_cannot_speak_for_another_site(victim: Victim) -> None:
    async with victim.peer(greeted=False) as peer:
        await peer.send(peer.hello({12: b"\1"}))
        await peer.until(wire.HELLO)
        await victim.router.until(lambda: any(link.edge for link in victim.router.links.values()))
        await peer.send(peer.open(1, source=bytes(range(32))))
        answer = await peer.until(wire.OPEN_ERR, 1)
        assert answer[0] == 4  # policy
        await peer.is_alive()
        await peer.send(peer.open(3))
        await peer.until(wire.OPEN_OK, 3)


async def test_a_router_that_takes_no_new_streams_refuses_those_that_come_all_the_same(victim: Victim) -> None:
    async with victim.peer() as peer:
        await peer.send(peer.open(1))
        await peer.until(wire.OPEN_OK, 1)
        victim.router.plane.leave()
        victim.router.plane.refuse()
        with trio.fail_after(3):
            while (await peer.until(wire.GOAWAY))[0] != 1:  # closed
                pass
        await peer.send(peer.open(3))
        assert (await peer.until(wire.OPEN_ERR, 3))[0] == 6  # drain
        await peer.send(frame(1, wire.DATA, b"old ones go on"))
        assert await peer.until(wire.DATA, 1) == b"old ones go on"


async def test_open_and_reset_a_thousand_times_leaves_nothing_and_hurts_nobody(victim: Victim) -> None:
    """Rapid reset: open credit is what slows it down."""
    async with victim.peer() as peer:
        credit = most = 16
        stream = 1
        with trio.fail_after(30):
            while stream < 1_000:
                while credit and stream < 1_000:
                    await peer.send(peer.open(stream), frame(stream, wire.RESET, b"\x01"))
                    credit, stream = credit - 1, stream + 2
                if stream < 1_000:
                    credit += struct.unpack(">III", await peer.until(wire.CREDIT, 0))[1]
                    most = max(most, credit)
        await peer.until_opens_are_back(credit, most)
        await peer.is_alive()
        await victim.is_unharmed()
    await victim.pair.nothing_is_left()


async def test_a_peer_that_never_reads_cannot_make_the_victim_store_its_answers(victim: Victim) -> None:
    """It provokes PONGs and resets and reads none of them: what waits for it is state, not a queue."""
    async with victim.peer() as peer:
        before = victim.router.plane.counters().bytes_granted
        with trio.move_on_after(1):
            for _ in range(9_000 // 100):
                await peer.send(frame(0, wire.PING, os.urandom(8)) * 100)
        await victim.is_unharmed()
        assert victim.router.plane.counters().bytes_granted < before + (1 << 20)


async def test_early_credit_comes_back(victim: Victim) -> None:
    """A hundred streams with early data: more than the lane's early credit together, one after the other."""
    async with victim.peer() as peer:
        opens, early = 16, 65_536
        for stream in range(1, 201, 2):
            while early < 8_000 or not opens:
                _, more_opens, more_early = struct.unpack(">III", await peer.until(wire.CREDIT, 0))
                opens, early = opens + more_opens, early + more_early
            await peer.send(peer.open(stream, early=bytes(8_000)), frame(stream, wire.RESET, b"\x01"))
            opens, early = opens - 1, early - 8_000
        await peer.is_alive()


# ---- A hostile acceptor --------------------------------------------------------------------------------------------------------

BAD_ANSWERS: dict[str, Callable[[int], bytes]] = {
    "DATA before OPEN_OK": lambda id_: frame(id_, wire.DATA, b"x"),
    "FIN before OPEN_OK": lambda id_: frame(id_, wire.FIN, u64(0)),
    "OPEN_OK of 3 bytes": lambda id_: frame(id_, wire.OPEN_OK, bytes(3)),
    "OPEN_OK with credit beyond 2^31 - 1": lambda id_: frame(id_, wire.OPEN_OK, u32(2**31)),
    "OPEN_OK with a broken attribute": lambda id_: frame(id_, wire.OPEN_OK, u32(9) + b"\0"),
    "OPEN_OK twice": lambda id_: frame(id_, wire.OPEN_OK, u32(9)) * 2,
    "OPEN_ERR after OPEN_OK": lambda id_: frame(id_, wire.OPEN_OK, u32(9)) + frame(id_, wire.OPEN_ERR, b"\x07"),
    "OPEN_ERR of nothing": lambda id_: frame(id_, wire.OPEN_ERR),
    "EARLY": lambda id_: frame(id_, wire.OPEN_OK, u32(9)) + frame(id_, wire.EARLY, b"x"),
    "an OPEN with an odd id": lambda id_: frame(id_ + 2, wire.OPEN, bytes(200)),
    "more DATA than was granted": lambda id_: frame(id_, wire.OPEN_OK, u32(9)) + frame(id_, wire.DATA, bytes(16_376)) * 1_000,
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
async def test_the_dialler_closes_the_lane_and_resets_its_client_after(kind: str, nursery: trio.Nursery, what: str) -> None:
    authority, mallory = Authority(), Site("mallory")
    router = Router(kind, Site("victim"), refuse_after=0.5)
    await router.start(nursery, [router.site.credential(authority), Link(name="link", credential="main")])
    async with waiting_for_a_dial(mallory, authority) as (port, peers), trio.open_nursery() as helpers:
        helpers.start_soon(router.dial, port)
        peer = await peers.receive()
        await peer.greet()
        await router.until(lambda: router.dials and router.dials[1].router)
        there = router.dials[1].router
        router.put(path(there), Route(name="k", targets=[RouteTarget(there)]))
        listener = await router.add_listener()

        client = await connect(listener)
        await client.send_all(b"x")
        with trio.fail_after(5):
            while True:
                got = await peer.frame()
                assert got is not None
                if got[1] == wire.OPEN:
                    break
        await peer.send(BAD_ANSWERS[what](got[0]))
        code, _ = await peer.the_end()
        assert code == wire.PROTOCOL or (code is None and what.startswith("more"))
        assert await is_reset(client)
        helpers.cancel_scope.cancel()


async def test_an_honest_acceptor_by_hand_gets_an_open_with_its_early_data(kind: str, nursery: trio.Nursery) -> None:
    authority, honest = Authority(), Site("honest")
    router = Router(kind, Site("opener"))
    await router.start(nursery, [router.site.credential(authority), Link(name="link", credential="main")])
    async with waiting_for_a_dial(honest, authority) as (port, peers), trio.open_nursery() as helpers:
        helpers.start_soon(router.dial, port)
        peer = await peers.receive()
        await peer.greet()
        await router.until(lambda: router.dials and router.dials[1].router)
        there = router.dials[1].router
        router.put(path(there), Route(name="k", targets=[RouteTarget(there)]))
        listener = await router.add_listener()
        client = await connect(listener)
        await client.send_all(b"hello")
        early = data = b""
        opened = 0
        with trio.fail_after(5):
            while early != b"hello":
                got = await peer.frame()
                assert got is not None
                stream, kind_, payload = got
                if kind_ == wire.OPEN:
                    opened = stream
                    assert stream == 1, "the dialler's streams are odd, from 1"
                    size = payload[101]
                    assert payload[102 : 102 + size] == b"k"
                    early += payload[102 + size + 2 :]
                elif kind_ == wire.EARLY:
                    assert stream == opened
                    early += payload
                else:
                    assert kind_ in (wire.PING, wire.CREDIT), "nothing but EARLY may come before the answer"
        await peer.send(frame(opened, wire.OPEN_OK, u32(1_000)))
        rest = bytes(range(256)) * 12
        await client.send_all(rest)
        with trio.fail_after(3):
            while len(data) < 1_000:
                data += await peer.until(wire.DATA, opened)
        assert len(data) == 1_000, "not a byte beyond the credit"
        await peer.send(frame(opened, wire.CREDIT, u32(len(rest))))
        with trio.fail_after(3):
            while len(data) < len(rest):
                data += await peer.until(wire.DATA, opened)
        assert data == rest
        await peer.send(frame(opened, wire.DATA, b"bye"), frame(opened, wire.FIN, u64(3)))
        assert await read_to_end(client) == b"bye"
        await client.send_eof()
        assert struct.unpack(">Q", await peer.until(wire.FIN, opened)) == (5 + len(rest),)
        helpers.cancel_scope.cancel()


async def test_the_end_of_a_stream_needs_no_credit(kind: str, nursery: trio.Nursery) -> None:
    """Every byte of credit is used up, and then the client ends: FIN has to come all the same."""
    authority, honest = Authority(), Site("honest")
    router = Router(kind, Site("opener"))
    await router.start(nursery, [router.site.credential(authority), Link(name="link", credential="main")])
    async with waiting_for_a_dial(honest, authority) as (port, peers), trio.open_nursery() as helpers:
        helpers.start_soon(router.dial, port)
        peer = await peers.receive()
        await peer.greet()
        await router.until(lambda: router.dials and router.dials[1].router)
        there = router.dials[1].router
        router.put(path(there), Route(name="k", targets=[RouteTarget(there)]))
        listener = await router.add_listener()
        client = await connect(listener)
        await peer.until(wire.OPEN, 1)
        await peer.send(frame(1, wire.OPEN_OK, u32(1_000)))
        await peer.is_alive()
        await client.send_all(bytes(1_000))
        got = 0
        with trio.fail_after(3):
            while got < 1_000:
                got += len(await peer.until(wire.DATA, 1))
        await trio.sleep(0.1)
        await client.send_eof()
        assert struct.unpack(">Q", await peer.until(wire.FIN, 1)) == (1_000,)
        helpers.cancel_scope.cancel()
