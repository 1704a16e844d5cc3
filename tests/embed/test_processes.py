"""Programs of their own with a van in them: how they end, fork and are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, os, signal, sys, threading, time
import trio, vanrouter
where, mode = sys.argv[1:]

async def main():
    manager = vanrouter.open(where, drain=0.2)
    van = await manager.__aenter__()
    serving = van.serve("key")
    stream = await van.connect("key")
    print("ready", flush=True)
    if mode == "exit":
        globals()["kept"] = manager, van, serving, stream   # the program ends and closes nothing
    elif mode == "fork":
        child = os.fork()
        if child == 0:
            connect, send = lambda: next(van.connect("key").__await__()), lambda: stream.send_all(b"x").send(None)
            for call in (van.services, lambda: van.serve("x"), connect, send):
                try:
                    call()
                except vanrouter.errors.UsageError as error:
                    assert "fork" in str(error), error
                else:
                    os._exit(1)
            del stream
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        far = await anext(serving)
        await stream.send_all(b"the parent goes on")
        assert await far.receive_some() == b"the parent goes on"
        await manager.__aexit__(None, None, None)
        print("fine", flush=True)

async def interrupted():
    async with vanrouter.open(where):
        print("ready", flush=True)
        await (asyncio.sleep(60) if loop is asyncio else trio.sleep(60))

import vanrouter.errors
loop = {"asyncio": asyncio, "trio": trio}[os.environ["LOOP"]]
work = interrupted if mode == "signal" else main
try:
    asyncio.run(work()) if loop is asyncio else trio.run(work)
except KeyboardInterrupt:
    print("interrupted", flush=True)
except BaseException as error:
    print("ended by", type(error).__name__, flush=True)
"""


def program(directory: Path, mode: str, loop: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"LOOP": loop},
    )


def test_an_interpreter_that_ends_without_closing_ends(directory: Path) -> None:
    with program(directory, "exit", "asyncio") as child:
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out) == (0, "ready\n"), err
    assert "Traceback" not in err


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
def test_a_fork_is_refused_and_the_parent_goes_on(directory: Path, loop: str) -> None:
    with program(directory, "fork", loop) as child:
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out.splitlines()[-1]) == (0, "fine"), out + err


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
def test_an_interrupt_ends_the_program_as_any_other(directory: Path, loop: str) -> None:
    with program(directory, "signal", loop) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out) == (0, "interrupted\n"), out + err
