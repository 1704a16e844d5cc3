"""What comes and goes leaves nothing: descriptors, threads, memory and log lines of a router that was changed, asked and knocked at."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import threading
from pathlib import Path

from linked import Linked, until

WARM_UP, ROUNDS = 6, 30
MIB = 1 << 20


def descriptors(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(entry))
    return sorted(found)


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def health(port: int) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as tls:
        tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while part := tls.recv(4096):
            answer += part
        return answer


class Silence:
    """Connections to an admin socket that say nothing, or half a word."""

    def __init__(self, path: Path) -> None:
        self._open: list[socket.socket] = []
        for number in range(8):
            connection = socket.socket(socket.AF_UNIX)
            self._open.append(connection)
            connection.connect(str(path))
            if number % 2:
                connection.sendall(b'{"method": "sta')

    def close(self) -> None:
        for connection in self._open:
            connection.close()


def one_round(pair: Linked, number: int) -> None:
    home = pair.host.home
    pair.call("south", "link.delete", name=pair.link("south")["name"])
    token = pair.call("north", "token.issue", name=f"round-{number}")["yaml"]
    pair.call("south", "token.redeem", token=token, name="north")
    listener = home / "north" / "resources" / "Listener-other.yaml"
    listener.write_text(
        "apiVersion: vanrouter.io/v1alpha1\nkind: Listener\nmetadata: {name: other}\n"
        f"spec: {{routingKey: other-{number % 3}, host: 127.0.0.1, port: {pair.other_port}}}\n"
    )
    connector = home / "south" / "resources" / "Connector-other.yaml"
    connector.write_text(
        "apiVersion: vanrouter.io/v1alpha1\nkind: Connector\nmetadata: {name: other}\n"
        f"spec: {{routingKey: other-{number % 3}, host: 127.0.0.1, port: {pair.echo.port},\n"
        f"       expose: {{port: {pair.port}, address: other}}}}\n"
    )
    os.kill(pair.host.router("south"), signal.SIGHUP)
    pair.call("north", "reconcile")
    silence = [Silence(home / name / "run" / "admin.sock") for name in ("north", "south")]
    assert health(pair.link_port).startswith(b"HTTP/1.1 ")
    pair.until_linked()
    if number % 4 == 0:  # what is said about a key is paced to once a second
        until("a stream passes", lambda: pair.answers(pair.other_port))
    for name in ("north", "south"):
        pair.call(name, "network")
    for connections in silence:
        connections.close()
    listener.unlink()
    connector.unlink()
    pair.call("north", "reconcile")
    pair.call("south", "reconcile")


def test_thirty_rounds_of_everything_leave_nothing(linked: Linked) -> None:
    linked.set_up(expose=False)
    sites = {name: linked.host.router(name) for name in ("north", "south")}
    for number in range(WARM_UP):
        one_round(linked, number)
    settle(linked)
    before = {name: (descriptors(pid), threads(pid), memory(pid)) for name, pid in sites.items()}
    for number in range(WARM_UP, WARM_UP + ROUNDS):
        one_round(linked, number)
    settle(linked)
    for name, pid in sites.items():
        fds, tasks, rss = before[name]
        until(
            f"{name} has no more descriptors than before",
            lambda fds=fds, pid=pid: len(descriptors(pid)) <= len(fds) + 1,  # type: ignore[misc]
        )
        # A thread pool may keep a thread or two for a while; it does not grow with the rounds.
        assert threads(pid) <= tasks + 4, name
        assert memory(pid) - rss <= 8 * MIB, f"{name}: {rss / MIB:.1f} MiB before, {memory(pid) / MIB:.1f} after {ROUNDS} rounds"
        lines = linked.log(name).count("\n")
        assert lines <= 20 * (WARM_UP + ROUNDS), f"{name} wrote {lines} lines"
        assert "Traceback" not in linked.log(name), linked.log(name)


def settle(pair: Linked) -> None:
    """What is closed after a linger is closed, what is linked is linked."""
    pair.until_linked()
    for name in ("north", "south"):
        until(f"{name} has no listener left", lambda name=name: pair.status(name)["listeners"] == [], seconds=20)  # type: ignore[misc]


def knock(port: int, number: int) -> None:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
        match number % 4:
            case 0:
                stream.sendall(b"GET / HTTP/1.1\r\n\r\n")
            case 1:
                stream.sendall(os.urandom(200))
            case 2:
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                context.set_alpn_protocols(["van/1"])
                with contextlib.suppress(ssl.SSLError), context.wrap_socket(stream) as tls:
                    tls.recv(1)
            case _:
                pass  # a probe


def test_who_knocks_a_thousand_times_does_not_fill_the_log(shared: Linked) -> None:
    pid, before, lines = shared.host.router("north"), descriptors(shared.host.router("north")), shared.log("north").count("\n")
    people = [threading.Thread(target=lambda part=part: [knock(shared.link_port, n) for n in range(part, 1000, 10)]) for part in range(10)]  # type: ignore[misc]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert shared.answers(), "the link that stands is not disturbed"
    written = shared.log("north").count("\n") - lines
    assert written <= 100, f"{written} lines for 1,000 knocks:\n{shared.log('north')[-3000:]}"
    until("all of them are closed", lambda: len(descriptors(pid)) <= len(before) + 2)


def test_a_person_who_guesses_tokens_does_not_fill_the_log_either(shared: Linked) -> None:
    """The desk answers each, and says a bounded number of times why it did not."""
    lines = shared.log("north").count("\n")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["van-join/1"])
    statuses = set()
    for _ in range(60):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", shared.link_port), timeout=5) as raw,
            context.wrap_socket(raw) as tls,
        ):
            tls.sendall(b"POST /redeem HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            statuses.add(tls.recv(4096).split(b" ")[1])
    assert statuses <= {b"400", b"429"}
    assert shared.log("north").count("\n") - lines <= 40
