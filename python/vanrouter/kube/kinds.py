"""
The kinds of objects that we read or write. A kind that is not here is never touched.
"""

from __future__ import annotations

from typing import Final

from vanrouter.kube.calls import Kind

__all__ = [
    "ACCESS_REVIEWS",
    "CLUSTER_ROLES",
    "CLUSTER_ROLE_BINDINGS",
    "CONFIG_MAPS",
    "DAEMON_SETS",
    "DEPLOYMENTS",
    "ENDPOINT_SLICES",
    "GATEWAYS",
    "HTTP_PROXIES",
    "INGRESSES",
    "LEASES",
    "NAMESPACES",
    "NETWORK_POLICIES",
    "PODS",
    "POD_DISRUPTION_BUDGETS",
    "REPLICA_SETS",
    "ROLES",
    "ROLE_BINDINGS",
    "ROUTES",
    "SECRETS",
    "SERVICES",
    "SERVICE_ACCOUNTS",
    "STATEFUL_SETS",
    "TLS_ROUTES",
]

CONFIG_MAPS: Final = Kind("", "v1", "configmaps", "ConfigMap")
NAMESPACES: Final = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
PODS: Final = Kind("", "v1", "pods", "Pod")
SECRETS: Final = Kind("", "v1", "secrets", "Secret")
SERVICES: Final = Kind("", "v1", "services", "Service")
SERVICE_ACCOUNTS: Final = Kind("", "v1", "serviceaccounts", "ServiceAccount")

DAEMON_SETS: Final = Kind("apps", "v1", "daemonsets", "DaemonSet")
DEPLOYMENTS: Final = Kind("apps", "v1", "deployments", "Deployment")
REPLICA_SETS: Final = Kind("apps", "v1", "replicasets", "ReplicaSet")
STATEFUL_SETS: Final = Kind("apps", "v1", "statefulsets", "StatefulSet")
POD_DISRUPTION_BUDGETS: Final = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")

ROLES: Final = Kind("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS: Final = Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLES: Final = Kind("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS: Final = Kind("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
NETWORK_POLICIES: Final = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
ENDPOINT_SLICES: Final = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
LEASES: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease")
ACCESS_REVIEWS: Final = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False)

# In front of the link access, each only where it was chosen.
ROUTES: Final = Kind("route.openshift.io", "v1", "routes", "Route")
INGRESSES: Final = Kind("networking.k8s.io", "v1", "ingresses", "Ingress")
HTTP_PROXIES: Final = Kind("projectcontour.io", "v1", "httpproxies", "HTTPProxy")
GATEWAYS: Final = Kind("gateway.networking.k8s.io", "v1", "gateways", "Gateway")
TLS_ROUTES: Final = tuple(Kind("gateway.networking.k8s.io", v, "tlsroutes", "TLSRoute") for v in ("v1", "v1alpha3", "v1alpha2"))
"""The newest that the cluster serves."""
