"""
The network inside a program.

    this process:   hub (a site directory) ──── link over loopback ──── leaf (joined with a token)
"""

from __future__ import annotations

import collections
import contextlib
import gc
import importlib.util
import os
import signal
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

import vanrouter
from vanrouter.embed import Van
from vanrouter.errors import ConfigError, DeadlineExceeded, NoSuchKey, StreamRefused, StreamReset, TokenError
from vanrouter.stores import SiteHome

EXAMPLE = Path(__file__).parents[2] / "examples" / "embed_hello.py"
Pair = tuple[vanrouter.Stream, vanrouter.Stream]


async def everything(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([part async for part in stream])


async def pair(client: Van, server: Van, key: str = "pair") -> Pair:
    """Both ends of one stream."""
    async with server.serve(key) as streams:
        near = await client.connect(key)
        return near, await streams.__anext__()


async def leave_by_an_exception(stream: vanrouter.Stream) -> None:
    async with stream:
        await stream.send_all(b"half of it")
        raise RuntimeError("changed my mind")


def reset_class(broken: trio.BrokenResourceError) -> str:
    assert isinstance(broken.__cause__, StreamReset)
    return broken.__cause__.stream_class


async def test_the_example_says_hello(directory: Path, plane: str) -> None:
    spec = importlib.util.spec_from_file_location("embed_hello", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            await example.serve(directory, plane=plane, task_status=task_status)

        await nursery.start(serve)
        assert await example.ask(directory, "north", plane=plane) == "Hello, north!"
        nursery.cancel_scope.cancel()


async def test_streams_come_in_an_async_for_and_bytes_go_both_ways(hub: Van, leaf: Van) -> None:
    async with trio.open_nursery() as nursery:

        async def double() -> None:
            async for stream in hub.serve("double"):
                async with stream:
                    await stream.send_all(2 * await everything(stream))
                    await stream.send_eof()

        nursery.start_soon(double)
        for text in (b"a", b"b" * 100_000):
            async with await leaf.connect("double") as stream:
                async with trio.open_nursery() as both:
                    both.start_soon(stream.send_all, text)
                    await trio.testing.wait_all_tasks_blocked()
                    both.start_soon(stream.send_eof) if len(text) == 1 else None
                if len(text) > 1:
                    await stream.send_eof()
                assert await everything(stream) == 2 * text
        nursery.cancel_scope.cancel()


async def test_either_end_may_serve(hub: Van, leaf: Van) -> None:
    near, far = await pair(hub, leaf)
    async with near, far:
        assert far.routing_key == "pair"
        assert far.source == hub.router
        await near.send_all(b"to the leaf")
        assert await far.receive_some() == b"to the leaf"


async def test_a_key_that_is_served_here_is_reached_without_a_link(hub: Van) -> None:
    near, far = await pair(hub, hub)
    async with near, far:
        await near.send_all(b"x")
        assert await far.receive_some() == b"x"


async def test_the_first_end_is_only_half(hub: Van, leaf: Van) -> None:
    """leaf ends its direction; hub goes on sending, now and later"""
    near, far = await pair(leaf, hub)
    async with near, far:
        await near.send_all(b"question")
        await near.send_eof()
        assert await everything(far) == b"question"
        await far.send_all(b"answer, ")
        await trio.sleep(0.2)
        await far.send_all(b"later")
        await far.send_eof()
        assert await everything(near) == b"answer, later"


@pytest.mark.parametrize("opener_leaves", [True, False])
async def test_leaving_by_an_exception_is_a_reset_at_the_other_end_and_never_an_end(hub: Van, leaf: Van, opener_leaves: bool) -> None:
    near, far = await pair(leaf, hub)
    leaving, staying = (near, far) if opener_leaves else (far, near)
    with pytest.raises(RuntimeError, match="changed my mind"):
        await leave_by_an_exception(leaving)
    async with staying:
        with pytest.raises(trio.BrokenResourceError) as broken:
            await everything(staying)
    assert reset_class(broken.value) == ("client" if opener_leaves else "target")


async def test_closing_without_an_end_is_a_reset(hub: Van, leaf: Van) -> None:
    near, far = await pair(leaf, hub)
    await near.aclose()
    async with far:
        with pytest.raises(trio.BrokenResourceError):
            await everything(far)


async def test_an_answer_that_was_ended_arrives_although_the_server_does_not_wait_for_our_end(hub: Van, leaf: Van) -> None:
    """as with TCP: write, shut down, close; the client reads all of it, and its own end comes too late to matter"""
    async with hub.serve("answer") as streams:
        for size in 10 * [16, 60_000]:
            near, far = await leaf.connect("answer"), await streams.__anext__()
            async with near:
                await far.send_all(b"x" * size)
                await far.send_eof()
                await far.aclose()
                assert len(await everything(near)) == size


async def test_cancellation_resets(hub: Van, leaf: Van) -> None:
    near, far = await pair(leaf, hub)
    with trio.move_on_after(0.1) as scope:
        async with near:
            await near.receive_some()
    assert scope.cancelled_caught
    async with far:
        with pytest.raises(trio.BrokenResourceError):
            await everything(far)


async def test_a_member_that_goes_takes_its_streams_with_it_as_resets(hub: Van, opened, directory: Path) -> None:  # type: ignore[no-untyped-def]
    async with opened(directory) as leaf:
        near, far = await pair(leaf, hub)
        await near.send_all(b"not all of it")
        assert await far.receive_some() == b"not all of it"
    async with far:
        with pytest.raises(trio.BrokenResourceError) as broken:
            await everything(far)
    assert reset_class(broken.value) in ("link", "drain", "client")
    with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
        await near.receive_some()
    await near.aclose()


async def test_a_handler_that_raises_resets_its_stream_and_the_others_go_on(
    hub: Van, leaf: Van, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async def picky(stream: vanrouter.Stream) -> None:
        word = await stream.receive_some()
        if word == b"bad":
            raise ValueError("no such word")
        await stream.send_all(word)
        await stream.send_eof()

    await nursery.start(hub.serve, "picky", picky)
    async with await leaf.connect("picky") as good, await leaf.connect("picky") as bad:
        await bad.send_all(b"bad")
        with pytest.raises(trio.BrokenResourceError):
            await everything(bad)
        await good.send_all(b"good")
        assert await everything(good) == b"good"
    assert "no such word" in caplog.text
    caplog.clear()


async def test_what_is_not_served_any_more_is_refused(hub: Van, leaf: Van) -> None:
    near, far = await pair(leaf, hub)
    async with near, far:
        with pytest.raises((NoSuchKey, StreamRefused)):
            await leaf.connect("pair", wait=0.1)
        await near.send_all(b"but what was taken goes on")
        assert await far.receive_some() == b"but what was taken goes on"


async def test_a_key_that_nobody_serves_has_a_moment_to_appear(hub: Van, leaf: Van, nursery: trio.Nursery) -> None:
    async def later() -> None:
        await trio.sleep(0.5)
        async for stream in hub.serve("late"):
            async with stream:
                await stream.send_all(b"here I am")
                await stream.send_eof()
                await everything(stream)

    nursery.start_soon(later)
    async with await leaf.connect("late") as stream:
        await stream.send_eof()
        assert await everything(stream) == b"here I am"
    with pytest.raises(NoSuchKey, match="'never'"):
        await leaf.connect("never", wait=0.1)


async def test_what_cannot_be_a_key_is_said(hub: Van) -> None:
    with pytest.raises(ConfigError, match="spaces"):
        await hub.connect("two words")
    with pytest.raises(ConfigError, match="spaces"):
        hub.serve("two words")
    hub.serve("one")
    with pytest.raises(ConfigError, match="already"):
        hub.serve("one")


async def test_what_the_block_raises_comes_out_as_it_is(opened, directory: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(KeyError, match="mine"):
        async with opened(directory):
            raise KeyError("mine")
    async with opened(directory):
        pass


async def test_a_block_can_be_cancelled(opened, directory: Path) -> None:  # type: ignore[no-untyped-def]
    with trio.move_on_after(0.3) as scope:
        async with opened(directory):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_token_makes_a_site_for_the_length_of_the_block(hub: Van, opened, directory: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from vanrouter.admin import client

    issued = await trio.to_thread.run_sync(lambda: client.call(directory, "token.issue", {"uses": 2}))
    file = tmp_path / "token.yaml"
    file.write_text(issued["yaml"])
    async with opened(file, name="one") as one, opened(issued["yaml"]) as two:
        assert one.name == "one"
        assert two.name.startswith("embedded-")
        assert one.router != two.router
        for van in (one, two):
            near, far = await pair(van, hub, van.name)
            await near.aclose()
            await far.aclose()
        place = one._site.context.home.directory
        assert place.is_dir()
    assert not place.exists()
    with pytest.raises(TokenError):
        async with opened(file):
            pass


async def test_a_kept_directory_joins_once_and_stays_the_same_site(hub: Van, opened, directory: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from vanrouter.admin import client

    issued = await trio.to_thread.run_sync(lambda: client.call(directory, "token.issue", {"uses": 1}))
    ids = []
    for _ in range(2):
        async with opened(issued["yaml"], directory=tmp_path / "kept", name="kept") as van:
            ids.append(van.router.partition("/")[0])
            near, far = await pair(van, hub, "kept")
            await near.aclose()
            await far.aclose()
    assert ids[0] == ids[1]
    assert SiteHome(tmp_path / "kept").exists


async def test_what_is_neither_a_token_nor_a_site_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        async with vanrouter.open(tmp_path / "nothing"):
            pass
    (tmp_path / "text").write_text("hello")
    with pytest.raises(TokenError):
        async with vanrouter.open(tmp_path / "text"):
            pass
    with pytest.raises(ConfigError):
        async with vanrouter.open(tmp_path):
            pass


async def test_joining_a_site_that_is_gone_ends_at_the_deadline(opened, directory: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from vanrouter.admin import client

    async with opened(directory):
        issued = await trio.to_thread.run_sync(lambda: client.call(directory, "token.issue", {"uses": 1}))
    with pytest.raises((TokenError, DeadlineExceeded)):
        async with opened(issued["yaml"], timeout=2.0):
            pass


def test_it_needs_neither_the_main_thread_nor_a_signal(opened, directory: Path) -> None:  # type: ignore[no-untyped-def]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
    result: list[bytes] = []

    async def main() -> None:
        async with opened(directory) as hub, opened(directory) as leaf:
            assert {number: signal.getsignal(number) for number in before} == before
            near, far = await pair(leaf, hub)
            async with near, far:
                await near.send_all(b"from a thread")
                result.append(await far.receive_some())

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    thread.join(30)
    assert result == [b"from a thread"]


class EndsOnClose(trio.abc.HalfCloseableStream):
    """What trio's check expects of a close, an end, is a reset here unless ``send_eof`` came first. Everything else is the stream's own."""

    def __init__(self, stream: vanrouter.Stream) -> None:
        self.stream = stream
        self.send_all, self.receive_some = stream.send_all, stream.receive_some
        self.wait_send_all_might_not_block, self.send_eof = stream.wait_send_all_might_not_block, stream.send_eof

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
    async def receive_some(self, max_bytes: int | None = None) -> bytes: ...  # type: ignore[empty-body]
    async def wait_send_all_might_not_block(self) -> None: ...
    async def send_eof(self) -> None: ...

    async def aclose(self) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError), trio.CancelScope(shield=True):
            await self.stream.send_eof()
        await self.stream.aclose()


async def test_it_is_a_half_closeable_stream_as_trio_understands_it(hub: Van, leaf: Van) -> None:
    streams = hub.serve("check")
    await streams.ready()

    async def make() -> tuple[EndsOnClose, EndsOnClose]:
        near = await leaf.connect("check")
        return EndsOnClose(near), EndsOnClose(await streams.__anext__())

    with trio.fail_after(10):
        await trio.testing.check_half_closeable_stream(make, None)


async def test_nothing_is_left_behind(opened, directory: Path) -> None:  # type: ignore[no-untyped-def]
    async def once() -> None:
        async with opened(directory) as hub, opened(directory) as leaf, hub.serve("key") as streams:
            for _ in range(50):
                near, far = await leaf.connect("key"), await streams.__anext__()
                await near.send_eof()
                await far.send_eof()
                assert await everything(near) == await everything(far) == b""
                await near.aclose()
                await far.aclose()

    def held() -> collections.Counter[str]:
        """Kinds of open files, and threads beyond those that trio keeps idle for a while."""
        gc.collect()  # a stopped core keeps its event descriptors until it is collected
        kinds: collections.Counter[str] = collections.Counter()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                kinds[os.readlink(f"/proc/self/fd/{name}").partition(":")[0]] += 1
        kinds["threads"] = max(0, len(os.listdir("/proc/self/task")) - 8)
        return kinds

    await once()
    before = held()
    await once()
    with trio.move_on_after(5):
        while held() - before:  # noqa: ASYNC110
            await trio.sleep(0.05)
    assert held() - before == collections.Counter()


def test_importing_vanrouter_imports_no_router() -> None:
    import subprocess
    import sys

    code = "import sys, vanrouter; assert not {'trio', 'vanrouter.embed'} & set(sys.modules); vanrouter.open; assert 'trio' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
