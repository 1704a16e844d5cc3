"""
The controller as a process of its own: logging, signals, the exit code. What ``vanrouter controller`` is.
"""

from __future__ import annotations

import signal

import trio

from vanrouter.controller.run import Controller
from vanrouter.kube.access import Access
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.client import KubeClient
from vanrouter.kube.kubeconfig import load_access
from vanrouter.logs import set_up

__all__ = ["run_controller"]


def run_controller(*, namespace: str | None, kubeconfig: str | None, context: str | None, port: int) -> int:
    """Until the Site is gone or a signal ends it: nothing waits for a controller, so it ends at once. Raises ConfigError, StoreError."""
    set_up()
    access = load_access(kubeconfig=kubeconfig, context=context, namespace=namespace)
    trio.run(_main, access, port)
    return 0


async def _main(access: Access, port: int) -> None:
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_on_signal, nursery.cancel_scope)
        try:
            with BlockingClient(access) as blocking:
                async with KubeClient(access) as client:
                    await Controller(client, blocking, access.namespace, port=port).run()
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        while isinstance(failure, ExceptionGroup):
            failure = failure.exceptions[0]
        raise failure


async def _end_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return
