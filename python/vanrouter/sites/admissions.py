"""
Admissions in a running site: those that we hold, to be carried in what we advertise, and who admitted whom in what others advertise.

A signature is checked once per admission, however often it is advertised; its end is compared with the wall clock each time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from vanrouter.errors import ConfigError, PeerRejected, StoreError
from vanrouter.messages import Sealed
from vanrouter.pki import Admission, verify_admission_untrusted
from vanrouter.stores import StateFiles
from vanrouter.tokens import LinkCredential

__all__ = ["Admissions", "held_admissions"]

MAX_KNOWN: Final = 4_096  # checked admissions that are remembered: two per site of the largest network
MAX_HELD: Final = 8  # what a signed message may carry


class Admissions:
    """``wall`` gives seconds since the epoch."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._known: OrderedDict[bytes, Admission | None] = OrderedDict()

    def issuers(self, sealed: Sealed) -> Sequence[tuple[str, str]]:
        """(issuer, subject) of every admission that the message carries and that holds now."""
        return self.pairs(sealed.admissions)

    def pairs(self, admissions: Sequence[bytes]) -> list[tuple[str, str]]:
        now = self._wall()
        found = (self._check_untrusted(raw) for raw in admissions)
        return [(str(a.issuer), str(a.site)) for a in found if a is not None and a.not_after >= now]

    def _check_untrusted(self, raw: bytes) -> Admission | None:
        if raw in self._known:
            self._known.move_to_end(raw)
            return self._known[raw]
        try:
            admission: Admission | None = verify_admission_untrusted(raw)
        except PeerRejected:
            admission = None
        self._known[raw] = admission
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return admission


def held_admissions(state: StateFiles) -> list[bytes]:
    """What the issuers of our links gave us, at most as many as a message may carry."""
    found: list[bytes] = []
    for name in state.credential_names():
        try:
            found.append(LinkCredential.from_files(state.read_credential(name) or {}).admission)
        except (ConfigError, StoreError):
            continue  # its link says what is wrong with it
    return list(dict.fromkeys(found))[:MAX_HELD]
