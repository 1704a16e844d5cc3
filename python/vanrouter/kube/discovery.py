"""
Which kinds of custom resources the server has, looked at again from time to time. Sans-IO: calls out, answers in, time is an argument.

Definitions come and go while we run: an administrator installs them, or another release of them. What is served is taken up at the next
look. What is no longer served is given up at the second look that says so, because a server that starts has not read its definitions yet;
for the same reason nothing that would go counts as gone before a second look, a second after the first one.
A server that cannot be asked changes nothing.
"""

from __future__ import annotations

import random
from typing import Final

from vanrouter.kube.calls import Call, Kind, Object
from vanrouter.kube.crds import CUSTOM_KINDS, GROUP, VERSION
from vanrouter.kube.errors import Forbidden, KubeError
from vanrouter.stores.resources import Problem

__all__ = ["GROUP_CALL", "LOOK", "VERSION_CALL", "Discovery", "kinds_in_untrusted", "versions_in_untrusted"]

LOOK: Final = 30.0
SOON: Final = 5.0
CONFIRM: Final = 1.0  # between the first look that found nothing and the one after which that counts

VERSION_CALL: Final = Call(verb="get", kind=Kind(GROUP, VERSION, "", f"resources of {GROUP}/{VERSION}"))
GROUP_CALL: Final = Call(verb="get", kind=Kind(GROUP, "", "", f"versions of {GROUP}"))
"""Asked only where there is no answer to the first: whether there is another version."""


def kinds_in_untrusted(answer: Object) -> frozenset[str]:
    """The kinds of ours in an APIResourceList."""
    listed = answer.get("resources")
    plurals = {str(r.get("name")) for r in listed if isinstance(r, dict)} if isinstance(listed, list) else set()
    return frozenset(kind for kind, custom in CUSTOM_KINDS.items() if custom.plural in plurals)


def versions_in_untrusted(answer: Object) -> tuple[str, ...]:
    """The versions in an APIGroup."""
    listed = answer.get("versions")
    found = [v.get("version") for v in listed if isinstance(v, dict)] if isinstance(listed, list) else []
    return tuple(v for v in found if isinstance(v, str))


class Discovery:
    """``kinds`` is what to follow now, of those ``wanted``."""

    def __init__(self, wanted: frozenset[str], rng: random.Random) -> None:
        self.kinds: frozenset[str] = frozenset()
        self.looked = False  # whether the server ever answered
        self.confirmed = False  # whether it said twice that there is nothing, or has something: one that starts knows no definitions yet
        self.failed: KubeError | None = None
        self.at = 0.0  # when to look (again)
        self._wanted, self._rng = wanted, rng
        self._missed: frozenset[str] = frozenset()  # not served at the latest look, and followed still
        self._versions: tuple[str, ...] = ()
        self.denied: dict[str, Forbidden] = {}  # kinds that we may not list

    def handle_kinds(self, kinds: frozenset[str], now: float, *, versions: tuple[str, ...] = ()) -> None:
        """The server answered. ``versions``: others that it has, when it does not have ours."""
        served = kinds & self._wanted
        missed = self.kinds - served
        self.kinds, self._missed = served | (missed - self._missed), missed - self._missed
        self._versions, self.failed = versions if not kinds else (), None
        self.confirmed, self.looked = self.looked or bool(served), True
        self.denied = {kind: error for kind, error in self.denied.items() if kind in served}
        self._again(LOOK if self.confirmed else CONFIRM, now)

    def handle_failed(self, error: KubeError, now: float) -> None:
        """It could not be asked, or did not want to say. One that says so twice hides what it has: as if it had none."""
        hidden = isinstance(error, Forbidden) and isinstance(self.failed, Forbidden)
        self.failed = error
        self.looked |= hidden
        self.confirmed |= hidden
        self._again(LOOK if hidden else SOON, now)

    def handle_denied(self, kind: str, error: Forbidden, now: float) -> None:
        """We may not list this kind. Soon again, once: a Role that was just made is not known to every server at once."""
        if kind not in self.denied:
            self._again(SOON, now)
        self.denied[kind] = error

    def handle_granted(self, kind: str) -> None:
        self.denied.pop(kind, None)

    @property
    def problems(self) -> list[Problem]:
        """Why not all custom resources count, for people."""
        found = []
        if self._versions:
            said = f"the cluster has {GROUP} in version {', '.join(self._versions)}, and not {VERSION}: its resources do not count here"
            found.append(Problem(GROUP, said, "install the definitions of this release: van manifest crds | kubectl apply -f -"))
        if self.denied:
            kinds = sorted(CUSTOM_KINDS[kind].resource for kind in self.denied)
            said = f"resources of {', '.join(kinds)} do not count: {next(iter(self.denied.values()))}"
            found.append(Problem(GROUP, said, "van update gives the rights, to whoever has them; or remove the definitions"))
        return found

    def _again(self, seconds: float, now: float) -> None:
        self.at = now + seconds * self._rng.uniform(0.9, 1.1)
