"""
What can go wrong between us and a Kubernetes API server, by whose fault it is.

* KubeConfigError (ConfigError)   there is no usable kubeconfig or service account: the operator's, before anything was sent
* KubeError (StoreError)          a call failed; ``call`` says which
  + Unreachable                   nothing answered, or not within the deadline: the network's or the cluster's
  + ServerUntrusted               something answered with a certificate that the kubeconfig's CA did not sign
  + CredentialsRefused            401: expired or revoked credentials
  + Forbidden                     403 by RBAC: carries verb, resource, namespace, and a Role that would grant it
  + Denied                        403 by a quota or an admission rule: the right is there, the object is not wanted
  + Invalid                       400, 422: the object is wrong; says which fields
  + NotFound                      404: this object, or its namespace
  + NoSuchKind                    404: the server does not know the resource (a CRD that is not installed)
  + AlreadyExists                 409 on create
  + Conflict                      409: somebody else changed it since it was read
  + Gone                          410: the history that was asked for is no longer kept; list again
  + Throttled                     429: carries how long the server asks to wait
  + ServerFailed                  5xx, and answers that are none

``retryable`` is the whole retry policy of those who drive: whether the same call may succeed later with nobody doing anything.
"""

from __future__ import annotations

from typing import ClassVar

from vanrouter.errors import ConfigError, StoreError

__all__ = [
    "AlreadyExists",
    "Conflict",
    "CredentialsRefused",
    "Denied",
    "Forbidden",
    "Gone",
    "Invalid",
    "KubeConfigError",
    "KubeError",
    "NoSuchKind",
    "NotFound",
    "ServerFailed",
    "ServerUntrusted",
    "Throttled",
    "Unreachable",
]


class KubeConfigError(ConfigError):
    """There is no usable kubeconfig or service account. Nothing was sent."""


class KubeError(StoreError):
    """A call to the API server failed. ``call`` is like ``get configmaps/van-services in north``."""

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, call: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.call = call


class Unreachable(KubeError):
    """Nothing answered. Of a call that writes it is not known whether it was done."""

    retryable = True


class ServerUntrusted(KubeError):
    """The server's certificate is not signed by the CA that the kubeconfig names."""


class CredentialsRefused(KubeError):
    """The server does not accept the credentials (401)."""


class Forbidden(KubeError):
    """A right is missing. ``role`` is YAML that an administrator can apply."""

    def __init__(self, message: str, *, call: str, hint: str, verb: str, resource: str, namespace: str, role: str) -> None:
        super().__init__(message, call=call, hint=hint)
        self.verb, self.resource, self.namespace, self.role = verb, resource, namespace, role


class Denied(KubeError):
    """A quota, an admission rule or a namespace that is being deleted refuses the object."""


class Invalid(KubeError):
    """The server finds the object wrong. ``fields`` are the paths that it names."""

    def __init__(self, message: str, *, call: str = "", hint: str = "", fields: tuple[str, ...] = ()) -> None:
        super().__init__(message, call=call, hint=hint)
        self.fields = fields


class NotFound(KubeError):
    """The object, or the namespace it should be in, does not exist."""


class NoSuchKind(KubeError):
    """The server does not know this kind of object."""


class AlreadyExists(KubeError):
    """There is an object of this name already."""


class Conflict(KubeError):
    """The object was changed since it was read, or another manager owns the field. Read it again."""


class Gone(KubeError):
    """What was asked for is older than what the server keeps. List again."""


class Throttled(KubeError):
    """The server asks to wait. ``retry_after`` is in seconds."""

    retryable = True

    def __init__(self, message: str, *, call: str = "", hint: str = "", retry_after: float) -> None:
        super().__init__(message, call=call, hint=hint)
        self.retry_after = retry_after


class ServerFailed(KubeError):
    """The server, or something before it, is in trouble."""

    retryable = True
