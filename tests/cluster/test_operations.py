"""
Operations hurt nobody: 20 requests per second, each on a new connection, and 10 long transfers go from one cluster into the other while
routers, servers, controllers and the API server are replaced, killed, away (pair.py, traffic.py).

Here each phase is as short as it can be; `make soak` has them long, and `make bench-kube` measures more rounds (benches/kube).
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from clusters import Cluster, Namespace, until
from pair import CONTROLLERS, PARTS, Pair, Side, delete_by_force, die, pair
from traffic import LONG, Traffic, check_servers, failed, processes
from used import USED

pytestmark = pytest.mark.timeout(1_800 if LONG else 300)
ENOUGH = 7.0  # seconds after which a router that leaves and has a successor refuses new connections
GRACE, DRAIN = (5.0, 30.0), 60.0  # of a router: manifests.py, sites/leaving.py
QUIET = 10.0 if LONG else 1.0  # before and after what is done
API_AWAY = 60.0 if LONG else 12.0
ROUNDS = 5 if LONG else 1


@pytest.fixture(scope="module")
def installed(clusters: tuple[Cluster, Cluster], image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(*clusters, image, tmp_path_factory.mktemp("pair")) as made:
        yield made


@pytest.fixture
def sites(installed: Pair, request: pytest.FixtureRequest) -> Pair:
    request.node.stash.setdefault(USED, []).extend(side.space for side in installed.sides)
    return installed


def on_both(sites: Pair, do: Callable[[Side], Any]) -> None:
    with ThreadPoolExecutor() as at_once:
        list(at_once.map(do, sites.sides))


@contextlib.contextmanager
def load(sites: Pair, figure: Callable[[str, object], None], name: str, *, spared: bool = True) -> Iterator[Traffic]:
    """Traffic while the body runs: every request whole, and, if ``spared``, every transfer."""
    with sites.traffic() as running:
        time.sleep(QUIET)
        yield running
        time.sleep(QUIET)
        totals = running.end()
    figure("figure", f"{name}: {totals}")
    assert len(totals.requests) > 10
    assert failed(totals.requests) == []
    assert not spared or failed(totals.transfers) == []
    check_servers(sites.south.space, totals)


def test_replacing_the_only_router_of_either_site_costs_no_request_and_no_transfer(
    sites: Pair, record_property: Callable[[str, object], None]
) -> None:
    sites.with_routers(1)
    with load(sites, record_property, "one router: restarted and deleted, in north and in south"):
        for change in (Side.restart, Side.delete_a_router):
            for side in sites.sides:
                change(side)
        time.sleep(ENOUGH)  # those that leave refuse what is new now


def test_replacing_one_of_two_routers_or_updating_the_site_costs_no_request_and_no_transfer(
    sites: Pair, record_property: Callable[[str, object], None]
) -> None:
    sites.with_routers(1)
    with load(sites, record_property, "van update to two routers, other resources and another log level"):
        on_both(sites, lambda side: side.van("update --routers 2 --router-memory 80Mi --log-level info --timeout 100s"))
    with load(sites, record_property, "two routers: restarted and deleted, in north and in south"):
        for change in (Side.restart, Side.delete_a_router):
            for side in sites.sides:
                change(side)


@pytest.mark.skipif(not LONG, reason="VANROUTER_LONG is not set (make soak)")
def test_transfers_that_last_longer_than_the_drain_are_reset_at_its_end_and_not_earlier(
    sites: Pair, record_property: Callable[[str, object], None]
) -> None:
    sites.with_routers(1)
    with sites.traffic(lasting=180.0) as running:
        time.sleep(QUIET)
        began = time.monotonic()
        sites.north.restart()
        totals = running.end(long=True)
    record_property("figure", f"restarted with transfers of 3 minutes: {totals}")
    assert failed(totals.requests) == []
    assert {end.kind for end in totals.transfers} == {"reset"}
    assert all(DRAIN + GRACE[0] < end.ended - began < DRAIN + GRACE[1] + 5.0 for end in totals.transfers), totals.transfers.all


# Who dies, by how many routers each site has: `make soak` has all of them.
DEATHS = {
    2: [(die, "north"), (die, "south"), (delete_by_force, "north")],
    1: [(die, "north"), (delete_by_force, "south")],
}
BACK = 15.0  # seconds of the successor's life; a quiet machine needs 2
ALL_DEATHS = [(fault, site) for fault in (die, delete_by_force) for site in ("north", "south")]


@pytest.mark.parametrize("routers", [2, 1])
def test_new_connections_work_again_soon_after_a_router_died(
    sites: Pair, record_property: Callable[[str, object], None], routers: int
) -> None:
    """`make soak`: with two, 1.5 s after it at most; with one, 2 s after its successor began; medians, without what others here took.

    Each time, what does not depend on the machine's speed: with two, clients of its site reach the other one meanwhile, and what only goes
    over the link of the dead one goes over the other.
    """
    sites.with_routers(routers)
    for fault, site in ALL_DEATHS if LONG else DEATHS[routers]:
        found = [sites.outage(getattr(sites, site), fault, quiet=QUIET) for _ in range(ROUNDS)]
        record_property("figure", f"{routers} router(s), {fault.__name__} in {site}: " + "; ".join(map(str, found)))
        if routers == 2:
            # `meanwhile` has the failed ones and the success that ended it: one more is a client that got through to the other router.
            few, some_get_through = (2, False) if site == "south" else (3, True)
            assert all(each.failed <= few or (some_get_through and each.failed < each.meanwhile - 1) for each in found), found
        else:
            # Whatever the machine: it comes back while the traffic runs, and no back-off of half a minute is in between.
            assert all(not each.failed or each.failed < each.meanwhile for each in found), found
            assert all(each.after_start <= BACK for each in found), found
        if LONG and routers == 2:
            assert statistics.median(each.after_fault for each in found) <= 1.5, found
        elif LONG:
            assert statistics.median(each.after_start for each in found) <= 2.0, found


def test_a_backend_that_goes_costs_no_request(sites: Pair, record_property: Callable[[str, object], None]) -> None:
    """It refuses new connections from the moment it is asked to go, so that targets that are going are met."""
    with load(sites, record_property, "backend pods deleted", spared=False):
        for _ in range(2):
            pod = sites.south.space.get("pods", "-l", "app=backend")["items"][0]["metadata"]["name"]
            sites.south.space.kubectl("delete", "pod", pod, "--wait=false")
            sites.south.gone(pod)
            sites.south.space.kubectl("rollout", "status", "deployment/backend", "--timeout=30s")


def answers(cluster: Cluster) -> float:
    """When its API server did."""
    cluster.kubectl("get", "--raw", "/readyz", "--request-timeout=2s")
    return time.monotonic()


def made(space: Namespace) -> dict[str, Any]:
    """What must not be made anew: Services, and the ports of listeners."""
    services = {item["metadata"]["name"]: (item["metadata"]["uid"], item["spec"]["clusterIP"]) for item in space.get("services")["items"]}
    ports: dict[str, Any] = json.loads(space.get("configmap", "van-router")["data"]["router.json"])["ports"]
    return services | ports


def has(side: Side, service: str) -> bool:
    """Its Service is there, and its status speaks of it."""
    return bool(side.space.get("service", service)) and service in side.van("service status -o json")


def test_traffic_goes_on_while_controllers_and_api_servers_are_away(sites: Pair, record_property: Callable[[str, object], None]) -> None:
    """What was exposed elsewhere meanwhile is here 10 s after the API server is back, without what others on this machine took of them."""
    north, south = sites.sides
    cluster = north.space.cluster
    on_both(sites, Side.settled)
    before = [made(side.space) for side in sites.sides]
    what = f"controllers deleted, API server hung for {API_AWAY:.0f} s, then dead for as long"
    with load(sites, record_property, what) as running:
        for side in sites.sides:
            side.space.kubectl("delete", "pod", "-l", CONTROLLERS, "--grace-period=1")
            side.space.kubectl("rollout", "status", "deployment/van-controller", "--timeout=60s", timeout=70)
        running.watched |= {cluster.pid(part) for part in PARTS} | {found.pid for found in processes(north.space, CONTROLLERS)}
        for number, away in enumerate((cluster.stopped, cluster.killed)):
            with away("apiserver"):
                time.sleep(API_AWAY / 2)
                south.van(f"expose deployment/backend --address news-{number} --port 81 --target-port 8080")
                time.sleep(API_AWAY / 2)
            back = until("the API server answers", lambda: answers(cluster), seconds=60)
            until("the news are here", lambda news=f"news-{number}": has(north, news), seconds=40)  # type: ignore[misc]
            caught_up = time.monotonic()
            waited = running.waits.longest(back, caught_up)
            record_property("figure", f"caught up {caught_up - back:.1f} s after the API server was back (waited {waited:.1f} s)")
            assert caught_up - back - waited <= 10.0
            south.van(f"unexpose deployment/backend --address news-{number}")
    cluster.recovered()
    for was, side in zip(before, sites.sides, strict=True):
        assert was.items() <= made(side.space).items()
