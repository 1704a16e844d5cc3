"""
A namespace of a real API server as its controller leaves it: identity, keys, resources, ports and pods, written by hand.
"""

from __future__ import annotations

import json
import time
from typing import Any

from vanrouter.kube.access import Access
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import apply, delete, get, merge_patch
from vanrouter.kube.errors import NotFound
from vanrouter.kube.kinds import CONFIG_MAPS, PODS, SECRETS, SERVICES
from vanrouter.kube.names import KEYS, KEYS_SECRET, ROUTER, ROUTER_MAP, STATE, labelled, resource_map
from vanrouter.kube.records import resource_object
from vanrouter.kube.state import secret_of
from vanrouter.pki import CertificateAuthority, IdentityKey, PrivateKey, certificates_to_pem
from vanrouter.resources import read_document


class Namespace:
    """``access`` is an administrator's."""

    def __init__(self, access: Access, name: str, site: str = "north") -> None:
        self.name, self.site = name, site
        self.access = Access(**{**vars(access), "namespace": name})
        self.identity = IdentityKey.generate()
        self.authority = CertificateAuthority.create(site, self.identity.site_id, now=time.time())
        self.credentials: dict[str, dict[str, bytes]] = {}
        self.ports: dict[str, int] = {}
        self.clock = time.time  # of whoever makes the keys
        self._client = BlockingClient(self.access)

    # ---- What the controller writes ------------------------------------------------------------------------------------------------------

    def establish(self) -> None:
        self.put_identity()
        self.put_keys()

    def put_identity(self) -> None:
        self._client.call(apply(SECRETS, self.name, secret_of("van-identity", STATE, {"identity.key": self.identity.pem().reveal()})))

    def put_keys(self, **own: bytes) -> None:
        files = {"ca.crt": self.authority.certificate_pem()}
        for which, issue in (("server", self.authority.issue_server), ("client", self.authority.issue_client)):
            key = PrivateKey.generate()
            more: tuple[Any, ...] = (["127.0.0.1"],) if which == "server" else ()
            leaf = issue(key.public_der, self.identity.site_id, *more, now=self.clock())  # type: ignore[operator]
            files |= {f"own__{which}.crt": certificates_to_pem([leaf]), f"own__{which}.key": key.pem().reveal()}
        files |= {f"credentials__{name}__{file}": data for name, its in self.credentials.items() for file, data in its.items()}
        self._client.call(apply(SECRETS, self.name, secret_of(KEYS_SECRET, KEYS, files | own)))

    def put_ports(self, **endpoints: int) -> None:
        document = {"generation": 1, "ports": self.ports, "endpoints": [{"host": h, "port": p} for h, p in endpoints.items()]}
        value = {"metadata": labelled(ROUTER_MAP, ROUTER), "data": {"router.json": json.dumps(document)}}
        self._client.call(apply(CONFIG_MAPS, self.name, value))

    def set_node_port(self, port: int) -> None:
        """Of the link access, as somebody may change it."""
        ports = [{"name": "links", "port": 55671, "targetPort": 55671, "protocol": "TCP", "nodePort": port}]
        self._client.call(merge_patch(SERVICES, self.name, ROUTER_MAP, {"spec": {"ports": ports}}))

    # ---- What people write ---------------------------------------------------------------------------------------------------------------

    def put(self, kind: str, name: str, **spec: Any) -> None:
        value = {"apiVersion": "vanrouter.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        self._client.call(apply(CONFIG_MAPS, self.name, resource_object(read_document(value))))

    def put_text(self, kind: str, name: str, text: str) -> None:
        value = {"metadata": labelled(resource_map(kind, name), "resource"), "data": {"resource.yaml": text}}
        self._client.call(apply(CONFIG_MAPS, self.name, value))

    def data(self, config_map: str) -> dict[str, str]:
        """Empty: there is none."""
        try:
            return dict(self._client.call(get(CONFIG_MAPS, self.name, config_map)).get("data") or {})
        except NotFound:
            return {}

    def delete(self, kind: str, name: str) -> None:
        self._client.call(delete(CONFIG_MAPS, self.name, resource_map(kind, name)))

    # ---- Pods that nobody runs -----------------------------------------------------------------------------------------------------------

    def put_pod(self, name: str, address: str = "", *, ready: bool = True, **labels: str) -> None:
        """As the kubelet would show it; no scheduler looks at it."""
        container = {"name": "main", "image": "registry.local/none:1"}
        value = {"metadata": {"name": name, "labels": labels}, "spec": {"schedulerName": "nobody", "containers": [container]}}
        self._client.call(apply(PODS, self.name, value))
        self.set_ready(name, address, ready=ready)

    def set_ready(self, name: str, address: str = "", *, ready: bool) -> None:
        status: dict[str, Any] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
        if address:
            status |= {"podIP": address, "podIPs": [{"ip": address}]}
        self._client.call(merge_patch(PODS, self.name, name, {"status": status}, subresource="status"))

    def begin_to_delete(self, pod: str) -> None:
        """It is there, and leaves, as one whose containers have a grace."""
        self._client.call(merge_patch(PODS, self.name, pod, {"metadata": {"finalizers": ["vanrouter.io/test"]}}))
        self._client.call(delete(PODS, self.name, pod))

    def delete_pod(self, name: str) -> None:
        self._client.call(delete(PODS, self.name, name))

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
