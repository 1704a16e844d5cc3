"""
Resources to what is wanted on a host: links, accesses, listeners and connectors, and what of them cannot be done and why. Pure.

What this release cannot do on a host is never ignored: it is a fault with a reason and the next action.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from vanrouter.checks import Check
from vanrouter.errors import ConfigError, VanrouterError
from vanrouter.kube.names import SIBLING
from vanrouter.kube.pods import Pod, labels_that_exist, selected
from vanrouter.messages import ServicePort
from vanrouter.plane import KeyWeight, Strategy
from vanrouter.resources import Connector, Link, Listener, MultiKeyListener, Resource, RouterAccess, Secret, Site
from vanrouter.resources.effects import TLS_ALPN, TLS_SERVER_NAME
from vanrouter.resources.kinds import (
    AccessGrant,
    AccessToken,
    AttachedConnector,
    AttachedConnectorBinding,
    ConnectorSpec,
    HealthCheck,
    MultiKeyListenerSpec,
    SiteSpec,
)
from vanrouter.resources.selectors import Selector, parse_selector
from vanrouter.resources.shapes import parse_host_port
from vanrouter.stores.resources import Key, Located, Problem

__all__ = [
    "EDGE_HINT",
    "Fault",
    "InNamespace",
    "Wanted",
    "WantedAccess",
    "WantedConnector",
    "WantedLink",
    "WantedListener",
    "WantedTls",
    "compute_wanted",
    "multi_key_name",
]

SKUPPER_PORT: Final = 55671
EDGE_HINT: Final = "link this site to interior sites instead, or make it one: remove spec.edge and restart its router"
ANY_HOST: Final = "0.0.0.0"  # noqa: S104 - what `default` means, as with the incumbent


class Fault(msgspec.Struct, frozen=True):
    """Why a resource that is well-formed is not in force."""

    reason: str  # CamelCase
    message: str
    next: str = ""


class WantedLink(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    endpoints: list[tuple[str, int]]
    credential: str  # a credential of the state, or a Secret among the resources
    cost: int
    site_id: str
    verify_host: bool


class WantedAccess(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    host: str
    port: int
    names: list[str]  # under which others reach it; empty: what the host says
    credential: str = ""  # a Secret among the resources; empty: a leaf of our own CA
    admit: list[str] | None = None


class WantedTls(msgspec.Struct, frozen=True, kw_only=True):
    """TLS with applications. One for all targets that a selector chooses."""

    of: Key
    credential: str  # of the state in a pod, else a Secret among the resources
    client_cert: bool = False
    server_name: str = ""
    verify_host: bool = False
    alpn: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the entry in the plane."""
        return f"{self.of[0].lower()}:{self.of[1]}"

    @property
    def shows(self) -> bool:
        return self.of[0] != "Connector" or self.client_cert

    @property
    def trusts(self) -> bool:
        return self.of[0] == "Connector" or self.client_cert


class WantedListener(msgspec.Struct, frozen=True, kw_only=True):
    """Of a Listener or, with ``keys``, of a MultiKeyListener: two kinds in one space of names, see `multi_key_name`."""

    name: str
    routing_key: str = ""
    host: str
    port: int
    strategy: Strategy = "balanced"
    keys: tuple[KeyWeight, ...] = ()
    tls: WantedTls | None = None


class WantedConnector(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    routing_key: str
    host: str
    port: int
    service: ServicePort | None = None
    check: Check = Check()
    of: str = ""  # the Connector whose selector chose this target; empty: it is that Connector itself
    absent: str = ""  # there is no target now, and why
    tls: WantedTls | None = None


class InNamespace(msgspec.Struct, frozen=True, kw_only=True):
    """What resources mean in a pod and not on a host. ``pods`` None: not known yet. ``siblings``: name and address of routers to dial."""

    any_host: str
    link_port: int
    pods: Mapping[str, Pod] | None
    siblings: Mapping[str, str] = {}
    site_id: str = ""


class Wanted(msgspec.Struct, kw_only=True):
    site: Site | None = None
    links: dict[str, WantedLink] = {}
    accesses: dict[str, WantedAccess] = {}
    listeners: dict[str, WantedListener] = {}
    connectors: dict[str, WantedConnector] = {}
    tokens: dict[str, Secret] = {}  # labelled Secrets, and AccessTokens as such: to be redeemed; by Kind/name
    secrets: dict[str, Secret] = {}  # credentials that a user gave
    faults: dict[Key, Fault] = {}
    problems: list[Problem] = []
    specs: dict[Key, Resource] = {}

    @property
    def site_spec(self) -> SiteSpec:
        return self.site.spec if self.site is not None else SiteSpec()


def compute_wanted(
    resources: Mapping[Key, Located], *, edge: bool | None = None, within: InNamespace | None = None, site: str = ""
) -> Wanted:
    """``edge``: what the router is for its life, whatever the Site says by now. ``within``: the namespace, where the router is in a pod.

    ``site``: of several Sites the one that counts; else the first by name.
    """
    wanted = Wanted(specs={key: located.resource for key, located in resources.items()})
    for (kind, name), located in sorted(resources.items(), key=lambda item: (item[0][0], item[0] != ("Site", site), item[0][1])):
        resource = located.resource
        match resource:
            case Site():
                _site(wanted, resource, located.file, within)
            case Link():
                _link(wanted, resource)
            case RouterAccess():
                if within is None:  # in a pod there is one port, and the controller makes the ways to it
                    _router_access(wanted, resource)
            case Listener():
                _listener(wanted, resource, within)
            case Connector():
                _connector(wanted, resource, within)
            case MultiKeyListener():
                _multi_key_listener(wanted, resource)
            case Secret():
                if resource.is_token:
                    wanted.tokens[resource.ref] = resource
                else:
                    wanted.secrets[name] = resource
            case AccessToken() if within is None:
                _access_token(wanted, resource)
            case AccessGrant() | AccessToken() | AttachedConnector() | AttachedConnectorBinding() if within is not None:
                pass  # the controller's business
            case _:
                wanted.problems.append(_unsupported(kind, name, located.file))
    if within is not None:
        _in_pod(wanted, within)
    if within is None and (wanted.site_spec.edge if edge is None else edge):
        _no_access_at_an_edge(wanted)
    return wanted


def _in_pod(wanted: Wanted, within: InNamespace) -> None:
    """One link access, which serves the kubelet's probes too; and links with the other routers of the site."""
    wanted.accesses["default"] = WantedAccess(name="default", host=within.any_host, port=within.link_port, names=[])
    for pod, address in within.siblings.items():
        wanted.links[f"{SIBLING}{pod}"[:63]] = WantedLink(
            name=f"{SIBLING}{pod}"[:63],
            endpoints=[(address, within.link_port)],
            credential="",
            cost=1,
            site_id=within.site_id,
            verify_host=False,
        )


def _no_access_at_an_edge(wanted: Wanted) -> None:
    """An edge is a leaf: it dials, and nobody dials it."""
    for name in wanted.accesses:
        where = "spec.linkAccess" if name == "default" else f"RouterAccess {name}"
        text = f"{where} is not in force: this is an edge site, and others do not link to an edge"
        wanted.problems.append(Problem(f"Site: {where}", text, EDGE_HINT))
    wanted.accesses.clear()


def _site(wanted: Wanted, site: Site, file: str, within: InNamespace | None) -> None:
    if wanted.site is not None:
        message = f"{site.ref} in {file} is not in force: this site is {wanted.site.name}"
        wanted.problems.append(Problem(f"{site.ref}: metadata.name", message, "a directory is one site: remove one of them"))
        return
    wanted.site = site
    if within is not None:
        return
    try:
        access = _link_access(site.spec.link_access)
    except ConfigError as exc:
        wanted.problems.append(Problem(f"{site.ref}: spec.linkAccess", str(exc), exc.hint))
        return
    if access is not None:
        wanted.accesses["default"] = access
    if site.spec.ha:
        text = "spec.ha is not supported on a host by this release; the site runs with one router"
        wanted.problems.append(Problem(f"{site.ref}: spec.ha", text, "remove spec.ha"))


def _link_access(text: str) -> WantedAccess | None:
    if text in ("", "none"):
        return None
    if text == "default":
        return WantedAccess(name="default", host=ANY_HOST, port=SKUPPER_PORT, names=[])
    if ":" not in text:
        raise ConfigError(f"{text!r} is a kind of access on Kubernetes; this is a host", hint="write host:port, for example 0.0.0.0:7000")
    host, port = parse_host_port(text)
    return WantedAccess(name="default", host=host, port=port, names=[])


def _link(wanted: Wanted, link: Link) -> None:
    if "proxy-configuration" in link.spec.settings:
        wanted.faults["Link", link.name] = Fault(
            "NotSupported", "links through an HTTP proxy are not supported by this release", "remove spec.settings.proxy-configuration"
        )
        return
    wanted.links[link.name] = WantedLink(
        name=link.name,
        endpoints=[(e.host, e.port) for e in link.endpoints],
        credential=link.spec.tls_credentials or link.name,
        cost=link.spec.cost,
        site_id=link.spec.site_id,
        verify_host=link.spec.verify_host,
    )


def _router_access(wanted: Wanted, access: RouterAccess) -> None:
    """The incumbent has a port per role; here any port does for every role."""
    spec = access.spec
    for port in dict.fromkeys(role.port for role in spec.roles if role.name != "normal"):
        name = access.name if port == spec.roles[0].port else f"{access.name}-{port}"
        wanted.accesses[name] = WantedAccess(
            name=name,
            host=spec.bind_host or ANY_HOST,
            port=port,
            names=list(spec.subject_alternative_names),
            credential="" if spec.generate_tls_credentials else spec.tls_credentials,
            admit=spec.admit,
        )


def _listener(wanted: Wanted, listener: Listener, within: InNamespace | None) -> None:
    spec = listener.spec
    if spec.expose_pods_by_name and within is None:
        wanted.faults["Listener", listener.name] = Fault("NotSupported", "there are no pods on a host", "remove spec.exposePodsByName")
    else:
        wanted.listeners[listener.name] = WantedListener(
            name=listener.name,
            routing_key=spec.routing_key,
            host=spec.host,
            port=spec.port,
            strategy=spec.strategy,
            tls=_tls(listener),
        )
        if spec.expose_pods_by_name and not wanted.site_spec.service_sync:
            text = "pods get no listeners of their own while service sync is off; the listener itself serves all of them"
            todo = f"write a listener for each pod, with the routing key {spec.routing_key}.POD, or turn service sync on"
            wanted.problems.append(Problem(f"{listener.ref}: spec.exposePodsByName", text, todo))


def multi_key_name(name: str) -> str:
    """What a MultiKeyListener is called among the listeners: no Listener, and nothing that service sync makes, has such a name."""
    return f"multikeylistener/{name}"


def _multi_key_listener(wanted: Wanted, listener: MultiKeyListener) -> None:
    spec = listener.spec
    if spec.require_client_cert and not spec.tls_credentials:
        todo = "name a Secret in spec.tlsCredentials, or remove spec.requireClientCert to listen without TLS"
        wanted.faults["MultiKeyListener", listener.name] = Fault("NoCredential", "client certificates are for TLS, and it has none", todo)
        return
    strategy: Strategy
    if spec.strategy.priority is not None:
        strategy, keys = "priority", [KeyWeight(key) for key in spec.strategy.priority.routing_keys]
    else:
        weights = spec.strategy.weighted.routing_keys if spec.strategy.weighted is not None else {}
        strategy, keys = "weighted", [KeyWeight(key, weight) for key, weight in sorted(weights.items())]
    name = multi_key_name(listener.name)
    tls = _tls(listener)
    wanted.listeners[name] = WantedListener(name=name, host=spec.host, port=spec.port, strategy=strategy, keys=tuple(keys), tls=tls)


def _connector(wanted: Wanted, connector: Connector, within: InNamespace | None) -> None:
    spec = connector.spec
    key = ("Connector", connector.name)
    if spec.selector and within is None:
        wanted.faults[key] = Fault("NotSupported", "a selector chooses pods, and there are none on a host", "set spec.host instead")
    elif spec.use_client_cert and not spec.tls_credentials:
        todo = "name a Secret in spec.tlsCredentials, or remove spec.useClientCert to connect without TLS"
        wanted.faults[key] = Fault("NoCredential", "a client certificate is for TLS, and it has none", todo)
    else:
        service: ServicePort | None = None
        if spec.expose is not None:
            address = spec.expose.address or spec.routing_key
            service = ServicePort(address=address, port=spec.expose.port, protocol=spec.expose.protocol)
        one = WantedConnector(
            name=connector.name,
            routing_key=spec.routing_key,
            host=spec.host,
            port=spec.port,
            service=service,
            check=(spec.health_check or HealthCheck()).resolve(),
            tls=_tls(connector),
        )
        if spec.selector and within is not None:
            wanted.connectors |= _targets(one, parse_selector(spec.selector), within.pods, include_not_ready=spec.include_not_ready_pods)
        else:
            wanted.connectors[connector.name] = one


def _tls(of: Listener | MultiKeyListener | Connector) -> WantedTls | None:
    spec = of.spec
    if not spec.tls_credentials:
        return None
    alpn = tuple(name for part in spec.settings.get(TLS_ALPN, "").split(",") if (name := part.strip()))
    key = (of.kind, of.name)
    if isinstance(spec, ConnectorSpec):
        name = spec.settings.get(TLS_SERVER_NAME, "") or spec.host
        verify = spec.verify_hostname if spec.verify_hostname is not None else bool(name)
        return WantedTls(
            of=key, credential=spec.tls_credentials, client_cert=spec.use_client_cert, server_name=name, verify_host=verify, alpn=alpn
        )
    wants = isinstance(spec, MultiKeyListenerSpec) and spec.require_client_cert
    return WantedTls(of=key, credential=spec.tls_credentials, client_cert=wants, alpn=alpn)


def _targets(
    one: WantedConnector, selector: Selector, pods: Mapping[str, Pod] | None, *, include_not_ready: bool
) -> dict[str, WantedConnector]:
    """One for each pod that takes streams; else one that has no target and says why."""
    chosen = selected((pods or {}).values(), selector)
    usable = [pod for pod in chosen if pod.takes_streams(include_not_ready=include_not_ready)]
    if usable:
        return {
            f"{one.name}@{pod.name}": msgspec.structs.replace(one, name=f"{one.name}@{pod.name}", host=pod.address, of=one.name)
            for pod in usable
        }
    if pods is None:
        why = "the pods of this namespace are not known yet"
    elif chosen:
        why = f"of the pods that its selector means none is ready: {', '.join(pod.name for pod in chosen[:3])}"
    else:
        why = f"its selector matches no pod; {labels_that_exist(pods.values(), selector)}"
    return {one.name: msgspec.structs.replace(one, absent=why)}


def _access_token(wanted: Wanted, token: AccessToken) -> None:
    from vanrouter.tokens.declared import as_secret  # what few sites need

    try:
        wanted.tokens[token.ref] = as_secret(token)
    except VanrouterError as exc:
        wanted.problems.append(Problem(token.ref, str(exc), exc.hint))


def _unsupported(kind: str, name: str, file: str) -> Problem:
    hints = {"AccessGrant": "make a token with: van token create FILE"}
    hint = hints.get(kind, f"remove {file}, or keep it for a release that supports it: nothing else is affected")
    return Problem(f"{kind}/{name}", f"{kind} is not supported on a host by this release; it is not in force", hint)
