"""
What ``van doctor`` looks at in a namespace: the cluster, rights, objects, pods, controller and routers, links, services, NetworkPolicies.

Each step has its own verdict: one that cannot be looked at (a right is missing) is skipped and said, and the next one goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from vanrouter import __version__
from vanrouter.cli import entrance
from vanrouter.cli.base import Invocation
from vanrouter.cli.diagnosis import Finding, about_links, about_services, about_site, problems_in, sum_up
from vanrouter.cli.examine_host import access_hops
from vanrouter.cli.install import may_give_custom_rights
from vanrouter.cli.namespace import OURS, NamespaceSite
from vanrouter.cli.policy_needs import flows_of
from vanrouter.cli.rights_held import lacking
from vanrouter.errors import NotReady, VanrouterError
from vanrouter.kube.calls import Object
from vanrouter.kube.drift import drifted
from vanrouter.kube.entrances import front_rules
from vanrouter.kube.errors import Forbidden
from vanrouter.kube.kinds import NETWORK_POLICIES, PODS
from vanrouter.kube.manifests import manifests
from vanrouter.kube.names import CONTROLLER_LABELS
from vanrouter.kube.plan import Plan, built_in_image, plan
from vanrouter.kube.pods import keep_pod
from vanrouter.kube.policies import deniers
from vanrouter.kube.rights import CENTRAL_OWNER_RULES, LEASE_INSTALLER_RULES, needed, rights_in, role_granting
from vanrouter.kube.rollout import central_controller, install_troubles, missing

__all__ = ["examine_namespace"]

ANSWER_SECONDS: Final = 6.0
MOST_PATHS: Final = 3
Findings = Iterator[Finding]


def examine_namespace(invocation: Invocation, timeout: float) -> Findings:
    try:
        site = NamespaceSite(invocation, timeout)
    except VanrouterError as error:
        yield Finding("kubeconfig", "failed", str(error), error.hint)
        return
    yield Finding("kubeconfig", "ok", f"{site.access.source}, namespace {site.namespace}")
    try:
        site.require_namespace()
        site.require()
    except VanrouterError as error:
        yield Finding("cluster", "failed", str(error), error.hint)
        return
    yield Finding("cluster", "ok", f"{site.access.server} answers")
    yield from _Examination(site).steps()


class _Examination:
    """Of one site. What one step found is there for the next ones."""

    def __init__(self, site: NamespaceSite) -> None:
        self.site = site
        self.resource: Any = None
        self.plan: Plan | None = None
        self.pods: list[Object] = []
        self.told: list[Finding] = []
        self.status: dict[str, Any] | None = None
        self.central = central_controller(site.deployments())  # where the controller is, if not here

    def steps(self) -> Findings:
        yield from _step("resources", self._resources)
        yield from _step("rights", self._rights)
        yield from _step("objects", self._objects)
        yield from _step("pods", self._pods)
        yield from _step("controller", self._controller)
        yield from _step("router", self._routers)
        yield from _step("network policies", self._policies)

    def _resources(self) -> Findings:
        loaded = self.site.resources.load()
        self.resource = next((x.resource for x in loaded.resources.values() if x.resource.kind == "Site"), None)
        wrong = [Finding(p.path, "failed", p.message, p.hint) for p in loaded.problems]
        if self.resource is None and not wrong:
            wrong = [Finding("resources", "failed", "there is no Site among them", self.site.invocation.van("init"))]
        if self.resource is not None:
            routes = entrance.has_routes(self.site, self.resource)
            self.plan = plan(self.resource, image=built_in_image(__version__), routes=routes)
        self.told += wrong
        yield from sum_up("resources", wrong, f"{len(loaded.resources)} can be read")

    def _rights(self) -> Findings:
        more = list(front_rules(self.plan.entrance)) if self.plan is not None else []
        if self.plan is not None and self.plan.controllers > 1:
            more += LEASE_INSTALLER_RULES
        wanted = rights_in(CENTRAL_OWNER_RULES) if self.central else needed(more)
        if missing_rights := lacking(self.site, wanted):
            said = f"you may not change this site, for you may not: {', '.join(map(str, missing_rights))}"
            todo = "where you should, this Role grants it:\n" + role_granting(missing_rights, self.site.namespace)
            yield Finding("rights", "warning", said, todo)
        else:
            yield Finding("rights", "ok", f"you hold all {len(wanted)} that init, update and delete need")

    def _objects(self) -> Findings:
        if self.resource is None or self.plan is None:
            yield Finding("objects", "skipped", "without a Site it is not known what there should be")
            return
        if self.central:
            yield Finding("objects", "ok", f"the controller of the cluster keeps them ({self.central})")
            return
        made = manifests(self.resource, self.plan, self.site.namespace, root=self.site.root(), custom=may_give_custom_rights(self.site))
        todo = f"bring them back: {self.site.invocation.van('update')}"
        wrong = []
        for manifest in made[1:]:
            known = self.site.get(manifest.kind, manifest.name)
            if known is None:
                wrong.append(
                    Finding(
                        f"object {manifest.ref}", "failed", "it is not there: somebody deleted it, or the install ended before it", todo
                    )
                )
            elif paths := drifted(manifest.value, known):
                more = f" and {len(paths) - MOST_PATHS} more" if len(paths) > MOST_PATHS else ""
                said = f"somebody changed it, or another version of van made it: {', '.join(paths[:MOST_PATHS])}{more}"
                wrong.append(Finding(f"object {manifest.ref}", "warning", said, todo))
        yield from sum_up("objects", wrong, f"all {len(made)} are there, as they were made")

    def _pods(self) -> Findings:
        self.pods = self.site.objects(PODS, labels=OURS)
        deployments = self.site.deployments()
        troubles = install_troubles(deployments, self.pods)
        wrong = [Finding(t.what, "failed", t.why, t.next) for t in troubles]
        if not wrong:
            wrong = [Finding("pods", "failed", said, "kubectl get pods") for said in map(missing, deployments) if said]
        yield from sum_up("pods", wrong, f"{len(self.pods)}, all ready")

    def _controller(self) -> Findings:
        """It answers a question, which a router of the site answers in its turn."""
        mine = [pod for value in self.pods if CONTROLLER_LABELS.items() <= (pod := keep_pod(value)).labels.items()]
        if not self.central and not any(pod.ready for pod in mine):
            yield Finding("controller", "failed", "no pod of it is ready, so nobody is asked", "see what is said of its pods")
            return
        self.site.hurry(ANSWER_SECONDS)
        try:
            self.site.call("network")
        except NotReady as error:
            yield Finding("controller", "failed", f"it answers, but {error}", error.hint)
        except VanrouterError as error:
            yield Finding("controller", "failed", str(error), error.hint)
        else:
            yield Finding("controller", "ok", "it answers, and so does a router")
        finally:
            self.site.hurry(None)

    def _routers(self) -> Findings:
        try:
            self.status = self.site.status()
        except NotReady as error:
            yield Finding("status", "failed", str(error), error.hint)
            return
        told = about_site(self.status)
        yield from told
        hops = list(access_hops(self.site, self.status))
        yield from hops
        links, services = about_links(self.status), about_services(self.status)
        yield from links
        yield from services
        pods = [Finding("", "failed", t["message"]) for t in self.site.troubles()]
        yield from problems_in(self.status, [*self.told, *told, *links, *services, *pods])

    def _policies(self) -> Findings:
        policies, pods = self.site.objects(NETWORK_POLICIES), self.site.objects(PODS)
        links = [x.resource for x in self.site.resources.load().resources.values()]
        denied: dict[tuple[str, ...], list[str]] = {}
        edge = self.plan is not None and self.plan.entrance.type == "none"
        for flow in flows_of(links, pods, edge=edge, central=bool(self.central)):
            if names := deniers(policies, flow):
                denied.setdefault(tuple(names), []).append(str(flow))
        wrong = []
        for deniers_of, flows in denied.items():
            which = ", ".join(f"NetworkPolicy/{name}" for name in deniers_of)
            todo = f"let it through: kubectl edit networkpolicy {deniers_of[0]}"
            wrong.append(Finding("network policies", "failed", f"{which} denies {'; '.join(flows)}", todo))
        yield from sum_up("network policies", wrong, f"{len(policies)}, none in the way" if policies else "there is none")


def _step(check: str, look: Callable[[], Findings]) -> Findings:
    try:
        yield from look()
    except Forbidden as error:
        yield Finding(check, "skipped", str(error), error.hint)
    except VanrouterError as error:
        yield Finding(check, "failed", str(error), error.hint)
