"""
Writes the CustomResourceDefinitions of this directory anew, from the Go modules that publish them: `README.md` names versions and licences.

    python tests/kube/crds/extract.py "$(go env GOMODCACHE)"

Descriptions are left out; all that a server checks stays.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
OPENSHIFT = "github.com/openshift/api@v0.0.0-20260213204242-d34f11c515b3"
GATEWAY = "sigs.k8s.io/gateway-api@v1.7.0/config/crd/standard/gateway.networking.k8s.io_{}.yaml"
SOURCES = {
    "routes.yaml": (
        "github.com/openshift/api@v0.0.0-20260213204242-d34f11c515b3/route/v1/zz_generated.crd-manifests/routes.crd.yaml",
        "Route",
    ),
    "httpproxies.yaml": ("github.com/projectcontour/contour@v1.33.8/examples/contour/01-crds.yaml", "HTTPProxy"),
    "gateways.yaml": (GATEWAY.format("gateways"), "Gateway"),
    "tlsroutes.yaml": (GATEWAY.format("tlsroutes"), "TLSRoute"),
}


def without_descriptions(value: Any, *, names: bool = False) -> Any:
    """``names``: the keys are a schema's property names, not its words."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if names or k != "description" or not isinstance(v, str)}
        return {k: without_descriptions(v, names=k == "properties" and not names) for k, v in kept.items()}
    return [without_descriptions(item) for item in value] if isinstance(value, list) else value


def main(modules: Path) -> None:
    for name, (source, kind) in SOURCES.items():
        found = [d for d in yaml.safe_load_all((modules / source).read_text()) if d and d["spec"]["names"]["kind"] == kind]
        text = yaml.safe_dump(without_descriptions(found[0]), sort_keys=False, width=140)
        (HERE / name).write_text(f"# From {source}\n{text}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
