"""``van apply`` on a host: files in the directory of the site, which is made and started where a Site is among the resources."""

from __future__ import annotations

from collections.abc import Sequence

from vanrouter.cli import launch, wanted
from vanrouter.cli.apply import changes, not_running, say_change
from vanrouter.cli.base import DONE
from vanrouter.cli.output import say, warn
from vanrouter.cli.running import HostSite
from vanrouter.cli.site import check_free, not_ready, wait_until_up
from vanrouter.resources import Resource, Site
from vanrouter.stores.resources import Loaded

__all__ = ["write"]


def write(site: HostSite, resources: Sequence[Resource], *, dry_run: bool, wait: bool) -> int:
    with_site = any(isinstance(resource, Site) for resource in resources)
    if not site.exists():
        if not with_site:
            site.require()
        check_free(site.directory)
    else:
        wanted.refuse_broken_files(site)
    todo = changes(site.resources.load() if site.exists() else Loaded({}, []), resources)
    if dry_run:
        for change in todo:
            say_change(site.invocation, change, dry=True)
        return DONE
    if not site.exists():
        wanted.prepare(site)
    for change in todo:
        if change.done != "unchanged":
            site.resources.put(change.resource)
        say_change(site.invocation, change, dry=False)
    if site.is_running():
        for problem in site.reconcile():
            warn(f"{problem['path']}: {problem['message']}", problem.get("hint", ""))
        if with_site and wait:
            site.wait(f"site {site.name}", not_ready)
        return DONE
    if not with_site:
        return not_running(site, wait=wait)
    started = launch.start(site.directory, plane=None, manager="auto")
    if wait:
        status = wait_until_up(site, started)
        if site.invocation.output != "name":
            say(f"Site {status['site']['name']} is ready.")
    return DONE
