"""
``van bench SITE``: a way to a target at another site that is there for one measurement, as applications have theirs.

    van bench ─▶ listener ─▶ this router ══▶ ... ══▶ the other site's router ─▶ connector ─▶ target (a process, `vanrouter.bench.target`)
                                 └────────── session: one stream ──────────┘

Every router that is a process of its own takes sessions: streams of the routing key `van.bench/SITE-ID`, which it does not advertise.
Whoever wants one knows the site, and routes that key there for itself. Such a router takes what members of its network open, as it does
for services; this costs it more, so it is bounded: one session at a time, at most `MOST_SECONDS` and `MOST_BYTES`, whoever asks, and
none at all with ``bench: "off"`` among the settings of the Site. The target is gone when the session is, and the session when its stream
ends, for whatever reason. Python moves no byte of the measurement in a router.

The near half is opened by the operator of this site (the admin socket) and ends when nobody asks for a sample any more: a command that was
killed leaves nothing. A session is lines of JSON, both ways: ``{"seconds"}`` ▸ ``{"key", ...}`` or ``{"error"}``; then ``{}`` ▸ usage.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import trio

import vanrouter
from vanrouter.bench.usage import usage
from vanrouter.errors import ConfigError, DeadlineExceeded, NoSuchKey, NotReady, StreamError, StreamRefused, VanrouterError
from vanrouter.plane import Connector, Incoming, Listener, Path, PlaneStream, Ref, Route, RouteTarget
from vanrouter.routing.view import NetworkView, site_of

if TYPE_CHECKING:
    from vanrouter.sites.site import RunningSite

__all__ = ["MOST_BYTES", "MOST_SECONDS", "NAME", "Bench", "session_key"]

log = logging.getLogger("vanrouter.sites")

Doc = dict[str, Any]

NAME: Final = "van-bench"  # of listener, connectors and routes; no resource can have it beside them: they are other kinds of entries
MOST_SECONDS: Final = 120
MOST_BYTES: Final = 1 << 40
MAX_LINE: Final = 65_536
PATIENCE: Final = 5.0  # seconds for each step of opening
SAMPLED_EVERY: Final = 6.0  # seconds without anybody asking, after which a near half ends


def session_key(site: str) -> str:
    return f"van.bench/{site}"


class Bench:
    """Both halves: sessions that others open here, and the one that our operator opened."""

    def __init__(self, site: RunningSite) -> None:
        self._site = site
        self._serving = False  # somebody's session
        self._near: _Near | None = None
        self._nursery: trio.Nursery | None = None

    # ---- far half ------------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take sessions, and hold the near half, until cancelled."""
        site_id = site_of(str(self._site.context.own))
        incoming = self._site.receive(NAME)
        self._site.context.forwarding.change(put=[Connector(name=NAME, routing_key=session_key(site_id), embedded=True)])
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            async for each in incoming:
                nursery.start_soon(self._take, each)

    async def _take(self, incoming: Incoming) -> None:
        async with incoming.stream:
            with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, ValueError):
                lines = _Lines(incoming.stream)
                with trio.fail_after(PATIENCE):
                    asked = await lines.read_untrusted()
                if why := self._refusal(asked):
                    await lines.write({"error": why})
                    await incoming.stream.send_eof()
                    return
                await self._serve(lines, float(asked["seconds"]), incoming.stream.source)

    def _refusal(self, asked: Doc) -> str:
        if self._site.wanted.site_spec.settings.get("bench") in ("off", "false"):
            return 'its owner does not allow measurements there (settings of its Site: bench: "off")'
        if self._serving:
            return "another measurement is under way there; try again when it is over"
        seconds = asked.get("seconds")
        if not isinstance(seconds, int | float) or not 0 < seconds <= MOST_SECONDS:
            return f"it allows measurements of at most {MOST_SECONDS} s"
        return ""

    async def _serve(self, lines: _Lines, seconds: float, source: str) -> None:
        context = self._site.context
        key = f"{session_key(site_of(str(context.own)))}/{secrets.token_hex(8)}"
        entry = Ref("connector", f"{NAME}-target")
        self._serving = True
        log.info("a measurement begins", extra={"router": source, "seconds": seconds})
        command = [sys.executable, "-P", "-m", "vanrouter.bench.target", str(seconds + PATIENCE), str(MOST_BYTES)]
        try:
            target = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            try:
                with trio.fail_after(PATIENCE):
                    port = await _port_of(target)
                context.forwarding.change(put=[Connector(name=entry.name, routing_key=key, host="127.0.0.1", port=port)])
                await lines.write({"key": key, "version": vanrouter.__version__, "plane": context.plane.name, **usage(target.pid)})
                with trio.move_on_after(seconds):
                    while await lines.read_untrusted() == {}:
                        await lines.write(usage(target.pid))
            finally:
                target.kill()
                with trio.CancelScope(shield=True):
                    await target.wait()
                for pipe in (target.stdin, target.stdout):
                    await pipe.aclose()  # type: ignore[union-attr]
        finally:
            self._serving = False
            context.forwarding.change(drop=[entry])
            log.info("a measurement ends", extra={"router": source})

    # ---- near half -----------------------------------------------------------------------------------------------------------------------

    async def open(self, name: str, seconds: float) -> Doc:
        """Have a port here that leads to a target at the site of that name or id."""
        if self._near is not None:
            raise NotReady(
                f"another van bench, to site {self._near.name}, runs on this site",
                hint=f"one after the other; what was killed is over after {SAMPLED_EVERY:.0f} s",
            )
        if self._nursery is None or self._site.leaving:
            raise NotReady("this router does not measure now", hint="ask again when it is ready: van status")
        if not 0 < seconds <= MOST_SECONDS:
            raise ConfigError(f"a measurement takes at most {MOST_SECONDS} s", hint="ask for fewer seconds with --seconds")
        router, called, version = self._find(name)
        near = self._near = _Near(self._site, called)
        try:
            answer = await near.start(router, seconds, version)
        except BaseException:
            self._end()
            raise
        if self._near is not near:  # closed meanwhile
            near.end()
            raise NotReady("the measurement was closed before it began", hint="begin another one: van bench SITE")
        self._nursery.start_soon(self._watch, near)
        return answer

    async def sample(self) -> Doc:
        """How busy both ends are."""
        if self._near is None:
            raise ConfigError("no measurement is open on this site", hint="begin one: van bench SITE")
        return {"near": usage(), "far": await self._near.sample()}

    async def close(self) -> Doc:
        self._end()
        return {}

    def _end(self) -> None:
        near, self._near = self._near, None
        if near is not None:
            near.end()

    async def _watch(self, near: _Near) -> None:
        while self._near is near:
            if trio.current_time() - near.asked > SAMPLED_EVERY:
                self._end()
            await trio.sleep(0.2)

    def _find(self, name: str) -> tuple[str, str, str]:
        """A router of that site to which there is a path, how the site is called, its version."""
        site, engine = self._site, self._site.services.engine
        view: NetworkView = site.insight.view()
        document = view.document()
        if name in (site.context.site_name, site.context.keys.site_id):
            raise ConfigError(f"{name} is this very site", hint="name another one; they are in: van network status")
        found = [each for each in document["sites"] if name in (each["name"], each["id"])]
        if not found:
            others = ", ".join(sorted(each["name"] for each in document["sites"] if each["id"] != site.context.keys.site_id))
            hint = f"there is: {others or 'no other site'}; see van network status"
            raise ConfigError(f"there is no site {name!r} in the network", hint=hint)
        if len(found) > 1:
            ids = ", ".join(each["id"] for each in found)
            raise ConfigError(f"{len(found)} sites are called {name}", hint=f"name one by its id: {ids}")
        paths = [ref for ref in site.context.forwarding.names("path") if site_of(ref) == found[0]["id"]]
        router = next((ref for ref in paths if isinstance(site.context.forwarding.entry("path", ref), Path)), None)
        if router is None:
            why = "an edge knows the way to its uplink only" if engine.edge else "there is no path to any of its routers now"
            raise NotReady(f"site {name} cannot be reached from here: {why}", hint="see who is: van network status")
        return router, found[0]["name"], found[0].get("version", "")


class _Near:
    def __init__(self, site: RunningSite, name: str) -> None:
        self._site, self.name = site, name
        self._lines: _Lines | None = None
        self._lock = trio.Lock()
        self.asked = trio.current_time()
        self._refs = [Ref("listener", NAME)]

    async def start(self, router: str, seconds: float, version: str) -> Doc:
        plane, forwarding = self._site.context.plane, self._site.context.forwarding
        knock = session_key(site_of(router))
        self._route(knock, router)
        try:
            with trio.fail_after(PATIENCE):
                self._lines = _Lines(await plane.connect(knock))
                await self._lines.write({"seconds": seconds})
                told = await self._lines.read_untrusted()
        except (NoSuchKey, StreamRefused) as refused:
            raise self._refused(refused, version) from refused
        except trio.TooSlowError:
            raise DeadlineExceeded(
                f"site {self.name} did not answer within {PATIENCE:.0f} s",
                hint="look at it: van status there, and van network status here",
            ) from None
        except (OSError, trio.BrokenResourceError, ValueError, StreamError) as problem:
            raise NotReady(f"site {self.name} ended the session: {problem}", hint="try again; if it stays so, see its log") from problem
        if "key" not in told:
            raise VanrouterError(f"site {self.name} refuses: {told.get('error', told)}", hint="ask the owner of that site")
        key = str(told["key"])
        if not key.startswith(f"{knock}/"):
            raise VanrouterError(f"site {self.name} names a routing key that is not of a measurement", hint="tell the owner of that site")
        self._route(key, router)
        port = _free_port()
        forwarding.change(put=[Listener(name=NAME, host="127.0.0.1", port=port, routing_key=key)])
        link = next((state for name, state in self._site.links.states.items() if name == router), None)
        return {
            "host": "127.0.0.1",
            "port": port,
            "site": self.name,
            "linkMs": round(link.rtt * 1000, 3) if link is not None else None,
            "near": {"site": self._site.context.site_name, "version": vanrouter.__version__, "plane": plane.name},
            "far": {"site": self.name, "version": told.get("version", ""), "plane": told.get("plane", "")},
        }

    def _refused(self, refused: VanrouterError, version: str) -> VanrouterError:
        if version and version != vanrouter.__version__:
            text = f"site {self.name} does not take measurements: it runs version {version}, and this site {vanrouter.__version__}"
            return NotReady(text, hint="update the router there")
        text = f"site {self.name} does not take measurements: {refused}"
        return NotReady(text, hint="its router may be a program that embeds one, or an older version: van network status shows versions")

    def _route(self, key: str, router: str) -> None:
        self._site.context.forwarding.change(put=[Route(name=key, targets=[RouteTarget(router=router)])])
        self._refs.append(Ref("route", key))

    async def sample(self) -> Doc:
        self.asked = trio.current_time()
        lines = self._lines
        assert lines is not None
        try:
            async with self._lock:
                with trio.fail_after(PATIENCE):
                    await lines.write({})
                    return await lines.read_untrusted()
        except (trio.TooSlowError, OSError, trio.BrokenResourceError, trio.ClosedResourceError, ValueError) as problem:
            text = f"site {self.name} does not answer any more in the middle of the measurement"
            raise NotReady(text, hint="see van network status, and the log there") from problem

    def end(self) -> None:
        self._site.context.forwarding.change(drop=self._refs)
        if self._lines is not None:
            self._lines.stream.reset("the measurement is over")


class _Lines:
    """JSON objects, one a line, at most `MAX_LINE` bytes. Raises ValueError for anything else."""

    def __init__(self, stream: PlaneStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def write(self, document: Doc) -> None:
        await self.stream.send_all(json.dumps(document).encode() + b"\n")

    async def read_untrusted(self) -> Doc:
        while b"\n" not in self._buffer:
            data = await self.stream.receive_some(MAX_LINE)
            self._buffer += data
            if not data or len(self._buffer) > MAX_LINE:
                raise ValueError("the other end stopped in the middle" if not data else "the other end sent too long a line")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            document = json.loads(line)
        except RecursionError:
            raise ValueError("too deep") from None
        if not isinstance(document, dict):
            raise ValueError("the other end sent no JSON object")  # noqa: TRY004 - of what came, not of how we were called
        return document


async def _port_of(target: trio.Process) -> int:
    assert target.stdout is not None
    said = b""
    while b"\n" not in said:
        data = await target.stdout.receive_some(64)
        if not data:
            raise ValueError("the target ended")
        said += data
    return int(said)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
