"""Names that are watched: who asks is told when an answer changes, and keeps what worked while the name servers are away."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from vanrouter.sites import resolver
from vanrouter.sites.resolver import Answer, Names


class Servers:
    """What the name servers say; counts how often they are asked."""

    def __init__(self) -> None:
        self.say: dict[str, Answer] = {}
        self.asked: list[tuple[float, str]] = []

    async def look_up(self, host: str, within: float) -> Answer:
        self.asked.append((trio.current_time(), host))
        return self.say.get(host, Answer([], f"{host}: no such name"))


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    found = Servers()
    monkeypatch.setattr(resolver, "look_up", found.look_up)
    return found


@pytest.fixture
def names() -> Callable[[list[int]], Names]:
    def make(changes: list[int]) -> Names:
        return Names(timeout=5.0, again=30.0, changed=lambda: changes.append(1))

    return make


async def test_a_literal_is_its_own_answer(names: Callable[[list[int]], Names]) -> None:
    watch = names([])
    watch.want("a", ["10.0.0.1", "::1"])
    assert watch.get("10.0.0.1") == Answer(["10.0.0.1"])
    assert watch.get("::1") == Answer(["::1"])


async def test_an_answer_that_changes_is_told_and_one_that_does_not_is_not(
    names: Callable[[list[int]], Names], servers: Servers, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    changes: list[int] = []
    watch = names(changes)
    servers.say["a.example"] = Answer(["10.0.0.1"])
    watch.want("a", ["a.example"])
    nursery.start_soon(watch.run)
    await trio.sleep(1)
    assert (watch.get("a.example"), len(changes)) == (Answer(["10.0.0.1"]), 1)
    await trio.sleep(31)
    assert len(changes) == 1
    servers.say["a.example"] = Answer(["10.0.0.2"])
    await trio.sleep(31)
    assert (watch.get("a.example"), len(changes)) == (Answer(["10.0.0.2"]), 2)


async def test_what_worked_stays_while_the_servers_are_away(
    names: Callable[[list[int]], Names], servers: Servers, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    changes: list[int] = []
    watch = names(changes)
    servers.say["a.example"] = Answer(["10.0.0.1"])
    watch.want("a", ["a.example"])
    nursery.start_soon(watch.run)
    await trio.sleep(1)
    servers.say.clear()
    await trio.sleep(60)
    assert (watch.get("a.example"), len(changes)) == (Answer(["10.0.0.1"]), 1)
    servers.say["a.example"] = Answer(["10.0.0.3"])
    await trio.sleep(3)
    assert watch.get("a.example") == Answer(["10.0.0.3"])


async def test_asking_again_looks_sooner_and_not_all_the_time(
    names: Callable[[list[int]], Names], servers: Servers, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    watch = names([])
    servers.say["a.example"] = Answer(["10.0.0.1"])
    watch.want("a", ["a.example"])
    nursery.start_soon(watch.run)
    await trio.sleep(0.1)
    for _ in range(50):
        watch.ask_again("a.example")
        await trio.sleep(0.1)
    assert 4 <= len(servers.asked) <= 7


async def test_what_nobody_wants_any_more_is_not_asked_for(
    names: Callable[[list[int]], Names], servers: Servers, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    watch = names([])
    watch.want("a", ["x.example"])
    watch.want("b", ["x.example"])
    nursery.start_soon(watch.run)
    await trio.sleep(1)
    watch.want("a", [])
    assert watch.get("x.example") is not None
    watch.want("b", [])
    assert watch.get("x.example") is None
    count = len(servers.asked)
    await trio.sleep(100)
    assert len(servers.asked) == count
