"""
``van init``, ``status``, ``update``, ``delete``: the site itself, and ``van site generate``.

In a namespace ``install`` and ``uninstall`` do it. On a host ``init`` writes the resource, starts the router and returns when the site is
ready. On a site that exists it says so, changes only what is named and starts the router when it does not run. ``delete`` stops the router
and removes the directory, and nothing that is not a site.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any, Final, Literal

import click

from vanrouter.cli.base import ALL_OUTPUTS, BOTH, DONE, NOT_READY, Group, Invocation, command, pass_invocation
from vanrouter.cli.health import is_ready, sentences, troubles
from vanrouter.cli.output import bad, dump, dump_objects, good, say, strong, table, warn
from vanrouter.cli.running import HostSite, condition, open_site
from vanrouter.cli.site_options import fields_of_site, kube_options, refuse_kube_options, site_options
from vanrouter.cli.values import NAME, HostPort, timeout_option, wait_option
from vanrouter.errors import ConfigError, NotReady, StoreError, TokenError, VanrouterError

__all__ = ["check_free", "delete", "init", "manifest", "not_ready", "site", "status", "update", "wait_until_up"]

Doc = dict[str, Any]
_PARTS: Final = {"resources", "state", "run"}
_ACCESS_PATIENCE: Final = 2.0  # seconds in which a predecessor may still give up the port of the link access


# ---- init -------------------------------------------------------------------------------------------------------------------------------


@command("init", outputs=("json", "yaml", "name"), platforms=BOTH)
@click.option("--site-name", type=NAME, help="What other sites see; default: the namespace, on a host the name given with -n.")
@site_options
@kube_options
@click.option(
    "--plane", type=click.Choice(["core", "baseline"]), envvar="VAN_PLANE", help="Host: data plane; default: core where it is built in."
)
@click.option(
    "--manager",
    type=click.Choice(["auto", "systemd", "none"]),
    default="auto",
    show_default=True,
    envvar="VAN_MANAGER",
    help="Host: who keeps it running: a systemd user unit where there is one, else a background process.",
)
@click.option("--own-controller", is_flag=True, help="Kubernetes: a controller of this namespace, also where one serves the whole cluster.")
@click.option("--no-start", is_flag=True, help="Host: only make its directory and its resource; something else starts 'vanrouter run'.")
@click.option("--foreground", is_flag=True, help="Host: run the router in this terminal until Ctrl-C.")
@click.option("--dry-run", is_flag=True, help="Print what would be written; change nothing.")
@wait_option("the site is ready")
@timeout_option(60, "How long to wait.")
@pass_invocation
def init(
    invocation: Invocation,
    /,
    site_name: str | None,
    link_access: str | None,
    service_address: str | None,
    service_sync: bool | None,
    edge: bool | None,
    plane: Literal["core", "baseline"] | None,
    manager: str,
    own_controller: bool,
    no_start: bool,
    foreground: bool,
    dry_run: bool,
    wait: bool,
    timeout: float,
    **options: Any,
) -> int:
    """Create a site and start it. Returns when it is ready.

    On Kubernetes -o yaml prints every object and applies nothing. Where one controller serves the whole cluster, the Site is all there is.
    """
    fields = fields_of_site(link_access, service_address, service_sync, edge)
    if invocation.on_kubernetes:
        from vanrouter.cli import install

        if foreground or no_start or plane:
            raise click.UsageError("--foreground, --no-start and --plane are for hosts")
        only_print = dry_run or invocation.output in ("json", "yaml")
        chosen = install.fields_of(fields, options)
        return install.init(invocation, site_name, chosen, print_only=only_print, wait=wait, timeout=timeout, own=own_controller)
    from vanrouter.cli import launch, wanted

    refuse_kube_options({**options, "own_controller": own_controller})
    site = HostSite(invocation, timeout)
    if not dry_run:
        _finish_removing(site.directory)
    change = _write_site(site, site_name, fields, dry_run=dry_run)
    if dry_run:
        wanted.show_all(invocation, [change])
        return DONE
    existed = change.done != "created"
    if no_start:
        wanted.show_all(
            invocation, [change], [f"Site {change.resource.name} is in {site.directory}. Start it: vanrouter run {site.directory}"]
        )
        return DONE
    if site.is_running():
        site.reconcile()
        status = site.wait(f"site {change.resource.name}", not_ready) if wait else site.status()
        _say_site(invocation, status, _already(change, running=True))
        return DONE
    if foreground:
        from vanrouter.cli.run import run_site_in_foreground

        return run_site_in_foreground(site.directory, plane)
    started = launch.start(site.directory, plane=plane, manager=manager)
    if not wait:
        say(f"Site {change.resource.name} is starting. See: {invocation.van('status')}")
        return DONE
    status = wait_until_up(site, started)
    _say_site(invocation, status, _already(change, running=False) if existed else "")
    if not existed and not invocation.output:
        _say_what_is_next(invocation, status)
    return DONE


def _write_site(site: HostSite, site_name: str | None, fields: Doc, *, dry_run: bool) -> Any:
    from vanrouter.cli import wanted

    old = wanted.read_all(site, "Site") if site.exists() else []
    if site.exists() and not old:
        wanted.refuse_broken_files(site)
    if old:
        name = old[0].name
        if site_name not in (None, name):
            raise ConfigError(
                f"site {site.name!r} exists and is called {name!r}; a site keeps its name",
                hint=f"make another site: van -p linux -n {site_name} init --site-name {site_name}",
            )
        return wanted.update(site, "Site", name, fields, dry_run=dry_run)
    name = site_name or site.name
    resource = wanted.build("Site", name, fields)
    if dry_run:
        return wanted.Change(resource, "created", dry=True)
    check_free(site.directory)
    wanted.prepare(site)
    return wanted.create(site, "Site", name, fields)


def check_free(directory: Path) -> None:
    """A new site's directory is empty or not there: nobody's files become part of a site by accident."""
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ConfigError(f"{directory} is in the way: it is not a directory", hint="move it away, or choose another name with -n")
    if directory.exists() and not {entry.name for entry in directory.iterdir()} <= _PARTS:
        raise ConfigError(
            f"{directory} holds other files, so it does not become a site", hint="choose another name with -n, or another VAN_HOME"
        )


def _already(change: Any, *, running: bool) -> str:
    what = "was updated" if change.done == "updated" else "is unchanged"
    return f"Site {change.resource.name} existed already; it {what}" + ("." if running else " and was started.")


def not_ready(status: Doc) -> str:
    return "" if is_ready(status) else sentences(status).partition(". ")[0] + "."


def wait_until_up(site: HostSite, started: Any) -> Doc:
    """Wait for the socket, then for readiness; a router that ends meanwhile is told at once, a port that it does not get soon."""
    from vanrouter.errors import DeadlineExceeded

    while not site.is_running():
        started.check()
        if site.expired:
            raise DeadlineExceeded(
                f"the router of site {site.name!r} did not answer within {site.timeout:g} s", hint=f"see {site.directory}/run/router.log"
            )
        time.sleep(0.02)

    answered = time.monotonic()

    def check(status: Doc) -> str:
        started.check()
        ready = condition(status["site"], "Ready")
        if ready["reason"].startswith("LinkAccess") and time.monotonic() - answered > _ACCESS_PATIENCE:
            todo = ready["next"] or f"another address: {site.invocation.van('update --link-access HOST:PORT')}"
            raise NotReady(f"site {status['site']['name']} runs, but {ready['message']}", hint=todo)
        return not_ready(status)

    return site.wait(f"site {site.name}", check)


def _say_site(invocation: Invocation, status: Doc, first: str) -> None:
    if invocation.output == "name":
        say(f"site/{status['site']['name']}")
    elif invocation.output:
        dump(status["site"], invocation.output)
    else:
        say(first or f"Site {status['site']['name']} is ready.")
        _say_endpoints(status)
        for trouble in troubles(status):
            warn(f"{trouble.what}: {trouble.why}" if trouble.what else trouble.why, trouble.next)


def _say_endpoints(status: Doc) -> None:
    endpoints = ", ".join(str(HostPort(e["host"], e["port"])) for e in status["site"].get("endpoints", ()))
    if endpoints:
        say(f"Others can link to it at {endpoints}.")


def _say_what_is_next(invocation: Invocation, status: Doc) -> None:
    """To a person with a new site, who has a token to make or to bring."""
    if status["site"].get("endpoints"):
        say(f"Link another site to it with a token: {invocation.van('token create FILE')}")
    else:
        say(f"Link it to another site with a token of that one: {invocation.van('link create FILE')}")


# ---- status -----------------------------------------------------------------------------------------------------------------------------


@command("status", outputs=ALL_OUTPUTS, platforms=BOTH)
@wait_option("the site is ready", default=False)
@timeout_option(10)
@pass_invocation
def status(invocation: Invocation, wait: bool, timeout: float) -> int:
    """Say how the site is, what is wrong and what to do. Exit code 3 when it is not ready."""
    site = open_site(invocation, timeout)
    document = site.wait(f"site {site.name}", not_ready) if wait else site.status()
    about = document["site"]
    if invocation.output == "name":
        say(f"site/{about['name']}")
    elif invocation.output in ("json", "yaml"):
        dump(document, invocation.output)
    elif invocation.output in ("table", "wide"):
        _table(document, wide=invocation.output == "wide")
    else:
        say(sentences(document))
        _say_troubles(document)
    return DONE if is_ready(document) else NOT_READY


def _table(document: Doc, *, wide: bool) -> None:
    about = document["site"]
    problems = len(troubles(document))
    columns: list[str] = ["site", "state", "linked sites", "exposed services", "problems"]
    row: list[object] = [about["name"], good("ready") if is_ready(document) else bad("not ready")]
    row += [_count(about["linkedSites"]), _count(about["exposedServices"]), problems]
    if wide:
        columns += ["id", "version", "data plane", "endpoints"]
        endpoints = ", ".join(str(HostPort(e["host"], e["port"])) for e in about.get("endpoints", ()))
        row += [about["id"], about["version"], about["dataPlane"], endpoints]
    table(columns, [row])


def _count(value: Any) -> int:
    return value if isinstance(value, int) else len(value)


def _say_troubles(document: Doc) -> None:
    found = troubles(document)
    if not found:
        return
    say()
    say(strong("Problems:" if len(found) > 1 else "Problem:"))
    for trouble in found:
        say(f"  {bad(trouble.what)}: {trouble.why}" if trouble.what else f"  {trouble.why}")
        if trouble.next:
            say(f"    next: {trouble.next}")


# ---- update -----------------------------------------------------------------------------------------------------------------------------


@command("update", outputs=("json", "yaml", "name"), platforms=BOTH)
@site_options
@kube_options
@click.option("--dry-run", is_flag=True, help="Print what would be written; change nothing.")
@wait_option("the site is ready again")
@timeout_option(30, "How long to wait.")
@pass_invocation
def update(
    invocation: Invocation,
    /,
    link_access: str | None,
    service_address: str | None,
    service_sync: bool | None,
    edge: bool | None,
    dry_run: bool,
    wait: bool,
    timeout: float,
    **options: Any,
) -> None:
    """Change settings of the site; only those that are named.

    On Kubernetes, with nothing named: bring its objects to what this version makes of them.
    """
    fields = fields_of_site(link_access, service_address, service_sync, edge)
    if invocation.on_kubernetes:
        from vanrouter.cli import install

        only_print = dry_run or invocation.output in ("json", "yaml")
        install.update(invocation, install.fields_of(fields, options), print_only=only_print, wait=wait, timeout=timeout)
        return
    from vanrouter.cli import wanted

    refuse_kube_options(options)
    if not fields:
        raise click.UsageError("nothing to change is named; name it: --link-access, --service-address, --service-sync, --edge")
    site = HostSite(invocation, timeout)
    found = wanted.read_all(site, "Site")
    if not found:
        raise ConfigError(f"{site.directory} has no Site resource", hint=f"write one: {invocation.van('init --site-name NAME')}")
    change = wanted.update(site, "Site", found[0].name, fields, dry_run=dry_run)
    wanted.finish(site, change, wait=wait, check=not_ready)


# ---- delete -----------------------------------------------------------------------------------------------------------------------------


@command("delete", outputs=("name",), platforms=BOTH)
@click.option("--drain", is_flag=True, help="Let connections that are open end first, within the timeout.")
@timeout_option(30, "How long to wait for the router to end; then it is killed.")
@pass_invocation
def delete(invocation: Invocation, drain: bool, timeout: float) -> None:
    """Stop the site and remove everything it kept. Asks nothing."""
    if invocation.on_kubernetes:
        from vanrouter.cli.uninstall import uninstall

        uninstall(invocation, drain=drain, timeout=timeout)
        return
    from vanrouter.cli import launch

    site = HostSite(invocation, timeout)
    _finish_removing(site.directory)
    site.require()
    _check_site(site.directory)
    name = _name_of(site)

    def ask() -> bool:
        try:
            site.call("stop", grace_seconds=0, drain_seconds=max(0.0, site.left - 5.0) if drain else 0)
        except VanrouterError:
            return False
        return True

    home = launch.stop(site.directory, ask=ask, timeout=site.left)
    try:
        remove(site.directory)
    finally:
        home.unlock()
    say(f"site/{name}" if invocation.output == "name" else f"Site {name} is deleted.")


def _name_of(site: HostSite) -> str:
    """The site's name if its resource can be read; a broken site can be deleted too."""
    from vanrouter.cli import wanted

    try:
        found = wanted.read_all(site, "Site")
    except (ConfigError, StoreError, TokenError, NotReady):
        found = []
    return found[0].name if found else site.name


def _check_site(directory: Path) -> None:
    """Refuse to remove what is not a site, or holds more than one."""
    entries = {entry.name for entry in directory.iterdir()}
    strangers = sorted(entries - _PARTS)
    if directory.is_symlink() or "resources" not in entries or strangers:
        why = (
            f"it holds {', '.join(strangers[:5])}"
            if strangers
            else "it is a symbolic link"
            if directory.is_symlink()
            else "it has no resources"
        )
        raise ConfigError(
            f"{directory} is not removed, because it is not (only) a site: {why}",
            hint="move away what is not the site's, then delete again",
        )


def remove(directory: Path) -> None:
    """Remove a site's directory. It first gets another name, so that no half of a site is left under this one."""
    doomed = directory.with_name(f".{directory.name}.deleted-{os.getpid()}")
    os.rename(directory, doomed)
    shutil.rmtree(doomed)


def _finish_removing(directory: Path) -> None:
    """What a `delete` that was killed had left to remove: keys are in it."""
    for doomed in directory.parent.glob(f".{directory.name}.deleted-*"):
        shutil.rmtree(doomed, ignore_errors=True)


# ---- site generate ----------------------------------------------------------------------------------------------------------------------


@click.group("site", cls=Group)
def site() -> None:
    """The site as a resource."""


@site.command("generate", outputs=("json", "yaml"), platforms=BOTH)
@click.argument("name", type=NAME)
@site_options
@pass_invocation
def generate(
    invocation: Invocation, name: str, link_access: str | None, service_address: str | None, service_sync: bool | None, edge: bool | None
) -> None:
    """Print a site as YAML, for a file or for git; needs no site."""
    from vanrouter.cli import wanted
    from vanrouter.resources import to_dict

    resource = wanted.build("Site", name, fields_of_site(link_access, service_address, service_sync, edge))
    dump(to_dict(resource), invocation.output or "yaml")


@command("manifest", outputs=("json", "yaml"), platforms=("kubernetes",))
@click.argument("what", type=click.Choice(["site", "crds", "controller"]), default="site", required=False)
@click.option("--site-name", type=NAME, help="What other sites see; default: the namespace.")
@site_options
@kube_options
@timeout_option(10)
@pass_invocation
def manifest(
    invocation: Invocation,
    /,
    what: str,
    site_name: str | None,
    link_access: str | None,
    service_address: str | None,
    service_sync: bool | None,
    edge: bool | None,
    timeout: float,
    **options: Any,
) -> int:
    """Print every object that init or update would apply; change nothing. For Kubernetes.

    With crds: the CustomResourceDefinitions, for whoever administers the cluster: van manifest crds | kubectl apply -f -
    With controller: these, and a controller that serves every namespace with a Site, in the namespace vanrouter (or -n).
    """
    if what == "crds":
        from vanrouter.kube.crds import cluster_roles, definitions

        dump_objects([*definitions(), *cluster_roles()], invocation.output or "yaml")
        return DONE
    if what == "controller":
        from vanrouter.cli.cluster import manifest_of_controller

        dump_objects(manifest_of_controller(invocation.name, options), invocation.output or "yaml")
        return DONE
    from vanrouter.cli import install

    fields = install.fields_of(fields_of_site(link_access, service_address, service_sync, edge), options)
    return install.init(invocation, site_name, fields, print_only=True, wait=False, timeout=timeout)


for _verb in (init, status, update, delete):
    site.add_command(_verb)
