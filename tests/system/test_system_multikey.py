"""One port for several routing keys, made with `van`: in an order, then in proportion, without a restart."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_port
from hosts import Host
from linked import until


class Says:
    """A server that says its letter to everybody."""

    def __init__(self, letter: bytes) -> None:
        self._letter = letter
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self._socket.accept()
                with stream:
                    stream.sendall(self._letter)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def host(tmp_path: Path, plane: str) -> Iterator[Host]:
    with Host(tmp_path, plane) as host:
        yield host


def ask(port: int) -> str:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.2", port), timeout=10) as stream:
        return stream.recv(1).decode()
    return ""


def test_a_port_stands_for_several_keys_in_an_order_and_then_in_proportion(host: Host) -> None:
    host.van("init --site-name north --service-address 127.0.0.2")
    first, second, port = Says(b"a"), Says(b"b"), free_port()
    for key, server in (("a", first), ("b", second)):
        host.van(f"connector create {key} {server.port}")
    host.van(f"multikeylistener create both {port} --priority b --priority a")
    until("it goes to the first key", lambda: ask(port) == "b")
    assert {ask(port) for _ in range(10)} == {"b"}
    host.van("connector delete b")
    until("it goes to the next one", lambda: ask(port) == "a")
    host.van(f"connector create b {second.port}")
    host.van("multikeylistener update both --weight a=1 --weight b=3")
    until("both are asked", lambda: {ask(port) for _ in range(5)} == {"a", "b"})
    shares = Counter(ask(port) for _ in range(200))
    assert 115 <= shares["b"] <= 185, f"three of four; {shares}"
    shown = host.van("multikeylistener status").stdout
    assert "a=1, b=3" in shown
    host.van("multikeylistener delete both")
    until("the port is free", lambda: ask(port) == "")
    first.close()
    second.close()
