"""
``van token``: the file that lets another site link to this one.

The file is a secret: it is written with mode 0600, never over another file, and never printed unless FILE is ``-``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from vanrouter.cli.base import ALL_OUTPUTS, BOTH, Group, Invocation, pass_invocation
from vanrouter.cli.output import dump, say, table
from vanrouter.cli.running import open_site
from vanrouter.cli.values import COST, COUNT, DURATION, HOST, NAME, one_name, spell_duration, timeout_option
from vanrouter.errors import ConfigError, VanrouterError

__all__ = ["token"]


@click.group("token", cls=Group)
def token() -> None:
    """Let another site link to this one."""


@token.command("create", outputs=("json", "yaml", "name"), platforms=BOTH)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.argument("token_name", metavar="[NAME]", type=NAME, required=False)
@click.option("--uses", type=COUNT, default=1, show_default=True, help="How many sites may redeem it.")
@click.option("--expiry", type=DURATION, default=900.0, help="How long it may be redeemed: 15m, 12h, 7d. [default: 15m]")
@click.option("--cost", type=COST, default=1, show_default=True, help="Cost of the links that it makes.")
@click.option("--name", type=NAME, help="The same as NAME.")
@click.option("--host", type=HOST, help="Name or address under which the other site reaches this one; default: those of the link access.")
@click.option("--force", is_flag=True, help="Write over an existing file.")
@timeout_option(30)
@pass_invocation
def create(
    invocation: Invocation,
    file: str,
    token_name: str | None,
    uses: int,
    expiry: float,
    cost: int,
    name: str | None,
    host: str | None,
    force: bool,
    timeout: float,
) -> None:
    """Write a token to FILE ('-': standard output). Take it to the other site, and run there: van link create FILE

    NAME is what `token status` and `token delete` call it; default: made up.
    """
    name = one_name(token_name, name)
    site = open_site(invocation, timeout)
    to_stdout = file == "-"
    if to_stdout and invocation.output:
        raise click.UsageError("with FILE '-' the token itself is the output; leave -o away")
    path = Path(file)
    if not to_stdout:
        _check_writable(path, force=force)
    params: dict[str, Any] = {"uses": uses, "expiry_seconds": round(expiry), "cost": cost}
    if name:
        params["name"] = name
    if host:
        params["host"] = host
    answer = site.call("token.issue", **params)
    if to_stdout:
        click.echo(answer["yaml"], nl=False)
        return
    write_secret(path, answer["yaml"], force=force)
    if invocation.output == "name":
        say(f"token/{answer['name']}")
        return
    if invocation.output:
        dump({"name": answer["name"], "file": str(path), "uses": answer["uses"], "expires": answer["expires"]}, invocation.output)
        return
    there = "" if invocation.on_kubernetes else " -p linux"
    times = "once" if uses == 1 else f"{uses} times"
    say(f"Token {answer['name']} is in {file}. It can be redeemed {times}, within {spell_duration(expiry)}.")
    say(f"It is a secret. Take it to the other site and run there: van{there} link create {path.name}")


@token.command("status", outputs=ALL_OUTPUTS, platforms=BOTH)
@click.argument("name", required=False)
@timeout_option(10)
@pass_invocation
def status(invocation: Invocation, name: str | None, timeout: float) -> None:
    """Show the tokens that this site issued: what became of them, and who redeemed them."""
    grants = open_site(invocation, timeout).status()["grants"]
    if name is not None:
        known = ", ".join(grant["name"] for grant in grants) or "none"
        grants = [grant for grant in grants if grant["name"] == name]
        if not grants:
            raise VanrouterError(
                f"this site issued no token {name!r}; it issued: {known}", hint=f"see them: {invocation.van('token status')}"
            )
    if invocation.output == "name":
        for grant in grants:
            say(f"token/{grant['name']}")
    elif invocation.output in ("json", "yaml"):
        dump(grants[0] if name is not None else grants, invocation.output)
    elif not grants:
        say("No tokens. Make one: " + invocation.van("token create FILE"))
    else:
        wide = invocation.output == "wide"
        rows = [_row(grant, wide=wide) for grant in grants]
        table(["name", "state", "used", "expires", "redeemed by"] + (["cost", "created"] if wide else []), rows)
        for grant in grants:
            _say_source(grant)
        if any(grant["state"] == "elsewhere" for grant in grants):
            say("elsewhere: another router of this site made it, and redeems it; this one only has a copy of the directory.")


def _say_source(grant: dict[str, Any]) -> None:
    """Of an AccessGrant: where what an AccessToken needs is found."""
    where = str(grant.get("source") or "")
    if where.startswith("ConfigMap/"):
        secret = f"Secret/van-token.{grant['name']}"
        say(f"{grant['name']} is an AccessGrant, in {where.partition(':')[0]}; url, code, ca and a token file are in {secret}.")
    elif where:
        say(f"{grant['name']} is an AccessGrant; url, code and ca are in its status: kubectl get {where} -o yaml")


def _row(grant: dict[str, Any], *, wide: bool) -> list[object]:
    by = ", ".join(who["site"] for who in grant["redeemedBy"])
    row: list[object] = [grant["name"], grant["state"], f"{grant['used']} of {grant['uses']}", grant["expires"], by]
    return [*row, grant["spec"]["cost"], grant["created"]] if wide else row


@token.command("delete", outputs=("name",), platforms=BOTH)
@click.argument("name")
@timeout_option(30)
@pass_invocation
def delete(invocation: Invocation, name: str, timeout: float) -> None:
    """Take back a token: nobody can redeem it any more. Links that it made stay."""
    open_site(invocation, timeout).call("grant.delete", name=name)
    say(f"token/{name}" if invocation.output == "name" else f"Token {name} can no longer be redeemed.")


def _check_writable(path: Path, *, force: bool) -> None:
    """Find out before a grant is made for nothing."""
    if path.is_dir():
        raise ConfigError(f"{path} is a directory", hint="name a file")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the directory {path.parent} does not exist", hint=f"create it: mkdir -p {path.parent}")
    if not force and os.path.lexists(path):
        raise ConfigError(
            f"{path} exists already, and a token is never written over another file", hint="name another file, or add --force"
        )
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path}: no right to write in {path.parent}", hint="name a file in a directory of yours")


def write_secret(path: Path, text: str, *, force: bool) -> None:
    """Write with mode 0600, whole or not at all; without ``force`` never over anything, also in a race."""
    from vanrouter.tokens.files import write_private_new

    if not force:
        write_private_new(path, text.encode())
        return
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.new")
    write_private_new(temporary, text.encode())
    os.replace(temporary, path)
