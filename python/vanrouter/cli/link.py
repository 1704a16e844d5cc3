"""
``van link``: links of this site to others, both those that it dials and those that others dial.

``create`` redeems a token and waits until the link is active. What a link does not do yet is said together with why and what to do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from vanrouter.cli.base import ALL_OUTPUTS, BOTH, DONE, NOT_READY, Group, Invocation, pass_invocation
from vanrouter.cli.output import bad, dump, explain, good, say, table, warn
from vanrouter.cli.running import Site, condition, open_site, worst
from vanrouter.cli.static_link import generate
from vanrouter.cli.values import COST, NAME, one_name, timeout_option, wait_option
from vanrouter.errors import ConfigError, VanrouterError

__all__ = ["link"]

Doc = dict[str, Any]


@click.group("link", cls=Group)
def link() -> None:
    """Link this site to others."""


def _link_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from vanrouter.cli.running import element_names  # only while completing

    return element_names(ctx, "links", incomplete)


@link.command("create", outputs=("json", "yaml", "name"), platforms=BOTH)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.argument("link_name", metavar="[NAME]", type=NAME, required=False)
@click.option("--name", type=NAME, help="The same as NAME.")
@click.option("--cost", type=COST, help="Cost of the link; default: what the token says.")
@wait_option("the link is active")
@timeout_option(60, "How long to wait.")
@pass_invocation
def create(
    invocation: Invocation, file: str, link_name: str | None, name: str | None, cost: int | None, wait: bool, timeout: float
) -> None:
    """Redeem the token in FILE ('-': standard input) and link to the site that issued it.

    NAME is what the link is called from then on, by `link update` and `link delete`; default: made from the token.
    """
    name = one_name(link_name, name)
    site = open_site(invocation, timeout)
    site.require()
    text, issuer, token_name = _token(file)
    joining = _Joining(site, issuer)
    joining.say_before(name or token_name)
    made = site.redeem(text, name=name, cost=cost)
    found: Doc = {"name": made}
    if wait:
        status = site.wait(f"link {made}", lambda status: _missing(status, made))
        found = _find(status["links"], made) or found
        joining.say_after(made)
    if invocation.output == "name":
        say(f"link/{made}")
    elif invocation.output:
        dump(found, invocation.output)
    elif wait:
        state = "active" if found["active"] else "standing by"
        say(f"Link {made} to site {found['remoteSiteName']} is {state}.")
        if _is_double(found):
            double = condition(found, "Distinct")
            warn(double["message"], double["next"])
    else:
        say(f"Link {made} is being dialled. See: {invocation.van(f'link status {made}')}")


class _Joining:
    """Linking two networks joins them. A person hears so before, as far as it is known here, and afterwards what came together."""

    def __init__(self, site: Site, issuer: tuple[str, str]) -> None:
        self._site = site
        self._issuer, self._issuer_name = issuer
        self._before: dict[str, str] = {}

    def _others(self) -> dict[str, str]:
        """The sites of the network as known here, by id, but this one and the issuer; none where the issuer is in this network already."""
        sites = self._site.call("network")["sites"]
        if not self._before and any(x["id"] == self._issuer for x in sites):
            return {}  # a further link to it, or a token of its own: it is refused in a moment
        return {x["id"]: x["name"] for x in sites if not x["self"] and x["id"] != self._issuer}

    def say_before(self, name: str) -> None:
        """``name``: that the link will have if no other one has it."""
        status = self._site.status()
        links = status["links"]
        is_edge = bool(status["site"].get("edge"))  # it carries nothing on between its uplinks
        if not links or is_edge or any(link["remoteSiteId"] == self._issuer for link in links):
            return
        self._before = self._others()
        if self._before:
            van = self._site.invocation.van
            taken = _find(links, name) is not None
            warn(
                f"this site is linked to {_names(self._before)} already: if {self._issuer_name} has other sites too, "
                "this link makes one network of both",
                f"if that was not meant: {van('link delete NAME')}, with the name that it gets"
                if taken
                else f"if that was not meant: {van(f'link delete {name}')}",
            )

    def say_after(self, name: str) -> None:
        came = {key: name for key, name in self._others().items() if key not in self._before} if self._before else {}
        if came:
            hint = f"if that was not meant: {self._site.invocation.van(f'link delete {name}')}"
            warn(f"two networks are one now: with {self._issuer_name} came {_names(came)}", hint)


def _names(sites: dict[str, str]) -> str:
    names = sorted(sites.values())
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _token(file: str) -> tuple[str, tuple[str, str], str]:
    """The token in a file or on standard input, found well-formed; its issuer's id and name; its own name. Says warnings about the file."""
    from vanrouter.tokens.declared import parse_any
    from vanrouter.tokens.files import read_token
    from vanrouter.tokens.token import MAX_TOKEN_FILE, format_token

    if file == "-":
        if sys.stdin.isatty():
            click.echo("Reading the token from the terminal; end it with Ctrl-D.", err=True)
        token = parse_any(sys.stdin.buffer.read(MAX_TOKEN_FILE + 1), "standard input")
    elif not Path(file).exists():
        raise ConfigError(f"there is no file {file}", hint="make a token at the other site and bring it here: van token create FILE")
    else:
        token, warnings = read_token(file)
        for warning in warnings:
            warn(warning, f"chmod 600 {file}, and make a new token if others may have read this one")
    return format_token(token), (token.issuer, token.issuer_name), token.name


def _find(links: list[Doc], name: str) -> Doc | None:
    return next((found for found in links if found["name"] == name), None)


def _missing(status: Doc, name: str) -> str:
    """What keeps the link from being active. Raises when waiting cannot help."""
    found = _find(status["links"], name)
    if found is None:
        return "the site has not begun to dial"
    if found["active"] or found.get("standby"):
        return ""
    configured = condition(found, "Configured")
    if configured["status"] == "False":
        raise VanrouterError(f"link {name}: {configured['message']}", hint=configured["next"])
    reason = worst(found)
    return reason["message"] if reason else "it is being dialled"


@link.command("status", outputs=ALL_OUTPUTS, platforms=BOTH)
@click.argument("name", required=False, shell_complete=_link_names)
@wait_option("the link, or all of them, are active", default=False)
@timeout_option(30, "How long to wait.")
@pass_invocation
def status(invocation: Invocation, name: str | None, wait: bool, timeout: float) -> int:
    """Show the links of this site, dialled by it (outgoing) or by others (incoming)."""
    site = open_site(invocation, timeout)

    def missing(document: Doc) -> str:
        links = _chosen(document["links"], name)
        waiting = [found["name"] for found in links if not _is_well(found)]
        return "" if links and not waiting else f"not active: {', '.join(waiting) or name or 'there is no link'}"

    document = site.wait("links", missing) if wait else site.status()
    links = _chosen(document["links"], name)
    if name is not None and not links:
        raise _no_such_link(invocation, document["links"], name)
    _show(invocation, links, single=name is not None)
    if name is None and invocation.output in ("", None, "table", "wide"):
        _say_tokens(document)
    return DONE if name is None or _is_well(links[0]) else NOT_READY


def _say_tokens(document: Doc) -> None:
    """In a namespace: tokens that somebody applied and that are no links, and why not."""
    found = [p for p in document["problems"] if p.get("path", "").startswith(("Secret/", "AccessToken/"))]
    explain((p["path"], {"message": p["message"], "next": p.get("hint", "")}) for p in found)


def _is_well(found: Doc) -> bool:
    """An uplink that stands by is as it should be."""
    return bool(found["active"] or found.get("standby"))


def _is_suspect(found: Doc) -> bool:
    """It still counts as active: it is lost only when nothing is heard for longer."""
    return str(condition(found, "Operational")["reason"]) == "Suspect"


def _is_double(found: Doc) -> bool:
    """Another link leads to the same router."""
    return str(condition(found, "Distinct")["status"]) == "False"


def _chosen(links: list[Doc], name: str | None) -> list[Doc]:
    return sorted((x for x in links if name in (None, x["name"])), key=lambda x: (x["direction"] != "outgoing", x["name"]))


def _no_such_link(invocation: Invocation, links: list[Doc], name: str) -> VanrouterError:
    known = ", ".join(sorted(x["name"] for x in links)) or "none"
    return VanrouterError(f"there is no link {name!r}; links of this site: {known}", hint=f"see them: {invocation.van('link status')}")


def _show(invocation: Invocation, links: list[Doc], *, single: bool) -> None:
    if invocation.output == "name":
        for found in links:
            say(f"link/{found['name']}")
    elif invocation.output in ("json", "yaml"):
        dump(links[0] if single else links, invocation.output)
    elif not links:
        say("No links. Make one: van token create FILE at the other site, then " + invocation.van("link create FILE"))
    else:
        wide = invocation.output == "wide"
        columns = ["name", "state", "direction", "site", "cost", "endpoint"] + (["lanes", "site id", "since"] if wide else [])
        table(columns, [_row(found, wide=wide) for found in links])
        explain(
            (f"link {found['name']}", worst(found)) for found in links if not _is_well(found) or _is_suspect(found) or _is_double(found)
        )


def _row(found: Doc, *, wide: bool) -> list[object]:
    reason = worst(found)
    state = (
        bad("suspect")
        if found["active"] and _is_suspect(found)
        else good("active")
        if found["active"]
        else good("standby")
        if found.get("standby")
        else bad(reason["reason"] if reason else "not active")
    )
    row: list[object] = [found["name"], state, found["direction"], found.get("remoteSiteName"), _cost(found), found.get("endpoint")]
    if wide:
        row += [found.get("lanes"), found.get("remoteSiteId"), condition(found, "Operational")["since"]]
    return row


def _cost(found: Doc) -> object:
    """What this link asks for, and what counts where that is something else."""
    cost, in_force = found.get("cost"), found.get("costInForce")
    return cost if in_force in (None, cost) else f"{cost} ({in_force} counts)"


@link.command("update", outputs=("json", "yaml", "name"), platforms=BOTH)
@click.argument("name", shell_complete=_link_names)
@click.option("--cost", type=COST, help="Cost of the link; the larger of both ends' counts.")
@click.option("--dry-run", is_flag=True, help="Print what would be written; change nothing.")
@wait_option("the change is in force")
@timeout_option(30, "How long to wait.")
@pass_invocation
def update(invocation: Invocation, name: str, cost: int | None, dry_run: bool, wait: bool, timeout: float) -> None:
    """Change what is named of a link that this site dials."""
    from vanrouter.cli import wanted

    if cost is None:
        raise click.UsageError("nothing to change is named; name it: --cost")
    site = open_site(invocation, timeout)
    site.require()
    if not wanted.exists(site, "Link", name):
        if site.is_running() and (incoming := _find(site.status()["links"], name)):
            raise _incoming(name, incoming)
        raise _no_such_link(invocation, site.status()["links"] if site.is_running() else [], name)
    change = wanted.update(site, "Link", name, {"cost": cost}, dry_run=dry_run)
    wanted.finish(
        site,
        change,
        wait=wait,
        check=lambda status: "" if (_find(status["links"], name) or {}).get("spec", {}).get("cost", 1) == cost else "old cost",
    )


def _incoming(name: str, found: Doc) -> ConfigError:
    other = found.get("remoteSiteName") or "the other site"
    return ConfigError(f"link {name} is incoming: {other} dials it", hint=f"change or delete it there, in {other}")


@link.command("delete", outputs=("name",), platforms=BOTH)
@click.argument("name", required=False, shell_complete=_link_names)
@click.option("--all", "everything", is_flag=True, help="All links that this site dials.")
@wait_option("the link is gone")
@timeout_option(30, "How long to wait.")
@pass_invocation
def delete(invocation: Invocation, name: str | None, everything: bool, wait: bool, timeout: float) -> None:
    """Delete a link that this site dials, with its credential; or all of them."""
    if (name is None) == (not everything):
        raise click.UsageError("name one link, or say --all")
    site = open_site(invocation, timeout)
    links = site.status()["links"]
    own = [found["name"] for found in links if found["direction"] == "outgoing"]
    if invocation.on_kubernetes:  # also those that no router has taken up
        own += [found.name for found in site.resources.of_kind("Link") if found.name not in own]
    if name is not None and name not in own:
        incoming = _find(links, name)
        raise _incoming(name, incoming) if incoming else _no_such_link(invocation, links, name)
    doomed = own if name is None else [name]
    for victim in doomed:
        site.delete_link(victim)
    if wait:

        def left(status: Doc) -> str:
            still = [x["name"] for x in status["links"] if x["direction"] == "outgoing" and x["name"] in doomed]
            return f"still there: {', '.join(still)}" if still else ""

        site.wait("deletion", left)
    for victim in doomed:
        say(f"link/{victim}" if invocation.output == "name" else f"Link {victim} is deleted.")
    if not doomed:
        say("No links that this site dials; nothing to delete.")


link.add_command(generate)
