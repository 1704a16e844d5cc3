"""Dialling one lane: TCP, TLS, HELLO, and one ``DialResult`` that says how it went."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING, Literal

import trio

from vanrouter.baseline.lane import Lane, OwnRouter, tune_lane
from vanrouter.baseline.sockets import connect_tcp
from vanrouter.baseline.tls import ALPN_LINK, TlsTransport, check_dates, client_context
from vanrouter.errors import ConfigError, LinkError, PeerRejected
from vanrouter.plane import Dial, DialResult, Link

if TYPE_CHECKING:
    from vanrouter.baseline.plane import BaselinePlane

__all__ = ["Dialler"]

CONNECT_DEADLINE = 5.0

Reason = Literal["", "refused", "timeout", "unreachable", "tls", "policy", "protocol", "self", "cancelled"]


class Dialler:
    """One dial. ``scope`` cancels it while it is not up yet."""

    def __init__(self, plane: BaselinePlane, dial: Dial) -> None:
        self._plane = plane
        self._dial = dial
        self._is_answered = False
        self.scope = trio.CancelScope()

    def cancel(self) -> None:
        if not self._is_answered:
            self.scope.cancel()

    def cancel_if_for(self, link: str) -> None:
        if self._dial.link == link:
            self.cancel()

    async def run(self) -> None:
        dial, plane = self._dial, self._plane
        link = plane.entry("link", dial.link)
        lane: Lane | None = None
        try:
            with self.scope:
                if not isinstance(link, Link):
                    self._answer("policy", f"there is no link {dial.link!r}", retryable=False)
                    return
                lane = await self._establish(link)
            if lane is None:
                if self.scope.cancelled_caught:
                    self._answer("cancelled", "the dial was cancelled")
                return
            with trio.CancelScope() as hello_scope:
                self.scope = hello_scope
                up = lane
                await plane.run_lane(lane, greeted=lambda: self._answer("", "", router=str(up.router)))
            if not self._is_answered:
                if hello_scope.cancelled_caught:
                    self._answer("cancelled", "the dial was cancelled")
                else:
                    self._blame(lane)
        finally:
            plane.dials.pop(dial.id, None)
            self._answer("cancelled", "the router stops")

    async def _establish(self, link: Link) -> Lane | None:
        """None: it was answered already."""
        where = f"{self._dial.host} port {self._dial.port}"
        try:
            return await self._connect(link)
        except ConfigError as error:
            self._answer("policy", str(error), retryable=False)
        except PeerRejected as error:
            self._answer("policy", f"{where}: {error}", retryable=False)
        except trio.TooSlowError:
            self._answer("timeout", f"{where} did not answer within {CONNECT_DEADLINE:.0f} s; is the port open in every firewall between?")
        except ssl.SSLError as error:
            self._answer("tls", f"{where}: TLS failed: {error.reason or error}")
        except OSError as error:
            self._answer(_reason(error), f"{where}: {error.strerror or error}")
        return None

    async def _connect(self, link: Link) -> Lane:
        dial, plane = self._dial, self._plane
        credential = plane.credential(link.credential)
        context = client_context(credential)
        sock: socket.socket | None = None
        try:
            with trio.fail_after(CONNECT_DEADLINE):
                sock = await connect_tcp(dial.host, dial.port)
                tune_lane(sock)
                transport = TlsTransport(sock, context, server_side=False, server_hostname=dial.server_name)
                await transport.handshake()
            _check_server(transport, plane.wall_clock())
            return Lane(
                transport,
                dialler=True,
                hello=plane.hello(credential, cost=link.cost, link_name=link.name),
                config=plane.config,
                budget=plane.budget,
                events=plane,
                link=link.name,
                expected_site=link.expected_site,
                cost=link.cost,
            )
        except BaseException:
            if sock is not None:
                sock.close()
            raise

    def _blame(self, lane: Lane) -> None:
        failure = lane.failure
        if isinstance(failure, OwnRouter):
            self._answer("self", str(failure), retryable=False)
        elif isinstance(failure, PeerRejected):
            self._answer("policy", str(failure), retryable=False)
        elif isinstance(failure, LinkError):
            self._answer("protocol", str(failure))
        else:
            self._answer("protocol", lane.error or "closed before HELLO; is our certificate one that it admits?")

    def _answer(self, reason: Reason, error: str, *, router: str = "", retryable: bool = True) -> None:
        if not self._is_answered:
            self._is_answered = True
            self._plane.mailbox.put(DialResult(id=self._dial.id, router=router, reason=reason, error=error, retryable=retryable))


def _check_server(transport: TlsTransport, now: float) -> None:
    if not check_dates(transport.certificates, now):
        raise PeerRejected("its certificate has expired")
    if transport.alpn != ALPN_LINK:
        raise PeerRejected("it does not speak the link protocol (ALPN van/1)")


def _reason(error: OSError) -> Reason:
    if isinstance(error, TimeoutError):
        return "timeout"
    if error.errno == errno.ECONNREFUSED:
        return "refused"
    if error.errno in (errno.ECONNRESET, errno.EPIPE, None):
        return "tls"
    return "unreachable"
