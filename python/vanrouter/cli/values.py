"""
What a flag may hold: durations, HOST:PORT, names, routing keys, costs, ports.

The rules are those of the resources (``vanrouter.resources.shapes``) and of the words (``vanrouter.model``); they are imported when a
value is parsed, so that a command without such a flag does not pay for them. Nothing here looks anything up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import click

from vanrouter.errors import ConfigError

__all__ = [
    "COST",
    "COUNT",
    "DURATION",
    "HOST",
    "HOST_PORT",
    "KEY",
    "NAME",
    "PORT",
    "PROTOCOLS",
    "HostPort",
    "one_name",
    "spell_duration",
    "timeout_option",
    "wait_option",
]


class HostPort(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Parsed(click.ParamType[Any]):
    """A type whose rule is a function that raises ConfigError."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value  # a default, given as what it is parsed to
        try:
            return self._parse(value)
        except ConfigError as error:
            self.fail(f"{error}" + (f"; {error.hint}" if error.hint else ""), param, ctx)


class _Range(click.IntRange):
    """A whole number within bounds, shown by its word and not by its bounds; the message about a wrong one has them."""

    def __init__(self, name: str, low: int, high: int) -> None:
        super().__init__(low, high)
        self.name = name

    def _describe_range(self) -> str:
        return ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, str) and value.strip().lstrip("-").isdigit() and not self.min <= int(value) <= self.max:  # type: ignore[operator]
            self.fail(f"{value} is not in the range of {self.min} to {self.max}", param, ctx)
        return int(super().convert(value, param, ctx))


def _name(text: str) -> str:
    from vanrouter.model import parse_name

    return parse_name(text)


def _key(text: str) -> str:
    from vanrouter.model import parse_routing_key

    return parse_routing_key(text)


def _duration(text: str) -> float:
    from vanrouter.resources.shapes import parse_duration

    return parse_duration(text)


def _host(text: str) -> str:
    from vanrouter.resources.shapes import parse_host

    return parse_host(text)


def _host_port(text: str) -> HostPort:
    from vanrouter.resources.shapes import parse_host_port

    return HostPort(*parse_host_port(text))


NAME = _Parsed("name", _name)
KEY = _Parsed("key", _key)
HOST = _Parsed("host", _host)
HOST_PORT = _Parsed("host:port", _host_port)
DURATION = _Parsed("duration", _duration)
PROTOCOLS = ("tcp", "http", "http2")
PORT = _Range("port", 1, 65535)
COST = _Range("cost", 1, 1_000_000)
COUNT = _Range("count", 1, 10_000)


def one_name(argument: str | None, option: str | None) -> str | None:
    """A name that may be said as an argument or as ``--name``."""
    if argument is not None and option not in (None, argument):
        raise click.UsageError(f"two names are given: {argument}, and --name {option}; say one of them")
    return argument if argument is not None else option


def spell_duration(seconds: float) -> str:
    """The shortest way to write it: ``15m``, ``1h30m``, ``90d``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    left, parts = round(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def timeout_option(seconds: float, help: str = "How long to wait for the site's answer.") -> Callable[[Any], Any]:
    """``--timeout``: the deadline that every command has."""
    return click.option("--timeout", type=DURATION, default=seconds, help=f"{help} [default: {spell_duration(seconds)}]")


def wait_option(what: str, *, default: bool = True) -> Callable[[Any], Any]:
    return click.option("--wait/--no-wait", default=default, show_default=True, help=f"Wait until {what}.")
