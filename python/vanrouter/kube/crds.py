"""
The CustomResourceDefinitions: every kind of resource but the Secret, generated from ``vanrouter.resources``. Pure.

`van manifest crds` prints them; `deploy/crds/` has what it prints. ``status`` is typed like ``spec``: conditions, and what
`kubectl get` shows.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from vanrouter.kube.calls import Kind, Object
from vanrouter.resources.kinds import API_VERSION

__all__ = ["CUSTOM_KINDS", "GROUP", "STATUS_FIELDS", "VERSION", "cluster_roles", "definition", "definitions"]

GROUP: Final = API_VERSION.partition("/")[0]
VERSION: Final = API_VERSION.partition("/")[2]


class _Names(NamedTuple):
    plural: str
    short: tuple[str, ...] = ()


_NAMES: Final = {
    "Site": _Names("sites", ("st",)),
    "Link": _Names("links", ("ln",)),
    "RouterAccess": _Names("routeraccesses"),
    "AccessGrant": _Names("accessgrants", ("gr",)),
    "AccessToken": _Names("accesstokens", ("to",)),
    "Listener": _Names("listeners", ("lnr",)),
    "Connector": _Names("connectors", ("cnr",)),
    "MultiKeyListener": _Names("multikeylisteners", ("mkl",)),
    "AttachedConnector": _Names("attachedconnectors", ("acnr",)),
    "AttachedConnectorBinding": _Names("attachedconnectorbindings", ("acnrb",)),
    "Policy": _Names("policies"),
}
"""The short names are the incumbent's."""

CUSTOM_KINDS: Final = {kind: Kind(GROUP, VERSION, names.plural, kind) for kind, names in _NAMES.items()}

STATUS_FIELDS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Site": {
        "siteId": ("string", "The id of the site: the hash of its key."),
        "linkedSites": ("integer", "With how many sites this one has a link."),
    },
    "Link": {
        "remoteSiteName": ("string", "The name of the site at the other end."),
        "remoteSiteId": ("string", "The id of the site at the other end."),
    },
    "Listener": {"hasMatchingConnector": ("boolean", "Whether a target for its routing key is reachable.")},
    "Connector": {"hasMatchingListener": ("boolean", "Whether some site of the network has a listener for its routing key.")},
    "MultiKeyListener": {"hasDestination": ("boolean", "Whether a target for one of its routing keys is reachable.")},
    "AttachedConnectorBinding": {"hasMatchingListener": ("boolean", "Whether some site has a listener for its routing key.")},
    "AccessGrant": {
        "url": ("string", "Where it is redeemed: url of an AccessToken."),
        "code": ("string", "The secret: code of an AccessToken. Whoever reads it may link to this site."),
        "ca": ("string", "The CA certificate of this site, as PEM: ca of an AccessToken."),
        "endpoints": ("string", "Where this site is reached, HOST:PORT, with commas between: endpoints of an AccessToken."),
        "redemptions": ("integer", "How many sites have linked with it."),
        "expirationTime": ("string", "Until when it may be redeemed."),
    },
    "AccessToken": {
        "redeemed": ("boolean", "Whether it was redeemed; it never is again."),
        "link": ("string", "The link that was made of it."),
    },
}
"""Of ``status``, beside what all kinds have: type, and what it is."""

_SPEC: Final = {
    "Listener": (("Routing Key", "string", "routingKey"), ("Port", "integer", "port"), ("Host", "string", "host")),
    "Connector": (
        ("Routing Key", "string", "routingKey"),
        ("Port", "integer", "port"),
        ("Host", "string", "host"),
        ("Selector", "string", "selector"),
    ),
    "MultiKeyListener": (("Port", "integer", "port"), ("Host", "string", "host")),
    "AttachedConnector": (("Site Namespace", "string", "siteNamespace"), ("Selector", "string", "selector"), ("Port", "integer", "port")),
    "AttachedConnectorBinding": (("Routing Key", "string", "routingKey"), ("Connector Namespace", "string", "connectorNamespace")),
    "AccessGrant": (("Redemptions Allowed", "integer", "redemptionsAllowed"), ("Expires After", "string", "expirationWindow")),
    "AccessToken": (("URL", "string", "url"),),
    "Link": (("Cost", "integer", "cost"),),
}
_COLUMNS: Final = {
    "remoteSiteName": "Remote Site",
    "linkedSites": "Linked Sites",
    "hasMatchingConnector": "Has Matching Connector",
    "hasMatchingListener": "Has Matching Listener",
    "hasDestination": "Has Destination",
    "redemptions": "Redemptions Made",
    "expirationTime": "Expiration",
    "redeemed": "Redeemed",
}


def definitions() -> list[Object]:
    """All of them, in the order in which people meet them."""
    return [definition(kind) for kind in CUSTOM_KINDS]


def definition(kind: str) -> Object:
    from vanrouter.kube.schemas import spec_schema  # what only the definitions need
    from vanrouter.resources.fields import KIND_WORDS

    custom, names = CUSTOM_KINDS[kind], _NAMES[kind]
    spec, required = spec_schema(kind)
    about = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": {"description": f"What is wanted of the {kind}.", **spec},
        "status": _status(kind),
    }
    schema: Object = {
        "description": KIND_WORDS[kind],
        "type": "object",
        "properties": about,
        "x-kubernetes-validations": [{"rule": "self.metadata.name.size() <= 63", "message": "metadata.name has more than 63 characters"}],
    }
    if required:
        schema["required"] = ["spec"]
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": _columns(kind),
    }
    named: Object = {"kind": kind, "listKind": f"{kind}List", "plural": names.plural, "singular": kind.lower(), "categories": ["vanrouter"]}
    if names.short:
        named["shortNames"] = list(names.short)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": custom.resource, "labels": {"app.kubernetes.io/part-of": "vanrouter"}},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": named, "versions": [version]},
    }


def cluster_roles() -> list[Object]:
    """So that whoever is admin, edit or view in a namespace may use the resources there, as those roles promise.

    Who is admin may write ``status`` too: he installs a controller, and nobody can give a right that he does not have.
    """
    plurals = [kind.plural for kind in CUSTOM_KINDS.values()]
    secret = {CUSTOM_KINDS["AccessToken"].plural, CUSTOM_KINDS["AccessGrant"].plural}  # codes stand in them: not for those who only look
    writes = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]
    made = []
    for name, resources, verbs, roles in (
        ("vanrouter-admin", [f"{plural}/status" for plural in plurals], ["patch"], ("admin",)),
        ("vanrouter-edit", plurals, writes, ("admin", "edit")),
        ("vanrouter-view", [p for p in plurals if p not in secret], ["get", "list", "watch"], ("view",)),
    ):
        labels = {"app.kubernetes.io/part-of": "vanrouter"}
        labels |= {f"rbac.authorization.k8s.io/aggregate-to-{role}": "true" for role in roles}
        rules = [{"apiGroups": [GROUP], "resources": resources, "verbs": verbs}]
        metadata = {"name": name, "labels": labels}
        made.append({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules})
    return made


def _columns(kind: str) -> list[Object]:
    columns: list[Object] = [{"name": name, "type": type_, "jsonPath": f".spec.{field}"} for name, type_, field in _SPEC.get(kind, ())]
    columns.append({"name": "Status", "type": "string", "jsonPath": ".status.status"})
    for field, (type_, words) in STATUS_FIELDS.get(kind, {}).items():
        if field in _COLUMNS:
            columns.append({"name": _COLUMNS[field], "type": type_, "description": words, "jsonPath": f".status.{field}"})
    columns.append({"name": "Message", "type": "string", "jsonPath": ".status.message"})
    columns.append({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})
    return columns


def _status(kind: str) -> Object:
    def text(words: str, **more: Any) -> Object:
        return {"description": words, "type": "string", **more}

    condition = {
        "type": "object",
        "required": ["type", "status", "reason", "message"],
        "properties": {
            "type": text("What it is about: Ready, Configured, Operational, Matched, ..."),
            "status": text("True, False or Unknown.", enum=["True", "False", "Unknown"]),
            "reason": text("Why, in one word."),
            "message": text("Why, for people."),
            "next": text("What to do; empty: nothing."),
            "lastTransitionTime": text("Since when.", format="date-time"),
            "observedGeneration": {"description": "Of which generation of the spec it speaks.", "type": "integer", "format": "int64"},
        },
    }
    properties: Object = {
        "status": text("Ready, Pending or Error."),
        "message": text("Why it is not ready, and what to do; OK when it is."),
        "observedGeneration": {"description": "The latest generation of the spec that is in force.", "type": "integer", "format": "int64"},
        "conditions": {
            "description": "What is so, why, since when, and what to do next.",
            "type": "array",
            "items": condition,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
        "lastGood": text("The latest form that was good: it stays in force while the present one is refused."),
    }
    for field, (type_, words) in STATUS_FIELDS.get(kind, {}).items():
        properties[field] = {"description": words, "type": type_}
    return {"description": "What the controller says of it; nobody else writes here.", "type": "object", "properties": properties}
