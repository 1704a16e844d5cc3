"""
What keeps our Deployments and pods from being ready, in words for a person. Pure: objects in, troubles out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from vanrouter.kube.calls import Object
from vanrouter.kube.manifests import CONTROLLER, CONTROLLER_VARIABLE, ROUTER
from vanrouter.kube.names import COMPONENT

__all__ = ["Trouble", "central_controller", "install_troubles", "is_rolled_out", "missing", "pod_troubles", "rollout_troubles"]

_IMAGE: Final = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_LONGEST: Final = 300


class Trouble(NamedTuple):
    what: str
    why: str
    next: str


def central_controller(deployments: Iterable[Object]) -> str:
    """Where the controller of the site is, HOST:PORT, when it is the one of the whole cluster; empty: the site has its own."""
    known = {_name(value): value for value in deployments}
    if CONTROLLER in known or ROUTER not in known:
        return ""
    containers = _dict(_dict(_dict(known[ROUTER], "spec"), "template"), "spec").get("containers") or ()
    env = [e for c in containers for e in c.get("env") or () if isinstance(e, dict)]
    return next((str(e.get("value") or "") for e in env if e.get("name") == CONTROLLER_VARIABLE), "")


def is_rolled_out(deployment: Object) -> bool:
    """All of its pods are those of its present form, and ready."""
    return not missing(deployment)


def missing(deployment: Object) -> str:
    """What a Deployment still lacks, else ""."""
    wanted = _dict(deployment, "spec").get("replicas", 1)
    status, metadata = _dict(deployment, "status"), _dict(deployment, "metadata")
    if status.get("observedGeneration", 0) < metadata.get("generation", 0):
        return f"{metadata.get('name')} has not been taken up by the cluster"
    for field, word in (("updatedReplicas", "new"), ("readyReplicas", "ready")):
        if status.get(field, 0) < wanted:
            return f"{metadata.get('name')}: {status.get(field, 0)} of {wanted} pods are {word}"
    return f"{metadata.get('name')}: old pods end" if status.get("replicas", 0) > wanted else ""


def rollout_troubles(deployment: Object) -> Iterator[Trouble]:
    """Pods that could not even be created: a quota, a policy."""
    for condition in _dict(deployment, "status").get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            quota = "exceeded quota" in (message := _short(condition.get("message")))
            todo = "ask for more, or make room: kubectl describe quota" if quota else "kubectl describe replicasets"
            yield Trouble(f"deployment {_name(deployment)}", message, todo)


def install_troubles(deployments: Sequence[Object], pods: Iterable[Object]) -> Iterator[Trouble]:
    """What is wrong with our own Deployments and pods.

    A pod that has failed (an eviction leaves it there for hours) is no trouble once another one does its work.
    """
    known = {_name(value): value for value in deployments}
    for name in (ROUTER,) if central_controller(deployments) else (CONTROLLER, ROUTER):
        if name not in known:
            yield Trouble(
                f"deployment {name}", "it is not there: somebody deleted it, or the install ended before it", "make it again: van update"
            )
        elif _dict(known[name], "spec").get("replicas", 1) == 0:
            yield Trouble(f"deployment {name}", "it is scaled to 0: no pod of it runs", "start it again: van update")
        else:
            yield from rollout_troubles(known[name])
    whole = {name for name, value in known.items() if is_rolled_out(value)}
    for pod in pods:
        component = (_dict(pod, "metadata").get("labels") or {}).get(COMPONENT)
        if not (_dict(pod, "status").get("phase") == "Failed" and f"van-{component}" in whole):
            yield from pod_troubles(pod)


def pod_troubles(pod: Object) -> Iterator[Trouble]:
    """Why a pod is not ready; nothing of one that is, that only starts, or that is being deleted."""
    metadata, status = _dict(pod, "metadata"), _dict(pod, "status")
    if metadata.get("deletionTimestamp") or _is_ready(status):
        return
    what = f"pod {metadata.get('name')}"
    if status.get("phase") == "Failed":
        yield Trouble(
            what,
            _short(status.get("message")) or f"it has failed: {status.get('reason') or 'no reason is given'}",
            f"kubectl describe {what}",
        )
        return
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield Trouble(
                what, f"no node takes it: {_short(condition.get('message'))}", "make room, or change its requests or node selector"
            )
            return
    for container in _containers(status):
        if trouble := _container(what, str(metadata.get("name")), container):
            yield trouble
            return


def _container(what: str, pod: str, container: dict[str, Any]) -> Trouble | None:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason, message = str(waiting.get("reason") or ""), _short(waiting.get("message"))
    ended = (container.get("lastState") or {}).get("terminated") or (container.get("state") or {}).get("terminated") or {}
    if reason in _IMAGE:
        said = f": {message}" if message else ""
        return Trouble(what, f"image {container.get('image')}: {reason}{said}", "name one that the nodes can pull: --image, VAN_IMAGE")
    if reason == "CrashLoopBackOff" or (ended and not container.get("ready")):
        why = "out of memory" if ended.get("reason") == "OOMKilled" else f"exit code {ended.get('exitCode', '?')}"
        return Trouble(what, f"its program ends ({why}), {container.get('restartCount', 0)} restarts", f"kubectl logs {pod} --previous")
    if reason not in ("", "ContainerCreating", "PodInitializing"):
        return Trouble(what, f"{reason}: {message}" if message else reason, f"kubectl describe pod {pod}")
    return None


def _containers(status: Object) -> Iterable[dict[str, Any]]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _is_ready(status: Object) -> bool:
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())


def _name(value: Object) -> str:
    return str(_dict(value, "metadata").get("name"))


def _dict(value: Object, key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _short(text: object) -> str:
    line = " ".join(str(text or "").split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
