"""
The connection between a router and the controller of its namespace, for trio: mutual TLS around a ``Conversation``.

The router dials and dials again (``controller_link``); the controller accepts (``serve_channels``). Both show a leaf of their site's own CA
and check CA and site id, as on a link: a guest's leaf, which the same CA signed for another site, opens nothing here. Nothing of the data
plane waits for this connection.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import trio
from cryptography import x509
from cryptography.x509.oid import NameOID

from vanrouter.errors import ConfigError, DeadlineExceeded, LinkError, NotReady, PeerRejected, RemoteProtocolError, VanrouterError
from vanrouter.kube.conversation import Answered, Asked, Conversation, Size, Told
from vanrouter.kube.room import SHORT, Full, Held, Room, room_of_all, room_of_site

__all__ = [
    "ALPN_CONTROL",
    "CONTROL_PORT",
    "Channel",
    "Leaf",
    "Served",
    "one_error",
    "peer_address",
    "serve_channels",
    "serve_sites",
    "shake_hands",
]

log: Final = logging.getLogger("vanrouter.kube")

ALPN_CONTROL: Final = "van-control/1"
CONTROL_PORT: Final = 55672
HANDSHAKE_SECONDS: Final = 5.0
ASK_SECONDS: Final = 3.0
LONGEST_WORK: Final = 30.0  # of answering one question
SEND_SECONDS: Final = 10.0  # an end that does not read is none
MAX_CHANNELS: Final = 64  # of one site, where nobody knows how many routers it has
MAX_HANDSHAKES: Final = 256  # that are not over

Params = dict[str, Any]
Handler = Callable[["Channel", str, Params], Awaitable[Any]]
"""Answers a question (or takes what was told, with the result ignored). Raises a VanrouterError to refuse."""


class Leaf(msgspec.Struct, frozen=True):
    """What one end shows, and whom it trusts: PEM. ``site`` is the site id that the other end must have too."""

    site: str
    certificate: bytes
    key: bytes
    ca: bytes

    def __repr__(self) -> str:
        return f"Leaf(site={self.site!r}, key='***')"

    def context(self, *, server_side: bool) -> ssl.SSLContext:
        """Raises ConfigError when the pieces do not fit."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols([ALPN_CONTROL])
        if server_side:
            context.num_tickets = 0
        try:
            context.load_verify_locations(cadata=self.ca.decode("ascii"))
            with _file(self.certificate + b"\n" + self.key) as path:
                context.load_cert_chain(path)
        except (ssl.SSLError, ValueError) as exc:
            raise ConfigError(
                f"certificate, key and CA for the connection between router and controller do not fit together ({exc})"
            ) from None
        return context


class Channel:
    """One open connection. ``run`` it; the rest may be called meanwhile."""

    def __init__(
        self, stream: trio.SSLStream[trio.SocketStream], handler: Handler, *, address: str = "", rooms: Sequence[Room] = ()
    ) -> None:
        self.address, self._held = address, Held(rooms)
        self.peer: Params = {}  # what the other end said in ``hello``: the handler keeps it here
        self.told = Size()  # of what the handler is told at the moment
        self._stream, self._handler = stream, handler
        self._conversation = Conversation(now=trio.current_time())
        self._waiting: dict[int, tuple[trio.Event, list[Answered]]] = {}
        self._sending = trio.Lock()
        self._closed = False

    async def aclose(self) -> None:
        """Of one that is not run."""
        await trio.aclose_forcefully(self._stream)

    async def ask(self, method: str, params: Params | None = None, *, seconds: float = ASK_SECONDS) -> Any:
        """The result. Raises what the other end raised; NotReady when the connection ends; DeadlineExceeded."""
        if self._closed:
            raise _gone(method)
        number, line = self._conversation.ask(method, params or {})
        event, box = self._waiting[number] = trio.Event(), list[Answered]()
        try:
            with trio.fail_after(seconds):
                await self._send(line)
                await event.wait()
        except trio.TooSlowError:
            raise DeadlineExceeded(f"{method}: no answer within {seconds:g} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _gone(method) from None
        finally:
            self._waiting.pop(number, None)
        if not box:
            raise _gone(method)
        if (error := box[0].error) is not None:
            raise error
        return box[0].result

    async def tell(self, method: str, params: Params | None = None) -> None:
        """Want no answer. Raises NotReady when the connection is gone."""
        try:
            await self._send(self._conversation.tell(method, params or {}))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _gone(method) from None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until the connection ends. Raises LinkError that says why."""
        try:
            with one_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch_silence)
                    task_status.started()
                    await self._read(nursery)
                    nursery.cancel_scope.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise LinkError(f"the connection broke: {exc.__cause__ or exc}") from None
        finally:
            self._closed = True
            self._held.close()
            for event, _ in self._waiting.values():
                event.set()
            await trio.aclose_forcefully(self._stream)

    async def _read(self, nursery: trio.Nursery) -> None:
        while data := await self._receive():
            events = self._conversation.receive_untrusted(bytes(data), now=trio.current_time())
            if events:
                self._held.line_over()
            for event in events:
                match event:
                    case Answered():
                        if event.id in self._waiting:
                            waiting, box = self._waiting[event.id]
                            box.append(event)
                            waiting.set()
                    case Asked():
                        if self._held.asked(event.id, self._conversation.size_of(event.id)):
                            nursery.start_soon(self._answer, event)
                        else:
                            text = f"{event.method}: too many questions of routers are open at the controller"
                            await self._send(self._conversation.refuse(event.id, NotReady(text, hint="ask again later")))
                    case Told():
                        await self._hear(event)
            await self._held.line(self._conversation.buffered)

    async def _receive(self) -> bytes | bytearray:
        with trio.move_on_at(self._held.deadline) as scope:
            return await self._stream.receive_some(SHORT)
        assert scope.cancelled_caught
        raise Full(f"a message of more than {self._conversation.buffered} bytes did not end in time")

    async def _answer(self, asked: Asked) -> None:
        try:
            with trio.fail_after(LONGEST_WORK):
                result = {} if asked.method == "ping" else await self._handler(self, asked.method, asked.params)
            line = self._conversation.answer(asked.id, result)
        except VanrouterError as exc:
            line = self._conversation.refuse(asked.id, exc)
        except trio.TooSlowError:
            line = self._conversation.refuse(asked.id, DeadlineExceeded(f"{asked.method} took longer than {LONGEST_WORK:.0f} s"))
        except Exception as exc:
            log.exception("a question failed for a reason of ours", extra={"method": asked.method})
            line = self._conversation.refuse(asked.id, exc)
        self._held.answered(asked.id)
        await self._send(line)

    async def _hear(self, told: Told) -> None:
        """In order, and before what comes after it is read."""
        if told.method == "ping":
            return
        self.told = told.size
        try:
            await self._handler(self, told.method, told.params)
        except RemoteProtocolError:
            raise  # what comes after it would be misunderstood
        except VanrouterError as exc:
            log.warning("not understood", extra={"method": told.method, "reason": str(exc), "from": self.address})
        except Exception:
            log.exception("what was told failed for a reason of ours", extra={"method": told.method})

    async def _watch_silence(self) -> None:
        while True:
            await trio.sleep_until(self._conversation.deadline)
            if line := self._conversation.handle_timeout(trio.current_time()):
                await self._send(line)

    async def _send(self, line: bytes) -> None:
        with trio.move_on_after(SEND_SECONDS) as scope:
            async with self._sending:
                # Half a line would be the end of the connection: what is begun is sent whole, or the connection is closed.
                with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_SECONDS) as whole:
                    await self._stream.send_all(line)
                if whole.cancelled_caught:
                    await trio.aclose_forcefully(self._stream)
                    raise trio.BrokenResourceError("the other end does not read")
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the other end does not read")


# ---- The controller's end ---------------------------------------------------------------------------------------------------------------


class Served(msgspec.Struct, frozen=True):
    """One site at the controller's end. ``leaf`` is asked for each connection; ``changed`` is told who came and who left, ``refused`` from
    where somebody came with whom no hands could be shaken, and why; one that only knocks, as probes do, is nobody. ``most``: connections.
    """

    leaf: Callable[[], Leaf]
    handler: Handler
    changed: Callable[[Channel, bool], None] = lambda _channel, _here: None
    refused: Callable[[str, str], None] = lambda _address, _why: None
    most: Callable[[], int] = lambda: MAX_CHANNELS
    room: Room = msgspec.field(default_factory=room_of_site)
    scopes: set[trio.CancelScope] = msgspec.field(default_factory=set)  # of those that are open

    @contextlib.contextmanager
    def lasting(self) -> Iterator[None]:
        """For as long as nobody calls ``close``."""
        with trio.CancelScope() as scope:
            self.scopes.add(scope)
            try:
                yield
            finally:
                self.scopes.discard(scope)

    def close(self) -> None:
        """End its connections: routers dial again, and find who serves the site then."""
        for scope in [*self.scopes]:
            scope.cancel()


async def serve_channels(
    listeners: Sequence[trio.SocketListener],
    leaf: Callable[[], Leaf],
    handler: Handler,
    *,
    changed: Callable[[Channel, bool], None] = lambda _channel, _here: None,
    refused: Callable[[str, str], None] = lambda _address, _why: None,
) -> None:
    """Accept the routers of one site until cancelled: as ``Served``."""
    only = Served(leaf, handler, changed, refused)
    await serve_sites(listeners, lambda _name: only, refused=refused)


async def serve_sites(
    listeners: Sequence[trio.SocketListener],
    find: Callable[[str], Served | None],
    *,
    refused: Callable[[str, str], None] = lambda _address, _why: None,
) -> None:
    """Accept routers until cancelled. ``find`` gives the site that a router names (SNI, as ``van_name`` gives it); None: nobody's.

    ``refused`` is told of those that named none.
    """
    shaking, room = dict[trio.SocketStream, trio.CancelScope](), room_of_all()

    async def serve(sock: trio.SocketStream) -> None:
        address, chosen, is_router = peer_address(sock), _Chosen(find), False
        try:
            with _one_of_many(shaking, sock):
                stream = trio.SSLStream(sock, chosen.context(), server_side=True, https_compatible=True)
                await shake_hands(stream, lambda: chosen.site)
            is_router = True
            await _serve_router(stream, chosen.served, address, room)
        except Knock as exc:
            log.debug("somebody only knocked", extra={"from": address, "reason": str(exc)})  # probes come each second
        except Full as exc:
            level = logging.WARNING if chosen.served.room.says_so(trio.current_time()) else logging.DEBUG
            log.log(level, "no room for a router", extra={"from": address, "site": chosen.site, "reason": str(exc)})
        except (LinkError, ConfigError) as exc:
            log.info("connection of a router ended" if is_router else "refused", extra={"from": address, "reason": str(exc)})
            if not is_router:
                (chosen.found.refused if chosen.found is not None else refused)(address, str(exc))
        except Exception:  # of one connection, and not the end of all
            log.exception("a bug in serving a router", extra={"from": address})
        finally:
            await trio.aclose_forcefully(sock)

    async with trio.open_nursery() as nursery:
        await trio.serve_listeners(serve, list(listeners), handler_nursery=nursery)


@contextlib.contextmanager
def _one_of_many(shaking: dict[trio.SocketStream, trio.CancelScope], sock: trio.SocketStream) -> Iterator[None]:
    """Of too many the oldest gives way: who connects and says nothing keeps no router out. Raises Knock where it is this one."""
    if len(shaking) >= MAX_HANDSHAKES:
        shaking.pop(next(iter(shaking))).cancel()
    with trio.CancelScope() as scope:
        shaking[sock] = scope
        try:
            yield
        finally:
            shaking.pop(sock, None)
    if scope.cancelled_caught:
        raise Knock(f"{MAX_HANDSHAKES} others came before it said who it is")


async def _serve_router(stream: trio.SSLStream[trio.SocketStream], site: Served, address: str, room: Room) -> None:
    if len(site.scopes) >= (most := site.most()):
        raise Full(f"this site has {most} connections already, which is more than its routers need")
    channel = Channel(stream, site.handler, address=address, rooms=(site.room, room))
    with site.lasting():
        site.changed(channel, True)
        try:
            await channel.run()
        finally:
            site.changed(channel, False)


class _Chosen:
    """Which site one connection is for: known when the other end has said whom it wants, which is before we show anything."""

    def __init__(self, find: Callable[[str], Served | None]) -> None:
        self._find = find
        self.site = ""
        self.found: Served | None = None

    @property
    def served(self) -> Served:
        assert self.found is not None, "hands are shaken with a site only"
        return self.found

    def context(self) -> ssl.SSLContext:
        """It has no leaf of its own: who names no site gets none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = 0
        context.sni_callback = self._choose
        return context

    def _choose(self, stream: ssl.SSLSocket | ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        self.found = self._find(name or "")
        if self.found is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        try:
            leaf = self.found.leaf()
            stream.context = leaf.context(server_side=True)
        except ConfigError as error:
            log.warning("nothing to show to routers", extra={"site": name, "reason": str(error)})
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        self.site = leaf.site
        return None


# ---- Both -------------------------------------------------------------------------------------------------------------------------------


class Knock(LinkError):
    """Whoever it was said nothing that is TLS."""


async def shake_hands(stream: trio.SSLStream[trio.SocketStream], site: Callable[[], str]) -> None:
    """With an end of our own site, else LinkError. The stream is the caller's to close. ``site`` is asked once it is known."""
    try:
        with trio.fail_after(HANDSHAKE_SECONDS):
            await stream.do_handshake()
    except trio.TooSlowError:
        raise Knock(f"no TLS handshake within {HANDSHAKE_SECONDS:g} s") from None
    except trio.BrokenResourceError as exc:
        cause = exc.__cause__
        said_tls = isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
        text = f"the TLS handshake failed: {getattr(cause, 'verify_message', '') or cause or exc}"
        raise (LinkError if said_tls else Knock)(text) from None
    if stream.selected_alpn_protocol() != ALPN_CONTROL:
        raise RemoteProtocolError(f"the other end does not speak {ALPN_CONTROL}")
    _check_site_untrusted(stream.getpeercert(binary_form=True), site())


def _check_site_untrusted(der: bytes | None, site: str) -> None:
    """OpenSSL checked chain, dates and purpose. Raises PeerRejected for a leaf that our CA gave to somebody else."""
    try:
        names = x509.load_der_x509_certificate(der or b"").subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (ValueError, x509.InvalidVersion):  # our CA's key is in more hands than ours
        raise PeerRejected("its certificate cannot be read") from None
    if [name.value for name in names] != [site]:
        raise PeerRejected("its certificate is not of this site")


@contextlib.contextmanager
def _file(pem: bytes) -> Iterator[str]:
    """OpenSSL reads keys from files only: memory that has a path for a moment, or a file that nobody else may open."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
        try:
            os.write(fd, pem)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
        return
    with tempfile.NamedTemporaryFile(prefix="van-", suffix=".pem") as file:  # 0600
        file.write(pem)
        file.flush()
        yield file.name


def peer_address(sock: trio.SocketStream) -> str:
    try:
        host, port = sock.socket.getpeername()[:2]
    except OSError:
        return ""
    return f"{host}:{port}"


def _gone(method: str) -> NotReady:
    return NotReady(f"{method}: the connection between router and controller ended before the answer came", hint="try again")


@contextlib.contextmanager
def one_error() -> Iterator[None]:
    """Of tasks that ended together, the error of the first. A cancellation goes on, without what a connection that is closed by it says."""
    try:
        yield
    except BaseExceptionGroup as group:
        if group.subgroup(trio.Cancelled) is not None:
            _, rest = group.split((VanrouterError, OSError, trio.BrokenResourceError, trio.ClosedResourceError))
            assert rest is not None, "the cancellation is in it"
            raise rest from None
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
