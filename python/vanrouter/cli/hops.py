"""
One hop of a link, tried from here without any right: does something answer at the address, with TLS, and is it who it should be?
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import Any, NamedTuple

from vanrouter.cli.values import HostPort

__all__ = ["Hop", "try_hop"]

_LONGEST = 5.0


class Hop(NamedTuple):
    """``stage`` that failed: address, tcp, tls or identity; empty: it is well."""

    stage: str
    why: str = ""


def try_hop(endpoint: HostPort, *, ca: bytes = b"", site: str = "", seconds: float = _LONGEST) -> Hop:
    """``ca``: PEM that the certificate must be signed by; ``site``: whose it must be. Without them the hop ends with TLS."""
    until = time.monotonic() + min(seconds, _LONGEST)
    found = _resolve(endpoint, until - time.monotonic())
    if isinstance(found, str):
        return Hop("address", found)
    last = ""
    for family, kind, protocol, _, address in found[:4]:
        with contextlib.closing(socket.socket(family, kind, protocol)) as opened:
            opened.settimeout(max(0.05, until - time.monotonic()))
            try:
                opened.connect(address)
            except TimeoutError:
                last = "no answer: a firewall or a NetworkPolicy may drop it"
                continue
            except OSError as error:
                last = error.strerror or str(error)
                continue
            return _tls(opened, ca, site)
    return Hop("tcp", last)


def _resolve(endpoint: HostPort, seconds: float) -> list[Any] | str:
    """The addresses, or why there is none. The system's resolver has no deadline: it may go on when nobody waits any more."""
    said: list[list[Any] | str] = []

    def ask() -> None:
        try:
            said.append(list(socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            said.append(f"{endpoint.host} has no address: {getattr(error, 'strerror', None) or error}")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return said[0] if said else f"the DNS does not answer for {endpoint.host}"


def _tls(opened: socket.socket, ca: bytes, site: str) -> Hop:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # who it is, is looked at below
    try:
        with context.wrap_socket(opened, server_hostname=f"{site}.van" if site else None) as wrapped:
            shown = wrapped.getpeercert(binary_form=True) or b""
    except TimeoutError:
        return Hop("tls", "it takes connections and says nothing")
    except (OSError, ValueError) as error:
        return Hop("tls", f"it does not speak TLS: {getattr(error, 'reason', None) or error}")
    return _identity(shown, ca, site) if ca else Hop("")


def _identity(shown: bytes, ca: bytes, site: str) -> Hop:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    from vanrouter.pki import load_certificates
    from vanrouter.pki.authority import names_of

    leaf = x509.load_der_x509_certificate(shown)
    for issuer in load_certificates(ca, "ca.crt"):
        try:
            leaf.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            continue
        names = names_of(leaf)
        if site and f"{site}.van" not in names:
            return Hop("identity", f"its certificate is that of {', '.join(names) or 'nobody'}, not of site {site}")
        return Hop("")
    return Hop("identity", "its certificate is not signed by the CA of that site: something else answers there, or it was made anew")
