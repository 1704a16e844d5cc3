"""
``van doctor``: looks at everything a site needs, step by step, and says of each step how it is and what to do.

On a host ``examine_host``, in a namespace ``examine_namespace`` look; ``diagnosis`` judges. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator

from vanrouter.cli.base import BOTH, DONE, NOT_READY, Invocation, command, pass_invocation
from vanrouter.cli.diagnosis import Finding, Verdict, total
from vanrouter.cli.output import bad, dim, dump, good, say, strong
from vanrouter.cli.values import timeout_option

__all__ = ["doctor"]


@command("doctor", outputs=("json", "yaml"), platforms=BOTH)
@timeout_option(20, "How long to look, all in all.")
@pass_invocation
def doctor(invocation: Invocation, timeout: float) -> int:
    """Look at everything the site needs and say what is wrong and what to do. Changes nothing. Exit code 3 when something fails."""
    findings: list[Finding] = []
    for found in _examine(invocation, timeout):
        findings.append(found)
        if not invocation.output:
            _say(found)
    verdict = total(findings)
    if invocation.output:
        checks = [{"check": f.check, "verdict": f.verdict, "message": f.said, "next": f.next} for f in findings]
        dump({"verdict": verdict, "checks": checks}, invocation.output)
    else:
        say()
        say(_summary(findings, verdict))
    return NOT_READY if verdict == "failed" else DONE


def _examine(invocation: Invocation, timeout: float) -> Iterator[Finding]:
    if invocation.on_kubernetes:
        from vanrouter.cli.examine_namespace import examine_namespace

        return examine_namespace(invocation, timeout)
    from vanrouter.cli.examine_host import examine_host

    return examine_host(invocation, timeout)


def _say(found: Finding) -> None:
    style = {"ok": good, "failed": bad, "warning": strong, "skipped": dim}[found.verdict]
    say(f"{style(found.verdict)}{' ' * (9 - len(found.verdict))}{found.check}: {found.said}")
    if found.next and found.verdict != "ok":
        say(f"           next: {found.next}")


def _summary(findings: list[Finding], verdict: Verdict) -> str:
    failed = sum(f.verdict == "failed" for f in findings)
    warnings = sum(f.verdict == "warning" for f in findings)
    if verdict == "ok":
        return "Nothing is wrong."
    parts = [f"{failed} failed"] * bool(failed) + [f"{warnings} warned"] * bool(warnings)
    return f"Of {len(findings)} check{'s' if len(findings) > 1 else ''} {' and '.join(parts)}."
