"""What cannot be: calls from elsewhere, after the end or outside of a loop, and words that mean nothing. Each is told, and what to do."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import vanrouter
from vanrouter.errors import ConfigError, DeadlineExceeded, TokenError, UsageError

Run = Callable[[Callable[[], Awaitable[None]]], None]


def test_calls_from_elsewhere_and_after_the_end_are_told(directory: Path, plane: Any, run: Run) -> None:
    async def main() -> None:
        async with vanrouter.open(directory, plane=plane) as van:
            serving = van.serve("key")
            stream = await van.connect("key")
            told: list[str] = []

            def elsewhere() -> None:
                for call in (
                    van.services,
                    lambda: van.serve("other"),
                    lambda: anyio.run(van.connect, "key"),
                    lambda: anyio.run(stream.receive),
                ):
                    try:
                        call()
                    except UsageError as error:
                        told.append(str(error))

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert told == 4 * ["this van is of another thread"]
            stream.reset()
            serving.close()
        for call in (van.services, lambda: van.serve("key"), van.status):
            with pytest.raises(UsageError, match="its block has ended"):
                call()
        with pytest.raises(UsageError, match="its block has ended"):
            await van.connect("key")
        await stream.aclose()

    run(main)


def test_bad_input_is_said_before_the_block_begins(directory: Path, tmp_path: Path, run: Run) -> None:
    from vanrouter.admin import client

    expired: list[str] = []

    async def main() -> None:
        for where, error in (
            (tmp_path / "nothing", ConfigError),
            ("kind: Nonsense\n", TokenError),
            (42, TypeError),
        ):
            with pytest.raises(error):
                async with vanrouter.open(where):  # type: ignore[arg-type]
                    pass
        async with vanrouter.open(directory) as hub:
            with pytest.raises(TypeError):
                await hub.connect(7)  # type: ignore[arg-type]
            with pytest.raises(ConfigError):
                await hub.connect("")
            ask = {"uses": 1, "expiry_seconds": 1}
            expired.append((await anyio.to_thread.run_sync(lambda: client.call(directory, "token.issue", ask)))["yaml"])
            await anyio.sleep(1.1)
            with pytest.raises(TokenError):
                async with vanrouter.open(expired[0]):
                    pass
        with pytest.raises((TokenError, DeadlineExceeded)):
            async with vanrouter.open(expired[0], timeout=1.0):
                pass

    run(main)


def test_outside_of_a_loop_it_says_what_it_needs(directory: Path) -> None:
    opening = vanrouter.open(directory).__aenter__()
    with pytest.raises(UsageError, match="trio and in asyncio"):
        opening.send(None)  # type: ignore[attr-defined]
