"""
The kinds of resources and their fields: what is true of one resource alone. ``docs/resources.md`` explains each field to its user.

Python names are snake_case, YAML names camelCase, as in ``skupper.io/v2alpha1``. Fields that only ``vanrouter.io/v1alpha1`` has are marked
"ours". Unknown fields are refused, so that a typing error never passes for a setting. Rules between fields are in ``check``, which yields
(path below the resource, what is wrong, what to do).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar, Final, Literal

import msgspec

from vanrouter.checks import LONGEST_INTERVAL, SHORTEST_INTERVAL, Check, longest_timeout
from vanrouter.errors import ConfigError
from vanrouter.model import parse_name, parse_routing_key, parse_site_id
from vanrouter.resources.selectors import parse_selector
from vanrouter.resources.shapes import Cost, Port, parse_duration, parse_host, parse_host_port, parse_statuses

__all__ = [
    "API_VERSION",
    "KINDS",
    "SKUPPER_API_VERSION",
    "AccessGrant",
    "AccessGrantSpec",
    "AccessRole",
    "AccessToken",
    "AccessTokenSpec",
    "AnyResource",
    "AttachedConnector",
    "AttachedConnectorBinding",
    "AttachedConnectorBindingSpec",
    "AttachedConnectorSpec",
    "Connector",
    "ConnectorSpec",
    "Endpoint",
    "Expose",
    "HealthCheck",
    "Link",
    "LinkSpec",
    "Listener",
    "ListenerSpec",
    "Metadata",
    "MultiKeyListener",
    "MultiKeyListenerSpec",
    "Policy",
    "PolicyRule",
    "PolicySpec",
    "Resource",
    "RouterAccess",
    "RouterAccessSpec",
    "Secret",
    "Site",
    "SiteSpec",
    "Strategy",
]

API_VERSION: Final = "vanrouter.io/v1alpha1"
SKUPPER_API_VERSION: Final = "skupper.io/v2alpha1"

_PATH: Final = re.compile(r"/[!-~]{0,1023}")

Fault = tuple[str, str, str]
Settings = dict[str, str]
Protocol = Literal["tcp", "http", "http2"]
Observer = Literal["auto", "none", "http1", "http2"]


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    pass


class Metadata(Shape, frozen=True, kw_only=True):
    name: str
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Resource(Shape, frozen=True, kw_only=True):
    """What all have. Subclasses add ``spec`` (a Secret: ``type`` and ``data``)."""

    KIND: ClassVar[str] = ""
    metadata: Metadata

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def kind(self) -> str:
        return self.KIND

    @property
    def ref(self) -> str:
        """``Kind/name``, as it stands in messages."""
        return f"{self.KIND}/{self.metadata.name}"

    def check(self) -> Iterator[Fault]:
        yield from ()


# ---- Site -------------------------------------------------------------------------------------------------------------------------------


class SiteSpec(Shape, frozen=True, kw_only=True):
    link_access: str = ""  # "", none, default; on a host: host:port; in a namespace: the kinds of kube.entrances
    ha: bool = False
    edge: bool = False
    default_issuer: str = ""
    service_account: str = ""
    service_address: str = "127.0.0.1"  # ours: where listeners made by service sync listen
    service_sync: bool = True  # ours
    refused_sites: list[str] = []  # ours: ids of sites that are kept out
    settings: Settings = {}


class Site(Resource, frozen=True, kw_only=True):
    KIND = "Site"
    spec: SiteSpec = SiteSpec()

    def check(self) -> Iterator[Fault]:
        if self.spec.edge and self.spec.ha:
            yield "spec.ha", "an edge site cannot have several routers", "set one of spec.edge and spec.ha"
        yield from _host("spec.serviceAddress", self.spec.service_address)
        if ":" in self.spec.link_access:
            yield from _fault("spec.linkAccess", lambda: parse_host_port(self.spec.link_access))
        for index, site in enumerate(self.spec.refused_sites):
            yield from _fault(f"spec.refusedSites[{index}]", lambda site=site: parse_site_id(site))


# ---- Links and access to them ---------------------------------------------------------------------------------------------------------


class Endpoint(Shape, frozen=True, kw_only=True):
    host: str
    port: Port
    name: str = ""  # inter-router, edge: the incumbent's roles; we have one port for both
    group: str = ""


class LinkSpec(Shape, frozen=True, kw_only=True):
    endpoints: list[Endpoint]
    tls_credentials: str = ""
    cost: Cost = 1
    site_id: str = ""  # ours: the site expected at the other end
    verify_host: bool = False  # ours: check the endpoint's name in its certificate too (a user's CA)
    settings: Settings = {}


class Link(Resource, frozen=True, kw_only=True):
    KIND = "Link"
    spec: LinkSpec

    @property
    def endpoints(self) -> list[Endpoint]:
        """Those to dial: all but the ones that only an edge of the incumbent would use."""
        return [e for e in self.spec.endpoints if e.name != "edge"] or list(self.spec.endpoints)

    def check(self) -> Iterator[Fault]:
        if not self.spec.endpoints:
            yield "spec.endpoints", "is empty", "give at least one {host, port}"
        if len(self.spec.endpoints) > 16:
            yield "spec.endpoints", f"has {len(self.spec.endpoints)} entries; at most 16 are tried", "remove some"
        for index, endpoint in enumerate(self.spec.endpoints):
            yield from _host(f"spec.endpoints[{index}].host", endpoint.host)


class AccessRole(Shape, frozen=True, kw_only=True):
    name: Literal["inter-router", "edge", "normal"] = "inter-router"
    port: Port = 55671


class RouterAccessSpec(Shape, frozen=True, kw_only=True):
    roles: list[AccessRole]
    tls_credentials: str = ""
    generate_tls_credentials: bool = False
    issuer: str = ""
    access_type: str = ""
    bind_host: str = ""
    subject_alternative_names: list[str] = []
    admit: list[str] | None = None  # ours: with a user's CA, the subject or SAN patterns that may link
    settings: Settings = {}


class RouterAccess(Resource, frozen=True, kw_only=True):
    KIND = "RouterAccess"
    spec: RouterAccessSpec

    def check(self) -> Iterator[Fault]:
        if not self.spec.roles:
            yield "spec.roles", "is empty", "give at least one {name: inter-router, port}"
        if self.spec.bind_host:
            yield from _host("spec.bindHost", self.spec.bind_host)
        for index, name in enumerate(self.spec.subject_alternative_names):
            yield from _host(f"spec.subjectAlternativeNames[{index}]", name)


class AccessGrantSpec(Shape, frozen=True, kw_only=True):
    redemptions_allowed: int = 1
    expiration_window: str = "15m"
    code: str = ""
    issuer: str = ""
    settings: Settings = {}


class AccessGrant(Resource, frozen=True, kw_only=True):
    KIND = "AccessGrant"
    spec: AccessGrantSpec = AccessGrantSpec()

    @property
    def lifetime(self) -> float:
        return parse_duration(self.spec.expiration_window)

    def __repr__(self) -> str:
        return f"AccessGrant({self.name!r}, ***)"

    def check(self) -> Iterator[Fault]:
        if not 1 <= self.spec.redemptions_allowed <= 1_000:
            yield "spec.redemptionsAllowed", f"is {self.spec.redemptions_allowed}; it must be 1 to 1000", "make several grants"
        yield from _fault("spec.expirationWindow", lambda: parse_duration(self.spec.expiration_window))


class AccessTokenSpec(Shape, frozen=True, kw_only=True):
    url: str
    code: str
    ca: str
    link_cost: Cost = 1
    endpoints: str = ""  # ours: where else it is redeemed
    settings: Settings = {}


class AccessToken(Resource, frozen=True, kw_only=True):
    """What the status of an AccessGrant says, said again at the site that is to link. A token as a file is a ``Secret`` (``is_token``)."""

    KIND = "AccessToken"
    spec: AccessTokenSpec

    @property
    def is_ours(self) -> bool:
        """Whether a site of ours made it, as far as its url tells."""
        return _OUR_TOKEN.match(self.spec.url) is not None

    def check(self) -> Iterator[Fault]:
        if not self.spec.url.startswith("https://"):
            yield "spec.url", "must begin with https://", ""

    def __repr__(self) -> str:
        return f"AccessToken({self.name!r}, ***)"


_OUR_TOKEN: Final = re.compile(r"https://[^/?#]+/[a-z2-7]{52}/[a-z2-7]{26}(\?|$)")


# ---- Listeners and connectors ---------------------------------------------------------------------------------------------------------


class ListenerSpec(Shape, frozen=True, kw_only=True):
    routing_key: str
    host: str
    port: Port
    type: Literal["tcp"] = "tcp"
    tls_credentials: str = ""
    observer: Observer = "auto"
    expose_pods_by_name: bool = False
    strategy: Literal["balanced", "closest"] = "balanced"  # ours: how a target is chosen for each new stream
    settings: Settings = {}


class Listener(Resource, frozen=True, kw_only=True):
    KIND = "Listener"
    spec: ListenerSpec

    def check(self) -> Iterator[Fault]:
        yield from _fault("spec.routingKey", lambda: parse_routing_key(self.spec.routing_key))
        yield from _host("spec.host", self.spec.host)


class Expose(Shape, frozen=True, kw_only=True):
    """Ours: that a connector is a service of the network, under which name and port others get it (service sync)."""

    port: Port
    address: str = ""  # default: the routing key
    protocol: Protocol = "tcp"  # what is spoken: streams are carried as they are


class HealthCheck(Shape, frozen=True, kw_only=True):
    """Ours: how the target is checked. ``interval`` is the time within which a dead target is out; `vanrouter.checks` says what follows."""

    type: Literal["tcp", "http", "none"] = "tcp"
    interval: str = "5s"
    timeout: str = ""  # default: 1s, or less where the interval leaves no room for that
    failure_threshold: int = 2
    success_threshold: int = 2
    port: int = 0  # default: the target's
    path: str = ""  # http; default: /
    host: str = ""  # http; default: the target
    status: str = ""  # http; default: 200-399

    def resolve(self) -> Check:
        """The check in force. Raises ConfigError for a broken field; `check` says which."""
        interval = parse_duration(self.interval)
        longest = longest_timeout(interval, self.failure_threshold)
        return Check(
            type=self.type,
            interval=interval,
            timeout=parse_duration(self.timeout) if self.timeout else min(1.0, longest),
            failures=self.failure_threshold,
            passes=self.success_threshold,
            port=self.port,
            path=self.path or "/",
            host=self.host,
            statuses=parse_statuses(self.status or "200-399"),
        )

    def check(self, path: str) -> Iterator[Fault]:
        for name in ("path", "host", "status"):
            if getattr(self, name) and self.type != "http":
                yield f"{path}.{name}", f"is for checks of type http; this one is {self.type}", f"set {path}.type to http, or remove it"
        for name, value in (("failureThreshold", self.failure_threshold), ("successThreshold", self.success_threshold)):
            if not 1 <= value <= 10:
                yield f"{path}.{name}", f"is {value}; it must be 1 to 10", ""
        if not 0 <= self.port <= 65535:
            yield f"{path}.port", f"is {self.port}; it must be 1 to 65535", ""
        if self.path and not _PATH.fullmatch(self.path):
            yield (
                f"{path}.path",
                f"{self.path!r} is not the path of a URL",
                "write it like /healthz, without spaces and at most 1024 characters",
            )
        if self.host:
            yield from _fault(f"{path}.host", lambda: parse_host_port(self.host, default_port=80))
        yield from _fault(f"{path}.status", lambda: parse_statuses(self.status or "200-399"))
        yield from _fault(f"{path}.timeout", lambda: parse_duration(self.timeout or "1s"))
        yield from _fault(f"{path}.interval", lambda: parse_duration(self.interval))
        interval = parse_duration(self.interval)
        if not SHORTEST_INTERVAL <= interval <= LONGEST_INTERVAL:
            yield f"{path}.interval", f"is {self.interval}; it must be {SHORTEST_INTERVAL:g}s to {LONGEST_INTERVAL:g}s", ""
        longest = longest_timeout(interval, self.failure_threshold)
        if self.timeout and parse_duration(self.timeout) > longest:
            why = f"is {self.timeout}; with {self.failure_threshold} failed checks in half of an interval of {self.interval}"
            yield f"{path}.timeout", f"{why} it may be {longest:.3g}s", f"set a longer {path}.interval, or a shorter timeout"


class ConnectorSpec(Shape, frozen=True, kw_only=True):
    routing_key: str
    port: Port
    host: str = ""
    selector: str = ""
    type: Literal["tcp"] = "tcp"
    tls_credentials: str = ""
    use_client_cert: bool = False
    verify_hostname: bool | None = None  # default: with a host yes, with a selector only with a name
    include_not_ready_pods: bool = False
    expose_pods_by_name: bool = False
    expose: Expose | None = None  # ours
    health_check: HealthCheck | None = None  # ours
    settings: Settings = {}


class Connector(Resource, frozen=True, kw_only=True):
    KIND = "Connector"
    spec: ConnectorSpec

    def check(self) -> Iterator[Fault]:
        yield from _fault("spec.routingKey", lambda: parse_routing_key(self.spec.routing_key))
        if bool(self.spec.host) == bool(self.spec.selector):
            both = "both are set" if self.spec.host else "neither is set"
            yield "spec.host", f"exactly one of spec.host and spec.selector is needed; {both}", "on a host, set spec.host"
        if self.spec.host:
            yield from _host("spec.host", self.spec.host)
        if self.spec.selector:
            yield from _fault("spec.selector", lambda: parse_selector(self.spec.selector))
        if self.spec.expose is not None and self.spec.expose.address:
            yield from _fault("spec.expose.address", lambda: parse_name(self.spec.expose.address if self.spec.expose else "", "address"))
        if self.spec.health_check is not None:
            yield from self.spec.health_check.check("spec.healthCheck")


class Priority(Shape, frozen=True, kw_only=True):
    routing_keys: list[str]


class Weighted(Shape, frozen=True, kw_only=True):
    routing_keys: dict[str, int]


class Strategy(Shape, frozen=True, kw_only=True):
    priority: Priority | None = None
    weighted: Weighted | None = None


class MultiKeyListenerSpec(Shape, frozen=True, kw_only=True):
    host: str
    port: Port
    strategy: Strategy
    tls_credentials: str = ""
    require_client_cert: bool = False
    observer: Observer = "auto"
    settings: Settings = {}


class MultiKeyListener(Resource, frozen=True, kw_only=True):
    KIND = "MultiKeyListener"
    spec: MultiKeyListenerSpec

    def check(self) -> Iterator[Fault]:
        yield from _host("spec.host", self.spec.host)
        chosen = self.spec.strategy
        if (chosen.priority is None) == (chosen.weighted is None):
            yield "spec.strategy", "exactly one of priority and weighted is needed", ""
        keys = list(chosen.priority.routing_keys) if chosen.priority else list(chosen.weighted.routing_keys) if chosen.weighted else []
        path = f"spec.strategy.{'priority' if chosen.priority else 'weighted'}.routingKeys"
        if not 1 <= len(keys) <= 256:
            yield path, f"has {len(keys)} routing keys; it must have 1 to 256", ""
        if len(set(keys)) != len(keys):
            yield path, "has a routing key twice", "remove one of them"
        for key in keys:
            yield from _fault(path, lambda key=key: parse_routing_key(key))
        if chosen.weighted and any(weight < 1 for weight in chosen.weighted.routing_keys.values()):
            yield path, "has a weight below 1", "use positive whole numbers"


class AttachedConnectorSpec(Shape, frozen=True, kw_only=True):
    site_namespace: str
    selector: str
    port: Port
    type: Literal["tcp"] = "tcp"
    tls_credentials: str = ""
    use_client_cert: bool = False
    include_not_ready_pods: bool = False
    settings: Settings = {}


class AttachedConnector(Resource, frozen=True, kw_only=True):
    KIND = "AttachedConnector"
    spec: AttachedConnectorSpec

    def check(self) -> Iterator[Fault]:
        yield from _fault("spec.selector", lambda: parse_selector(self.spec.selector))


class AttachedConnectorBindingSpec(Shape, frozen=True, kw_only=True):
    connector_namespace: str
    routing_key: str
    expose_pods_by_name: bool = False
    settings: Settings = {}


class AttachedConnectorBinding(Resource, frozen=True, kw_only=True):
    KIND = "AttachedConnectorBinding"
    spec: AttachedConnectorBindingSpec

    def check(self) -> Iterator[Fault]:
        yield from _fault("spec.routingKey", lambda: parse_routing_key(self.spec.routing_key))


# ---- Policy (ours) --------------------------------------------------------------------------------------------------------------------


class PolicyRule(Shape, frozen=True, kw_only=True):
    routing_keys: list[str]  # shell-style patterns
    offer: list[str] = []  # sites (ids, or patterns of names) that may serve them
    consume: list[str] = []


class PolicySpec(Shape, frozen=True, kw_only=True):
    default: Literal["open", "strict"] = "open"
    rules: list[PolicyRule] = []


class Policy(Resource, frozen=True, kw_only=True):
    KIND = "Policy"
    spec: PolicySpec = PolicySpec()


# ---- Secrets --------------------------------------------------------------------------------------------------------------------------

TOKEN_LABEL: Final = "vanrouter.io/type"  # noqa: S105 - a label, not a secret
TOKEN_VALUE: Final = "access-token"  # noqa: S105
TLS_KEYS: Final = ("tls.crt", "tls.key", "ca.crt")


def check_link_files(name: str, files: Mapping[str, bytes]) -> None:
    """A link's credential is whole. Raises ConfigError."""
    for key in TLS_KEYS:
        if not files.get(key):
            raise ConfigError(f"Secret {name} has no {key}", hint="a link's credential has tls.crt, tls.key and ca.crt")


class Secret(Resource, frozen=True, kw_only=True):
    """A v1 Secret: credentials of a link (tls.crt, tls.key, ca.crt), or, with the label, an access token. Its data never prints."""

    KIND = "Secret"
    type: str = "Opaque"
    data: dict[str, bytes] = {}

    @property
    def is_token(self) -> bool:
        return self.metadata.labels.get(TOKEN_LABEL) == TOKEN_VALUE

    def check(self) -> Iterator[Fault]:
        if self.is_token:
            return
        if self.type not in ("kubernetes.io/tls", "Opaque"):
            yield "type", f"{self.type!r} is not used here", "use kubernetes.io/tls with tls.crt, tls.key and ca.crt"
        if not self.data.get("ca.crt") and not (self.data.get("tls.crt") and self.data.get("tls.key")):
            missing = next(key for key in TLS_KEYS if not self.data.get(key))
            yield f"data[{missing}]", "is missing", "a credential has tls.crt and tls.key, or ca.crt, or all of them, as a link's has"

    def __repr__(self) -> str:
        return f"Secret({self.name!r}, ***)"


AnyResource = (
    Site
    | Link
    | RouterAccess
    | AccessGrant
    | AccessToken
    | Listener
    | Connector
    | MultiKeyListener
    | AttachedConnector
    | AttachedConnectorBinding
    | Policy
    | Secret
)

KINDS: Final[dict[str, type[Resource]]] = {
    kind.KIND: kind
    for kind in (
        Site,
        Link,
        RouterAccess,
        AccessGrant,
        AccessToken,
        Listener,
        Connector,
        MultiKeyListener,
        AttachedConnector,
        AttachedConnectorBinding,
        Policy,
        Secret,
    )
}


def _fault(path: str, parse: object) -> Iterator[Fault]:
    assert callable(parse)
    try:
        parse()
    except ConfigError as exc:
        yield path, str(exc), exc.hint


def _host(path: str, text: str) -> Iterator[Fault]:
    yield from _fault(path, lambda: parse_host(text))
