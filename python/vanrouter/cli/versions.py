"""
``van version``: what this program is, and what runs at the site: controller, routers, the image they were installed from.

Never fails for a site that is not there or does not answer: what this program is can always be said.
"""

from __future__ import annotations

from typing import Any

import click

from vanrouter import __version__
from vanrouter.cli.base import Invocation, command, pass_invocation
from vanrouter.cli.output import dump, say, table, warn
from vanrouter.cli.values import timeout_option
from vanrouter.errors import VanrouterError

__all__ = ["version"]

Doc = dict[str, Any]


@command("version", outputs=("json", "yaml"), platforms=None)
@click.option("--client", "only_client", is_flag=True, help="Of this program only; asks nobody.")
@timeout_option(5)
@pass_invocation
def version(invocation: Invocation, only_client: bool, timeout: float) -> None:
    """Print the versions of this program and of what runs at the site, and say when they differ.

    Routers of different versions link with each other as long as their link protocol (wire) is the same.
    """
    from vanrouter.model import WIRE_VERSION

    found: Doc = {"client": {"version": __version__, "wire": WIRE_VERSION}}
    if not only_client:
        found |= _at_the_site(invocation, timeout)
        found["differences"] = list(_differences(found))
    if invocation.output:
        dump(found, invocation.output)
        return
    rows: list[tuple[object, ...]] = [("client", __version__, WIRE_VERSION, "this program")]
    if controller := found.get("controller"):
        rows.append(("controller", controller["version"], "", controller["name"]))
    rows += [("router", r["version"], r.get("wire") or "", r["name"]) for r in found.get("routers", ())]
    table(["component", "version", "wire", "where"], rows)
    if problem := found.get("problem"):
        say(f"Of the site nothing is known: {problem}")
    for difference in found.get("differences", ()):
        warn(difference, f"bring all to this version: {invocation.van('update')}" if invocation.on_kubernetes else _ON_A_HOST)


_ON_A_HOST = "start its router anew with this version: a second 'vanrouter run' takes over, and cuts no stream (docs/guide.md)"


def _at_the_site(invocation: Invocation, timeout: float) -> Doc:
    from vanrouter.cli.running import open_site

    try:
        site = open_site(invocation, timeout)
        said = site.status()["site"]
    except (VanrouterError, OSError) as error:
        return {"controller": None, "routers": [], "problem": str(error)}
    controller = said.get("controller")
    routers = said.get("routers")
    if routers is None:
        routers = [{"pod": said["name"], "version": said["version"], "wire": said.get("wire")}] if said.get("version") else []
    return {
        "controller": None if controller is None else {"name": controller["name"], "version": controller["version"]},
        "routers": [{"name": r["pod"], "version": r.get("version") or "", "wire": r.get("wire")} for r in routers],
    }


def _differences(found: Doc) -> Any:
    """Sentences, one for each that is of another version than this program."""
    client = found["client"]
    if (controller := found["controller"]) and controller["version"] != client["version"]:
        yield f"controller {controller['name']} is of version {controller['version']}, and this program of {client['version']}"
    for router in found["routers"]:
        if router["version"] and router["version"] != client["version"]:
            yield f"router {router['name']} is of version {router['version']}, and this program of {client['version']}"
        if router["wire"] and router["wire"] != client["wire"]:
            yield f"router {router['name']} speaks version {router['wire']} of the link protocol, and this program {client['wire']}"
