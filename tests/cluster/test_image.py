"""The image: small, the same for the same content, and at home under any user who may do nothing."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pods
import pytest
from clusters import Cluster, Namespace, run

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
MIB = 1 << 20


def manifest(archive: Path) -> tuple[str, list[str]]:
    """The id and the layers."""
    with tarfile.open(archive) as opened:
        file = opened.extractfile("manifest.json")
        assert file
        (image,) = json.load(file)
    return image["Config"], image["Layers"]


def rebuilt(wheel: Path, copy: Path) -> None:
    """The wheel as another build of the same sources makes it."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".cyclonedx.json"):
                crates = json.loads(content)
                assert crates["serialNumber"] != "urn:uuid:1"
                content = json.dumps(crates | {"serialNumber": "urn:uuid:1"}).encode()
            new.writestr(name, content)


@pytest.mark.parametrize("uid", [pods.ANY_UID, 1, None], ids=["any user", "user 1", "the user that it names"])
def test_it_runs_without_root_capabilities_and_a_writable_file_system(
    cluster: Cluster, namespace: Callable[..., Namespace], image: str, uid: int | None
) -> None:
    here = namespace(cluster, "confined")
    here.apply(pods.pod("version", pods.container("version", image, args=["version"]), uid=uid, restartPolicy="Never"))
    here.wait("pod/version", "jsonpath={.status.phase}=Succeeded")
    assert here.kubectl("logs", "version").stdout.strip() == importlib.metadata.version("vanrouter")


def test_the_core_is_in_it_and_a_shell_is_not(cluster: Cluster, namespace: Callable[..., Namespace], image: str) -> None:
    here = namespace(cluster, "opened")
    here.apply(pods.client(image))
    here.wait("pod/client")
    code = "import ctypes, sqlite3, ssl, vanrouter.native, vanrouter.sites.process; import os; print(os.getuid(), os.access('/', os.W_OK))"
    assert here.exec("client", "python3", "-c", code).split() == [str(pods.ANY_UID), "False"]
    for absent in ("sh", "bash", "apt-get", "pip"):
        assert "not found" in here.kubectl("exec", "client", "--", absent, check=False).stderr


def test_it_is_small(archive: Path) -> None:
    assert archive.stat().st_size < 100 * MIB


def test_another_vanrouter_is_another_last_layer_and_the_same_is_the_same_image(archive: Path, tmp_path: Path) -> None:
    (wheel,) = (archive.parent / "wheel").glob("*.whl")
    again, changed = tmp_path / "again" / wheel.name, tmp_path / "changed" / wheel.name
    for file in (again, changed):
        file.parent.mkdir()
    rebuilt(wheel, again)
    shutil.copy(wheel, changed)
    with zipfile.ZipFile(changed, "a") as opened:
        opened.writestr("vanrouter/added.py", "")
    built = []
    for number, file in enumerate((again, changed)):
        out = tmp_path / f"{number}.tar"
        subprocess.run(
            [sys.executable, DEPLOY / "image" / "build.py", "--wheel", file, "--out", out], check=True, stdout=subprocess.DEVNULL
        )
        built.append(manifest(out))
    assert built[0] == manifest(archive)
    assert built[1][0] != built[0][0]
    assert built[1][1][:2] == built[0][1][:2]
    assert built[1][1][2] != built[0][1][2]


def test_a_wheel_for_a_newer_system_is_refused_with_the_way_out(tmp_path: Path) -> None:
    wheel = tmp_path / "vanrouter-1-cp311-abi3-manylinux_2_39_x86_64.whl"
    refused = run(sys.executable, DEPLOY / "image" / "layers.py", "wheel", tmp_path, wheel, tmp_path, check=False)
    assert refused.returncode == 1
    assert "needs glibc 2.39, the image has 2.36" in refused.stderr
    assert "deploy/Containerfile" in refused.stderr
