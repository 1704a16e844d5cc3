"""
The controller as a process of its own: logging, signals, the exit code. What ``vanrouter controller`` is.
"""

from __future__ import annotations

import random
import signal
import socket

import trio

from vanrouter.controller.leading import lead
from vanrouter.controller.run import Controller
from vanrouter.kube.access import Access
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.client import KubeClient
from vanrouter.kube.kubeconfig import load_access
from vanrouter.kube.manifests import controller_address
from vanrouter.logs import set_up

__all__ = ["run_controller"]


def run_controller(
    *, namespace: str | None, kubeconfig: str | None, context: str | None, port: int, lease: bool = False, cluster: str = ""
) -> int:
    """Until the Site is gone or a signal ends it: nothing waits for a controller, so it ends at once. Raises ConfigError, StoreError.

    ``cluster``: serve all namespaces, with this image for routers whose Site names none.
    """
    set_up()
    access = load_access(kubeconfig=kubeconfig, context=context, namespace=namespace)
    trio.run(_main, access, port, lease, cluster)
    return 0


async def _main(access: Access, port: int, lease: bool, cluster: str) -> None:
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_on_signal, nursery.cancel_scope)
        try:
            with BlockingClient(access) as blocking:
                async with KubeClient(access) as client:
                    await _run(client, blocking, access.namespace, port, lease=lease, cluster=cluster)
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        while isinstance(failure, ExceptionGroup):
            failure = failure.exceptions[0]
        raise failure


async def _run(client: KubeClient, blocking: BlockingClient, namespace: str, port: int, *, lease: bool, cluster: str) -> None:
    async def run() -> None:
        if cluster:
            from vanrouter.controller.cluster import ClusterController  # what a controller of one namespace does not need

            name, address = f"{namespace}/{socket.gethostname()}", controller_address(namespace)
            await ClusterController(client, blocking, image=cluster, address=address, port=port, name=name).run()
        await Controller(client, blocking, namespace, port=port).run()

    if not lease:
        await run()
        return
    rng = random.SystemRandom()
    name = f"{socket.gethostname()}_{rng.getrandbits(64):016x}"  # a container that starts again in its pod is another one
    await lead(client, namespace, name, run, port=port, rng=rng)


async def _end_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return
