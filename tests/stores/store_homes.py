"""The homes of resources, and the hand of a person who edits in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import yaml
from custom_resources import install_definitions

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
    broken = "kind: Listener\nspec: [\n  host: }"  # what a person may leave in the place of a Listener
    what_is_wrong = "line 3"  # where in it
    never_good = ("8080", "80800", "spec.port")  # what to write instead, in the text of a Listener, and what is then wrong

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


class CustomHome(ConfigMapHome):
    """What stands alone under its own name is a custom resource; other texts are ConfigMaps: both count."""

    broken = "host: 1.2.3"  # the schema takes it, and it is no address
    what_is_wrong = "spec.host"
    never_good = ("127.0.0.1", "1.2.3", "spec.host")

    def __init__(self, client: Any, namespace: str) -> None:
        from vanrouter.kube.crds import CUSTOM_KINDS

        self.kinds = CUSTOM_KINDS
        install_definitions(client)
        super().__init__(client, namespace)

    def again(self) -> Store:
        from vanrouter.kube.custom_home import ResourceObjects

        return ResourceObjects(self.client, self.namespace, keeper=True, prefer_custom=True)

    def write(self, place: str, text: str) -> None:
        from vanrouter.kube.calls import apply

        value = self._as_custom(place, text)
        if value is not None:
            self.client.call(apply(self.kinds[value["kind"]], self.namespace, value))
        elif place == "web" and text in ("[", self.broken):
            self.client.call(apply(self.kinds["Listener"], self.namespace, self._as_custom(place, LISTENER) or {}))
        elif place == "web" and text == "":
            self.remove(place)
        else:
            super().write(place, text)

    def _as_custom(self, place: str, text: str) -> Any:
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError):
            return None
        if isinstance(value, dict) and str(value.get("kind")) in self.kinds and (value.get("metadata") or {}).get("name") == place:
            return value
        return None

    def remove(self, place: str) -> None:
        from vanrouter.kube.calls import delete
        from vanrouter.kube.errors import NotFound

        try:
            self.client.call(delete(self.kinds["Listener"], self.namespace, place))
        except NotFound:
            super().remove(place)

    def place_of(self, kind: str, name: str) -> str:
        from vanrouter.kube.custom import custom_name

        return custom_name(name)


LISTENER = """
apiVersion: vanrouter.io/v1alpha1
kind: Listener
metadata: {name: web}
spec: {routingKey: web, host: 1.2.3, port: 8080}
"""
