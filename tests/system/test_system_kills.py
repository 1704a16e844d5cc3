"""kill -9 at any point: the next start just works, nothing is half-written, nothing lies about. The seed of the points is printed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from hosts import Host
from linked import Linked, until

from vanrouter.resources import read_resources

POINTS = 4
SEED = int(os.environ.get("VAN_TEST_SEED", "") or random.randrange(1 << 30))
CHANCE = random.Random(SEED)


def strangers(home: Path) -> list[str]:
    """What a killed writer left behind, anywhere below."""
    marks = (".tmp-", ".new", ".old", ".deleted-")
    return [str(path.relative_to(home)) for path in sorted(home.rglob("*")) if any(mark in path.name for mark in marks)]


def too_open(home: Path) -> list[str]:
    """What others than the owner may read."""
    found = []
    for path in sorted(home.rglob("*")):
        info = path.lstat()
        if not stat.S_ISLNK(info.st_mode) and info.st_mode & 0o077:
            found.append(f"{path.relative_to(home)} {stat.S_IMODE(info.st_mode):04o}")
    return found


def kill_at(host: Host, line: str, after: float, *, routers: bool) -> bool:
    """Run a command and kill it (and all routers) so long after its start. Whether it was still running."""
    process = subprocess.Popen(
        ["van", "-p", "linux", *line.split()],
        cwd=host.directory,
        env=host.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after)
    was_running = process.poll() is None
    process.kill()
    process.wait()
    if routers:
        for pid in host.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until("they are gone", lambda: not host.processes())
    return was_running


def points(host: Host, line: str) -> list[float]:
    """Moments between the interpreter's start and the command's usual end."""
    started = time.monotonic()
    host.van(line)
    took = time.monotonic() - started
    return sorted(CHANCE.uniform(0.05, took) for _ in range(POINTS))


def test_init_and_delete_killed_anywhere(tmp_path: Path, plane: str) -> None:
    print(f"VAN_TEST_SEED={SEED}")
    with Host(tmp_path, plane) as host:
        init, delete = "init --site-name north", "delete"
        when_init = points(host, init)
        when_delete = points(host, delete)
        for after in when_init:
            kill_at(host, init, after, routers=True)
            host.van(init)
            assert host.van("status").stdout.startswith("Site north is ready.")
            assert strangers(host.home) == []
            assert too_open(host.home / "default") == []
            kill_at(host, delete, when_delete.pop(), routers=False)
            if (host.home / "default").exists():
                host.van(delete)
            host.van(init)  # whatever the killed one left is not in the way
            host.van(delete)
            assert host.processes() == []
            assert list(host.home.iterdir()) == [], "no half-deleted site with its keys lies about"


@pytest.mark.parametrize("command", ["init --site-name north --no-start", "delete"])
def test_a_delete_that_was_killed_is_finished_by_the_next_command(tmp_path: Path, plane: str, command: str) -> None:
    """The directory has another name by then, so that no half of a site runs; its keys do not stay."""
    with Host(tmp_path, plane) as host:
        host.van("init --site-name north --no-start")
        left = host.home / ".default.deleted-4194304"
        (host.home / "default").rename(left)
        host.run("van", "-p", "linux", *command.split())
        assert not left.exists()


def test_commands_killed_anywhere_while_the_sites_run(linked: Linked) -> None:
    print(f"VAN_TEST_SEED={SEED}")
    linked.set_up(expose=False)
    host, home = linked.host, linked.host.home
    expose = f"-n south expose host 127.0.0.1:{linked.echo.port} --port {linked.port} --address hello"
    commands = {
        "-n north token create {n}.yaml": 0.4,
        expose: 0.8,
        "-n south update --service-address 127.0.0.{n}": 0.6,
        "-n south unexpose hello": 0.5,
        "-n south listener create l{n} 1{n}999 --no-wait": 0.5,
        "-n south listener delete --all": 0.5,
    }
    for n in range(2, 2 + POINTS // 2):
        for line, most in commands.items():
            kill_at(host, line.format(n=n), CHANCE.uniform(0.05, most), routers=False)
            for name in ("north", "south"):
                for path in (home / name / "resources").glob("*.yaml"):
                    assert read_resources(path.read_text(), source=path.name), f"{path.name} is half-written"
            for token in host.directory.glob("*.yaml"):
                assert token.read_text().startswith("apiVersion: v1"), f"{token.name} is half-written"
                assert token.stat().st_mode & 0o077 == 0
                token.unlink()
    linked.van(expose)
    until("hello answers", linked.answers)
    for name in ("north", "south"):
        os.kill(host.router(name), signal.SIGKILL)
        until(f"{name} is dead", lambda name=name: not alive(host, name))  # type: ignore[misc]
        host.van(f"-n {name} init")
    until("hello answers", linked.answers)
    for name in ("north", "south"):
        assert too_open(home / name) == []
        assert [s for s in strangers(home / name) if "resources" not in s] == [], "leftovers younger than a minute may stay in resources/"


def is_empty(directory: Path) -> bool:
    """Raises LookupError, which names what is there, when it is not."""
    found = [path.name for path in directory.glob("*")]
    if found:
        raise LookupError(found)
    return True


def alive(host: Host, name: str) -> bool:
    pid = host.router(name)
    return pid in host.processes()


@pytest.mark.parametrize("victim", ["north", "south"])
def test_a_link_is_made_or_told_when_either_router_is_killed_in_the_middle(linked: Linked, victim: str) -> None:
    """Issuer or redeemer dies at a random moment of `link create`; after its restart the same token ends with exactly one link."""
    print(f"VAN_TEST_SEED={SEED}")
    linked.set_up(expose=False)
    linked.van("-n south link delete --all")
    for number in range(2):
        linked.van(f"-n north token create {number}.yaml")
        command = ["van", "-p", "linux", "-n", "south", "link", "create", f"{number}.yaml", "--timeout", "20s"]
        process = subprocess.Popen(
            command, cwd=linked.host.directory, env=linked.host.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(CHANCE.uniform(0.1, 0.5))
        os.kill(linked.host.router(victim), signal.SIGKILL)
        linked.van(f"-n {victim} init")
        _out, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        assert process.returncode == 0 or "Error: " in err
        again = linked.host.run(*command)
        assert again.returncode == 0 or "redeemed by this site already" in again.stderr, again.stderr
        linked.until_linked()
        assert len(linked.status("south")["links"]) == 1
        assert len(list((linked.host.home / "south" / "state" / "credentials").iterdir())) == 1
        until("nothing is pending", lambda: is_empty(linked.host.home / "south" / "state" / "pending"))
        linked.van("-n south link delete --all")
        assert [g["used"] for g in linked.status("north")["grants"] if not g["used"]] == []
    for name in ("north", "south"):
        assert strangers(linked.host.home / name) == []
        assert too_open(linked.host.home / name) == []
