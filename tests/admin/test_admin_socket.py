"""The admin socket: who may call, what comes back, and that nobody waits for ever."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from vanrouter.admin import client, protocol
from vanrouter.admin.path import socket_name
from vanrouter.admin.server import Reply, serve_admin
from vanrouter.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidResource,
    LocalProtocolError,
    NotReady,
    StoreError,
    TokenError,
    VanrouterError,
)
from vanrouter.stores import SiteHome


async def answer(method: str, params: dict[str, Any]) -> Any:
    match method:
        case "echo":
            return params
        case "fail":
            raise {"config": ConfigError, "not_ready": NotReady, "token": TokenError, "store": StoreError}[params["kind"]](
                "what", hint="next"
            )
        case "path":
            raise InvalidResource("Listener/a: spec.port", "is wrong", hint="do")
        case "bug":
            raise ZeroDivisionError("the secret of the router")
        case "hang":
            await trio.sleep_forever()
        case "files":
            return Reply({"count": params["count"]}, [os.open("/dev/null", os.O_RDONLY) for _ in range(params["count"])])
        case "large":
            return "x" * params["size"]
    raise ConfigError(f"there is no method {method!r}")


@pytest.fixture(params=["short", "long"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> SiteHome:
    """Also with a directory whose socket has a longer name than the kernel takes."""
    found = SiteHome(tmp_path / ("d" * 120) / "site" if request.param == "long" else tmp_path / "site")
    found.create()
    return found


@pytest.fixture
async def served(home: SiteHome, nursery: trio.Nursery) -> SiteHome:
    await nursery.start(serve_admin, home.socket, answer)
    return home


async def call(home: SiteHome, method: str, *, within: float = 5.0, **params: Any) -> Any:
    return await trio.to_thread.run_sync(lambda: client.call(home.directory, method, params, timeout=within))


async def test_a_call_and_its_result(served: SiteHome) -> None:
    assert await call(served, "echo", a=1, b=["ü", None]) == {"a": 1, "b": ["ü", None]}
    assert served.socket.stat().st_mode & 0o777 == 0o600


async def test_errors_come_back_as_what_they_were(served: SiteHome) -> None:
    for kind, error in (("config", ConfigError), ("not_ready", NotReady), ("token", TokenError), ("store", StoreError)):
        with pytest.raises(error, match="what") as caught:
            await call(served, "fail", kind=kind)
        assert caught.value.hint == "next"
    with pytest.raises(InvalidResource, match=r"^Listener/a: spec\.port: is wrong$") as caught:
        await call(served, "path")
    assert caught.value.path == "Listener/a: spec.port"


async def test_a_bug_is_told_without_its_insides(served: SiteHome, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(LocalProtocolError, match="ZeroDivisionError") as caught:
        await call(served, "bug")
    assert "secret" not in str(caught.value)
    assert "the secret of the router" in caplog.text


async def test_several_calls_on_one_connection(served: SiteHome) -> None:
    def several() -> list[Any]:
        with client.Connection(served.directory) as connection:
            return [connection.call("echo", {"n": n}) for n in range(20)]

    assert await trio.to_thread.run_sync(several) == [{"n": n} for n in range(20)]


@pytest.mark.parametrize("count", [0, 1, 253, 600])
async def test_open_files_travel_with_an_answer(served: SiteHome, count: int) -> None:
    def ask() -> list[int]:
        with client.Connection(served.directory) as connection:
            assert connection.call("files", {"count": count}) == {"count": count}
            return connection.take_sockets()

    before = len(os.listdir("/proc/self/fd"))
    fds = await trio.to_thread.run_sync(ask)
    assert len(fds) == count
    for fd in fds:
        os.fstat(fd)
        os.close(fd)
    await trio.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


async def test_a_call_that_takes_too_long_ends(served: SiteHome) -> None:
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"did not answer 'hang' within 0\.2 s"):
        await call(served, "hang", within=0.2)
    assert time.monotonic() - start < 5


async def test_a_large_answer_comes_and_one_beyond_the_limit_is_an_error(served: SiteHome) -> None:
    assert len(await call(served, "large", size=20_000_000, within=20)) == 20_000_000
    with pytest.raises(LocalProtocolError, match="at most"):
        await call(served, "large", size=64 << 20, within=20)


@pytest.mark.parametrize(
    "garbage", [b"hello\n", b"[]\n", b'{"method": 1}\n', b'{"method": "echo", "params": 3}\n', b"\xff\n", b"[" * 5000 + b"\n"]
)
async def test_garbage_is_answered_and_the_next_call_works(served: SiteHome, garbage: bytes) -> None:
    def talk() -> list[Any]:
        with socket.socket(socket.AF_UNIX) as raw, socket_name(served.socket) as name:
            raw.settimeout(5)
            raw.connect(name)
            raw.sendall(garbage + b'{"method": "echo"}\n')
            with raw.makefile("rb") as lines:
                return [json.loads(lines.readline()), json.loads(lines.readline())]

    refused, worked = await trio.to_thread.run_sync(talk)
    assert refused["error"]["code"] == "config"
    assert worked == {"result": {}}


async def test_a_line_without_end_is_cut_off(served: SiteHome) -> None:
    def talk() -> bytes:
        with socket.socket(socket.AF_UNIX) as raw, socket_name(served.socket) as name:
            raw.settimeout(5)
            raw.connect(name)
            data = b""
            with contextlib.suppress(OSError):
                raw.sendall(b"x" * (3 << 20))
            with contextlib.suppress(ConnectionError):
                while part := raw.recv(65536):
                    data += part
            return data

    assert b"longer than" in await trio.to_thread.run_sync(talk)
    assert await call(served, "echo") == {}


async def test_connections_that_say_nothing_do_not_keep_others_out_for_good(served: SiteHome) -> None:
    quiet = []
    with socket_name(served.socket) as name:
        for _ in range(31):
            raw = socket.socket(socket.AF_UNIX)
            raw.connect(name)
            quiet.append(raw)
        await trio.sleep(0.1)
        assert await call(served, "echo") == {}
        for raw in quiet:
            raw.close()


async def test_somebody_else_gets_no_answer(served: SiteHome) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    code = (
        "import os,socket,sys\n"
        "s=socket.socket(socket.AF_UNIX); s.settimeout(5)\n"
        "os.chdir(sys.argv[1]); os.setuid(65534); s.connect('admin.sock')\n"
        's.sendall(b\'{"method": "echo"}\\n\'); print(s.recv(100))\n'
    )
    for path in (served.run, *served.run.parents):  # the modes of the directory keep others out too; not what is tried here
        if path.stat().st_mode & 0o77 == 0:
            path.chmod(0o711)
    served.socket.chmod(0o666)

    def ask() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, "-c", code, str(served.run)], capture_output=True, timeout=20)

    done = await trio.to_thread.run_sync(ask)
    assert done.stdout.strip() in (b"b''", b""), done
    assert b"result" not in done.stdout


def test_nothing_runs_there(home: SiteHome) -> None:
    with pytest.raises(NotReady, match="is not running") as caught:
        client.call(home.directory, "ping")
    assert "vanrouter run" in caught.value.hint
    with pytest.raises(NotReady, match="there is no site"):
        client.call(home.directory.parent / "nowhere", "ping")


async def test_a_socket_that_a_killed_router_left_is_replaced(home: SiteHome, nursery: trio.Nursery) -> None:
    with socket.socket(socket.AF_UNIX) as dead, socket_name(home.socket) as name:
        dead.bind(name)
    with pytest.raises(NotReady, match="nobody answers"):
        await call(home, "echo")
    await nursery.start(serve_admin, home.socket, answer)
    assert await call(home, "echo") == {}


def test_the_client_needs_no_heavy_imports() -> None:
    code = "import sys; import vanrouter.admin.client; print([m for m in ('trio', 'yaml', 'cryptography', 'click') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_request_is_a_method_or_a_config_error(line: bytes) -> None:
    try:
        method, params = protocol.decode_request_untrusted(line)
        assert isinstance(method, str)
        assert isinstance(params, dict)
    except ConfigError:
        pass


replies = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["result", "error", "code", "message"]), inner),
)


@given(replies)
def test_any_reply_is_a_result_or_one_of_our_errors(value: Any) -> None:
    with contextlib.suppress(VanrouterError):
        protocol.decode_reply(json.dumps(value).encode())
