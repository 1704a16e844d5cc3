"""
Both sides of the `idle` workload as processes: `serve HOST PORT` echoes and keeps connections open; `hold HOST PORT COUNT` opens them.

The holder sends one byte on each connection and waits for it to come back, so that each is open all the way; then it prints `held N`.
The line `close` on its standard input makes it send another byte on each, because one that was dropped while idle costs nothing and must
not count, then close them all and print `closed`.
"""

from __future__ import annotations

import selectors
import socket
import sys

_AT_ONCE = 64  # connections being opened together


def serve(host: str, port: int) -> None:
    selector = selectors.DefaultSelector()
    listener = socket.create_server((host, port), backlog=4096)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                accepted, _ = listener.accept()
                selector.register(accepted, selectors.EVENT_READ)
                continue
            try:
                data = sock.recv(64)
            except ConnectionError:
                data = b""
            if data:
                sock.sendall(data)
            else:
                selector.unregister(sock)
                sock.close()


def hold(host: str, port: int, count: int) -> None:
    held: list[socket.socket] = []
    while len(held) < count:
        batch = [socket.create_connection((host, port), timeout=20) for _ in range(min(_AT_ONCE, count - len(held)))]
        ask(batch)
        held += batch
    print(f"held {len(held)}", flush=True)
    for line in sys.stdin:
        if line.strip() == "close":
            for at in range(0, len(held), _AT_ONCE):
                ask(held[at : at + _AT_ONCE])
            for sock in held:
                sock.close()
            print("closed", flush=True)
        else:
            break


def ask(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.sendall(b"v")
    for sock in socks:
        if sock.recv(1) != b"v":
            raise SystemExit("a connection ended instead of answering")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", host, port]:
            serve(host, int(port))
        case ["hold", host, port, count]:
            hold(host, int(port), int(count))
        case _:
            raise SystemExit(__doc__)
