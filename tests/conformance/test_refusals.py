"""What a program hears when the other end does not take its stream: one error, and another one where asking again cannot help."""

from __future__ import annotations

import pytest
import scripted_peer as wire
import trio
from plane_harness import Router, path
from scripted_peer import frame, waiting_for_a_dial
from site_credentials import Authority, Site

from vanrouter.errors import StreamDenied, StreamRefused
from vanrouter.model import StreamClass
from vanrouter.plane import Link, Route, RouteTarget


@pytest.mark.parametrize("answer", [StreamClass.POLICY, StreamClass.REFUSED, StreamClass.RESOURCE, StreamClass.DRAIN])
async def test_a_refusal_may_pass_later_and_policy_has_an_error_of_its_own(kind: str, nursery: trio.Nursery, answer: StreamClass) -> None:
    authority, other = Authority(), Site("other")
    router = Router(kind, Site("opener"), refuse_after=0.3)
    await router.start(nursery, [router.site.credential(authority), Link(name="link", credential="main")])
    async with waiting_for_a_dial(other, authority) as (port, peers), trio.open_nursery() as helpers:
        helpers.start_soon(router.dial, port)
        peer = await peers.receive()
        await peer.greet()
        await router.until(lambda: router.dials and router.dials[1].router)
        there = router.dials[1].router
        router.put(path(there), Route(name="k", targets=[RouteTarget(there)]))
        await router.add_listener()  # which listens when the key is matched

        async def refuse() -> None:
            while (got := await peer.frame()) is not None:
                if got[1] == wire.OPEN:
                    await peer.send(frame(got[0], wire.OPEN_ERR, bytes((answer,)) + b"not today"))

        helpers.start_soon(refuse)
        with trio.fail_after(8), pytest.raises(StreamRefused, match="not today") as refused:
            await router.plane.connect("k")
        assert refused.value.stream_class == ("policy" if answer is StreamClass.POLICY else "refused")
        assert isinstance(refused.value, StreamDenied) is (answer is StreamClass.POLICY)
        helpers.cancel_scope.cancel()
