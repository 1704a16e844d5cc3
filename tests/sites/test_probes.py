"""
The checks themselves, against real sockets that refuse, hang, answer nonsense, close at once, and come back.

    check ──SYN──▶ kernel of the target       program: accept() sees nothing
          ◀SYNACK─
          ──RST──▶
"""

from __future__ import annotations

import contextlib
import functools
import random
import resource as limits
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
from free_ports import free_port

from vanrouter.addresses.health import Health, Outcome, Probe, State
from vanrouter.checks import Check
from vanrouter.sites.probes import Probes, make_check

HTTP = Check(type="http", path="/healthz")


def probe(port: int, check: Check | None = None, *, host: str = "127.0.0.1") -> Probe:
    return Probe(name="t", host=host, port=port, check=check or Check(), serial=1)


@contextlib.contextmanager
def listening(port: int = 0, *, backlog: int = 16):  # type: ignore[no-untyped-def]
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(backlog)
        sock.setblocking(False)
        yield sock


@contextlib.asynccontextmanager
async def answering(answer: bytes, *, asks: list[bytes] | None = None) -> AsyncIterator[int]:
    """A server that reads a request, says ``answer`` and closes. The port."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += await stream.receive_some()
            if asks is not None:
                asks.append(asked)
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


# ---- TCP --------------------------------------------------------------------------------------------------------------------------------


async def test_a_listening_server_passes_and_its_program_sees_no_connection() -> None:
    with listening() as sock:
        for _ in range(20):
            assert await make_check(probe(sock.getsockname()[1])) == Outcome(kind="passed")
        await trio.sleep(0.3)  # longer than the kernel would hold the last packet of a handshake back
        if sys.platform == "linux":
            with pytest.raises(BlockingIOError):
                sock.accept()


async def test_a_server_that_serves_one_connection_still_has_it_after_checks() -> None:
    with listening(backlog=0) as sock:
        port = sock.getsockname()[1]
        for _ in range(5):
            assert (await make_check(probe(port))).kind == "passed"
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            accepted, _ = sock.accept()
            with accepted:
                accepted.sendall(b"you are the first")
                assert await client.receive_some() == b"you are the first"


async def test_a_port_where_nobody_listens_fails_at_once_and_nothing_is_there() -> None:
    with trio.fail_after(5):
        outcome = await make_check(probe(free_port(), Check(timeout=10.0, interval=60.0)))
    assert outcome == Outcome(kind="failed", error="Connection refused", refused=True)


async def test_a_server_that_accepts_nobody_any_more_fails_at_the_deadline_and_may_be_busy() -> None:
    """Its queue is full: the kernel drops what comes. That is not the same as nobody being there."""
    with listening(backlog=0) as sock, contextlib.ExitStack() as clients:
        port = sock.getsockname()[1]
        for _ in range(3):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        await trio.sleep(0.05)
        outcome = await make_check(probe(port, Check(timeout=0.3)))
    assert outcome == Outcome(kind="failed", error="no answer within 0.3 s", refused=False)


async def test_a_server_that_closes_at_once_passes_a_tcp_check() -> None:
    """It takes connections; what it does with them only an HTTP check can tell."""

    async def close(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (server,) = await nursery.start(functools.partial(trio.serve_tcp, close, 0, host="127.0.0.1"))
        port = server.socket.getsockname()[1]
        assert (await make_check(probe(port))).kind == "passed"
        outcome = await make_check(probe(port, HTTP))
        assert outcome.kind == "failed"
        assert not outcome.refused
        nursery.cancel_scope.cancel()


async def test_ipv6_is_checked_too() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        sock.listen()
        assert (await make_check(probe(sock.getsockname()[1], host="::1"))).kind == "passed"


# ---- HTTP -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        (b"HTTP/1.0 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000, ""),
        (b"HTTP/1.1 500 Oops\r\n\r\n", "status 500"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "status 404"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"HTTP/1.1 20x\r\n\r\n", "not HTTP"),
        (b"x" * 100_000, "not HTTP"),
        (b"\n", "not HTTP"),
        (b"", "not HTTP"),
    ],
)
async def test_what_a_server_answers_decides(answer: bytes, error: str) -> None:
    async with answering(answer) as port:
        outcome = await make_check(probe(port, HTTP))
    assert outcome.kind == ("failed" if error else "passed")
    assert error in outcome.error
    assert not outcome.refused


async def test_the_request_names_path_and_host_and_wants_no_second_one() -> None:
    asks: list[bytes] = []
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n", asks=asks) as port:
        await make_check(probe(port, Check(type="http", path="/ready?full=1", host="shop.example")))
        await make_check(probe(port, HTTP))
    assert asks[0].startswith(b"GET /ready?full=1 HTTP/1.1\r\nHost: shop.example\r\n")
    assert b"Connection: close" in asks[0]
    assert f"Host: 127.0.0.1:{port}\r\n".encode() in asks[1]


async def test_only_the_statuses_that_are_named_pass() -> None:
    async with answering(b"HTTP/1.1 204 No Content\r\n\r\n") as port:
        assert (await make_check(probe(port, Check(type="http", statuses=((200, 200), (204, 204)))))).kind == "passed"
        assert (await make_check(probe(port, Check(type="http", statuses=((200, 200),))))).kind == "failed"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 2"])
async def test_a_server_that_takes_the_connection_and_hangs_fails_at_the_deadline(said: bytes) -> None:
    async def hang(stream: trio.SocketStream) -> None:
        await stream.send_all(said)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (server,) = await nursery.start(functools.partial(trio.serve_tcp, hang, 0, host="127.0.0.1"))
        outcome = await make_check(probe(server.socket.getsockname()[1], Check(type="http", timeout=0.3)))
        assert outcome == Outcome(kind="failed", error="no answer within 0.3 s")
        nursery.cancel_scope.cancel()


# ---- what is not the target's fault -----------------------------------------------------------------------------------------------------


async def test_without_descriptors_a_check_says_nothing_about_its_target() -> None:
    nobody = free_port()
    soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
    with listening() as sock, contextlib.ExitStack() as hoard:
        port = sock.getsockname()[1]
        limits.setrlimit(limits.RLIMIT_NOFILE, (min(soft, 256), hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    hoard.enter_context(socket.socket())
            outcomes = [await make_check(probe(where)) for where in (port, nobody)]
        finally:
            limits.setrlimit(limits.RLIMIT_NOFILE, (soft, hard))
    assert {outcome.kind for outcome in outcomes} == {"void"}
    assert "open files" in outcomes[0].error


async def test_a_router_that_stood_still_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline passes while this process is stopped: when it goes on, the answer may well have been there all the time."""

    async def stand_still(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep(0.1)
        time.sleep(1.2)  # noqa: ASYNC251 - the whole loop

    async with answering(b"") as _, trio.open_nursery() as nursery:
        with listening() as sock:  # accepts in the kernel, never answers
            await nursery.start(stand_still)
            outcome = await make_check(probe(sock.getsockname()[1], Check(type="http", timeout=0.3)))
        assert (outcome.kind, outcome.error) == ("void", "this router stood still")


# ---- the driver -------------------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def driven(*checks: tuple[str, int, Check]) -> AsyncIterator[tuple[Health, Callable[[str, State], object]]]:
    health = Health(random.Random(1))
    news = trio.Event()

    def changed() -> None:
        nonlocal news
        news.set()
        news = trio.Event()

    probes = Probes(health, changed=changed)
    for name, port, check in checks:
        health.put(name, "127.0.0.1", port, check, now=trio.current_time())

    async def until(name: str, state: State) -> None:
        with trio.fail_after(15):
            while (verdict := health.verdict(name)) is None or verdict.state is not state:
                await news.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(probes.run)
        yield health, until
        nursery.cancel_scope.cancel()


async def test_a_server_that_goes_is_out_and_back_when_it_is_back() -> None:
    port = free_port()
    check = Check(interval=1.0, timeout=0.2)
    async with driven(("t", port, check)) as (_, until):
        await until("t", State.EJECTED)
        with listening(port):
            await until("t", State.HEALTHY)
        await until("t", State.EJECTED)


async def test_targets_that_hang_do_not_hold_up_the_others() -> None:
    good = free_port()
    with listening() as silent, listening(good):
        hanging = [(f"h{n}", silent.getsockname()[1], Check(type="http", interval=40.0, timeout=10.0)) for n in range(100)]
        async with driven(*hanging, ("good", good, Check())) as (health, until):
            await until("good", State.HEALTHY)
            assert health.verdict("h0").state is State.NEW  # type: ignore[union-attr]


async def test_a_thousand_checks_leave_no_descriptor_and_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    with listening() as sock:
        port, nobody = sock.getsockname()[1], free_port()
        for _ in range(500):
            await make_check(probe(port))
            await make_check(probe(nobody))
    assert descriptors() == before
    assert caplog.records == []
