"""
What Python's ``ssl`` makes of a ``Tls`` entry: contexts toward clients and targets, and its errors in words for people.

For the baseline and for checks of targets; the core does the same with another library (``app_tls.rs``), and has the same words.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from vanrouter.errors import ConfigError
from vanrouter.plane import Tls

__all__ = ["client_context", "in_words", "key_file", "server_context"]

_SPEAKS_NONE: Final = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"}
_SPEAKS_OTHER: Final = {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE", "NO_SHARED_CIPHER"}


def server_context(entry: Tls) -> ssl.SSLContext:
    """Toward clients. Raises ConfigError, ssl.SSLError, ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A ticket that a client leaves unread turns its clean close into a reset.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    _show(context, entry)
    if entry.client_cert:
        _trust(context, entry)
        context.verify_mode = ssl.CERT_REQUIRED
    return _prepared(context, entry)


def client_context(entry: Tls) -> ssl.SSLContext:
    """Toward a target. Raises ConfigError, ssl.SSLError, ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = entry.verify_host
    _trust(context, entry)
    if entry.client_cert:
        _show(context, entry)
    return _prepared(context, entry)


def _prepared(context: ssl.SSLContext, entry: Tls) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if entry.alpn:
        context.set_alpn_protocols(entry.alpn)
    return context


def _show(context: ssl.SSLContext, entry: Tls) -> None:
    if not entry.certificates:
        raise ConfigError("it has no certificate")
    with key_file(entry.certificates, entry.private_key) as path:
        context.load_cert_chain(path)


def _trust(context: ssl.SSLContext, entry: Tls) -> None:
    if not entry.trust:
        raise ConfigError("it has no CA")
    context.load_verify_locations(cadata=b"".join(entry.trust))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # whatever is in ca.crt is trusted, also a certificate of the target itself


def in_words(error: ssl.SSLError) -> OSError:
    """What went wrong between us and an application."""
    reason: Any = error.reason or ""
    if isinstance(error, ssl.SSLEOFError) or reason == "UNEXPECTED_EOF_WHILE_READING":
        return ConnectionAbortedError(None, "TLS: the connection was closed without close_notify: the end may be missing")
    if isinstance(error, ssl.SSLCertVerificationError):
        text = {
            9: "its certificate is not valid yet; are both clocks right?",
            10: "its certificate has expired",
            62: "its certificate is for another name",
            64: "its certificate is for another name",
        }.get(error.verify_code)
        unknown = {2, 18, 19, 20, 21}
        if text is None and error.verify_code in unknown:
            text = "its certificate does not come from the CA in ca.crt"
        text = text or f"its certificate cannot be used: {error.verify_message}"
    elif reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        text = "it shows no certificate, and one is required"
    elif "CERTIFICATE_REQUIRED" in reason:
        text = "it wants a certificate of ours, and got none"
    elif "ALERT" in reason and any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "DECRYPT_ERROR", "ACCESS_DENIED")):
        text = "it does not accept our certificate"
    elif "NO_APPLICATION_PROTOCOL" in reason:
        text = "it speaks none of the protocols that are offered (ALPN)"
    elif reason in _SPEAKS_OTHER:
        text = "it speaks no TLS that is spoken here (1.2 and 1.3)"
    elif reason in _SPEAKS_NONE:
        text = "it does not speak TLS"
    else:
        text = str(error.strerror or error)
    return ConnectionAbortedError(None, f"TLS: {text}")


@contextlib.contextmanager
def key_file(certificates: Sequence[bytes], private_key: bytes) -> Iterator[str]:
    """``ssl`` reads keys from files only: memory that has a path for a moment, or a private directory for a moment."""
    key = serialization.load_der_private_key(private_key, None)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for der in certificates:
        pem += x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("credential", os.MFD_CLOEXEC)
        try:
            os.write(fd, pem)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
    else:
        with tempfile.TemporaryDirectory(prefix="van-") as directory:  # mode 0700
            path = os.path.join(directory, "credential.pem")
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(pem)
            yield path
