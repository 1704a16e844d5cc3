"""A namespace of a real API server with its controller and one router in this process: what a GitOps tool applies is all they have."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from site_world import FAST, free_port

from vanrouter.controller.run import Controller
from vanrouter.kube.access import Access
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import apply
from vanrouter.kube.client import KubeClient
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS
from vanrouter.sites.run_in_pod import run_in_pod
from vanrouter.stores import SiteHome

__all__ = ["SITE", "Space", "space"]


class Space:
    """A namespace to which a GitOps tool applies objects."""

    def __init__(self, access: Access, name: str, root: Path, nursery: trio.Nursery, plane: str) -> None:
        self.access = Access(**{**vars(access), "namespace": name})
        self.name, self.nursery, self.plane = name, nursery, plane
        self.home = SiteHome(root / "pod")
        self.client = BlockingClient(self.access)

    async def apply(self, value: dict[str, Any]) -> None:
        kind = SECRETS if value["kind"] == "Secret" else CONFIG_MAPS
        await trio.to_thread.run_sync(lambda: self.client.call(apply(kind, self.name, value)))

    async def run_controller(self, *, task_status: trio.TaskStatus[Controller] = trio.TASK_STATUS_IGNORED) -> None:
        async with KubeClient(self.access) as client, trio.open_nursery() as nursery:
            controller = Controller(client, self.client, self.name, port=0, name="c-0")

            class Served:
                def started(self, _value: None = None) -> None:
                    task_status.started(controller)

            await controller.run(task_status=Served())
            nursery.cancel_scope.cancel()

    async def run_router(self, controller: Controller, *, task_status: trio.TaskStatus[Any]) -> None:
        run = functools.partial(run_in_pod, self.home.directory, self.access, pod="van-router-0", controller=("127.0.0.1", controller.port))
        await run(link_port=free_port(), any_host="127.0.0.1", plane=self.plane, timing=FAST, task_status=task_status)


@pytest.fixture
def space(cluster: Any, namespace: str, tmp_path: Path, nursery: trio.Nursery, plane: str) -> Iterator[Space]:
    made = Space(cluster, namespace, tmp_path, nursery, plane)
    with made.client:
        yield made


SITE = """
apiVersion: v1
kind: ConfigMap
metadata: {name: van.site.south, labels: {vanrouter.io/type: resource}}
data:
  resource.yaml: |
    apiVersion: skupper.io/v2alpha1
    kind: Site
    metadata: {name: south}
    spec: {linkAccess: none}
"""
