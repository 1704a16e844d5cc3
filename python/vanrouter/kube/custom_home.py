"""
The resources of a namespace in both of its homes: labelled ConfigMaps (``home``), and custom resources where the cluster has them.

For threads, with the same promises as every home. Both count; a resource is changed and deleted where it stands. A new one is written as a
custom resource where the caller prefers that, else as a ConfigMap, which needs no right that a namespace's owner may lack.
"""

from __future__ import annotations

from collections.abc import Iterable

from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Object, delete, merge_patch
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.custom import LAST_GOOD, custom_object, custom_stamp, custom_where
from vanrouter.kube.discovery import VERSION_CALL, kinds_in_untrusted
from vanrouter.kube.errors import Forbidden, KubeError, NoSuchKind, NotFound
from vanrouter.kube.home import ResourceMaps
from vanrouter.kube.keeping import apply_beside
from vanrouter.resources import Resource
from vanrouter.stores.resources import Loaded

__all__ = ["ResourceObjects", "custom_sites", "has_custom"]


def has_custom(client: BlockingClient) -> bool:
    """Whether the cluster has definitions of ours."""
    return bool(_kinds(client))


def custom_sites(client: BlockingClient, namespace: str) -> list[Object]:
    """The Sites that are custom resources."""
    sites = CUSTOM_KINDS["Site"]
    try:
        found = client.pages(sites, namespace) if "Site" in _kinds(client) else []
    except (NoSuchKind, Forbidden):
        return []
    return [{**value, "apiVersion": sites.api_version, "kind": sites.kind} for value in found]


def _kinds(client: BlockingClient) -> list[str]:
    try:
        return sorted(kinds_in_untrusted(client.call(VERSION_CALL)))
    except (NoSuchKind, Forbidden):
        return []


class ResourceObjects(ResourceMaps):
    """``prefer_custom``: where a new resource goes."""

    def __init__(
        self,
        client: BlockingClient,
        namespace: str,
        *,
        keeper: bool = False,
        secrets: bool = True,
        owners: tuple[Object, ...] = (),
        prefer_custom: bool = False,
        force: bool = False,
    ) -> None:
        super().__init__(client, namespace, keeper=keeper, secrets=secrets, owners=owners, force=force)
        self._prefer_custom = prefer_custom
        self._kinds: list[str] | None = None  # those that the cluster has and we may list
        self._objects: dict[str, Object] = {}

    # ---- Reading -------------------------------------------------------------------------------------------------------------------------

    def _custom_stamps(self) -> dict[str, tuple[str, str]]:
        return {where: custom_stamp(value) for where, value in self._list(metadata_only=True).items()}

    def _customs(self) -> Iterable[Object]:
        self._objects = self._list()
        return self._objects.values()

    def _list(self, *, metadata_only: bool = False) -> dict[str, Object]:
        if self._kinds is None:
            self._kinds = _kinds(self._client)
        found: dict[str, Object] = {}
        for kind in list(self._kinds):
            try:
                values = self._client.pages(CUSTOM_KINDS[kind], self.namespace, metadata_only=metadata_only)
            except (NoSuchKind, Forbidden):  # gone meanwhile, or not for us: the other home counts
                self._kinds.remove(kind)
                continue
            for value in values:
                value = {**value, "apiVersion": CUSTOM_KINDS[kind].api_version, "kind": kind}  # items of a list of metadata lack it
                found[custom_where(value)] = value
        return found

    # ---- Writing -------------------------------------------------------------------------------------------------------------------------

    def put(self, resource: Resource, *, loaded: Loaded | None = None) -> str:
        """Write one resource, where it stands. Returns where, like ``ConfigMap/NAME`` or ``listeners.vanrouter.io/NAME``."""
        if resource.kind not in CUSTOM_KINDS:
            return super().put(resource, loaded=loaded)
        located = (loaded or self.load()).resources.get((resource.kind, resource.name))
        if located is None and not (self._prefer_custom and resource.kind in (self._kinds or ())):
            return super().put(resource, loaded=loaded)
        if located is not None and located.file not in self._objects:
            return super().put(resource, loaded=loaded)
        value = custom_object(resource, owners=self._owners if located is None else ())
        written = apply_beside(self._client, CUSTOM_KINDS[resource.kind], self.namespace, value, force=self._force)
        return custom_where({**written, "kind": resource.kind})

    def delete(self, kind: str, name: str) -> bool:
        """Remove one resource, with its status. Whether it was there."""
        located = self.load().resources.get((kind, name))
        if located is None or located.file not in self._objects:
            return super().delete(kind, name)
        metadata = self._objects[located.file]["metadata"]
        try:
            self._client.call(delete(CUSTOM_KINDS[kind], self.namespace, metadata["name"], uid=metadata["uid"]))
        except NotFound:
            return False
        return True

    # ---- Inside --------------------------------------------------------------------------------------------------------------------------

    def _remember(self) -> None:
        """Best effort, as there."""
        super()._remember()
        for where, unit in self._records.customs().items():
            value = self._objects[where]
            if unit.good and unit.good != (value.get("status") or {}).get(LAST_GOOD):
                patch = {"metadata": {"uid": value["metadata"]["uid"]}, "status": {LAST_GOOD: unit.good}}
                kind = CUSTOM_KINDS[value["kind"]]
                try:
                    self._client.call(merge_patch(kind, self.namespace, value["metadata"]["name"], patch, subresource="status"))
                except KubeError:
                    return
