"""
Folders to a container image, without a container engine: an archive as `docker save` writes it, which `ctr images import`, `podman load`
and `docker load` take.

    pack.py --name registry.local/hello:1 --out hello.tar [--entrypoint "/hello 8080"] [--user 1000] [--env A=B] FOLDER_OR_TAR...

Each folder is a layer; the same files make the same bytes, so that a layer that did not change is not unpacked again. A layer may be a tar
file that `layer_tar` made earlier.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import platform
import re
import shlex
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def layer_tar(folder: Path, out: Path) -> None:
    """The folder's files, owned by root, without times: equal for equal content."""
    order = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]
    subprocess.run(["tar", *order, "-C", folder, "-cf", out, "."], check=True)


def pack(name: str, out: Path, layers: Sequence[Path], config: Mapping[str, Any]) -> str:
    """Write the archive; what it returns is the image's id."""
    ids = []
    partial = out.with_name(out.name + ".partial")
    with tarfile.open(partial, "w") as archive:
        for number, layer in enumerate(layers):
            packed = layer
            if layer.is_dir():
                packed = out.with_name(f"{out.name}.layer{number}")
                layer_tar(layer, packed)
            with packed.open("rb") as content:
                ids.append(hashlib.file_digest(content, "sha256").hexdigest())
            if ids[-1] not in ids[:-1]:
                archive.add(packed, f"{ids[-1]}/layer.tar", filter=_plain)
            if packed is not layer:
                packed.unlink()
        described = json.dumps(
            {
                "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in ids]},
            },
            sort_keys=True,
        ).encode()
        image = hashlib.sha256(described).hexdigest()
        tags = [name, f"{name.rsplit(':', 1)[0]}:{image[:12]}"]  # the second one for those who must not mix two builds up
        manifest = [{"Config": f"{image}.json", "RepoTags": tags, "Layers": [f"{digest}/layer.tar" for digest in ids]}]
        for file, data in ((f"{image}.json", described), ("manifest.json", json.dumps(manifest).encode())):
            entry = tarfile.TarInfo(file)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    partial.replace(out)
    return image


def config_of(containerfile: Path) -> dict[str, Any]:
    """USER, ENV, WORKDIR and ENTRYPOINT of the last stage: what the image says is written once, there."""
    stage = re.split(r"^FROM .*$", containerfile.read_text().replace("\\\n", " "), flags=re.MULTILINE)[-1]
    config: dict[str, Any] = {"Env": []}
    for instruction, rest in re.findall(r"^(USER|ENV|WORKDIR|ENTRYPOINT|LABEL) +(.*)$", stage, flags=re.MULTILINE):
        match instruction:
            case "ENV":
                config["Env"] += shlex.split(rest)
            case "LABEL":
                config.setdefault("Labels", {}).update(pair.split("=", 1) for pair in shlex.split(rest))
            case "ENTRYPOINT":
                config["Entrypoint"] = json.loads(rest)
            case "USER":
                config["User"] = rest
            case _:
                config["WorkingDir"] = rest
    return config


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--user", default="")
    parser.add_argument("--entrypoint", default="")
    parser.add_argument("layers", nargs="+", type=Path)
    given = parser.parse_args()
    environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *given.env]
    config = {"Env": environment, "Entrypoint": shlex.split(given.entrypoint) or None, "User": given.user}
    print(pack(given.name, given.out, given.layers, config))


if __name__ == "__main__":
    main()
