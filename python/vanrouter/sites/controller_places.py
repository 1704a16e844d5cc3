"""
Where a router finds the controller of its namespace. Pure.

The addresses of its pods, as the watch of pods brings them, need neither DNS nor a node that knows the Service. Then the Service, by the
address that the kubelet tells to pods which are younger than it, and by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from vanrouter.kube.channel import CONTROL_PORT
from vanrouter.kube.controller_link import Place
from vanrouter.kube.names import CONTROLLER_LABELS
from vanrouter.kube.pods import Pod

__all__ = ["CONTROLLER", "controller_places"]

CONTROLLER: Final = "van-controller"
_TOLD: Final = "VAN_CONTROLLER_SERVICE_"


def controller_places(pods: Iterable[Pod], environ: Mapping[str, str], named: Place) -> list[Place]:
    """The likeliest first, none twice."""
    here = [pod for pod in pods if CONTROLLER_LABELS.items() <= pod.labels.items() and pod.address and not pod.leaving]
    found = [(pod.address, CONTROL_PORT) for pod in sorted(here, key=lambda pod: (not pod.ready, pod.name))]
    host, port = environ.get(f"{_TOLD}HOST", ""), environ.get(f"{_TOLD}PORT", "")
    if host and port.isdecimal():
        found.append((host, int(port)))
    return list(dict.fromkeys([*found, named]))
