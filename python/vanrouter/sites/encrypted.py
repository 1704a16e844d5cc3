"""
A target that speaks TLS, as a check sees it: the handshake, what it thinks of our certificate, and plaintext for a request.

A check of the kernel's answer alone would call a target sound whose certificate no stream accepts.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

import trio

from vanrouter.app_tls import client_context, in_words
from vanrouter.errors import ConfigError
from vanrouter.plane import Tls

__all__ = ["greet", "shake_hands"]

MOST_CONTEXTS: Final = 256

_contexts: dict[str, tuple[Tls, ssl.SSLContext]] = {}


async def shake_hands(sock: socket.socket, tls: Tls, host: str) -> trio.SSLStream[trio.SocketStream]:
    """Over a connected socket, which is closed when it fails. Raises OSError."""
    plain = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    try:
        stream = trio.SSLStream(plain, _context(tls), server_hostname=tls.server_name or host, https_compatible=True)
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(plain)
        if isinstance(error.__cause__, ssl.SSLError):
            raise in_words(error.__cause__) from error
        raise ConnectionAbortedError(None, "TLS: it closed the connection during the handshake") from error
    except BaseException:
        await trio.aclose_forcefully(plain)
        raise
    return stream


async def greet(sock: socket.socket, tls: Tls, host: str, *, patience: float) -> None:
    """A handshake and a clean end. Raises OSError.

    With TLS 1.3 a server says only behind the handshake that it does not accept our certificate: ``patience`` seconds are for that.
    """
    stream = await shake_hands(sock, tls, host)
    try:
        with trio.move_on_after(patience):
            await stream.unwrap()
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
            raise in_words(cause) from error
    finally:
        await trio.aclose_forcefully(stream.transport_stream)


def _context(tls: Tls) -> ssl.SSLContext:
    """Raises OSError."""
    known = _contexts.get(tls.name)
    if known is None or known[0] != tls:
        try:
            known = (tls, client_context(tls))
        except (ssl.SSLError, ValueError, ConfigError) as error:
            raise ConnectionAbortedError(None, f"TLS: the credential cannot be used: {error}") from error
        if len(_contexts) >= MOST_CONTEXTS:
            _contexts.clear()
        _contexts[tls.name] = known
    return known[1]
