"""What all tests share: property tests that say nothing about time, which is the machine's and not the product's."""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background of a shell: programs of tests would not be interrupted
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("vanrouter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if "CI" not in os.environ:  # there hypothesis has its own: the same, and the same examples each time
    settings.load_profile("vanrouter")

# As in a process of its own: a line whose fields cannot be logged fails here too, instead of never being made.
logging.getLogger("vanrouter").setLevel(logging.INFO)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured (record_property "figure"), also when they passed."""
    reports = [
        report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind) if getattr(report, "when", "") == "call"
    ]
    lines = [str(value) for report in reports for name, value in report.user_properties if name == "figure"]
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.line(line)


# ---- Kubernetes -------------------------------------------------------------------------------------------------------------------------

NO_API_SERVER = "no kube-apiserver and etcd on the PATH or in $VAN_CLUSTER_HOME/bin, and no cluster is named in VAN_TEST_KUBECONFIG"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that want an API server, here or of a cluster: `make test-cluster` runs them, when there is one for sure."""
    for item in items:
        if "cluster" in item.path.parts or {"api_server", "cluster"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("api_server")


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real API server that belongs to this test process: it may be stopped, killed, and made to forget (``ApiServer``)."""
    from api_server import ApiServer, programs

    found = programs()
    if found is None:
        if os.environ.get("VAN_CLUSTER_REQUIRED"):
            pytest.fail(NO_API_SERVER)
        pytest.skip(NO_API_SERVER)
    server = ApiServer(tmp_path_factory.mktemp("api-server"), *found)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _administrator(request: pytest.FixtureRequest) -> Any:
    from vanrouter.kube.kubeconfig import load_access

    if path := os.environ.get("VAN_TEST_KUBECONFIG"):
        return load_access(kubeconfig=path)
    return request.getfixturevalue("api_server").access()


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Any:
    """An administrator's way to a cluster (``Access``): the one that VAN_TEST_KUBECONFIG names, else the test's own API server."""
    return _administrator(request)


@pytest.fixture(scope="module")
def undefined_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    """For modules whose tests install definitions of custom resources: what other tests meet depends on them."""
    from custom_resources import remove_definitions

    from vanrouter.kube.blocking import BlockingClient

    access = _administrator(request)
    yield
    with BlockingClient(access) as client:
        remove_definitions(client)


@pytest.fixture
def namespace(cluster: Any) -> Iterator[str]:
    """A namespace of the test's own."""
    from vanrouter.kube.blocking import BlockingClient
    from vanrouter.kube.calls import create, delete
    from vanrouter.kube.kinds import NAMESPACES

    name = f"van-test-{secrets.token_hex(4)}"
    with BlockingClient(cluster) as client:
        client.call(create(NAMESPACES, "", {"metadata": {"name": name}}))
        yield name
        client.call(delete(NAMESPACES, "", name))
