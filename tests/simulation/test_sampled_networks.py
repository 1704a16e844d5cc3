"""What `make bench-routing` says of 1,000 interiors rests on this: routers that only flood send what routers that do everything send."""

from __future__ import annotations

from benches.routing.network import Network, Relay

from vanrouter.messages import KeyInfo

SIZE = 40


def network(full: int | None) -> Network:
    out = Network(SIZE, full=full)
    for index, engine in enumerate(out.engines):
        engine.set_local(f"key-{index}", KeyInfo(key=f"key-{index}", targets=1), now=out.now)
    if full is None:
        out.connect()
    else:
        out.preload()
    return out


def changes(out: Network) -> list[tuple[int, int, int]]:
    """(messages, bytes, microseconds) of each change, from a network in which everybody knows everything."""
    found = []
    a, b = sorted(out.links)[SIZE // 2]
    for act in (
        lambda: out.set_key(3, "more"),
        lambda: out.set_link(a, b, 0),
        lambda: out.set_link(a, b, 1),
        lambda: out.set_key(3, "more", 0),
    ):
        out.now += 2.0
        out.settle()
        began = out.start_measuring()
        act()
        out.settle(idle=0.0)
        found.append((out.messages, out.bytes, round(1e6 * (out.now - began))))
        out.settle()
    return found


def test_a_network_of_which_a_few_run_in_full_sends_the_same_messages_at_the_same_times() -> None:
    everything, sampled = network(None), network(4)
    assert sum(not isinstance(engine, Relay) for engine in sampled.engines) == 4
    assert [(messages, when) for messages, _, when in changes(sampled)] == [(messages, when) for messages, _, when in changes(everything)]
    known = everything.engines[0].database.sequences().keys()
    assert all(engine.database.sequences().keys() == known for engine in sampled.engines)
    for index in sampled.full:
        mine, theirs = sampled.engines[index], everything.engines[index]
        assert {router: mine.path(router) for router in sampled.index} == {router: theirs.path(router) for router in everything.index}
