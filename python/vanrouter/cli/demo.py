"""
``van demo``: two sites and a service on this machine, with the very commands that a user would type, each shown before it runs.

Everything lives in one temporary directory and in processes that carry it in their environment, so cleaning up means: end those, remove
it. That happens also after SIGINT, SIGTERM and SIGHUP at any point: a signal only sets a flag, which every wait looks at, so it never
cuts a step in two. Only loopback is used; nothing is resolved; no service manager and no site of the user's is touched.
"""

from __future__ import annotations

import http.client
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

import click

from vanrouter.cli.base import Invocation, command, pass_invocation
from vanrouter.cli.output import dim, good, say, strong
from vanrouter.cli.values import spell_duration, timeout_option
from vanrouter.errors import ConfigError, DeadlineExceeded, VanrouterError

__all__ = ["demo"]

_MARK: Final = ".vanrouter-demo"
_OURS: Final = "VAN_DEMO"  # in the environment of every process of a demo, and of no other
_STEP: Final = 20  # seconds that one command may take; then it says itself what it waited for
_TICK: Final = 0.02  # seconds between two looks at the flag
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _InterruptedError(Exception):
    """A signal came; ``number`` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class _Stage:
    """The directory and processes of one demo, its deadline, and the flag that a signal sets."""

    def __init__(self, directory: Path, timeout: float) -> None:
        self.directory = directory
        self.timeout = timeout
        self.deadline = time.monotonic() + timeout
        self.signal = 0
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("VAN_")}
        self.environment |= {"VAN_HOME": str(directory), _OURS: str(directory), "VAN_MANAGER": "none"}

    def check(self, what: str) -> None:
        if self.signal:
            raise _InterruptedError(self.signal)
        if time.monotonic() > self.deadline:
            raise DeadlineExceeded(
                f"demo: {what} took too long; the whole may take {spell_duration(self.timeout)}", hint="a longer time: --timeout"
            )

    def wait(self, process: subprocess.Popen[str], what: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a child; ends it when the demo is over first."""
        while True:
            try:
                out, err = process.communicate(timeout=_TICK)
            except subprocess.TimeoutExpired:
                try:
                    self.check(what)
                except Exception:
                    process.kill()
                    process.communicate()
                    raise
            else:
                return process.returncode, out, err

    def spawn(self, *command: str) -> subprocess.Popen[str]:
        """A child in a session of its own, so that Ctrl-C reaches the demo alone."""
        return subprocess.Popen(  # noqa: S603 - our own program
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.directory,
            start_new_session=True,
        )

    def van(self, words: str, *, hidden: str = "") -> str:
        """Show a command, run it, show what it prints. ``hidden``: words that the user need not type."""
        self.check(words)
        say(strong(f"$ van -p linux {words}"))
        left = max(1, min(_STEP, int(self.deadline - time.monotonic())))
        hidden = f"{hidden} --timeout {left}s"
        argv = [sys.executable, "-P", "-m", "vanrouter.cli", "-p", "linux", *shlex.split(f"{words} {hidden}")]
        code, out, err = self.wait(self.spawn(*argv), f"'van {words}'")
        for line in out.splitlines():
            say(f"  {line}")
        if code:
            raise VanrouterError(
                f"demo: 'van {words}' failed with exit code {code}: {err.strip()}",
                hint="run it again with --keep, and look with van status",
            )
        for line in err.splitlines():
            say(dim(f"  {line}"))
        return out


@contextmanager
def _flagged(stage: _Stage) -> Iterator[None]:
    """Signals set the flag while this is open."""

    def note(number: int, _frame: FrameType | None) -> None:
        stage.signal = stage.signal or number

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@command("demo", platforms=None)
@click.option("--keep", is_flag=True, help="Leave it running, and say how to go on and how to clean up.")
@click.option("--cleanup", type=click.Path(path_type=Path), metavar="DIR", help="End a demo that was kept in DIR, and remove it.")
@click.option("--plane", type=click.Choice(["core", "baseline"]), envvar="VAN_PLANE", help="Which data plane the sites use.")
@timeout_option(60, "How long the whole demo may take.")
@pass_invocation
def demo(invocation: Invocation, keep: bool, cleanup: Path | None, plane: str | None, timeout: float) -> int:  # noqa: ARG001
    """Two sites and a service on this machine, in seconds.

    Starts sites north and south, links them with a token, exposes a server of south, asks it from north by name, and cleans up.
    """
    if cleanup is not None:
        _clean_kept(cleanup)
        return 0
    directory = Path(tempfile.gettempdir()).resolve() / f"van-demo-{os.getpid()}-{os.urandom(4).hex()}"
    stage = _Stage(directory, timeout)
    with _flagged(stage):
        kept = False
        try:
            directory.mkdir(mode=0o700)
            (directory / _MARK).touch()
            try:
                ports = _play(stage, plane)
            except VanrouterError:
                kept = keep  # what went wrong is there to be looked at
                raise
            if keep:
                kept = True
                _how_to_go_on(directory, *ports)
            else:
                _leave(stage)
        except _InterruptedError as interrupted:
            click.echo(f"\nInterrupted by {signal.Signals(interrupted.number).name}; cleaning up.", err=True)
            return 128 + interrupted.number
        finally:
            if kept:
                click.echo(f"Clean up: van demo --cleanup {shlex.quote(str(directory))}", err=True)
            else:
                clean(directory)
    return 0


def _play(stage: _Stage, plane: str | None) -> tuple[str, int]:
    started = time.monotonic()
    link_port, service_port = _free_ports(2, ("127.0.0.1", "127.0.0.2"))
    backend = _start_backend(stage)
    with_plane = f"--plane {plane}" if plane else ""
    stage.van(f"-n north init --site-name north --link-access 127.0.0.1:{link_port}", hidden=with_plane)
    stage.van("-n south init --site-name south --link-access none --service-address 127.0.0.2", hidden=with_plane)
    stage.van("-n north token create north.yaml")
    stage.van("-n south link create north.yaml")
    stage.van(f"-n south expose host 127.0.0.1:{backend} --port {service_port} --address hello")
    say(strong(f"$ curl http://hello.localhost:{service_port}/") + dim("        # in north; the server is in south"))
    answer = _ask(stage, "127.0.0.1", service_port)
    say(good(answer.strip()))
    stage.van("-n north status")
    say(dim(f"That took {time.monotonic() - started:.1f} s."))
    return "127.0.0.1", service_port


def _leave(stage: _Stage) -> None:
    stage.van("-n south unexpose hello")
    stage.van("-n south link delete --all")
    stage.van("-n north delete")
    stage.van("-n south delete")


def _start_backend(stage: _Stage) -> int:
    """A server of south, any one would do. It says its port on its first line."""
    stage.check("the backend")
    say(strong("$ ") + 'a server on 127.0.0.1 that answers {"message":"Hello"}: any one would do')
    log = stage.directory / "backend.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "vanrouter.cli.backend"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=stage.environment,
            cwd=stage.directory,
            start_new_session=True,
        )
    while True:
        said = log.read_text()
        if said.endswith("\n") and said.strip().isdigit():
            return int(said)
        if process.poll() is not None:
            raise VanrouterError(f"demo: the backend ended at once: {said.strip()}")
        stage.check("starting the backend")
        time.sleep(_TICK)


def _ask(stage: _Stage, host: str, port: int) -> str:
    """What ``curl http://hello.localhost:PORT/`` prints. Connects to the listener's address: not every resolver knows ``*.localhost``."""
    stage.check("the request")
    connection = http.client.HTTPConnection(host, port, timeout=min(10.0, max(0.1, stage.deadline - time.monotonic())))
    try:
        connection.request("GET", "/", headers={"Host": "hello"})
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        stage.check("the request")
        raise VanrouterError(
            f"demo: no answer from http://{host}:{port}/: {error}", hint="run it again with --keep, and look with van status"
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        raise VanrouterError(f"demo: http://{host}:{port}/ answered {response.status}: {body[:200]}")
    return body


def _free_ports(count: int, hosts: tuple[str, ...]) -> list[int]:
    """Ports that are free on all of these addresses now."""
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        while len(ports) < count:
            port = 0
            for host in hosts:
                sock = socket.socket()
                held.append(sock)
                try:
                    sock.bind((host, port))
                except OSError:
                    if not port:
                        raise
                    break
                port = sock.getsockname()[1]
            else:
                ports.append(port)
    finally:
        for sock in held:
            sock.close()
    return ports


def _how_to_go_on(directory: Path, host: str, port: int) -> None:
    say()
    say("It goes on running. Look around:")
    say(f"  export VAN_HOME={shlex.quote(str(directory))} VAN_PLATFORM=linux")
    say("  van -n north status; van -n south link status; van -n north network status")
    say(f"  curl -H 'Host: hello' http://{host}:{port}/")


# ---- Cleaning up ------------------------------------------------------------------------------------------------------------------------


def _clean_kept(directory: Path) -> None:
    directory = directory.resolve()
    if not (directory / _MARK).is_file():
        raise ConfigError(f"{directory} is not the directory of a kept demo", hint="name the one that 'van demo --keep' printed")
    clean(directory)
    say(f"The demo in {directory} is gone.")


def clean(directory: Path) -> None:
    """End every process of the demo in ``directory``, by SIGTERM, then by SIGKILL, and remove it. What is gone already is fine."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        signalled: set[int] = set()
        deadline = time.monotonic() + 3.0
        while (found := processes(directory)) and time.monotonic() < deadline:
            for pid in set(found) - signalled:
                signalled.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(_TICK)
    shutil.rmtree(directory, ignore_errors=True)


def processes(directory: Path) -> list[int]:
    """Processes whose environment says that they belong to the demo in ``directory``; ourselves and zombies excepted.

    The environment is looked at and not the command line: it is there from the fork on, and nobody else has this value in it.
    """
    wanted = f"{_OURS}=".encode() + os.fsencode(directory)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue  # gone, or somebody else's
    return found
