"""
What the image consists of, as folders: one per layer. `deploy/Containerfile` and `deploy/image/build.py` both call this, so both make the
same image.

    layers.py base ROOT OUT                      Python and what it needs, out of a Debian system at ROOT; no shell, no package manager
    layers.py dependencies BASE LOCK OUT         the packages of requirements.lock, with the hashes that it names
    layers.py wheel BASE WHEEL OUT               vanrouter itself

BASE is the folder of the first layer: its Python compiles what the others hold, since nothing can be compiled where the root is read-only.
Needs only what comes with Python, and pip for the dependencies.
"""

from __future__ import annotations

import configparser
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

RELEASE: Final = "bookworm"
GLIBC: Final = (2, 36)  # of that release
PYTHON: Final = "3.11"  # of that release
PACKAGES: Final = (
    "base-files",
    "libbz2-1.0",
    "libc6",
    "libcrypt1",
    "libdb5.3",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libsqlite3-0",
    "libssl3",
    "libuuid1",
    "python3-minimal",
    "python3.11",
    "python3.11-minimal",
    "zlib1g",
)
# What nobody runs in a router: manuals, translations, conversion tables for character sets, parts of Python for developers.
LEFT_OUT: Final = re.compile(
    r"^usr/share/(?!doc/[^/]+/copyright$)|^usr/lib/[^/]+/(gconv|perl-base)/"
    r"|^usr/lib/python3\.11/(idlelib|lib2to3|pydoc_data|tkinter|turtledemo|ensurepip|distutils|_sysconfigdata__.*d_)"
    r"|^usr/bin/(?!python3)|^usr/sbin/|^etc/(?!debian_version$|os-release$)|^usr/lib/debug/|^(var|home|root|boot|srv|mnt|media|opt)(/|$)"
)
SITE_PACKAGES: Final = f"usr/local/lib/python{PYTHON}/dist-packages"  # on Debian's path without a word more
ACCOUNTS: Final = {
    "etc/passwd": "root:x:0:0:root:/:/usr/sbin/nologin\nvanrouter:x:65532:65532::/var/lib/vanrouter:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nvanrouter:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
SCRIPT: Final = "#!/usr/bin/python3 -P\nimport sys\nfrom {module} import {function}\n\nsys.exit({function}())\n"


def base(root: Path, out: Path) -> None:
    """Exactly the files of these packages, and their entries in the package database, for those who look for vulnerable ones."""
    admin = f"--admindir={root}/var/lib/dpkg"
    listed = subprocess.run(["dpkg-query", admin, "-L", *PACKAGES], capture_output=True, text=True, check=True).stdout
    moved = re.compile(r"^(bin|sbin|lib|lib64)(?=/|$)")  # those are links to usr/... now
    for name in sorted({moved.sub(r"usr/\1", line.lstrip("/")) for line in listed.splitlines()} - {"", "."}):
        here, there = root / name, out / name
        if LEFT_OUT.match(name) or (here.is_dir() and not here.is_symlink()):
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(here, there, follow_symlinks=False)
    for name in ("bin", "sbin", "lib", "lib64"):
        (out / "usr" / name).mkdir(parents=True, exist_ok=True)
        (out / name).symlink_to(f"usr/{name}")
    for package in PACKAGES:
        entry = subprocess.run(["dpkg-query", admin, "-s", package], capture_output=True, text=True, check=True).stdout
        _write(out / "var/lib/dpkg/status.d" / package, entry)
    for name, text in ACCOUNTS.items():
        _write(out / name, text)
    for name in ("tmp", "var/lib/vanrouter"):  # for any user; where the root is read-only, something is mounted there
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / name).chmod(0o1777)
    for name in ("proc", "sys", "dev", "run"):
        (out / name).mkdir(exist_ok=True)
    _compile(out, out / f"usr/lib/python{PYTHON}")


def dependencies(base_layer: Path, lock: Path, out: Path) -> None:
    target = out / SITE_PACKAGES
    machine = platform.machine()
    _pip(
        "install", "--no-deps", "--require-hashes", "--only-binary=:all:", "--target", str(target), "--requirement", str(lock),
        "--python-version", PYTHON, "--implementation", "cp", "--abi", f"cp{PYTHON.replace('.', '')}", "--abi", "abi3", "--abi", "none",
        *(word for minor in (*range(GLIBC[1], 16, -1),) for word in ("--platform", f"manylinux_2_{minor}_{machine}")),
        "--platform", f"manylinux2014_{machine}", "--platform", "any",
    )  # fmt: skip
    shutil.rmtree(target / "bin", ignore_errors=True)
    _compile(base_layer, target, prefix=out)


def wheel(base_layer: Path, file: Path, out: Path) -> None:
    needs = re.search(r"manylinux_(\d+)_(\d+)_", file.name)
    if needs and (int(needs[1]), int(needs[2])) > GLIBC:
        has = f"{GLIBC[0]}.{GLIBC[1]}"
        way_out = f"build it on Debian {RELEASE} or with deploy/Containerfile"
        sys.exit(f"{file.name} needs glibc {needs[1]}.{needs[2]}, the image has {has}: {way_out}")
    target = out / SITE_PACKAGES
    with zipfile.ZipFile(file) as archive:
        archive.extractall(target)
        same_each_time(target)
        scripts = configparser.ConfigParser()
        scripts.read_string(
            archive.read(next(name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))).decode()
        )
    for name, place in scripts["console_scripts"].items():
        module, function = place.split(":")
        _write(out / "usr/local/bin" / name, SCRIPT.format(module=module, function=function), mode=0o755)
    _compile(base_layer, target, prefix=out)


def same_each_time(target: Path) -> None:
    """Without what is new with each build of the same sources: the serial number and time of the list of crates, and its hash."""
    for listed in target.glob("*.dist-info/sboms/*.json"):
        crates = json.loads(listed.read_text())
        crates.pop("serialNumber", None)
        crates["metadata"].pop("timestamp", None)
        listed.write_text(re.sub(r"file://[^\"]*/rust/", "file:///src/rust/", json.dumps(crates)))
    for record in target.glob("*.dist-info/RECORD"):
        record.unlink()


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments, "--no-compile"], check=True)


def _compile(base_layer: Path, folder: Path, *, prefix: Path | None = None) -> None:
    """By the image's own Python, called through its own loader. Compiled files are believed unseen: nothing changes under them."""
    loader = next(base_layer.glob("usr/lib*/ld-linux-*.so.*"))
    libraries = next(base_layer.glob("usr/lib/*-linux-gnu"))
    subprocess.run(
        [
            loader, "--library-path", libraries, base_layer / f"usr/bin/python{PYTHON}", "-S", "-m", "compileall", "-q", "-f",
            "--invalidation-mode", "unchecked-hash", "-s", prefix or base_layer, "-p", "/", folder,
        ],
        env={"PYTHONHOME": str(base_layer / "usr"), "PATH": os.environ["PATH"]},
        check=True,
    )  # fmt: skip


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def main(words: Sequence[str]) -> None:
    os.umask(0o022)
    match words:
        case ["base", root, out]:
            base(Path(root), Path(out))
        case ["dependencies", base_layer, lock, out]:
            dependencies(Path(base_layer), Path(lock), Path(out))
        case ["wheel", base_layer, file, out]:
            wheel(Path(base_layer), Path(file), Path(out))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
