"""
Documents of any origin to resources of ours: what ``van apply`` reads. Pure.

``skupper.io/v2alpha1`` has the same fields as ``vanrouter.io/v1alpha1``; here stands what differs in meaning. Each document becomes a
resource, or a note says by name why it does not and what to do instead. Nothing is left out without a word: what is read and has no effect
here is a note too (``effects``). Faults are documents that are wrong: with one of them nothing may be written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

from vanrouter.errors import InvalidResource
from vanrouter.resources.effects import Note, Platform, notes_on
from vanrouter.resources.kinds import KINDS, SKUPPER_API_VERSION, TLS_KEYS, AccessToken, Link, Resource, Secret, Site
from vanrouter.resources.reading import read_document
from vanrouter.resources.skupper_v1 import is_first_version, resources_of

__all__ = ["Source", "Translation", "translate"]

_MADE_THERE: Final = {
    "Certificate": "the site makes its certificates itself; for your own: a Secret kubernetes.io/tls, named in tlsCredentials",
    "SecuredAccess": "the ways into a site are made from its linkAccess: set spec.linkAccess of the Site",
}
_THEIR_TOKEN: Final = (
    "is left out: a token of the incumbent, which its own sites redeem and no other",
    "at a site of ours: an AccessGrant, whose status has url, code and ca; or there van token create FILE, here van link create FILE",
)
_V1_TOKENS: Final = ("connection-token", "token-claim", "connection-token-request")
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_RENAMED: Final = {"routerLogging": "router-logging", "routerDataConnections": "router-data-connection-count"}
_NEEDLESS: Final = {
    "router-data-connection-count": "a link uses as many connections as it needs",
    "tls-prior-valid-revisions": "a renewed certificate cuts no stream here",
    "disable-anti-affinity": "routers prefer different nodes and share one where there is no other; spec.settings.affinity says else",
    "size": "set router-cpu, router-memory, controller-cpu and controller-memory in spec.settings",
}
_API_GROUPS: Final = ("skupper.io", "vanrouter.io")


class Source(msgspec.Struct, frozen=True):
    """One document, and where it stands: ``FILE``, or ``FILE, document 2``."""

    where: str
    document: Any


class Translation(msgspec.Struct):
    resources: list[Resource] = []
    notes: list[Note] = []
    faults: list[Note] = []


def translate(sources: Iterable[Source], *, platform: Platform, namespace: str, settings: Collection[str] = ()) -> Translation:
    """``namespace``: where the resources go; documents that name another one are faults. ``settings``: those of a Site that count here."""
    made = Translation()
    seen: dict[tuple[str, str], str] = {}
    sources = [one for source in sources for one in _unfolded(made, source, platform)]
    used = _credentials_used(sources)
    for source in sources:
        try:
            resource = _one(made, source, platform, used)
        except InvalidResource as exc:
            made.faults.append(Note(source.where, str(exc), exc.hint))
            continue
        if resource is None:
            continue
        named = resource.metadata.namespace
        if named and named != namespace:
            hint = f"van -n {named} apply puts it there; or remove metadata.namespace"
            made.faults.append(Note(f"{source.where}: {resource.ref}: metadata.namespace", f"is {named!r}, not {namespace!r}", hint))
        key = (resource.kind, resource.name)
        if key in seen:
            made.faults.append(Note(f"{source.where}: {resource.ref}", f"comes twice: also in {seen[key]}", "remove or rename one of them"))
        seen[key] = source.where
        made.resources.append(_settled(resource))
        made.notes += [
            Note(f"{resource.ref}: {note.path}", note.message, note.hint) for note in notes_on(resource, platform, settings=settings)
        ]
    _check_together(made)
    return made


def _unfolded(made: Translation, source: Source, platform: Platform) -> list[Source]:
    """What an object of the incumbent's first version says, as documents of ours; any other as it is."""
    if not is_first_version(source.document):
        return [source]
    found, notes, faults = resources_of(source.document, platform)
    made.notes += notes
    made.faults += [Note(f"{source.where}: {fault.path}", fault.message, fault.hint) for fault in faults]
    return [Source(source.where, document) for document in found]


def _one(made: Translation, source: Source, platform: Platform, used: Mapping[str, bool]) -> Resource | None:
    """The resource, or None with a note. Raises InvalidResource."""
    document = source.document
    if not isinstance(document, dict) or not all(isinstance(document.get(name), str) for name in ("apiVersion", "kind")):
        return read_document(document)  # which says what is wrong
    kind, version = document["kind"], str(document.get("apiVersion"))
    ref = f"{kind}/{_name(document)}"
    group = version.partition("/")[0] if "/" in version else ""
    ours = group in _API_GROUPS or (kind == Secret.KIND and version == "v1")
    if not ours and (kind not in KINDS or group):
        made.notes.append(Note(ref, f"{version} {kind} is no resource of a site; it is left out", _how_else(platform)))
        return None
    if version == SKUPPER_API_VERSION:
        if hint := _MADE_THERE.get(kind):
            made.notes.append(Note(ref, "is left out: it means something to controllers of the incumbent only", hint))
            return None
        document = _from_skupper(made, document, ref, platform)
    if kind == Secret.KIND and (skip := _foreign_secret(document)):
        made.notes.append(Note(ref, *skip))
        return None
    try:
        resource = read_document(document)
    except InvalidResource as exc:
        if kind != Secret.KIND or _name(document) in used:
            raise
        made.notes.append(Note(ref, f"is left out: nothing here names it, and {exc}", exc.hint))
        return None
    if isinstance(resource, AccessToken) and not resource.is_ours:
        made.notes.append(Note(ref, *_THEIR_TOKEN))
        return None
    if isinstance(resource, Secret) and used.get(resource.name) and (lacks := next((k for k in TLS_KEYS if not resource.data.get(k)), "")):
        raise InvalidResource(f"{ref}: data[{lacks}]", "is missing", hint="a link's credential has tls.crt, tls.key and ca.crt")
    if version == SKUPPER_API_VERSION and isinstance(resource, Link):
        made.notes.append(
            Note(
                f"{ref}: spec.endpoints",
                "routers of the incumbent speak another protocol: this link becomes active when a site of ours is at its other end",
                "once that site is installed: van link generate there, or van token create FILE",
            )
        )
    return resource


def _from_skupper(made: Translation, document: dict[str, Any], ref: str, platform: Platform) -> dict[str, Any]:
    """The same document with what the incumbent calls otherwise."""
    spec = document.get("spec")
    if document["kind"] != Site.KIND or not isinstance(spec, dict) or not isinstance(spec.get("settings"), dict):
        return document
    settings: dict[str, Any] = {}
    for given, value in spec["settings"].items():
        name = _RENAMED.get(given, given)
        if name == "router-logging" and platform == "kubernetes" and str(value).lower() in _LOG_LEVELS:
            settings["log-level"] = str(value).lower()
            made.notes.append(Note(f"{ref}: spec.settings.{given}", f"is log-level here: {settings['log-level']}", ""))
        elif name == "router-logging":
            hint = f"in a namespace set spec.settings.log-level to one of {', '.join(_LOG_LEVELS)}; on a host VAN_LOG_LEVEL"
            made.notes.append(Note(f"{ref}: spec.settings.{given}", f"{value!r} is left out: there are no modules to choose", hint))
        elif name in _NEEDLESS:
            made.notes.append(Note(f"{ref}: spec.settings.{given}", "is left out", _NEEDLESS[name]))
        else:
            settings[given] = value
    return {**document, "spec": {**spec, "settings": settings}}


def _foreign_secret(document: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why a Secret is none for a site, and what to do: a token of the incumbent's first version, or credentials of a proxy."""
    metadata = document.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    if isinstance(labels, dict) and labels.get("skupper.io/type") in _V1_TOKENS:
        return ("is left out: a token of the incumbent", "make one with van token create FILE at the other site")
    if document.get("type") in ("kubernetes.io/basic-auth", "basic-auth"):
        return ("is left out: links through an HTTP proxy are not supported by this release", "")
    return None


def _how_else(platform: Platform) -> str:
    return "apply it with kubectl" if platform == "kubernetes" else "it is for Kubernetes"


def _settled(resource: Resource) -> Resource:
    """Without what only says where it stood."""
    annotations = {key: value for key, value in resource.metadata.annotations.items() if key != _LAST_APPLIED}
    metadata = msgspec.structs.replace(resource.metadata, namespace="", annotations=annotations)
    return msgspec.structs.replace(resource, metadata=metadata)


def _credentials_used(sources: Iterable[Source]) -> dict[str, bool]:
    """Secrets that resources name, and whether for a link, which needs all of it: what is wrong with one of them is a fault."""
    found: dict[str, bool] = {}
    for document in (s.document for s in sources if isinstance(s.document, dict)):
        spec = document.get("spec")
        named = spec.get("tlsCredentials") if isinstance(spec, dict) else None
        if document.get("kind") == "Link":
            found[str(named or _name(document))] = True  # a link's own name is that of its credential, unless it says another
        elif named:
            found[str(named)] = found.get(str(named), False) or document.get("kind") == "RouterAccess"
    return found


def _check_together(made: Translation) -> None:
    sites = [r for r in made.resources if isinstance(r, Site)]
    for extra in sites[1:]:
        made.faults.append(Note(extra.ref, f"there is {sites[0].ref} too, and a namespace is one site", "remove one of them"))


def _name(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    return str(metadata.get("name", "?")) if isinstance(metadata, dict) else "?"
