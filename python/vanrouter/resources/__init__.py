"""
Every resource, defined once: its fields, their defaults and bounds, and how it is read from and written to YAML.

Pure: text in, resources out. A resource that exists is valid in itself; what needs the neighbours (two listeners on one port) or the
machine (a port in use) is for whoever holds them all. ``vanrouter.io/v1alpha1`` and ``skupper.io/v2alpha1`` have the same fields and are
both read; the first is what is written. A wrong field raises ``InvalidResource`` with its path, ``Listener/hello: spec.port``.

    text ──yamls──▶ plain values ──reading──▶ resources (kinds) ──writing──▶ text
"""

from vanrouter.resources.kinds import (
    API_VERSION,
    KINDS,
    AccessGrant,
    AccessToken,
    AnyResource,
    AttachedConnector,
    AttachedConnectorBinding,
    Connector,
    Endpoint,
    Expose,
    Link,
    Listener,
    Metadata,
    MultiKeyListener,
    Policy,
    Resource,
    RouterAccess,
    Secret,
    Site,
)
from vanrouter.resources.reading import read_document, read_resources
from vanrouter.resources.shapes import format_host_port, parse_duration, parse_host_port
from vanrouter.resources.writing import to_dict, to_json, to_yaml

__all__ = [
    "API_VERSION",
    "KINDS",
    "AccessGrant",
    "AccessToken",
    "AnyResource",
    "AttachedConnector",
    "AttachedConnectorBinding",
    "Connector",
    "Endpoint",
    "Expose",
    "Link",
    "Listener",
    "Metadata",
    "MultiKeyListener",
    "Policy",
    "Resource",
    "RouterAccess",
    "Secret",
    "Site",
    "format_host_port",
    "parse_duration",
    "parse_host_port",
    "read_document",
    "read_resources",
    "to_dict",
    "to_json",
    "to_yaml",
]
