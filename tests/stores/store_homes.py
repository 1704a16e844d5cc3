"""The homes of resources, and the hand of a person who edits in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from vanrouter.resources import Resource
from vanrouter.stores import Loaded, ResourceFiles


class Store(Protocol):
    """What every home promises."""

    def changed(self) -> bool: ...
    def load(self) -> Loaded: ...
    def put(self, resource: Resource) -> object: ...
    def delete(self, kind: str, name: str) -> bool: ...
    def get(self, kind: str, name: str) -> Resource | None: ...
    def of_kind(self, kind: str) -> list[Resource]: ...


class Home:
    """A home, and the hand of a person who edits in it. A place is one text: a file, or a ConfigMap with one key."""

    store: Store

    def again(self) -> Store:
        """The next process on the same home."""
        raise NotImplementedError

    def write(self, place: str, text: str) -> None:
        raise NotImplementedError

    def remove(self, place: str) -> None:
        raise NotImplementedError

    def place_of(self, kind: str, name: str) -> str:
        raise NotImplementedError


class FileHome(Home):
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "resources").mkdir()
        self.store = self.again()

    def again(self) -> Store:
        return ResourceFiles(self.directory / "resources", last_good=self.directory / "last-good")

    def write(self, place: str, text: str) -> None:
        (self.directory / "resources" / f"{place}.yaml").write_text(text)

    def remove(self, place: str) -> None:
        (self.directory / "resources" / f"{place}.yaml").unlink()

    def place_of(self, kind: str, name: str) -> str:
        return f"{kind}-{name}"


class ConfigMapHome(Home):
    def __init__(self, client: Any, namespace: str) -> None:
        self.client, self.namespace = client, namespace
        self.store = self.again()

    def again(self) -> Store:
        from vanrouter.kube.home import ResourceMaps

        return ResourceMaps(self.client, self.namespace, keeper=True)

    def write(self, place: str, text: str) -> None:
        from vanrouter.kube.calls import create, merge_patch
        from vanrouter.kube.errors import AlreadyExists
        from vanrouter.kube.kinds import CONFIG_MAPS

        value = {"metadata": {"name": place, "labels": {"vanrouter.io/type": "resource"}}, "data": {"resource.yaml": text}}
        try:
            self.client.call(create(CONFIG_MAPS, self.namespace, value))
        except AlreadyExists:
            self.client.call(merge_patch(CONFIG_MAPS, self.namespace, place, {"data": value["data"]}))

    def remove(self, place: str) -> None:
        from vanrouter.kube.calls import delete
        from vanrouter.kube.kinds import CONFIG_MAPS

        self.client.call(delete(CONFIG_MAPS, self.namespace, place))

    def place_of(self, kind: str, name: str) -> str:
        from vanrouter.kube.names import resource_map

        return resource_map(kind, name)
