"""
To be a member for the length of a block: the place that a site needs, the site on it, and the van that the program gets.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import sniffio
import trio

from vanrouter.admin import client
from vanrouter.embed.homes import Beside, Here
from vanrouter.embed.looking import only_one, until
from vanrouter.embed.van import Van
from vanrouter.errors import ConfigError, DeadlineExceeded, NotReady, UsageError
from vanrouter.model import parse_name
from vanrouter.resources import Metadata, Site
from vanrouter.resources.kinds import SiteSpec
from vanrouter.settings import Timing
from vanrouter.sites.run import PlaneName, run_site
from vanrouter.sites.site import RunningSite
from vanrouter.stores import SiteHome
from vanrouter.tokens import AccessToken, parse_token

__all__ = ["open"]


@contextlib.asynccontextmanager
async def open(
    where: str | Path,
    *,
    name: str = "",
    directory: str | Path | None = None,
    edge: bool = True,
    plane: PlaneName | None = None,
    timeout: float = 30.0,  # noqa: ASYNC109 - until joined and ready, not of the block
    drain: float = 5.0,
    timing: Timing | None = None,
) -> AsyncIterator[Van]:
    """Be a member of the network for the length of the block. For tasks of trio and of asyncio.

    Args:
      where: a token (its file, or its text), or the directory of a site.
      name: of the site, when a token makes one; default: ``embedded-`` and some random letters.
      directory: with a token: keep the site there. The token is redeemed the first time, and is not needed in date afterwards.
      edge: with a token: whether the new site is an edge, which carries nothing for others. A site directory says itself what it is.
      plane: ``core`` or ``baseline``; default: the core where it is built in.
      timeout: how long joining may take.
      drain: on the way out live streams have so long to end, then they are reset. After an exception they are reset at once.
      timing: for tests.

    Raises ConfigError, TokenError, StoreError, DeadlineExceeded before the block begins. What the block raises comes out as it is.
    """

    def member() -> contextlib.AbstractAsyncContextManager[RunningSite]:
        return _member(where, name, directory, edge=edge, plane=plane, timeout=timeout, drain=drain, timing=timing)

    match _library():
        case "trio":
            async with member() as site:
                van = Van(site, Here())
                try:
                    yield van
                finally:
                    van._close()
        case "asyncio":
            beside = Beside(member)
            van = Van(await beside.start(), beside)
            try:
                yield van
            except BaseException:
                van._close()
                await beside.end(at_once=True)
                raise
            van._close()
            await beside.end(at_once=False)
        case library:
            raise UsageError(f"vanrouter.open works in trio and in asyncio, not in {library or 'code that no loop runs'}")


def _library() -> str:
    try:
        return sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            return "asyncio"
        return ""


@contextlib.asynccontextmanager
async def _member(
    where: str | Path,
    name: str,
    directory: str | Path | None,
    *,
    edge: bool,
    plane: PlaneName | None,
    timeout: float,  # noqa: ASYNC109
    drain: float,
    timing: Timing | None,
) -> AsyncIterator[RunningSite]:
    """The running site, in the trio loop that calls."""
    place = await _find_place(where, name=name, directory=directory, edge=edge)
    failure: BaseException | None = None
    try:
        with only_one():
            async with trio.open_nursery() as nursery:
                try:
                    run = functools.partial(run_site, place.directory, plane=plane, take_over=False, timing=timing)
                    site: RunningSite = await nursery.start(run)
                    with _deadline(timeout, lambda: f"the site did not become ready and linked within {timeout:g} s: {_state(site)}"):
                        await _join(site, place.token)
                    yield site
                    site.stop(grace=0.0, drain=drain)
                except Exception as error:  # raised again below, outside of the nursery, as it is
                    failure = error
                    nursery.cancel_scope.cancel()
    finally:
        place.remove()
    if failure is not None:
        raise failure


# ---- Joining -----------------------------------------------------------------------------------------------------------------------------


class _Place:
    """The directory to run in, and the token to join with, if any."""

    def __init__(self, directory: Path, token: AccessToken | None = None, *, temporary: bool = False) -> None:
        self.directory, self.token, self._temporary = directory, token, temporary

    def remove(self) -> None:
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)


async def _find_place(where: str | Path, *, name: str, directory: str | Path | None, edge: bool) -> _Place:
    """Raises ConfigError, TokenError, StoreError."""
    if isinstance(where, str) and "\n" in where:
        return _place_for_token(where, "the token", name, directory, edge)
    path = Path(await trio.Path(where).expanduser())
    if not await trio.Path(path).is_dir():
        try:
            text = await trio.Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            todo = "give the file of a token (van token create FILE), or the directory of a site"
            raise ConfigError(f"{path} cannot be read: {error}", hint=todo) from error
        return _place_for_token(text, str(path), name, directory, edge)
    try:
        ask = {"uses": 1, "expiry_seconds": 60}
        issued = await trio.to_thread.run_sync(lambda: client.call(path, "token.issue", ask))
    except NotReady:
        if directory is not None or name:
            raise ConfigError(f"{path} is a site: it has a name and a directory", hint="leave out name and directory") from None
        return _Place(path)
    return _place_for_token(issued["yaml"], f"the token of {path}", name, directory, edge)


def _place_for_token(text: str, what: str, name: str, directory: str | Path | None, edge: bool) -> _Place:
    token = parse_token(text, what)
    site_name = parse_name(name or f"embedded-{secrets.token_hex(4)}", "site name")
    place = _Place(Path(directory or tempfile.mkdtemp(prefix="van-")), token, temporary=directory is None)
    home = SiteHome(place.directory)
    if not home.exists or not home.resources.of_kind("Site"):
        home.create()
        home.resources.put(Site(metadata=Metadata(name=site_name), spec=SiteSpec(link_access="none", service_sync=False, edge=edge)))
    return place


async def _join(site: RunningSite, token: AccessToken | None) -> None:
    """Until the site is ready, and with a token until it is linked and knows what the other end serves."""
    await until(site.is_ready)
    if token is not None:
        if token.id not in site.joining.redeemed:
            await site.joining.redeem(token)
        await until(site.services.has_joined)


@contextlib.contextmanager
def _deadline(seconds: float, message: Callable[[], str]) -> Iterator[None]:
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise DeadlineExceeded(message(), hint="check that the issuing site runs and that its link access can be reached from here")


def _state(site: RunningSite) -> str:
    """The first thing that is not well."""
    ready = site.conditions.get("Ready")
    if ready is None or ready.status != "True":
        return ready.message if ready is not None else "it is starting"
    return "no link is active"
