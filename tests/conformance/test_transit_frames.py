"""What a router does with the frames of a stream that crosses it, and with neighbours that abuse it: two peers by hand, and it between.

opener (by hand) ══▶ [router] ══▶ next hop (by hand)
                     ║
honest neighbour ════╝
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import pytest
import scripted_peer as wire
import trio
from crossroads import DRAIN, EDGE, LINK, POLICY, REFUSED, RESOURCE, Crossroads, collected, crossroads
from plane_harness import path
from scripted_peer import ScriptedPeer, attributes, frame, router_bytes, u32, u64
from site_credentials import Site

from vanrouter.plane import Ref

# ---- OPEN ------------------------------------------------------------------------------------------------------------------------


async def test_an_open_is_passed_on_as_it_came_but_for_hop_limit_and_credit(cross: Crossroads) -> None:
    uuid, source = os.urandom(16), os.urandom(32)
    unknown = attributes((1, b"proof"), (77, b"from the future"))
    await cross.opener.send(cross.open(5, key="größer", uuid=uuid, source=source, attributes=unknown, hop_limit=9, early=b"hello"))
    got = await cross.next_hop.until_open()
    assert got.destination == router_bytes(cross.next_hop.id)
    assert got.source == source + u64(cross.opener.boot), "an interior may carry what another site opened"
    assert (got.uuid, got.key, got.attributes) == (uuid, "größer".encode(), unknown)
    assert got.hop_limit == 8
    assert got.credit >= 2_048
    assert got.stream == 1, "an id of its own"
    assert got.early + await collected(cross.next_hop, 1, 5 - len(got.early)) == b"hello"


@pytest.mark.parametrize("limit", [1, 2, 255])
async def test_a_hop_limit_is_one_less_on_the_next_hop(cross: Crossroads, limit: int) -> None:
    await cross.opener.send(cross.open(hop_limit=limit))
    assert (await cross.next_hop.until_open()).hop_limit == limit - 1


async def test_what_cannot_be_passed_on_is_refused_with_class_link(cross: Crossroads) -> None:
    opener = cross.opener
    nowhere = f"{Site('nowhere').id}/{7:016x}"
    await opener.send(
        cross.open(1, hop_limit=0),
        opener.open(3, destination=nowhere),
        opener.open(5, destination=opener.id),  # back where it came from
    )
    for stream in (1, 3, 5):
        assert (await opener.until(wire.OPEN_ERR, stream))[0] == LINK
    cross.router.drop(Ref("path", cross.next_hop.id))
    await cross.router.until(lambda: cross.router.in_force == cross.router.generation)
    await opener.send(cross.open(7))
    assert (await opener.until(wire.OPEN_ERR, 7))[0] == LINK
    await opener.is_alive()
    assert cross.router.plane.counters().transit_total == 0
    await cross.is_unharmed()


async def test_a_path_that_leads_back_is_not_taken_and_another_one_is(cross: Crossroads) -> None:
    """Both neighbours seem to lead there: the OPEN goes on, and never back."""
    far = f"{Site('far').id}/{7:016x}"
    cross.router.put(path(far, over=[cross.opener.id, cross.next_hop.id], cost=2))
    await cross.router.until(lambda: cross.router.in_force == cross.router.generation)
    for stream in range(1, 16, 2):
        await cross.opener.send(cross.opener.open(stream, destination=far))
        assert (await cross.next_hop.until_open()).destination == router_bytes(far)


async def test_a_router_that_takes_no_new_streams_passes_none_on(cross: Crossroads) -> None:
    onward = await cross.opened(1)
    cross.router.plane.leave()
    await cross.opened(3)  # the grace: everything is served
    cross.router.plane.refuse()
    with trio.fail_after(3):
        while (await cross.opener.until(wire.GOAWAY))[0] != 1:  # closed
            pass
    await cross.opener.send(cross.open(5))
    assert (await cross.opener.until(wire.OPEN_ERR, 5))[0] == DRAIN
    await cross.opener.send(frame(1, wire.DATA, b"old ones go on"))
    assert await cross.next_hop.until(wire.DATA, onward) == b"old ones go on"


# ---- Edges -----------------------------------------------------------------------------------------------------------------------


async def test_an_edge_opens_streams_of_its_own_site_only(kind: str, nursery: trio.Nursery) -> None:
    async with crossroads(kind, nursery, opener=EDGE) as cross:
        await cross.opener.send(cross.open(1, source=os.urandom(32)))
        assert (await cross.opener.until(wire.OPEN_ERR, 1))[0] == POLICY
        await cross.opened(3)


async def test_nothing_goes_over_an_edge_but_what_is_for_it(kind: str, nursery: trio.Nursery) -> None:
    async with crossroads(kind, nursery, next_hop=EDGE) as cross:
        await cross.opened(1)
        far = f"{Site('far').id}/{7:016x}"
        cross.router.put(path(far, over=[cross.next_hop.id], cost=2))
        await cross.router.until(lambda: cross.router.in_force == cross.router.generation)
        await cross.opener.send(cross.opener.open(3, destination=far))
        assert (await cross.opener.until(wire.OPEN_ERR, 3))[0] == LINK
        assert cross.router.plane.counters().transit_total == 1, "it was not even asked"


async def test_an_edge_passes_nothing_on(kind: str, nursery: trio.Nursery) -> None:
    async with crossroads(kind, nursery, edge=True) as cross:
        await cross.opener.send(cross.open(1))
        assert (await cross.opener.until(wire.OPEN_ERR, 1))[0] == LINK
        await cross.opener.send(cross.opener.open(3, "honest"))
        await cross.opener.until(wire.OPEN_OK, 3)
        assert cross.router.plane.counters().transit_total == 0


# ---- Early data ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 16_000, 16_376])
async def test_early_data_goes_on_before_there_is_an_answer_and_an_end_behind_it(cross: Crossroads, size: int) -> None:
    said = os.urandom(size)
    in_open = min(size, 16_000)
    frames = [cross.open(early=said[:in_open])]
    if size > in_open:
        frames.append(frame(1, wire.EARLY, said[in_open:]))
    await cross.opener.send(*frames, frame(1, wire.FIN, u64(size)))
    got = await cross.next_hop.until_open()
    assert got.early + await collected(cross.next_hop, got.stream, size - len(got.early), (wire.EARLY,)) == said
    assert await cross.next_hop.until(wire.FIN, got.stream) == u64(size)
    await cross.next_hop.send(frame(got.stream, wire.OPEN_OK, u32(0)), frame(got.stream, wire.FIN, u64(0)))
    await cross.opener.until(wire.OPEN_OK, 1)
    await cross.opener.until(wire.FIN, 1)
    await cross.is_unharmed()


async def test_early_data_that_the_next_lane_does_not_permit_waits_for_the_answer(kind: str, nursery: trio.Nursery) -> None:
    async with crossroads(kind, nursery, next_hop={6: u32(65_540, 16, 1_000)}) as cross:
        said = os.urandom(10_000)
        await cross.opener.send(cross.open(early=said[:6_000]), frame(1, wire.EARLY, said[6_000:]), frame(1, wire.FIN, u64(10_000)))
        got = await cross.next_hop.until_open()
        early = got.early + await collected(cross.next_hop, got.stream, 1_000 - len(got.early), (wire.EARLY,))
        assert early == said[:1_000], "not a byte beyond the early credit"
        await cross.next_hop.is_alive()
        await cross.next_hop.send(frame(got.stream, wire.OPEN_OK, u32(4_000)))
        rest = await collected(cross.next_hop, got.stream, 4_000, (wire.DATA,))
        assert rest == said[1_000:5_000], "not a byte beyond the credit"
        await cross.next_hop.send(frame(got.stream, wire.CREDIT, u32(60_000)))
        assert await collected(cross.next_hop, got.stream, 5_000, (wire.DATA,)) == said[5_000:]
        assert await cross.next_hop.until(wire.FIN, got.stream) == u64(10_000)


async def test_an_opener_waits_when_the_next_lane_permits_no_more_opens(kind: str, nursery: trio.Nursery) -> None:
    async with crossroads(kind, nursery, next_hop={6: u32(65_540, 2, 65_536)}) as cross:
        await cross.opener.send(*(cross.open(stream, early=b"%d" % stream) for stream in (1, 3, 5)))
        first = [await cross.next_hop.until_open() for _ in range(2)]
        await cross.next_hop.is_alive()
        await cross.next_hop.send(frame(first[0].stream, wire.OPEN_OK, u32(10)), frame(0, wire.CREDIT, u32(0, 1, 1)))
        await cross.next_hop.until_open()


async def test_an_open_that_waits_for_the_next_lane_is_given_up_after_three_seconds(kind: str, nursery: trio.Nursery) -> None:
    """It holds an open of the lane before: in a ring of busy lanes each could wait for the next for ever."""
    async with crossroads(kind, nursery, next_hop={6: u32(65_540, 0, 65_536)}) as cross:
        async with trio.open_nursery() as meanwhile:
            meanwhile.start_soon(cross.next_hop.until, wire.OPEN, None, 60.0)  # it answers PINGs, so that the link is not suspect
            began = trio.current_time()
            await cross.opener.send(cross.open(1, early=b"hello"))
            assert (await cross.opener.until(wire.OPEN_ERR, 1, within=8))[0] == RESOURCE
            assert trio.current_time() - began > 2.5
            assert cross.router.plane.counters().transit_total == 0, "it counts when it is sent on"
            meanwhile.cancel_scope.cancel()
        await cross.is_unharmed()
        await cross.next_hop.send(frame(0, wire.CREDIT, u32(0, 1, 0)))
        await cross.opened(3)


async def test_an_open_that_comes_for_one_that_is_gone_is_used_by_the_next(kind: str, nursery: trio.Nursery) -> None:
    async with crossroads(kind, nursery, next_hop={6: u32(65_540, 0, 65_536)}) as cross:
        await cross.opener.send(*(cross.open(stream) for stream in (1, 3, 5)))
        await cross.opener.is_alive()  # they were taken, and wait
        await cross.opener.send(*(frame(stream, wire.RESET, bytes([1])) for stream in (1, 3)))
        await cross.opener.is_alive()
        began = trio.current_time()
        await cross.next_hop.send(frame(0, wire.CREDIT, u32(0, 2, 0)))
        onward = (await cross.next_hop.until_open()).stream
        assert trio.current_time() - began < 2, "not by being asked again later"
        await cross.next_hop.send(frame(onward, wire.OPEN_OK, u32(10)))
        await cross.opener.until(wire.OPEN_OK, 5)
        await cross.opener.send(frame(5, wire.RESET, bytes([1])))
        await cross.is_unharmed()


# ---- The answer ------------------------------------------------------------------------------------------------------------------


async def test_a_refusal_is_passed_back_with_its_class_and_reason(cross: Crossroads) -> None:
    await cross.opener.send(cross.open(early=b"hello"))
    onward = (await cross.next_hop.until_open()).stream
    await cross.next_hop.send(frame(onward, wire.OPEN_ERR, bytes([REFUSED]) + b"the shop is closed"))
    assert await cross.opener.until(wire.OPEN_ERR, 1) == bytes([REFUSED]) + b"the shop is closed"
    await cross.is_unharmed()


async def test_a_reset_instead_of_an_answer_stays_a_reset(cross: Crossroads) -> None:
    """The hop after the next was lost, and it may have had early data: nobody may try that again."""
    await cross.opener.send(cross.open(early=b"hello"))
    onward = (await cross.next_hop.until_open()).stream
    await cross.next_hop.send(frame(onward, wire.RESET, bytes([LINK]) + b"lost"))
    assert await cross.opener.until(wire.RESET, 1) == bytes([LINK]) + b"lost"
    await cross.is_unharmed()


@pytest.mark.parametrize("early", [b"", b"hello"])
async def test_a_lane_that_is_lost_before_the_answer_is_a_refusal_only_if_nothing_was_said(cross: Crossroads, early: bytes) -> None:
    await cross.opener.send(cross.open(early=early))
    got = await cross.next_hop.until_open()
    if early:
        assert got.early + await collected(cross.next_hop, got.stream, len(early) - len(got.early)) == early
    await cross.next_hop.hang_up()
    answer = await cross.opener.until(wire.RESET if early else wire.OPEN_ERR, 1)
    assert answer[0] == LINK
    await cross.opener.is_alive()
    await cross.is_unharmed()


async def test_a_lane_that_is_lost_after_the_answer_is_a_reset(cross: Crossroads) -> None:
    await cross.opened(1)
    await cross.next_hop.hang_up()
    assert (await cross.opener.until(wire.RESET, 1))[0] == LINK
    await cross.opener.is_alive()
    await cross.is_unharmed()


@pytest.mark.parametrize("answered", [False, True])
async def test_an_opener_that_is_lost_is_a_reset_on_the_next_hop(cross: Crossroads, answered: bool) -> None:
    if answered:
        onward = await cross.opened(1)
    else:
        await cross.opener.send(cross.open(early=b"x"))
        onward = (await cross.next_hop.until_open()).stream
    await cross.opener.hang_up()
    assert (await cross.next_hop.until(wire.RESET, onward))[0] == LINK
    await cross.next_hop.is_alive()
    await cross.is_unharmed()


async def test_a_reset_is_passed_on_both_ways_with_its_class_and_reason(cross: Crossroads) -> None:
    onward = await cross.opened(1)
    await cross.opener.send(frame(1, wire.RESET, b"\x01had enough"))
    assert await cross.next_hop.until(wire.RESET, onward) == b"\x01had enough"
    onward = await cross.opened(3)
    await cross.next_hop.send(frame(onward, wire.RESET, b"\x02went away"))
    assert await cross.opener.until(wire.RESET, 3) == b"\x02went away"
    await cross.opener.send(cross.open(5))
    onward = (await cross.next_hop.until_open()).stream
    await cross.opener.send(frame(5, wire.RESET, b"\x01changed my mind"))
    assert await cross.next_hop.until(wire.RESET, onward) == b"\x01changed my mind"
    await cross.is_unharmed()


async def test_a_reset_passes_data_that_waits_for_credit(cross: Crossroads) -> None:
    onward = await cross.opened(1, credit=10)
    await cross.opener.send(frame(1, wire.DATA, bytes(5_000)), frame(1, wire.RESET, b"\x01"))
    assert (await cross.next_hop.until(wire.RESET, onward))[0] == 1
    await cross.is_unharmed()


# ---- Credit ----------------------------------------------------------------------------------------------------------------------


async def test_credit_comes_back_when_bytes_were_passed_on_and_not_before(cross: Crossroads) -> None:
    """The next hop permits nothing: the router takes what it granted, and not a byte more."""
    await cross.opener.send(cross.open())
    onward = (await cross.next_hop.until_open()).stream
    await cross.next_hop.send(frame(onward, wire.OPEN_OK, u32(0)))
    (credit,) = struct.unpack(">I", (await cross.opener.until(wire.OPEN_OK, 1))[:4])
    said = os.urandom(credit)
    await cross.opener.send(*(frame(1, wire.DATA, said[at : at + 16_376]) for at in range(0, credit, 16_376)))
    await cross.opener.send(frame(1, wire.FIN, u64(credit)))
    probe = os.urandom(8)
    await cross.opener.send(frame(0, wire.PING, probe))
    with trio.fail_after(3):
        while (got := await cross.opener.frame()) is not None and (got[1], got[2]) != (wire.PONG, probe):
            assert (got[0], got[1]) != (1, wire.CREDIT), "nothing was passed on yet"
    await cross.next_hop.send(frame(onward, wire.CREDIT, u32(credit + 1)))
    assert await collected(cross.next_hop, onward, credit) == said
    assert await cross.next_hop.until(wire.FIN, onward) == u64(credit)


async def test_a_megabyte_crosses_with_credit_on_both_hops(cross: Crossroads) -> None:
    onward = await cross.opened(1, credit=1 << 21)
    said, sent, credit, got = os.urandom(1 << 20), 0, cross.granted, b""
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            nonlocal sent, credit
            while sent < len(said):
                if credit:
                    size = min(credit, 16_376, len(said) - sent)
                    await cross.opener.send(frame(1, wire.DATA, said[sent : sent + size]))
                    sent, credit = sent + size, credit - size
                    continue
                credit += struct.unpack(">I", await cross.opener.until(wire.CREDIT, 1))[0]
            await cross.opener.send(frame(1, wire.FIN, u64(sent)))

        nursery.start_soon(send)
        with trio.fail_after(20):
            got = await _all_of(cross.next_hop, onward)
    assert got == said


async def _all_of(peer: ScriptedPeer, stream: int) -> bytes:
    """Everything up to FIN."""
    got = bytearray()
    while (one := await peer.frame()) is not None:
        if one[1] == wire.PING:
            await peer.send(frame(0, wire.PONG, one[2]))
        if one[0] == stream and one[1] == wire.DATA:
            got += one[2]
        if one[0] == stream and one[1] == wire.FIN:
            assert one[2] == u64(len(got))
            return bytes(got)
    raise AssertionError("the lane ended before FIN")


# ---- Abuse -----------------------------------------------------------------------------------------------------------------------

FROM_THE_OPENER: dict[str, Callable[[Crossroads], bytes]] = {
    "DATA before the answer": lambda cross: cross.open() + frame(1, wire.DATA, b"x"),
    "a FIN that promises more than came": lambda cross: cross.open(early=b"abc") + frame(1, wire.FIN, u64(4)),
    "a FIN that knows of less than came": lambda cross: cross.open(early=b"abc") + frame(1, wire.FIN, u64(2)),
    "EARLY after FIN": lambda cross: cross.open() + frame(1, wire.FIN, u64(0)) + frame(1, wire.EARLY, b"x"),
    "a FIN twice": lambda cross: cross.open() + frame(1, wire.FIN, u64(0)) * 2,
    "more early data than a stream may have": lambda cross: cross.open(early=bytes(16_000)) + frame(1, wire.EARLY, bytes(377)),
    "credit beyond 2^31 - 1": lambda cross: cross.open() + frame(1, wire.CREDIT, u32(2**31 - 1)),
}


@pytest.mark.parametrize("what", FROM_THE_OPENER)
async def test_the_lane_of_an_opener_is_closed_and_the_next_hop_sees_a_reset_after(cross: Crossroads, what: str) -> None:
    await cross.opener.send(FROM_THE_OPENER[what](cross))
    assert (await cross.opener.the_end())[0] == wire.PROTOCOL
    await _is_never_a_clean_end(cross.next_hop, 1)
    await cross.is_unharmed()


async def _is_never_a_clean_end(next_hop: ScriptedPeer, stream: int) -> None:
    """If the stream got so far, it is reset; and the lane lives."""
    probe, was_opened, was_reset = os.urandom(8), False, False
    await next_hop.send(frame(0, wire.PING, probe))
    with trio.fail_after(5):
        while (got := await next_hop.frame()) is not None:
            was_opened = was_opened or (got[0], got[1]) == (stream, wire.OPEN)
            was_reset = was_reset or (got[0], got[1]) == (stream, wire.RESET)
            if was_reset or ((got[1], got[2]) == (wire.PONG, probe) and not was_opened):
                break
    assert was_reset or not was_opened
    await next_hop.is_alive()


ABUSE_OF_AN_OPEN_STREAM: dict[str, bytes] = {
    "DATA beyond the credit": frame(1, wire.DATA, bytes(16_376)) * 600,  # 8 MiB is the largest window
    "a FIN with a wrong total": frame(1, wire.DATA, b"half of") + frame(1, wire.FIN, u64(1_000)),
    "DATA after FIN": frame(1, wire.FIN, u64(0)) + frame(1, wire.DATA, b"x"),
    "EARLY after DATA": frame(1, wire.DATA, b"x") + frame(1, wire.EARLY, b"x"),
    "an OPEN_OK from the opener": frame(1, wire.OPEN_OK, u32(9)),
    "more credit returned than granted": frame(1, wire.CREDIT_RETURN, u32(2**30)),
}


@pytest.mark.parametrize("what", ABUSE_OF_AN_OPEN_STREAM)
async def test_an_open_stream_that_crosses_is_reset_and_the_abusers_lane_closed_after(cross: Crossroads, what: str) -> None:
    onward = await cross.opened(1, credit=0)
    await cross.opener.send(ABUSE_OF_AN_OPEN_STREAM[what])
    code, _ = await cross.opener.the_end()
    assert code == wire.PROTOCOL or (code is None and what.startswith("DATA beyond"))
    assert (await cross.next_hop.until(wire.RESET, onward))[0] == LINK
    await cross.next_hop.is_alive()
    await cross.is_unharmed()


FROM_THE_NEXT_HOP: dict[str, Callable[[int], bytes]] = {
    "DATA before OPEN_OK": lambda id_: frame(id_, wire.DATA, b"x"),
    "FIN before OPEN_OK": lambda id_: frame(id_, wire.FIN, u64(0)),
    "OPEN_OK of 3 bytes": lambda id_: frame(id_, wire.OPEN_OK, bytes(3)),
    "OPEN_OK twice": lambda id_: frame(id_, wire.OPEN_OK, u32(9)) * 2,
    "OPEN_ERR after OPEN_OK": lambda id_: frame(id_, wire.OPEN_OK, u32(9)) + frame(id_, wire.OPEN_ERR, b"\x07"),
    "OPEN_ERR of nothing": lambda id_: frame(id_, wire.OPEN_ERR),
    "EARLY": lambda id_: frame(id_, wire.OPEN_OK, u32(9)) + frame(id_, wire.EARLY, b"x"),
    "a FIN with a wrong total": lambda id_: frame(id_, wire.OPEN_OK, u32(9)) + frame(id_, wire.DATA, b"abc") + frame(id_, wire.FIN, u64(9)),
    "more DATA than was granted": lambda id_: frame(id_, wire.OPEN_OK, u32(9)) + frame(id_, wire.DATA, bytes(16_376)) * 600,
}


@pytest.mark.parametrize("what", FROM_THE_NEXT_HOP)
async def test_the_lane_of_a_next_hop_is_closed_and_the_opener_sees_no_clean_end_after(cross: Crossroads, what: str) -> None:
    await cross.opener.send(cross.open(early=b"hello", credit=0))
    got = await cross.next_hop.until_open()
    await cross.next_hop.send(FROM_THE_NEXT_HOP[what](got.stream))
    code, _ = await cross.next_hop.the_end()
    assert code == wire.PROTOCOL or (code is None and what.startswith("more"))
    with trio.fail_after(5):
        while (answer := await cross.opener.frame()) is not None:
            assert answer[:2] != (1, wire.FIN)
            if answer[0] == 1 and answer[1] in (wire.RESET, wire.OPEN_ERR):
                break
    assert answer is not None
    assert answer[1] == wire.RESET, "the next hop had early data"
    assert answer[2][0] == LINK
    await cross.opener.is_alive()
    await cross.is_unharmed()


async def test_a_storm_of_opens_and_resets_that_cross_leaves_nothing(cross: Crossroads) -> None:
    """500 streams, each reset as soon as it was opened: the next hop is asked for no more than it permits."""
    reading = trio.CancelScope()

    async def answer_nothing() -> None:
        """It gives back the opens of streams that were reset, as every receiver does."""
        with reading:
            while (got := await cross.next_hop.frame()) is not None:
                if got[1] == wire.PING:
                    await cross.next_hop.send(frame(0, wire.PONG, got[2]))
                if got[1] == wire.OPEN:
                    early = len(wire.taken_apart(got[0], got[2]).early)
                    await cross.next_hop.send(frame(0, wire.CREDIT, u32(0, 1, early)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_nothing)
        credit = most = 16
        stream = 1
        with trio.fail_after(30):
            while stream < 1_000:
                while credit and stream < 1_000:
                    await cross.opener.send(cross.open(stream), frame(stream, wire.RESET, b"\x01"))
                    credit, stream = credit - 1, stream + 2
                if stream < 1_000:
                    credit += struct.unpack(">III", await cross.opener.until(wire.CREDIT, 0))[1]
                    most = max(most, credit)
        await cross.opener.until_opens_are_back(credit, most)
        await cross.opener.is_alive()
        await cross.is_unharmed()
        reading.cancel()


async def test_small_frames_that_cannot_go_on_cost_their_bytes_and_not_their_records(cross: Crossroads) -> None:
    """Each byte of DATA comes in a TLS record full of rubbish. Held as they came, 4,000 of them would keep 62 MiB."""
    import gc

    def resident() -> int:
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    await cross.opened(1, credit=0)
    record = frame(1, wire.DATA, b"x") + frame(0, 0x80, bytes(16_376 - 9 - 8))

    async def send(records: int) -> None:
        for _ in range(records // 10):
            await cross.opener.send(record * 10)
        await cross.opener.is_alive()

    await send(500)
    before = resident()
    await send(4_000)
    assert resident() - before < 16 << 20
