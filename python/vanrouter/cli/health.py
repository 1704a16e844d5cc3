"""
What ``van status`` says: sentences for a person, then every problem with its reason and the next action.

Pure: a status document in, text out. The sentences are stable enough to be read by a script that greps, json is for those that parse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vanrouter.cli.running import condition, worst

__all__ = ["Trouble", "is_ready", "sentences", "troubles"]

Doc = Mapping[str, Any]


class Trouble(NamedTuple):
    what: str
    why: str
    next: str


def is_ready(status: Doc) -> bool:
    return bool(status["site"]["ready"])


def _count(value: Any) -> int:
    return value if isinstance(value, int) else len(value)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def sentences(status: Doc) -> str:
    """``Site north is ready. It is linked to 1 other site. It has 1 exposed service.``

    In a namespace (which has a controller): ``Site north is ready, in interior mode. ...``
    A site that only consumes: ``... It reaches 2 services of another site.``
    """
    site = status["site"]
    linked, exposed = _count(site["linkedSites"]), _count(site["exposedServices"])
    if is_ready(status):
        mode = f", in {'edge' if site.get('edge') else 'interior'} mode" if site.get("controller") else ""
        parts = [f"Site {site['name']} is ready{mode}{_routers(site)}."]
    else:
        why = condition(site, "Ready")["message"]
        parts = [f"Site {site['name']} is not ready" + (f": {why.rstrip('.')}." if why else ".")]
    parts.append(f"It is linked to {_plural(linked, 'other site')}." if linked else "It is not linked to any other site.")
    reached = _reached(status)
    if exposed or not reached:
        parts.append(f"It has {_plural(exposed, 'exposed service')}." if exposed else "It has no exposed services.")
    else:
        parts.append(f"It reaches {_plural(reached, 'service')} of {'another site' if linked == 1 else 'other sites'}.")
    return " ".join(parts)


def _routers(site: Doc) -> str:
    """Of a site with several: how many, and how many of them are ready."""
    found = site.get("routers") or ()
    ready = sum(bool(router.get("ready")) for router in found)
    if len(found) < 2:
        return ""
    return f", with {len(found)} routers" + (f", {ready} of them ready" if ready < len(found) else "")


def _reached(status: Doc) -> int:
    """How many services of other sites have a listener here."""
    own = status["site"]["id"]

    def elsewhere(elements: Sequence[Doc]) -> bool:
        return any(x["siteId"] != own for x in elements)

    return sum(elsewhere(s["targets"]) and any(x["siteId"] == own for x in s["listeners"]) for s in status["services"])


def troubles(status: Doc) -> list[Trouble]:
    """Everything that is not as wanted: what, why, what to do. One entry for one cause."""
    found = [Trouble(p.get("path", ""), p["message"], p.get("hint", "")) for p in status["problems"]]
    told = {(trouble.what, trouble.why) for trouble in found} | {("", trouble.why) for trouble in found}
    doubled: set[tuple[str, ...]] = set()
    elements = [("site", status["site"])]
    elements += [("link", x) for x in status["links"]]
    elements += [("listener", x) for x in status["listeners"]]
    elements += [("multi-key listener", x) for x in status.get("multiKeyListeners", ())]
    elements += [("connector", x) for x in status["connectors"]]
    for kind, element in elements:
        reason = worst(element)
        if reason is None or (kind == "site" and reason["type"] == "Ready" and len(found) > 0):
            continue
        if reason["status"] == "Unknown" and (kind, reason["reason"]) != ("link", "Suspect"):
            continue
        why = reason["message"] or reason["reason"]
        if (reason["type"], reason["reason"]) == ("LinkAccess", "Pending") and reason.get("since"):
            why += f" (since {reason['since']})"  # an hour says something else than a second
        trouble = Trouble(f"{kind} {element['name']}", why, reason.get("next", ""))
        if reason["reason"] == "SameRouter":
            twice = (kind, *element["routers"])
            if twice in doubled:
                continue  # it is named by the other one already
            doubled.add(twice)
        if ("", trouble.why) not in told:
            found.append(trouble)
    own = status["site"]["id"]
    for service in status["services"]:
        what = f"service {service['address']}"
        whys = [service["conflict"]] if service.get("conflict") else []
        health = condition(service, "Healthy")
        if health["status"] == "False" and not any(target["siteId"] == own for target in service["targets"]):
            found.append(Trouble(what, health["message"], health.get("next", "")))
        whys += [f"at site {x['site']}: {x['message']}" for x in service.get("problems", ()) if x["siteId"] != own]
        found += [Trouble(what, why, "") for why in whys if ("", why) not in told and not any(why.endswith(t.why) for t in found)]
    return found
