"""What this machine is called and which addresses it has: what a link access on 0.0.0.0 can be reached under. Linux."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path
from typing import Final

__all__ = ["local_addresses", "reachable_hosts"]

_SIOCGIFADDR: Final = 0x8915
_IF_INET6: Final = Path("/proc/net/if_inet6")


def local_addresses() -> list[str]:
    """The addresses that others may reach: neither loopback nor link-local."""
    found: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an IPv4 address
                reply = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(reply[20:24]))
    with contextlib.suppress(OSError):
        found += [str(ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))) for line in _IF_INET6.read_text().splitlines()]
    usable = [a for a in found if not (ip := ipaddress.ip_address(a)).is_loopback and not ip.is_link_local]
    return list(dict.fromkeys(usable))


def reachable_hosts(bind_host: str) -> list[str]:
    """What to tell others when bound to ``bind_host``."""
    if bind_host not in ("0.0.0.0", "::"):  # noqa: S104 - compared with, never bound
        return [bind_host]
    wanted = 4 if bind_host == "0.0.0.0" else 6  # noqa: S104
    addresses = [a for a in local_addresses() if wanted == 6 or ipaddress.ip_address(a).version == 4]
    return [*addresses, socket.gethostname()] if addresses else [socket.gethostname()]
