"""
Copies of what the namespace has, and writes to it. Drives watches; decides nothing.

A write that was answered is in the copy at once, before the watch brings it, so that nothing is written twice. ``ensure`` writes an object
only where it differs from the copy.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import trio

from vanrouter.controller.quarrels import Quarrels
from vanrouter.errors import VanrouterError
from vanrouter.kube.calls import Call, Kind, Object, apply, create, delete, merge_patch
from vanrouter.kube.cluster_customs import CustomView
from vanrouter.kube.errors import AlreadyExists, Conflict, Denied, Forbidden, Invalid, KubeError, NotFound
from vanrouter.kube.following import CustomWatch
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS, SERVICES
from vanrouter.kube.listwatch import Change, Removed
from vanrouter.kube.managers import manager_of
from vanrouter.kube.names import ANY_TYPE
from vanrouter.kube.sharing import Followed, SharedWatches, Watches
from vanrouter.kube.turns import Calling
from vanrouter.stores.resources import Problem

__all__ = ["Copies"]

log: Final = logging.getLogger("vanrouter.controller")

BROUGHT: Final = 2048  # more than comes between a write and its answer
AT_ONCE: Final = 20  # writes
OVERLAY: Final = 5.0  # the watch has brought a write by then, or it lags: then the copy counts


Thing = TypeVar("Thing")


_VERSION: Final = re.compile(rb'"resourceVersion":"[^"]*",?')
_KINDS: Final = {kind.plural: kind.kind for kind in (CONFIG_MAPS, SECRETS, SERVICES)}


class _Written(msgspec.Struct):
    value: Object | None  # None: deleted
    version: str
    until: float


class _Copy:
    """Of one kind: what the watch brought, and our own writes that it has not brought yet."""

    def __init__(self, namespace: str, watcher: Callable[[Callable[[Sequence[Change]], None]], Followed], wake: Callable[[], None]) -> None:
        self._namespace, self._wake = namespace, wake
        self.written: dict[str, _Written] = {}
        self._brought: dict[tuple[str, str], None] = {}  # names and versions, lately, also of what is gone again
        self.watcher = watcher(self._heard)

    def _heard(self, changes: Sequence[Change]) -> None:
        for change in changes:
            name = change.key[1]
            if not isinstance(change, Removed):
                self._brought[name, str(change.object["metadata"].get("resourceVersion"))] = None
                if len(self._brought) > BROUGHT:
                    del self._brought[next(iter(self._brought))]
            known = self.written.get(name)
            if known is None:
                continue
            seen = "" if isinstance(change, Removed) else str(change.object["metadata"].get("resourceVersion"))
            if seen == known.version:
                del self.written[name]
        self._wake()

    def objects(self, now: float) -> dict[str, Object]:
        found: dict[str, Object] = {name: value for (_, name), value in self.watcher.objects.items()}
        for name, written in list(self.written.items()):
            if now >= written.until:
                del self.written[name]
            elif written.value is None:
                found.pop(name, None)
            else:
                found[name] = written.value
        return found

    def get(self, name: str, now: float) -> Object | None:
        """One of ``objects``, without looking at the others."""
        written = self.written.get(name)
        if written is not None and now < written.until:
            return written.value
        self.written.pop(name, None)
        found: Object | None = self.watcher.objects.get((self._namespace, name))
        return found

    def note(self, name: str, value: Object | None, now: float, *, uid: str = "") -> None:
        """We wrote it; None: we deleted the object with this uid. Nothing to note when the watch was quicker than the answer."""
        known = self.watcher.objects.get((self._namespace, name))
        if value is None:
            if known is None or (uid and known["metadata"].get("uid") != uid):
                self.written.pop(name, None)
                return
            self.written[name] = _Written(None, "", now + OVERLAY)
            return
        version = str(value["metadata"].get("resourceVersion"))
        if (name, version) in self._brought:
            self.written.pop(name, None)
        else:
            self.written[name] = _Written(value, version, now + OVERLAY)

    @property
    def deadline(self) -> float:
        return min((written.until for written in self.written.values()), default=math.inf)


class Copies:
    """ConfigMaps and Secrets of ours, all Services, and custom resources where the cluster has them."""

    def __init__(
        self,
        client: Calling,
        namespace: str,
        *,
        watches: Watches | SharedWatches,
        customs: CustomWatch | CustomView,
        wake: Callable[[], None],
        more: Iterable[tuple[Kind, str]] = (),
    ) -> None:
        """``more``: kinds, and their selectors, beside those that every site has."""
        self.client, self.namespace, self.wake = client, namespace, wake
        self._quarrels = Quarrels()
        self._refusals: dict[str, KubeError] = {}  # why, of what the server refused
        self.writes = 0  # of all kinds, answered: for tests, and a log line
        self.customs = customs
        self._watches = watches
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[str, trio.CancelScope] = {}  # of kinds that are followed for a while

        def made(kind: Kind, labels: str) -> _Copy:
            return _Copy(namespace, lambda heard: watches.follow(kind, namespace, heard=heard, labels=labels), wake)

        self._copies: Final = {
            kind.plural: made(kind, labels) for kind, labels in ((CONFIG_MAPS, ANY_TYPE), (SECRETS, ANY_TYPE), (SERVICES, ""), *more)
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """``started`` when each kind was listed completely: before that nothing may be concluded."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for copy in self._copies.values():
                nursery.start_soon(copy.watcher.run)
            nursery.start_soon(self.customs.run)
            for copy in self._copies.values():
                await copy.watcher.wait_synced()
            await self.customs.wait_synced()
            task_status.started()

    async def follow(self, kind: Kind, name: str) -> None:
        """As ``begin``. Returns when there was a complete list."""
        self.begin(kind, name)
        await self._copies[kind.plural].watcher.wait_synced()

    def begin(self, kind: Kind, name: str) -> None:
        """Follow one object of one more kind, until ``unfollow``."""
        if kind.plural not in self._copies:
            assert self._nursery is not None
            watches, fields = self._watches, f"metadata.name={name}"
            copy = _Copy(self.namespace, lambda heard: watches.follow(kind, self.namespace, heard=heard, fields=fields), self.wake)
            self._copies[kind.plural] = copy
            scope = self._scopes[kind.plural] = trio.CancelScope()

            async def run() -> None:
                with scope:
                    await copy.watcher.run()

            self._nursery.start_soon(run)

    def unfollow(self, kind: Kind) -> None:
        if (scope := self._scopes.pop(kind.plural, None)) is not None:
            scope.cancel()
            del self._copies[kind.plural]

    def is_synced(self, kind: Kind) -> bool:
        return kind.plural in self._copies and self._copies[kind.plural].watcher.synced

    def problem(self, kind: Kind) -> KubeError | None:
        return self._copies[kind.plural].watcher.problem if kind.plural in self._copies else None

    def of(self, kind: Kind) -> dict[str, Object]:
        return self._copies[kind.plural].objects(trio.current_time()) if kind.plural in self._copies else {}

    def get(self, kind: Kind, name: str) -> Object | None:
        return self._copies[kind.plural].get(name, trio.current_time())

    def current(self, kind: Kind) -> bool:
        """Whether absence from the copy proves absence."""
        return self._copies[kind.plural].watcher.current

    @property
    def deadline(self) -> float:
        """When the copy may change because a watch did not bring what we wrote, or something is written that waited."""
        waiting = self._quarrels.waiting(trio.current_time()).values()
        return min([copy.deadline for copy in self._copies.values()] + list(waiting))

    @property
    def quarrels(self) -> list[Problem]:
        """What somebody else changes back as often as it is written, and what the server refuses."""
        now, found = trio.current_time(), []
        waiting = self._quarrels.waiting(now)
        self._refusals = {where: refusal for where, refusal in self._refusals.items() if where in waiting}
        for where in waiting:
            plural, _, name = where.partition("/")
            known = self._copies[plural].get(name, now) if plural in self._copies else None
            who, path = manager_of(known) if known else "", f"{_KINDS.get(plural, plural)}/{name}"
            if (refusal := self._refusals.get(where)) is not None:
                found.append(Problem(path, str(refusal), refusal.hint))
                continue
            text = f"{path} is changed by {who or 'somebody else'} as often as it is put right; it is put right less and less often"
            found.append(Problem(path, text, f"see who it is: kubectl get {plural} {name} -o yaml --show-managed-fields; make it stop"))
        return found

    @property
    def problems(self) -> list[KubeError]:
        return [copy.watcher.problem for copy in self._copies.values() if copy.watcher.problem is not None]

    @property
    def troubles(self) -> list[Problem]:
        """Rights that this controller had and has no longer: what it saw last stays in force, and nothing is deleted."""
        refused = {plural: copy.watcher.problem for plural, copy in self._copies.items() if isinstance(copy.watcher.problem, Forbidden)}
        todo = "give the controller the right: van update"
        return [Problem(f"controller: {plural}", f"{plural} are not seen: {error}", todo) for plural, error in refused.items()]

    # ---- Writing -------------------------------------------------------------------------------------------------------------------------

    async def send(self, call: Call) -> Object | None:
        """Do it, and note it in the copy. Raises KubeError.

        None: it was decided on an old copy, and the watch brings the new one; or somebody changes it back each time, and it waits.
        """
        name, wish = f"{call.kind.plural}/{call.name}", hash(_VERSION.sub(b"", call.body))
        if trio.current_time() < self._quarrels.again_at(name, wish):
            return None
        try:
            answer = await self.client.call(call)
        except (Conflict, AlreadyExists, NotFound) as exc:
            if isinstance(exc, NotFound) and "namespace" in exc.hint:
                raise
            self._quarrels.tried(name, wish, trio.current_time())
            self._refusals.pop(name, None)
            log.info("decided anew", extra={"call": str(call), "reason": str(exc)})
            return None
        except (Denied, Invalid) as exc:
            self._quarrels.refused(name, wish, trio.current_time())
            self._refusals[name] = exc
            raise
        self._refusals.pop(name, None)
        self.writes += 1
        log.info("wrote", extra={"call": str(call)})
        gone = call.method == "DELETE"
        if gone:
            self._quarrels.settled(name)
        else:
            self._quarrels.tried(name, wish, trio.current_time())
        if call.kind.plural in self._copies:
            uid = str((answer.get("details") or {}).get("uid") or (answer.get("metadata") or {}).get("uid") or "")
            self._copies[call.kind.plural].note(call.name, None if gone else answer, trio.current_time(), uid=uid)
        return answer

    def differs(self, kind: Kind, value: Object) -> bool:
        """Whether ``ensure`` would write."""
        known = self.get(kind, value["metadata"]["name"])
        return known is None or not _holds(known, value)

    async def ensure(self, kind: Kind, value: Object, *, fenced: bool = False) -> bool:
        """Server-side apply, where labels, annotations, owners, data or spec differ from the copy. Whether something was written.

        ``fenced``: only if the object is still the one of the copy, or there is still none.
        """
        known = self.get(kind, value["metadata"]["name"])
        if known is not None and _holds(known, value):
            return False
        strange = {part: keys for part in ("data", "binaryData") if (keys := _too_many(known, value, part))}
        if known is not None and strange:
            # Apply leaves what others added.
            name, version = value["metadata"]["name"], known["metadata"]["resourceVersion"]
            patch = {**value, **{part: {**keys, **(value.get(part) or {})} for part, keys in strange.items()}}
            return await self.send(merge_patch(kind, self.namespace, name, patch, resource_version=version)) is not None
        if fenced and known is None:
            return await self.send(create(kind, self.namespace, value)) is not None
        if fenced and known is not None:
            value = {**value, "metadata": {**value["metadata"], "resourceVersion": known["metadata"]["resourceVersion"]}}
        return await self.send(apply(kind, self.namespace, value)) is not None

    async def each(self, things: Iterable[Thing], do: Callable[[Thing], Awaitable[object]]) -> None:
        """``AT_ONCE`` at a time. One that fails does not keep the others; then the first failure is raised.

        What the server refuses is no failure of this kind: it waits for itself alone, and ``quarrels`` says why.
        """
        limit = trio.CapacityLimiter(AT_ONCE)
        failed: list[VanrouterError] = []

        async def one(thing: Thing) -> None:
            async with limit:
                try:
                    await do(thing)
                except (Denied, Invalid) as exc:
                    log.warning("refused", extra={"call": exc.call, "reason": str(exc), "hint": exc.hint})
                except VanrouterError as exc:
                    failed.append(exc)

        async with trio.open_nursery() as nursery:
            for thing in things:
                nursery.start_soon(one, thing)
        if failed:
            raise failed[0]

    async def remove(self, kind: Kind, name: str) -> bool:
        """Delete what the copy has under this name, if it is still that object. Nothing when the copy may be behind."""
        known = self.get(kind, name)
        if known is None or not self.current(kind):
            return False
        return await self.send(delete(kind, self.namespace, name, uid=known["metadata"]["uid"])) is not None


def _holds(known: Object, value: Object) -> bool:
    """Whether everything in ``value`` is so in ``known``; ``data`` as a whole: a key that somebody added is one too many."""
    metadata, wish = known["metadata"], value["metadata"]
    for part in ("labels", "annotations"):
        if not (wish.get(part) or {}).items() <= (metadata.get(part) or {}).items():
            return False
    owners = {o.get("uid") for o in metadata.get("ownerReferences") or []}
    if not {o["uid"] for o in wish.get("ownerReferences") or []} <= owners:
        return False
    if "data" in value and any((known.get(part) or {}) != (value.get(part) or {}) for part in ("data", "binaryData")):
        return False
    return "spec" not in value or _within(value["spec"], known.get("spec") or {})


def _too_many(known: Object | None, value: Object, part: str) -> dict[str, None]:
    """Keys of the copy that are not wanted, as a merge patch removes them."""
    if known is None or "data" not in value:
        return {}
    return dict.fromkeys(key for key in known.get(part) or {} if key not in (value.get(part) or {}))


def _within(wish: Any, known: Any) -> bool:
    if isinstance(wish, Mapping):
        return isinstance(known, Mapping) and all(_within(value, known.get(key)) for key, value in wish.items())
    if isinstance(wish, list):
        return isinstance(known, list) and len(wish) == len(known) and all(map(_within, wish, known))
    return bool(wish == known)
