"""Routers as processes: signals, kill -9 at any point, a full disk, a takeover between processes."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from site_world import free_port, http_get, resource

from vanrouter.admin import client
from vanrouter.errors import NotReady, VanrouterError
from vanrouter.stores import SiteHome

RUN = "import sys; from vanrouter.sites.process import run_process; sys.exit(run_process(sys.argv[1], sys.argv[2]))"


class Processes:
    def __init__(self) -> None:
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, home: SiteHome, plane: str = "baseline") -> subprocess.Popen[bytes]:
        with home.log_file.open("ab") as out:
            process = subprocess.Popen([sys.executable, "-c", RUN, str(home.directory), plane], stdout=out, stderr=out)
        self.running.append(process)
        return process

    def ready(self, home: SiteHome, process: subprocess.Popen[bytes], *, seconds: float = 15.0) -> Any:
        """The status of this very process, once it is ready."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert process.poll() is None, home.log_file.read_text()
            with contextlib.suppress(NotReady):
                if client.call(home.directory, "ping")["pid"] == process.pid:
                    status = client.call(home.directory, "status")
                    if status["site"]["ready"]:
                        return status
            time.sleep(0.03)
        raise AssertionError(f"not ready: {home.log_file.read_text()}")


@pytest.fixture
def processes() -> Iterator[Processes]:
    found = Processes()
    yield found
    for process in found.running:
        process.kill()
        process.wait()


def make_home(root: Path, name: str, **spec: Any) -> SiteHome:
    home = SiteHome(root / name)
    home.create()
    home.resources.put(resource("Site", name, **spec))
    return home


def until(what: str, check: Any, *, seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(NotReady):
            if found := check():
                return found
        time.sleep(0.03)
    raise AssertionError(f"not within {seconds} s: {what}")


def link_is_up(home: SiteHome) -> bool:
    return any(link["active"] for link in client.call(home.directory, "status")["links"])


def test_sigterm_ends_it_cleanly_and_leaves_nothing_behind(tmp_path: Path, processes: Processes) -> None:
    home = make_home(tmp_path, "north")
    process = processes.start(home)
    processes.ready(home, process)
    assert home.pid_file.read_text().strip() == str(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert sorted(p.name for p in home.run.iterdir()) == ["lock", "router.log"]
    with pytest.raises(NotReady):
        client.call(home.directory, "status")


def test_sigint_is_like_sigterm_and_sighup_reads_again(tmp_path: Path, processes: Processes) -> None:
    home = make_home(tmp_path, "north")
    process = processes.start(home)
    processes.ready(home, process)
    home.resources.put(resource("Listener", "web", routingKey="web", host="127.0.0.1", port=free_port()))
    process.send_signal(signal.SIGHUP)
    until("the listener is there", lambda: client.call(home.directory, "status")["listeners"], seconds=3)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0


def test_sigterm_before_the_first_link_and_twice(tmp_path: Path, processes: Processes) -> None:
    home = make_home(tmp_path, "north")
    process = processes.start(home)
    until("the socket is there", lambda: home.socket.exists())
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_signals_that_come_until_the_very_end_do_not_make_it_an_end_by_a_signal(tmp_path: Path, processes: Processes) -> None:
    home = make_home(tmp_path, "north")
    process = processes.start(home)
    processes.ready(home, process)
    deadline = time.monotonic() + 10
    while process.poll() is None:
        assert time.monotonic() < deadline
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.0005)
    assert process.returncode == 0


def test_after_kill_9_the_next_start_is_the_same_site_with_the_same_links(tmp_path: Path, processes: Processes, backend: int) -> None:
    port = free_port()
    north = make_home(tmp_path, "north", linkAccess=f"127.0.0.1:{free_port()}")
    south = make_home(tmp_path, "south", serviceAddress="127.0.0.2")
    processes_of = {h: processes.start(h) for h in (north, south)}
    before = {h: processes.ready(h, p) for h, p in processes_of.items()}
    token = client.call(north.directory, "token.issue")["yaml"]
    client.call(south.directory, "token.redeem", {"token": token})
    south.resources.put(resource("Connector", "hello", routingKey="hello", host="127.0.0.1", port=backend, expose={"port": port}))
    for home in (north, south, north):
        processes_of[home].kill()
        processes_of[home].wait()
        processes_of[home] = processes.start(home)
        after = processes.ready(home, processes_of[home])
        assert after["site"]["id"] == before[home]["site"]["id"]
        assert after["site"]["router"] != before[home]["site"]["router"]
        until("the link is back at both ends", lambda: link_is_up(north) and link_is_up(south))
        until("the service is back", lambda: client.call(north.directory, "status")["listeners"])
        assert http_get(port) == b'{"message":"Hello"}'


def test_killed_at_any_moment_of_its_first_start_it_starts_the_next_time(tmp_path: Path, processes: Processes) -> None:
    chance = random.Random(7)
    for round in range(12):
        home = make_home(tmp_path, f"site{round}", linkAccess=f"127.0.0.1:{free_port()}")
        process = processes.start(home)
        # Importing takes a while; the state is written in the milliseconds after it.
        with contextlib.suppress(AssertionError):
            until("the state is being written", lambda h=home: any(h.state.directory.iterdir()), seconds=5)
        time.sleep(chance.uniform(0, 0.01))
        process.kill()
        process.wait()
    for round in range(12):
        home = SiteHome(tmp_path / f"site{round}")
        process = processes.start(home)
        processes.ready(home, process)
        process.terminate()
    for process in processes.running:
        process.wait(10)


def test_a_redeemer_killed_in_the_middle_ends_with_the_link(tmp_path: Path, processes: Processes) -> None:
    """The token has one use; whatever was cut short is finished by the next start, with the same key."""
    north = make_home(tmp_path, "north", linkAccess=f"127.0.0.1:{free_port()}")
    processes.ready(north, processes.start(north))
    chance = random.Random(3)
    for round in range(6):
        south = make_home(tmp_path, f"south{round}")
        process = processes.start(south)
        processes.ready(south, process)
        token = client.call(north.directory, "token.issue")["yaml"]
        killer = subprocess.Popen(
            [sys.executable, "-c", f"import time,os; time.sleep({chance.uniform(0.0, 0.04)}); os.kill({process.pid}, 9)"]
        )
        with contextlib.suppress(VanrouterError):
            client.call(south.directory, "token.redeem", {"token": token})
        killer.wait()
        process.wait()
        process = processes.start(south)
        processes.ready(south, process)
        with contextlib.suppress(VanrouterError):  # it may be there already
            client.call(south.directory, "token.redeem", {"token": token})
        until("the link is up", lambda s=south: link_is_up(s))
        assert len(client.call(south.directory, "status")["links"]) == 1
        process.terminate()
        process.wait()


def test_a_takeover_between_processes_refuses_nobody(tmp_path: Path, processes: Processes, backend: int) -> None:
    port = free_port()
    home = make_home(tmp_path, "north")
    home.resources.put(resource("Listener", "web", routingKey="web", host="127.0.0.1", port=port))
    home.resources.put(resource("Connector", "web", routingKey="web", host="127.0.0.1", port=backend))
    first = processes.start(home)
    processes.ready(home, first)
    until("it answers", lambda: client.call(home.directory, "status")["listeners"][0]["matched"])
    second = processes.start(home)
    answers = 0
    deadline = time.monotonic() + 10
    while first.poll() is None and time.monotonic() < deadline:
        assert http_get(port) == b'{"message":"Hello"}'
        answers += 1
    assert first.returncode == 0
    processes.ready(home, second)
    for _ in range(20):
        assert http_get(port) == b'{"message":"Hello"}'
    assert answers > 10
    assert home.pid_file.read_text().strip() == str(second.pid)


# ---- A full disk ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(mount)], capture_output=True)
    if done.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def fill(disk: Path) -> Path:
    path = disk / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return path


def test_a_full_disk_keeps_the_old_state_and_says_so(small_disk: Path, tmp_path: Path, processes: Processes) -> None:
    north = make_home(tmp_path, "north", linkAccess=f"127.0.0.1:{free_port()}")
    south = make_home(small_disk, "south")
    processes.ready(north, processes.start(north))
    first = subprocess.Popen([sys.executable, "-c", RUN, str(south.directory), "baseline"], stderr=subprocess.DEVNULL)
    processes.running.append(first)
    processes.ready(south, first)
    token = client.call(north.directory, "token.issue")["yaml"]
    before = {str(p): p.read_bytes() for p in south.directory.rglob("*") if p.is_file()}
    filler = fill(small_disk)
    with pytest.raises(VanrouterError, match=r"cannot (write|create) .*No space left on device \(ENOSPC\)") as caught:
        client.call(south.directory, "token.redeem", {"token": token})
    assert "free some space" in caught.value.hint
    after = {str(p): p.read_bytes() for p in south.directory.rglob("*") if p.is_file()}
    assert {name: after.get(name) for name in before} == before
    assert client.call(south.directory, "status")["site"]["ready"]
    filler.unlink()
    client.call(south.directory, "token.redeem", {"token": token})
    until("the link is up", lambda: link_is_up(south))
    first.kill()
    first.wait()


def test_a_first_start_on_a_full_disk_fails_with_words_and_works_later(small_disk: Path, processes: Processes) -> None:
    home = make_home(small_disk, "north")
    filler = fill(small_disk)
    done = subprocess.run([sys.executable, "-c", RUN, str(home.directory), "baseline"], capture_output=True, timeout=30)
    assert done.returncode
    assert b"No space left on device (ENOSPC)" in done.stderr
    assert not [p for p in home.state.directory.iterdir() if p.is_file()]
    filler.unlink()
    process = subprocess.Popen([sys.executable, "-c", RUN, str(home.directory), "baseline"], stderr=subprocess.DEVNULL)
    processes.running.append(process)
    processes.ready(home, process)


# ---- Hygiene ----------------------------------------------------------------------------------------------------------------------------


def test_what_is_secret_is_0600_and_nothing_lies_about(tmp_path: Path, processes: Processes) -> None:
    north = make_home(tmp_path, "north", linkAccess=f"127.0.0.1:{free_port()}")
    south = make_home(tmp_path, "south")
    for home in (north, south):
        processes.ready(home, processes.start(home))
    token = client.call(north.directory, "token.issue")["yaml"]
    client.call(south.directory, "token.redeem", {"token": token})
    until("the link is up", lambda: link_is_up(south))
    secret = next(line.split()[1] for line in token.splitlines() if line.strip().startswith("secret:"))
    for home in (north, south):
        for path in [home.directory, *home.directory.rglob("*")]:
            mode = path.stat().st_mode & 0o777
            if path.is_dir():
                assert mode == 0o700, path
            elif path != home.log_file:
                assert mode == 0o600, path
            assert ".tmp-" not in path.name
            if path.is_file():
                assert secret not in path.read_text(errors="replace"), path
    shutil.rmtree(tmp_path / "south")
    assert os.path.exists(north.socket)
