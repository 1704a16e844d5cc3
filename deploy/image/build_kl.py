"""
`make image`: the image of deploy/Containerfile, made without a container engine.

    build.py --wheel WHEEL --out build/vanrouter-image.tar

What changes seldom is kept outside the checkout ($VAN_IMAGE_CACHE, else ~/.cache/vanrouter/image), each under the hash of what it was made
from: a Debian system (debootstrap, 90 s), the layer made of it, and the layer of the dependencies. A change of vanrouter makes one small
layer anew.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import layers
import pack

HERE: Final = Path(__file__).resolve().parent
CHECKOUT: Final = HERE.parent.parent
NAME: Final = "registry.local/vanrouter:kl"
DEBIAN_NEEDS: Final = "python3,python3-venv,ca-certificates"  # for images of tests too: tests/cluster


def cache() -> Path:
    place = os.environ.get("VAN_IMAGE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vanrouter" / "image"
    return Path(place)


def once(name: str, made_from: bytes, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` in the cache; made first if what it is made from is new. Whole or not there, however a run ends."""
    place = cache() / f"{name}-{hashlib.sha256(made_from).hexdigest()[:12]}"
    if not place.exists():
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache()))
        partial.chmod(0o755)
        try:
            make(partial)
            partial.rename(place)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return place


def debian() -> Path:
    """A small Debian system: debootstrap as root."""

    def make(place: Path) -> None:
        if os.geteuid() != 0 or not shutil.which("debootstrap"):
            sys.exit(
                "make image: debootstrap as root makes its base; where that cannot be, build deploy/Containerfile with a container engine"
            )
        print("make image: debootstrap, once (about 90 s)", flush=True)
        log = place.parent / "debootstrap.log"
        command = ["debootstrap", "--variant=minbase", f"--include={DEBIAN_NEEDS}", layers.RELEASE, str(place)]
        with log.open("w") as out:
            if subprocess.run(command, stdout=out, stderr=out, check=False).returncode:
                sys.exit(f"make image: debootstrap failed; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-5:]))
        shutil.rmtree(place / "var/cache/apt")
        shutil.rmtree(place / "var/lib/apt/lists")

    return once("debian", f"{layers.RELEASE} {DEBIAN_NEEDS}".encode(), make)


def base() -> Path:
    system = debian()
    return once(
        "base", (HERE / "layers.py").read_bytes() + system.name.encode(), lambda place: _layer(place, lambda out: layers.base(system, out))
    )


def dependencies(base_layer: Path) -> Path:
    lock = CHECKOUT / "requirements.lock"
    made_from = lock.read_bytes() + base_layer.name.encode()
    return once("dependencies", made_from, lambda place: _layer(place, lambda out: layers.dependencies(base_layer / "files", lock, out)))


def _layer(place: Path, fill: Callable[[Path], None]) -> None:
    """A folder ``files``, and as layer.tar what goes into the image."""
    files = place / "files"
    files.mkdir()
    fill(files)
    pack.layer_tar(files, place / "layer.tar")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    os.umask(0o022)
    cache().mkdir(parents=True, exist_ok=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:  # two checkouts at once would do the same work twice
        fcntl.flock(lock, fcntl.LOCK_EX)
        base_layer = base()
        below = [base_layer / "layer.tar", dependencies(base_layer) / "layer.tar"]
    with tempfile.TemporaryDirectory() as ours:
        layers.wheel(base_layer / "files", given.wheel, Path(ours))
        Path(ours).chmod(0o755)
        image = pack.pack(NAME, given.out, [*below, Path(ours)], pack.config_of(CHECKOUT / "deploy" / "Containerfile"))
    print(f"{given.out}: {NAME}, {given.out.stat().st_size / 1e6:.0f} MB, id {image[:12]}")


if __name__ == "__main__":
    main()
