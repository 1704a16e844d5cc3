"""
Changing what a site wants: resources written through the store, and the running site asked to apply them.

A change is made on plain values and becomes a resource again before anything is written, so a wrong field stops it with the path of what is
wrong. An update touches only the fields that were named; what the file holds besides them stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from vanrouter.cli.base import NOT_READY, Invocation, quiet_exit
from vanrouter.cli.output import dump_objects, say, warn
from vanrouter.cli.running import HostSite, Site
from vanrouter.errors import ConfigError, InvalidResource, VanrouterError

if TYPE_CHECKING:
    from vanrouter.resources import Resource

__all__ = [
    "Change",
    "Effect",
    "build",
    "create",
    "delete",
    "exists",
    "finish",
    "finish_all",
    "is_gone",
    "is_made",
    "prepare",
    "read",
    "read_all",
    "refuse_broken_files",
    "refuse_made",
    "service_address",
    "show_all",
    "update",
]

Doc = dict[str, Any]


class Change(NamedTuple):
    """What happened to one resource: ``done`` is created, updated, deleted or unchanged; ``dry`` when nothing was written."""

    resource: Resource
    done: str
    dry: bool = False


def build(kind: str, name: str, spec: Mapping[str, Any], annotations: Mapping[str, str] | None = None) -> Resource:
    """A resource from named fields. What is wrong with it came from flags, so it is a usage error."""
    from vanrouter.resources import API_VERSION, read_document

    metadata = {"name": name} | ({"annotations": dict(annotations)} if annotations else {})
    document = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": _merged({}, spec)}
    try:
        return read_document(document)
    except InvalidResource as error:
        raise click.UsageError(f"{error}" + (f"; {error.hint}" if error.hint else "")) from error


def _merged(spec: Mapping[str, Any], fields: Mapping[str, Any]) -> Doc:
    """``spec`` with fields set (``a.b`` reaches inside); None removes one."""
    result: Doc = dict(spec)
    for path, value in fields.items():
        first, _, rest = path.partition(".")
        if rest:
            result[first] = _merged(result.get(first) or {}, {rest: value})
        elif value is None:
            result.pop(first, None)
        else:
            result[first] = value
    return result


def prepare(site: HostSite) -> None:
    """Make the directory of a new site."""
    from vanrouter.stores import SiteHome

    SiteHome(site.directory).create()


def read_all(site: Site, kind: str) -> list[Any]:
    """The resources of a kind, by name."""
    site.require()
    return list(site.resources.of_kind(kind))


def refuse_broken_files(site: HostSite) -> None:
    """Raise ConfigError for the first file that cannot be read: what is missed may stand in it."""
    for problem in site.resources.load().problems:
        raise ConfigError(f"{site.directory / 'resources' / problem.path}: {problem.message}", hint=problem.hint)


def read(site: Site, kind: str, name: str) -> Any:
    """One resource, or None."""
    site.require()
    return site.resources.get(kind, name)


def service_address(site: Site) -> str:
    """Where services listen at this site, by its resource."""
    return next((str(r.spec.service_address) for r in read_all(site, "Site")), "127.0.0.1")


def exists(site: Site, kind: str, name: str) -> bool:
    return read(site, kind, name) is not None


def create(
    site: Site, kind: str, name: str, spec: Mapping[str, Any], *, dry_run: bool = False, annotations: Mapping[str, str] | None = None
) -> Change:
    """Write a new resource. The same one again is no change; another of that name is refused."""
    resource = build(kind, name, spec, annotations)
    old = read(site, kind, name)
    if old == resource:
        return Change(resource, "unchanged", dry_run)
    if old is not None:
        noun = kind.lower()
        raise ConfigError(
            f"there is a {noun} {name!r} already, with other settings",
            hint=f"change it: {site.invocation.van(f'{noun} update {name}')} ...   or give the new one another name",
        )
    if not dry_run:
        site.resources.put(resource)
    return Change(resource, "created", dry_run)


def update(site: Site, kind: str, name: str, fields: Mapping[str, Any], *, dry_run: bool = False) -> Change:
    """Set the named fields (None: back to the default), keep all others."""
    from vanrouter.resources import read_document, to_dict

    old = read(site, kind, name)
    if old is None:
        raise _missing(site, kind, name)
    refuse_made(old)
    document = to_dict(old)
    document["spec"] = _merged(document.get("spec", {}), fields)
    try:
        resource = read_document(document)
    except InvalidResource as error:
        raise click.UsageError(f"{error}" + (f"; {error.hint}" if error.hint else "")) from error
    if resource == old:
        return Change(resource, "unchanged", dry_run)
    if not dry_run:
        site.resources.put(resource)
    return Change(resource, "updated", dry_run)


def delete(site: Site, kind: str, name: str, *, dry_run: bool = False) -> Change:
    old = read(site, kind, name)
    if old is None:
        raise _missing(site, kind, name)
    refuse_made(old)
    if not dry_run:
        site.resources.delete(kind, name)
    return Change(old, "deleted", dry_run)


def is_made(resource: Resource) -> bool:
    """The controller made it from something else, and would make it again."""
    return "vanrouter.io/made-from" in resource.metadata.annotations


def refuse_made(resource: Resource) -> None:
    """Raise ConfigError for one that the controller would make again, and say what it is made from."""
    if not (said := resource.metadata.annotations.get("vanrouter.io/made-from", "")):
        return
    origin, _, what = said.partition(": ")
    kind, _, name = origin.partition("/")
    if kind == "connector":
        hint = f"change that one: van connector update {name} --no-expose-pods-by-name"
        raise ConfigError(f"{resource.ref} is made from the connector {name}, which exposes pods by name", hint=hint)
    raise ConfigError(
        f"{resource.ref} is made from the annotation {what} of {origin}", hint=f"change that: kubectl annotate {origin} {what}-"
    )


def is_gone(plural: str, name: str) -> Callable[[Doc], str]:
    """A check for ``finish``: the running site has let go of it."""
    return lambda status: "still there" if name in {element["name"] for element in status[plural]} else ""


def _missing(site: Site, kind: str, name: str) -> VanrouterError:
    known = ", ".join(r.name for r in read_all(site, kind)) or "none"
    return VanrouterError(
        f"there is no {kind.lower()} {name!r} among the resources of this site; there: {known}",
        hint=f"look: {site.invocation.van(f'{kind.lower()} status')}",
    )


def show_all(invocation: Invocation, changes: Sequence[Change], sentences: Sequence[str] = ()) -> None:
    """Print what happened, in the format that was asked for: several resources as one list, or as the documents of one stream."""
    from vanrouter.resources import to_dict

    if as_documents := _documents(invocation, changes):
        dump_objects([to_dict(change.resource) for change in changes], as_documents)
        return
    for index, change in enumerate(changes):
        noun = f"{change.resource.kind.lower()}/{change.resource.name}"
        if invocation.output == "name":
            say(noun)
        elif change.dry:
            say(f"{noun} would be {change.done}")
        else:
            say((sentences[index] if sentences else "") or f"{noun} {change.done}")


def _documents(invocation: Invocation, changes: Sequence[Change]) -> str:
    """json or yaml, where the resources themselves are what is shown."""
    if invocation.output in ("json", "yaml"):
        return str(invocation.output)
    return "yaml" if not invocation.output and all(change.dry and change.done != "deleted" for change in changes) else ""


def _what_stays(site: Site, change: Change, hint: str) -> str:
    """A change that did not come in force is written all the same: whoever made it hears so, and how to take it back."""
    noun, name = change.resource.kind.lower(), change.resource.name
    if change.done not in ("created", "updated"):
        return hint
    said = f"{noun} {name} stays as it was {change.done} in the site's resources, and is in force once that is mended"
    if change.done == "created" and noun in ("listener", "connector", "multikeylistener"):
        said += f"; take it back: {site.invocation.van(f'{noun} delete {name}')}"
    return f"{hint}; {said}" if hint else said


class Effect(NamedTuple):
    """One of several changes, how to see that the running site has it, and what to say then."""

    change: Change
    check: Callable[[Doc], str]
    sentence: str = ""
    after: Callable[[], None] = lambda: None


def finish(site: Site, change: Change, *, wait: bool, check: Callable[[Doc], str], sentence: str = "") -> None:
    """Have the running site apply a change, wait for its effect, and say so. Ends with exit code 3 when the site is not running."""
    finish_all(site, [Effect(change, check, sentence)], wait=wait)


def finish_all(site: Site, effects: Sequence[Effect], *, wait: bool) -> None:
    """``finish`` for changes that belong together, at least one: each is said when it is there."""
    changes = [effect.change for effect in effects]
    if changes[0].dry:
        show_all(site.invocation, changes)
        return
    if not site.is_running():
        show_all(site.invocation, changes)
        if not wait:
            return
        try:
            site.status()
            why, todo = f"site {site.name!r} is not running", ""
        except VanrouterError as error:  # in a namespace: what keeps its pods
            why, todo = (str(error), error.hint) if site.invocation.on_kubernetes else (f"site {site.name!r} is not running", "")
        warn(
            f"{why}; this takes effect when it starts",
            hint=todo or f"start it: {site.invocation.van('init')}   or do not wait: --no-wait",
        )
        quiet_exit(NOT_READY)
    for problem in site.reconcile():
        warn(f"{problem['path']}: {problem['message']}", problem.get("hint", ""))
    together = bool(_documents(site.invocation, changes))
    for change, check, sentence, after in effects:
        if wait:
            try:
                site.wait(f"{change.resource.kind.lower()} {change.resource.name}", check)
            except VanrouterError as error:
                error.hint = _what_stays(site, change, error.hint)
                raise
        if not together:
            show_all(site.invocation, [change], [sentence])
        after()
    if together:
        show_all(site.invocation, changes)
