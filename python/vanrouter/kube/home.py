"""
The resources of a namespace, kept in labelled ConfigMaps (a Secret in itself): the same promises as the file home, ``stores.resources``.

For threads. Commands read and write with it; the controller, which follows the namespace by watches, feeds ``records`` itself. Only whoever
is the ``keeper`` (the controller) writes what was the last good form, into the ConfigMap with the status.
"""

from __future__ import annotations

from collections.abc import Iterable

from vanrouter.errors import ConfigError
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Kind, Object, apply, delete
from vanrouter.kube.errors import KubeError, NotFound
from vanrouter.kube.keeping import apply_beside
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS
from vanrouter.kube.names import RESOURCE, STATUS, STATUS_OF, resource_map, selector, status_map
from vanrouter.kube.records import Records, StatusRecord, resource_object, stamp_of, status_object, statuses_in
from vanrouter.resources import Resource, Secret
from vanrouter.resources.kinds import TOKEN_VALUE
from vanrouter.stores.resources import Loaded, Located

__all__ = ["ResourceMaps"]

_OF_SECRETS = selector(RESOURCE, TOKEN_VALUE)


class ResourceMaps:
    """``secrets`` False: without the right to list Secrets; tokens and the like are then not seen. ``force``: also what others keep."""

    def __init__(
        self,
        client: BlockingClient,
        namespace: str,
        *,
        keeper: bool = False,
        secrets: bool = True,
        owners: tuple[Object, ...] = (),
        force: bool = False,
    ) -> None:
        self.namespace = namespace
        self._client, self._keeper, self._with_secrets, self._owners = client, keeper, secrets, owners
        self._force = force
        self._records = Records()
        self._maps: dict[str, Object] = {}
        self._statuses: dict[str, Object] = {}  # by the name of the source

    # ---- Reading -------------------------------------------------------------------------------------------------------------------------

    def changed(self) -> bool:
        """Whether ``load`` would find anything else than the last time. Asks for names and versions only."""
        stamps: dict[str, tuple[str, str]] = {}
        try:
            for kind, labels in self._selected():
                for value in self._client.pages(kind, self.namespace, labels=labels, metadata_only=True):
                    stamps[f"{kind.kind}/{value['metadata']['name']}"] = stamp_of(value)
            stamps |= self._custom_stamps()
        except KubeError:
            return True
        return stamps != self._records.stamps

    def load(self) -> Loaded:
        """Raises StoreError only when the cluster cannot be asked."""
        maps = self._client.pages(CONFIG_MAPS, self.namespace, labels=selector(RESOURCE))
        secrets = self._client.pages(SECRETS, self.namespace, labels=_OF_SECRETS) if self._with_secrets else []
        statuses = self._client.pages(CONFIG_MAPS, self.namespace, labels=selector(STATUS))
        self._maps = {o["metadata"]["name"]: o for o in maps}
        self._statuses = {(o["metadata"].get("annotations") or {}).get(STATUS_OF, ""): o for o in statuses}
        loaded = self._records.feed(maps, secrets, statuses=statuses, customs=self._customs())
        if self._keeper:
            self._remember()
        return loaded

    def get(self, kind: str, name: str) -> Resource | None:
        located = self.load().resources.get((kind, name))
        return located.resource if located is not None else None

    def of_kind(self, kind: str) -> list[Resource]:
        return [located.resource for (k, _), located in sorted(self.load().resources.items()) if k == kind]

    def statuses(self) -> dict[tuple[str, str], StatusRecord]:
        """What the controller says, by kind and name, as of the last ``load``."""
        return {(r.kind, r.name): r for value in self._statuses.values() for r in statuses_in(value)}

    # ---- Writing -------------------------------------------------------------------------------------------------------------------------

    def put(self, resource: Resource, *, loaded: Loaded | None = None) -> str:
        """Write one resource, in the ConfigMap where it stands, else in ``van.KIND.NAME``. Returns where, like ``ConfigMap/NAME``.

        ``loaded``: what ``load`` said last, for whoever writes many.
        """
        located = (loaded or self.load()).resources.get((resource.kind, resource.name))
        if isinstance(resource, Secret):
            value = resource_object(resource, owners=self._owners)
            apply_beside(self._client, SECRETS, self.namespace, value, force=self._force)
            return f"Secret/{resource.name}"
        if located is not None:
            name, key = self._own(located, "changed")
            value = resource_object(resource, name=name, key=key, owners=self._owners)
        else:
            name = resource_map(resource.kind, resource.name)
            others = [r for r in self._records.resources_in(name) if (r.kind, r.name) != (resource.kind, resource.name)]
            if others:
                raise ConfigError(f"ConfigMap/{name} holds {others[0].ref}", hint="rename that ConfigMap")
            value = resource_object(resource, name=name, owners=self._owners)
        apply_beside(self._client, CONFIG_MAPS, self.namespace, value, force=self._force)
        return f"ConfigMap/{name}"

    def delete(self, kind: str, name: str) -> bool:
        """Remove one resource, with its status. Whether it was there."""
        located = self.load().resources.get((kind, name))
        if located is None:
            return False
        if kind == Secret.KIND:
            return self._gone(SECRETS, name)
        source, _ = self._own(located, "deleted")
        done = self._gone(CONFIG_MAPS, source, uid=str(self._maps[source]["metadata"]["uid"]))
        self._gone(CONFIG_MAPS, status_map(source))
        return done

    def put_status(self, records: Iterable[StatusRecord]) -> None:
        """Write what is said of these resources; of others in the same ConfigMaps what was said stays. As of the last ``load``."""
        of_source: dict[str, dict[tuple[str, str], StatusRecord]] = {}
        where = {(r.kind, r.name): source for source in self._records.sources() for r in self._records.resources_in(source)}
        for record in records:
            if (source := where.get((record.kind, record.name))) is not None:
                of_source.setdefault(source, {})[record.kind, record.name] = record
        for source, said in of_source.items():
            before = {(r.kind, r.name): r for r in statuses_in(self._statuses.get(source, {}))}
            self._write_status(source, {**before, **said}.values())

    # ---- Inside --------------------------------------------------------------------------------------------------------------------------

    def _customs(self) -> Iterable[Object]:
        """Custom resources, of a home that has them too."""
        return ()

    def _custom_stamps(self) -> dict[str, tuple[str, str]]:
        return {}

    def _selected(self) -> list[tuple[Kind, str]]:
        return [(CONFIG_MAPS, selector(RESOURCE))] + ([(SECRETS, _OF_SECRETS)] if self._with_secrets else [])

    def _own(self, located: Located, what: str) -> tuple[str, str]:
        """The ConfigMap and the key in which a resource stands alone."""
        where, _, key = located.file.partition(": ")
        source = where.removeprefix("ConfigMap/")
        if self._records.shared(source) > 1:
            raise ConfigError(
                f"{located.resource.ref} cannot be {what} here: it is in {where} together with others",
                hint=f"edit it: kubectl edit configmap {source} -n {self.namespace}; the running site notices",
            )
        return source, key

    def _gone(self, kind: Kind, name: str, *, uid: str = "") -> bool:
        try:
            self._client.call(delete(kind, self.namespace, name, uid=uid))
        except NotFound:
            return False
        return True

    def _remember(self) -> None:
        """Best effort: without it a broken ConfigMap merely has no last good form after a restart."""
        for source in self._records.sources():
            data = self._statuses.get(source, {}).get("data") or {}
            kept = {key.removeprefix("good."): text for key, text in data.items() if key.startswith("good.")}
            if kept != self._records.good_texts(source):
                try:
                    self._write_status(source, statuses_in(self._statuses.get(source, {})))
                except KubeError:
                    return

    def _write_status(self, source: str, records: Iterable[StatusRecord]) -> None:
        present = {(r.kind, r.name) for r in self._records.resources_in(source)}
        kept = [r for r in records if (r.kind, r.name) in present]
        value = status_object(self._maps[source], kept, self._records.good_texts(source))
        self._statuses[source] = self._client.call(apply(CONFIG_MAPS, self.namespace, value))
