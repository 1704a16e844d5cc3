"""
``van apply``: resources from files, as GitOps and kubectl do it; ``skupper.io/v2alpha1`` is read as well.

Everything is read, translated and checked before the first write; then each resource is created, configured or unchanged. A Site among
them is installed and started as ``van init`` does it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from vanrouter.cli import wanted
from vanrouter.cli.base import BOTH, DONE, NOT_READY, Invocation, command, pass_invocation
from vanrouter.cli.output import dump_objects, say, warn
from vanrouter.cli.running import HostSite, Site, open_site
from vanrouter.cli.values import timeout_option, wait_option
from vanrouter.errors import ConfigError, VanrouterError
from vanrouter.resources import AccessToken, Resource, Secret, to_dict
from vanrouter.resources import Site as SiteResource
from vanrouter.resources.effects import Note
from vanrouter.resources.skupper import Source, Translation, translate
from vanrouter.stores.resources import Loaded

__all__ = ["apply"]

_SUFFIXES: Final = (".yaml", ".yml", ".json")
_ORDER: Final = ("Site", "Secret")
_MARKS: Final = ("vanrouter.io/redeemed", "vanrouter.io/failed")  # those of controller.marks that a controller writes


@command("apply", outputs=("json", "yaml", "name"), platforms=BOTH)
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    help="YAML or JSON: a file, every file of a directory, or standard input; may be given several times.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done to each resource; change nothing.")
@click.option("--objects", is_flag=True, help="Kubernetes: print the ConfigMaps and Secrets that hold the resources; change nothing.")
@click.option("--strict", is_flag=True, help="Write nothing when there is a warning.")
@click.option("--force-conflicts", is_flag=True, help="Kubernetes: overwrite what another manager, like a GitOps tool, keeps.")
@wait_option("a site that is among the resources is ready")
@timeout_option(60, "How long to wait.")
@pass_invocation
def apply(
    invocation: Invocation,
    files: Sequence[str],
    dry_run: bool,
    objects: bool,
    strict: bool,
    force_conflicts: bool,
    wait: bool,
    timeout: float,
) -> int:
    """Create or change resources as files say; of vanrouter.io/v1alpha1 or of skupper.io/v2alpha1.

    All of them are checked before anything is written, and whatever has no effect here is a warning with what to do. -o yaml and -o json
    print the resources as they would be written, and change nothing.
    """
    site = open_site(invocation, timeout)
    if (objects or force_conflicts) and not invocation.on_kubernetes:
        raise click.UsageError("--objects and --force-conflicts are for Kubernetes; this is a host")
    made = _translate(site, files)
    for note in made.notes:
        warn(f"{note.path}: {note.message}", note.hint)
    _refuse(made.faults or (made.notes if strict else []), len(made.faults) > 0)
    resources = sorted(made.resources, key=lambda r: (*(r.kind != kind for kind in _ORDER), r.kind, r.name))
    if invocation.on_kubernetes and (objects or invocation.output in ("json", "yaml")):
        from vanrouter.cli import apply_in_namespace

        resources = apply_in_namespace.as_written(site, resources)
    if objects:
        dump_objects([object_of(r) for r in resources], invocation.output if invocation.output == "json" else "yaml")
        return DONE
    if invocation.output in ("json", "yaml"):
        dump_objects([to_dict(r) for r in resources], invocation.output)
        return DONE
    if not resources:
        hint = "see the warnings" if made.notes else "is it the right file?"
        raise ConfigError("there is no resource in it, so nothing was written", hint=hint)
    if isinstance(site, HostSite):
        from vanrouter.cli import apply_on_host

        return apply_on_host.write(site, resources, dry_run=dry_run, wait=wait)
    from vanrouter.cli import apply_in_namespace

    return apply_in_namespace.write(site, resources, dry_run=dry_run, wait=wait, force=force_conflicts)


def _translate(site: Site, files: Sequence[str]) -> Translation:
    sources = [source for file in files for source in _sources(file)]
    if not site.invocation.on_kubernetes:
        return translate(sources, platform="linux", namespace=site.name)
    from vanrouter.kube.plan import SETTINGS

    made = translate(sources, platform="kubernetes", namespace=site.name, settings=SETTINGS)
    made.resources = [_as_kept(made, resource) for resource in made.resources]
    return made


def _as_kept(made: Translation, resource: Resource) -> Resource:
    """An AccessToken is kept as a Secret: ConfigMaps are read by whoever may view the namespace, and by routers."""
    if not isinstance(resource, AccessToken):
        return resource
    from vanrouter.tokens.declared import as_secret

    if any(isinstance(other, Secret) and other.name == resource.name for other in made.resources):
        made.faults.append(Note(resource.ref, "is kept as a Secret, and there is one of that name too", "rename one of them"))
    try:
        return as_secret(resource)
    except VanrouterError as exc:
        made.faults.append(Note(resource.ref, str(exc), exc.hint))
        return resource


def _refuse(notes: Sequence[Note], wrong: bool) -> None:
    if not notes:
        return
    if not wrong:
        raise ConfigError(f"{_count(len(notes), 'warning')}, so nothing was written", hint="mend them, or leave --strict away")
    lines = [f"{n.path}: {n.message}" + (f"; {n.hint}" if n.hint else "") for n in notes]
    raise ConfigError(f"nothing was written: {_count(len(notes), 'fault')}\n  " + "\n  ".join(lines), hint="mend it, and apply again")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# ---- Reading ----------------------------------------------------------------------------------------------------------------------------


def _sources(file: str) -> list[Source]:
    if file == "-":
        if sys.stdin.isatty():
            click.echo("Reading resources from the terminal; end them with Ctrl-D.", err=True)
        return _documents(sys.stdin.buffer.read((1 << 20) + 1), "standard input")
    path = Path(file)
    if not path.is_dir():
        return _documents(_text(path), file)
    found = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES and p.is_file())
    if not found:
        raise ConfigError(f"{file} has no file that ends in {', '.join(_SUFFIXES)}", hint="name a file, or another directory")
    return [source for each in found for source in _documents(_text(each), str(each))]


def _text(path: Path) -> bytes:
    try:
        with path.open("rb") as opened:
            return opened.read((1 << 20) + 1)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}", hint="-f takes a file, a directory, or - for standard input") from exc


def _documents(text: bytes, where: str) -> list[Source]:
    from vanrouter.resources.yamls import load_documents

    found: list[Any] = []
    for document in load_documents(text, source=where):
        is_list = isinstance(document, dict) and str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list)
        found += document["items"] if is_list else [document]
    if len(found) == 1:
        return [Source(where, found[0])]
    return [Source(f"{where}, document {number}", document) for number, document in enumerate(found, 1)]


def object_of(resource: Resource) -> dict[str, Any]:
    """The ConfigMap that holds it in a namespace; a Secret as itself."""
    from vanrouter.kube.records import resource_object

    kind = "Secret" if isinstance(resource, Secret) else "ConfigMap"
    return {"apiVersion": "v1", "kind": kind, **resource_object(resource)}


# ---- What both homes share --------------------------------------------------------------------------------------------------------------


def changes(loaded: Loaded, resources: Sequence[Resource]) -> list[wanted.Change]:
    """What is to be done to each. Raises ConfigError for one that stands together with others, or for a second Site."""
    found = []
    broken = {problem.path for problem in loaded.problems}  # its last good form is loaded, and is not what stands there
    for resource in resources:
        located = loaded.resources.get((resource.kind, resource.name))
        if located is not None and _unmarked(located.resource) == resource and located.file not in broken:
            found.append(wanted.Change(resource, "unchanged"))
            continue
        if located is not None:
            where = located.file.partition(": ")[0]
            beside = [x.resource.ref for x in loaded.resources.values() if x.file.partition(": ")[0] == where and x is not located]
            if beside:
                hint = f"change it there, where its author does; or remove it there and apply again ({beside[0]} stands beside it)"
                raise ConfigError(f"nothing was written: {resource.ref} stands in {where} together with others", hint=hint)
        if isinstance(resource, SiteResource):
            for (kind, name), other in loaded.resources.items():
                if kind == "Site" and name != resource.name:
                    raise ConfigError(
                        f"nothing was written: {resource.ref}: there is a site already, {other.resource.ref}; a site keeps its name",
                        hint=f"name it {name} in the file, or use another namespace: -n NAME",
                    )
        found.append(wanted.Change(resource, "created" if located is None else "configured"))
    return found


def _unmarked(resource: Resource) -> Resource:
    """A token Secret without what became of it."""
    if not isinstance(resource, Secret) or not resource.is_token:
        return resource
    annotations = {key: value for key, value in resource.metadata.annotations.items() if key not in _MARKS}
    return msgspec.structs.replace(resource, metadata=msgspec.structs.replace(resource.metadata, annotations=annotations))


def say_change(invocation: Invocation, change: wanted.Change, *, dry: bool) -> None:
    noun = f"{change.resource.kind.lower()}/{change.resource.name}"
    if invocation.output == "name":
        say(noun)
    elif dry:
        say(f"{noun} would be {change.done}" if change.done != "unchanged" else f"{noun} unchanged")
    else:
        say(f"{noun} {change.done}")


def not_running(site: Site, *, wait: bool) -> int:
    warn(f"site {site.name!r} is not running; this takes effect when it starts", f"start it: {site.invocation.van('init')}")
    return NOT_READY if wait else DONE
