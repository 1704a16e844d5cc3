"""
What ``van doctor`` finds: one verdict for each check, from facts that others gathered. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from vanrouter.cli.running import condition, worst

__all__ = ["Finding", "Verdict", "about_links", "about_services", "about_site", "problems_in", "sum_up", "total"]

Doc = Mapping[str, Any]
Verdict = Literal["ok", "warning", "failed", "skipped"]
_ORDER: Final[tuple[Verdict, ...]] = ("ok", "skipped", "warning", "failed")


class Finding(NamedTuple):
    """``check`` is what was looked at, in words that stay the same."""

    check: str
    verdict: Verdict
    said: str
    next: str = ""


def total(findings: Iterable[Finding]) -> Verdict:
    """The worst of them. What could not be looked at is not wrong."""
    return max((f.verdict for f in findings if f.verdict != "skipped"), key=_ORDER.index, default="ok")


def sum_up(check: str, wrong: Sequence[Finding], well: str) -> list[Finding]:
    """All that is wrong, or one line that nothing is."""
    return list(wrong) or [Finding(check, "ok", well)]


# ---- From the status document -----------------------------------------------------------------------------------------------------------


def about_site(status: Doc) -> list[Finding]:
    """The routers, and where others reach them."""
    site = status["site"]
    ready = condition(site, "Ready")
    routers = site.get("routers") or []
    pods = f"{sum(bool(r.get('ready')) for r in routers)} of {len(routers)} routers are ready" if routers else "the router is ready"
    found = [
        Finding("router", "ok", f"{pods}; version {site.get('version') or '?'}")
        if site["ready"]
        else Finding("router", "failed", ready["message"] or "it is not ready", ready.get("next", ""))
    ]
    access = condition(site, "LinkAccess")
    if access["status"] == "False":
        found.append(Finding("link access", "failed", access["message"] or access["reason"], access.get("next", "")))
    elif not site.get("endpoints"):
        found.append(Finding("link access", "ok", "none: other sites cannot dial this one, it dials them"))
    return found


def about_links(status: Doc) -> list[Finding]:
    """Each link of this site, with the endpoints that were tried in vain."""
    found = []
    for link in status["links"]:
        check, remote = f"link {link['name']}", link.get("remoteSiteName") or "the other site"
        way = f"{link['direction']}, {remote}" + (f" at {link['endpoint']}" if link.get("endpoint") else "")
        reason = worst(link)
        if link.get("standby"):
            found.append(Finding(check, "ok", f"stands by ({way})"))
        elif link["active"] and reason is None:
            found.append(Finding(check, "ok", f"active ({way})"))
        elif link["active"]:
            assert reason is not None
            found.append(Finding(check, "warning", f"active ({way}), but {reason['message'] or reason['reason']}", reason.get("next", "")))
        else:
            why = (reason["message"] or reason["reason"]) if reason else "it is being dialled"
            found.append(Finding(check, "failed", f"not active ({way}): {why}", reason.get("next", "") if reason else ""))
    return found or [Finding("links", "ok", "there is none")]


def about_services(status: Doc) -> list[Finding]:
    """Listeners that listen, connectors that have targets."""
    found = []
    for kind, elements in (("listener", [*status["listeners"], *status.get("multiKeyListeners", ())]), ("connector", status["connectors"])):
        wrong = [f for element in elements if (f := _element(kind, element))]
        found += sum_up(f"{kind}s", wrong, f"{len(elements)}, all as wanted" if elements else "there is none")
    return found


def _element(kind: str, element: Doc) -> Finding | None:
    reason = worst(element)
    if reason is None or reason["status"] == "Unknown":
        return None
    # That nobody offers what a listener leads to is the network's state, not a fault of this site.
    verdict: Verdict = "warning" if reason["type"] == "Matched" else "failed"
    return Finding(f"{kind} {element['name']}", verdict, reason["message"] or reason["reason"], reason.get("next", ""))


def problems_in(status: Doc, told: Iterable[Finding]) -> Iterator[Finding]:
    """What the site says besides."""
    said = [f.said for f in told]
    for problem in status["problems"]:
        if not any(problem["message"] in text for text in said):
            yield Finding(problem.get("path") or "site", "failed", problem["message"], problem.get("hint", ""))
