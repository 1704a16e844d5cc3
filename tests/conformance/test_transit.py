"""What an application may rely on when its stream crosses another router: the same as without one."""

from __future__ import annotations

import trio
from applications import echo, echo_through, served
from network import Line
from test_streams import SIZES


async def test_what_is_sent_over_a_middle_router_comes_back_whatever_its_size(line: Line) -> None:
    async with served(echo) as target:
        port = await line.expose(target.port)
        for size in SIZES:
            with trio.fail_after(10):
                await echo_through(port, size)
        await line.nothing_is_left()
        counters = line.middle.plane.counters()
        assert (counters.transit_total, counters.streams_total) == (len(SIZES), 0)
        assert not line.middle.ends, "the access log is written where a stream enters and where it leaves"
        assert {end.router for end in line.ingress.ends} == {line.egress.id}
        assert {end.router for end in line.egress.ends} == {line.ingress.id}


async def test_16_mib_come_back_whole_over_a_middle_router(line: Line) -> None:
    async with served(echo) as target:
        port = await line.expose(target.port)
        with trio.fail_after(60):
            await echo_through(port, 16 << 20)
        await line.nothing_is_left()
