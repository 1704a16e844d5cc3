"""
Ports on the command line: ``--port 80 --port 443`` or ``--port 80,443``, and ``--target-port 80:http``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import click

__all__ = ["Wanted", "pair_ports", "ports_option", "target_ports_option"]


class Wanted(NamedTuple):
    """One port of a service. What is not said is for whoever knows the server."""

    port: int | None
    target: str | None  # number or name


NOTHING: Final = Wanted(None, None)


def ports_option(help: str) -> Callable[[Any], Any]:
    return click.option("--port", "ports", multiple=True, metavar="PORT[,PORT...]", callback=_ports, help=help)


def target_ports_option(help: str) -> Callable[[Any], Any]:
    return click.option("--target-port", "target_ports", multiple=True, metavar="[PORT:]PORT|NAME", callback=_targets, help=help)


def pair_ports(ports: Sequence[int], targets: Sequence[Wanted]) -> list[Wanted]:
    """Each port of the service with what it leads to. A target without a port is that of the only one."""
    if not targets:
        return [Wanted(port, None) for port in ports] or [NOTHING]
    alone = [target for target in targets if target.port is None]
    if alone:
        if len(targets) > 1 or len(ports) > 1:
            raise click.UsageError(
                f"--target-port {alone[0].target}: with several ports write PORT:TARGET, for example 80:{alone[0].target}"
            )
        return [Wanted(ports[0] if ports else None, alone[0].target)]
    led = {target.port: target.target for target in targets}
    unknown = [str(port) for port in led if ports and port not in ports]
    if unknown:
        raise click.UsageError(f"--target-port {unknown[0]}:{led[int(unknown[0])]}: there is no --port {unknown[0]}")
    return [Wanted(port, led.get(port)) for port in ports] if ports else [*targets]


def _split(values: Sequence[str]) -> list[str]:
    return [item.strip() for value in values for item in value.split(",")]


def _ports(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_number(item) for item in _split(values)))


def _targets(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> tuple[Wanted, ...]:
    found: list[Wanted] = []
    for item in _split(values):
        port, colon, target = item.rpartition(":")
        if not target or (colon and not port):
            raise click.BadParameter(f"{item!r} is not [PORT:]PORT or [PORT:]NAME, for example 80:8080 or 80:http")
        if target.isdecimal():
            _number(target)
        wanted = Wanted(_number(port) if colon else None, target)
        if found and None in (wanted.port, found[0].port):
            raise click.BadParameter(f"{item!r}: with several ports write PORT:TARGET for each, for example 80:http,443:8443")
        if any(wanted.port == other.port for other in found):
            raise click.BadParameter(f"{item!r}: port {wanted.port or target} has two targets")
        found.append(wanted)
    return tuple(found)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise click.BadParameter(f"{text!r} is not a port; write a number from 1 to 65535, several separated by commas")
    if not 1 <= int(text) <= 65535:
        raise click.BadParameter(f"{text} is not in the range of 1 to 65535")
    return int(text)
