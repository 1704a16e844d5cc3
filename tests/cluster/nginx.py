"""A real nginx, Debian's, in an image with what it needs and nothing else; and the Deployment `frontend` of the walk-through."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pods

sys.path.append(str(Path(__file__).resolve().parents[2] / "deploy" / "image"))

from pack import pack

PORT: Final = 8080
CONF: Final = f"""\
worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
    server {{
        listen {PORT};
        location / {{ proxy_pass http://hello; }}
    }}
}}
"""


def archive(directory: Path) -> Path:
    """The image: /usr/sbin/nginx of this machine (`.ci/need nginx`) with the libraries that it names."""
    program = Path(shutil.which("nginx", path="/usr/sbin:/usr/bin") or "/usr/sbin/nginx")
    assert program.exists(), f"{program} is not there: .ci/need nginx"
    needs = re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout)
    layer = directory / "nginx"
    for file in (program, *map(Path, needs)):
        there = layer / str(file).lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, there)  # what a link means
    for name, text in (
        ("etc/passwd", "nobody:x:65534:65534::/:/\n"),
        ("etc/group", "nogroup:x:65534:\n"),
        ("etc/nsswitch.conf", "hosts: files dns\n"),
    ):
        (layer / "etc").mkdir(exist_ok=True)
        (layer / name).write_text(text)
    for name in ("tmp", "proc", "dev", "sys", "var/log/nginx", "var/lib/nginx"):
        (layer / name).mkdir(parents=True, exist_ok=True)
    out = directory / "nginx.tar"
    pack("registry.local/nginx:test", out, [layer], {"Env": ["PATH=/usr/sbin"], "User": "65534:65534"})
    return out


def frontend(image: str) -> list[dict[str, Any]]:
    """It ends at once while nobody knows the host `hello`."""
    mounts = [{"name": "conf", "mountPath": "/etc/nginx"}, {"name": "tmp", "mountPath": "/tmp"}]
    container = pods.container(
        "nginx", image, ["nginx", "-e", "stderr", "-g", "daemon off;"], volumeMounts=mounts, ports=[{"containerPort": PORT}]
    )
    volumes = [{"name": "conf", "configMap": {"name": "frontend"}}, {"name": "tmp", "emptyDir": {}}]
    pod = pods.pod("frontend", container, volumes=volumes)
    template = {"metadata": {"labels": {"app": "frontend"}}, "spec": pod["spec"]}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "frontend"}}, "template": template}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "frontend"}, "data": {"nginx.conf": CONF}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "frontend"}, "spec": spec},
    ]
