"""
What of a valid resource has no effect where it goes, and what to do about that. Pure.

A field that is read and does nothing would be a promise that nobody keeps: each such field is a note, by platform.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, Literal

import msgspec

from vanrouter.errors import ConfigError
from vanrouter.resources.kinds import (
    AccessGrant,
    AccessToken,
    AttachedConnector,
    AttachedConnectorBinding,
    Connector,
    Link,
    Listener,
    MultiKeyListener,
    Policy,
    Resource,
    RouterAccess,
    Site,
)
from vanrouter.resources.shapes import is_ip, is_service_name, parse_host_port

__all__ = ["TLS_ALPN", "TLS_SERVER_NAME", "Note", "Platform", "notes_on"]

Platform = Literal["linux", "kubernetes"]

TLS_ALPN: Final = "tls-alpn"
"""Setting of listeners and connectors: protocols that are offered, best first: ``h2,http/1.1``."""
TLS_SERVER_NAME: Final = "tls-server-name"
"""Setting of a connector: the name that its servers' certificate has to have."""

_NO_TLS: Final = "is for TLS, and there is no spec.tlsCredentials: this resource is not in force"
_ALONE: Final = "is read and kept, and nothing uses it"


class Note(msgspec.Struct, frozen=True):
    """``path``: below the resource, or whole; ``message`` goes on after it."""

    path: str
    message: str
    hint: str = ""


def notes_on(resource: Resource, platform: Platform, *, settings: Collection[str] = ()) -> Iterator[Note]:
    """Paths are below the resource. ``settings``: those of a Site that count on this platform."""
    match resource:
        case Site():
            yield from _site(resource, platform, settings)
        case Link():
            if "proxy-configuration" in resource.spec.settings:
                message = "links through an HTTP proxy are not supported by this release: this link is not in force"
                yield Note("spec.settings.proxy-configuration", message, "remove it to dial without a proxy")
            yield from _unused_settings(resource.spec.settings, known=("proxy-configuration",))
        case RouterAccess():
            yield from _router_access(resource, platform)
        case Listener() | MultiKeyListener():
            yield from _listener(resource, platform)
        case Connector():
            yield from _connector(resource, platform)
        case AttachedConnector() | AttachedConnectorBinding():
            yield from _attached(resource, platform)
        case AccessGrant():
            yield from _access_grant(resource, platform)
        case AccessToken():
            yield from _unused_settings(resource.spec.settings)
        case Policy():
            yield Note("spec", "is kept, and not in force in this release", "")


def _site(site: Site, platform: Platform, known: Collection[str]) -> Iterator[Note]:
    spec = site.spec
    if platform == "linux":
        if spec.link_access not in ("", "none", "default"):
            try:
                parse_host_port(spec.link_access)
            except ConfigError:
                message = f"{spec.link_access!r} is a kind of access on Kubernetes: nobody can link to this site"
                yield Note("spec.linkAccess", message, "write default (0.0.0.0:55671) or HOST:PORT")
        if spec.ha:
            hint = "several routers of one site, each on a machine: docs/guide.md"
            yield Note("spec.ha", "on a host a site has one router", hint)
    elif spec.service_address != "127.0.0.1":
        yield Note("spec.serviceAddress", "is for hosts: in a namespace each service of another site is a Service", "remove it")
    if spec.default_issuer:
        hint = "a certificate of your own: a Secret, and tlsCredentials of a RouterAccess and of a Link"
        yield Note("spec.defaultIssuer", f"{_ALONE}: each site has a CA of its own", hint)
    if spec.service_account:
        yield Note("spec.serviceAccount", f"{_ALONE}: routers run under the service account van-router", "bind to that what you need")
    yield from _unused_settings(spec.settings, known=known)


def _router_access(access: RouterAccess, platform: Platform) -> Iterator[Note]:
    spec = access.spec
    if platform == "kubernetes":
        wanted = spec.access_type or "default"
        hint = f"set spec.linkAccess of the Site: van update --link-access {wanted}"
        yield Note("spec", "in a namespace the Site says how others link to it; this resource is not in force", hint)
        return
    if any(role.name == "normal" for role in spec.roles):
        yield Note("spec.roles", "the role normal is left out: links are the only thing a router takes", "")
    if spec.issuer:
        yield Note("spec.issuer", f"{_ALONE}: the site's own CA issues", "")
    if spec.access_type:
        yield Note("spec.accessType", f"{_ALONE} on a host", "")
    if spec.tls_credentials and not spec.generate_tls_credentials and spec.admit is None:
        message = "a certificate of your own admits nobody until the site knows whom"
        yield Note("spec.tlsCredentials", message, "set spec.admit to the subjects or names that may link, or generateTlsCredentials: true")
    yield from _unused_settings(spec.settings)


def _listener(listener: Listener | MultiKeyListener, platform: Platform) -> Iterator[Note]:
    spec = listener.spec
    if isinstance(listener, MultiKeyListener) and listener.spec.require_client_cert and not spec.tls_credentials:
        yield Note("spec.requireClientCert", _NO_TLS, "name a Secret there, or remove it to listen without TLS")
    if isinstance(listener, Listener) and listener.spec.expose_pods_by_name:
        if platform == "linux":
            yield Note("spec.exposePodsByName", "there are no pods on a host: this listener is not in force", "remove it")
        else:
            hint = f"without service sync: a listener for each pod, with the routing key {listener.spec.routing_key}.POD"
            yield Note("spec.exposePodsByName", "has no effect here: with service sync pods have listeners by themselves", hint)
    if spec.observer not in ("auto", "none"):
        yield Note("spec.observer", f"{spec.observer}: requests are not counted by this release; the streams pass as they are", "")
    if platform == "kubernetes" and (is_ip(spec.host) or not is_service_name(spec.host)):
        yield Note("spec.host", f"{spec.host!r} is no name that a Service can have", "write a name like backend")
    yield from _unused_settings(spec.settings, known=(TLS_ALPN,) if spec.tls_credentials else ())


def _connector(connector: Connector, platform: Platform) -> Iterator[Note]:
    spec = connector.spec
    if spec.selector and platform == "linux":
        yield Note("spec.selector", "chooses pods, and there are none on a host: this connector is not in force", "set spec.host instead")
    if spec.use_client_cert and not spec.tls_credentials:
        yield Note("spec.useClientCert", _NO_TLS, "name a Secret there, or remove it to connect without TLS")
    if spec.verify_hostname and not spec.tls_credentials:
        yield Note("spec.verifyHostname", "has no effect without spec.tlsCredentials", "")
    if spec.verify_hostname and spec.tls_credentials and spec.selector and TLS_SERVER_NAME not in spec.settings:
        hint = f"set spec.settings.{TLS_SERVER_NAME} to the name in it"
        yield Note("spec.verifyHostname", "checks the addresses of the pods: certificates seldom have these", hint)
    if spec.expose_pods_by_name and (platform == "linux" or not spec.selector):
        yield Note("spec.exposePodsByName", "has no effect: a host has no pods", "set spec.selector, in a namespace, or remove it")
    if spec.include_not_ready_pods and not spec.selector:
        yield Note("spec.includeNotReadyPods", "has no effect without spec.selector", "")
    yield from _unused_settings(spec.settings, known=(TLS_ALPN, TLS_SERVER_NAME) if spec.tls_credentials else ())


def _attached(resource: AttachedConnector | AttachedConnectorBinding, platform: Platform) -> Iterator[Note]:
    if platform == "linux":
        yield Note("spec", "is about pods, and there are none on a host: it is not in force", "name the servers in a Connector")
    if isinstance(resource, AttachedConnector) and resource.spec.use_client_cert and not resource.spec.tls_credentials:
        yield Note("spec.useClientCert", _NO_TLS, "name a Secret there, or remove it to connect without TLS")
    tls = isinstance(resource, AttachedConnector) and bool(resource.spec.tls_credentials)
    yield from _unused_settings(resource.spec.settings, known=(TLS_ALPN, TLS_SERVER_NAME) if tls else ())


def _access_grant(grant: AccessGrant, platform: Platform) -> Iterator[Note]:
    spec = grant.spec
    if platform == "linux":
        words = f"van token create FILE {grant.name} --uses {spec.redemptions_allowed} --expiry {spec.expiration_window}"
        yield Note("spec", "is for Kubernetes: on a host no controller makes tokens of it, and it is not in force", words)
        return
    if spec.code:
        text = "counts in a custom resource; in a ConfigMap, which whoever may view the namespace reads, a code is refused"
        yield Note("spec.code", text, "leave it out: one is made, and stands in a Secret")
    if spec.issuer:
        yield Note("spec.issuer", f"{_ALONE}: the site's own CA issues", "")
    yield from _unused_settings(spec.settings)


def _unused_settings(settings: dict[str, str], *, known: Collection[str] = ()) -> Iterator[Note]:
    for name in settings:
        if name not in known:
            yield Note(f"spec.settings.{name}", _ALONE, "remove it")
