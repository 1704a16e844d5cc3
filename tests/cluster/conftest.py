"""
Two real clusters for all tests of a run, and for each test namespaces of its own (README.md). Where clusters cannot run, these tests are
skipped and say so; with VAN_CLUSTER_REQUIRED=1 (`make test-cluster`, CI) that is a failure.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import clusters as real
import pytest
from clusters import Cluster, Namespace, hold, run
from used import USED

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
IMAGE = CHECKOUT / "build" / "vanrouter-image.tar"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:  # the first one starts the clusters
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def clusters() -> Iterator[tuple[Cluster, Cluster]]:
    """Two, side by side, each with the other's addresses in reach."""
    can = run(HERE / "build.sh", "--can", check=False)
    missing = can.stdout.strip() if can.returncode else "" if (real.HOME / "built").exists() else "run tests/cluster/build.sh first"
    if missing and os.environ.get("VAN_CLUSTER_REQUIRED"):
        pytest.fail(f"no clusters here: {missing}", pytrace=False)
    if missing:
        pytest.skip(f"no clusters here: {missing}")
    holding = [hold(name, index) for name, index in real.wanted()]
    with ThreadPoolExecutor() as at_once, contextlib.ExitStack() as stack:
        # Both begin, both end, at the same time; one that fails does not keep the other.
        begun = [at_once.submit(cluster.__enter__) for cluster in holding]
        for cluster, start in zip(holding, begun, strict=True):
            if start.exception() is None:
                stack.callback(lambda cluster=cluster: ended.append(at_once.submit(cluster.__exit__, None, None, None)))  # type: ignore[misc]
        ended: list[object] = []
        one, two = (start.result() for start in begun)
        yield one, two


@pytest.fixture(scope="session")
def cluster(clusters: tuple[Cluster, Cluster]) -> Cluster:
    """One of them, for who needs no more."""
    return clusters[0]


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> Iterator[Callable[..., Namespace]]:
    """``namespace(cluster, "north")`` makes one for this test; what is in it is shown when the test fails."""
    used = request.node.stash.setdefault(USED, [])
    with contextlib.ExitStack() as stack:

        def make(cluster: Cluster, name: str, *, exactly: bool = False) -> Namespace:
            made = stack.enter_context(cluster.namespace(name, exactly=exactly))
            used.append(made)
            return made

        yield make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when in ("setup", "call") and report.failed:  # type: ignore[attr-defined]
        for used in item.stash.get(USED, []):
            report.sections.append((f"{used.cluster.name}/{used.name}", used.report()))  # type: ignore[attr-defined]
    return report


@pytest.fixture(scope="session")
def archive() -> Path:
    """What `make image` made, of the sources as they are now."""
    sources = [
        *(CHECKOUT / "python" / "vanrouter").rglob("*.py"),
        *(CHECKOUT / "deploy").rglob("*.py"),
        CHECKOUT / "deploy" / "Containerfile",
    ]
    if not IMAGE.exists() or IMAGE.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        pytest.fail(f"{IMAGE} is not there or older than the sources: make image", pytrace=False)
    return IMAGE


@pytest.fixture(scope="session")
def image(clusters: tuple[Cluster, Cluster], archive: Path) -> str:
    """The name of vanrouter's image, which both clusters have."""
    with ThreadPoolExecutor() as at_once:
        first, second = at_once.map(lambda cluster: cluster.load(archive), clusters)
    assert first == second
    return first
