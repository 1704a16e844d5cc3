"""Objects that tests put into a cluster, with no more rights than a careful namespace allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ANY_UID = 1000660000  # of the kind that OpenShift gives a namespace

HELLO = """\
import http.server
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"message":"Hello"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("", 8080), Hello).serve_forever()
"""

GET = """\
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode(), end="")
"""


def container(name: str, image: str, command: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """Read-only root, no capabilities."""
    confined = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    words = {"command": list(command)} if command else {}
    return {"name": name, "image": image, "imagePullPolicy": "Never", "securityContext": confined, **words, **more}


def pod(name: str, *containers: Mapping[str, Any], uid: int | None = ANY_UID, **more: Any) -> dict[str, Any]:
    """Not root, with the runtime's seccomp profile; ``uid`` None: whom the image names."""
    user = {} if uid is None else {"runAsUser": uid}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **user},
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": False,
            "containers": list(containers),
            **more,
        },
    }


def service(name: str, port: int, target: int, *, app: str = "", kind: str = "ClusterIP") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": kind, "selector": {"app": app or name}, "ports": [{"name": "main", "port": port, "targetPort": target}]},
    }


def hello(image: str) -> dict[str, Any]:
    """A server that says hello at port 8080."""
    ready = {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1}
    return pod("hello", container("hello", image, ["python3", "-c", HELLO], readinessProbe=ready))


def client(image: str) -> dict[str, Any]:
    """Something to ask from: `exec` "client", *get(url)."""
    return pod("client", container("client", image, ["python3", "-c", "import signal; signal.pause()"]))


def get(url: str) -> tuple[str, ...]:
    return ("python3", "-c", GET, url)
