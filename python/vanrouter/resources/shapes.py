"""
The small shapes that several resources share: durations, host:port, ports. Pure; a wrong one raises ``ConfigError``.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final

import msgspec

from vanrouter.errors import ConfigError

__all__ = [
    "Cost",
    "Port",
    "format_host_port",
    "is_ip",
    "is_service_name",
    "parse_duration",
    "parse_host",
    "parse_host_port",
    "parse_statuses",
]

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Cost = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s|d)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MAX_DURATION: Final = 10 * 365 * 86400.0
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[-A-Za-z0-9_.]{0,251}[A-Za-z0-9_.])?")


def parse_duration(text: str) -> float:
    """``15m``, ``1h30m``, ``90s``, ``2d``, or plain seconds: the seconds."""
    plain = re.fullmatch(r"\d+(?:\.\d+)?", text)
    parts = _PART.findall(text)
    if plain:
        seconds = float(text)
    elif parts and "".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        raise ConfigError(f"{text!r} is not a duration", hint="write it like 15m, 1h30m or 90s")
    if not 0 < seconds <= _MAX_DURATION:
        raise ConfigError(f"duration {text!r} must be more than 0 and at most ten years")
    return seconds


_SERVICE_NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def is_service_name(text: str) -> bool:
    """Whether a Service of Kubernetes can have this name."""
    return _SERVICE_NAME.fullmatch(text) is not None


def is_ip(host: str) -> bool:
    """Whether ``host`` is an IP literal (without brackets)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse_host(text: str) -> str:
    """An IP literal, with or without brackets, or a DNS name."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if is_ip(bare):
        return bare
    if _HOST.fullmatch(text) and not re.fullmatch(r"[\d.]+", text):
        return text
    raise ConfigError(f"{text!r} is neither an IP address nor a host name")


def parse_host_port(text: str, *, default_port: int = 0) -> tuple[str, int]:
    """``127.0.0.1:7001``, ``[::1]:7001``, ``name:7001``; without a port only if there is a default."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(\d{1,5}))?", text)
    plain = re.fullmatch(r"([^:\[\]]+)(?::(\d{1,5}))?", text)
    match = bracketed or plain
    if match is None:
        raise ConfigError(f"{text!r} is not host:port", hint="write it like 127.0.0.1:7001 or [::1]:7001")
    port = int(match[2]) if match[2] else default_port
    if not 1 <= port <= 65535:
        why = f"port {match[2]} is not between 1 and 65535" if match[2] else "the port is missing"
        raise ConfigError(f"{text!r} is not host:port: {why}", hint="write it like 127.0.0.1:7001 or [::1]:7001")
    if bracketed and not is_ip(match[1]):
        raise ConfigError(f"{text!r} is not host:port: what is in brackets is not an IPv6 address", hint="write it like [::1]:7001")
    return parse_host(match[1]), port


def parse_statuses(text: str) -> tuple[tuple[int, int], ...]:
    """``200``, ``200-399``, ``200,204,300-308``: the ranges of HTTP statuses, first and last."""
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-5]\d\d)(?:-([1-5]\d\d))?\s*", part)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise ConfigError(f"{text!r} does not name HTTP statuses", hint="write it like 200, 200-399 or 200,204")
        ranges.append((int(match[1]), int(match[2] or match[1])))
    return tuple(ranges)


def format_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
