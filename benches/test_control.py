"""Control messages and the address table: what one change costs, in small networks and in large ones."""

from __future__ import annotations

import itertools

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.credentials import Authority
from vanrouter.addresses import AddressTable, Advertiser, LocalConnector, LocalListener, Path
from vanrouter.messages import Fragment, KeyInfo, SiteInfo, decode_untrusted, encode
from vanrouter.model import RouterId, site_id_of_key

OWN = RouterId(site_id_of_key(b"own"), 1)
PEER = RouterId(site_id_of_key(b"peer"), 2)


def test_encode_and_decode_a_message(benchmark: BenchmarkFixture) -> None:
    message = SiteInfo(name="north", version="0.1.0", platform="linux", routers=[str(OWN), str(PEER)])
    assert benchmark(lambda: decode_untrusted(encode(message))) == message


@pytest.mark.parametrize("keys", [10, 1_000, 10_000])
def test_advertise_one_more_key(benchmark: BenchmarkFixture, keys: int) -> None:
    """The cost of a change must follow the change, not the number of keys."""
    advertiser = Advertiser(OWN, now=0.0)
    for number in range(keys):
        advertiser.set_key(f"service-{number}", KeyInfo(key=f"service-{number}", targets=1), now=0.0)
    clock = itertools.count(10_000.0, 2.0)  # far enough apart that pacing does not hold back, too near for many refreshes

    def change() -> list[Fragment]:
        now = next(clock)
        for targets in (2, 3):
            advertiser.set_key("service-0", KeyInfo(key="service-0", targets=targets), now=now)
        return advertiser.due(now)

    assert benchmark(change)


@pytest.mark.parametrize("keys", [10, 1_000, 10_000])
def test_match_one_more_listener(benchmark: BenchmarkFixture, keys: int) -> None:
    table = AddressTable(OWN)
    table.set_path(str(PEER), Path((str(PEER),), 1), now=0.0)
    for number in range(keys):
        table.put_connector(
            LocalConnector(name=f"c{number}", routing_key=f"service-{number}", host="127.0.0.9", port=10_000 + number), now=0.0
        )
    table.take_changes()

    def change() -> object:
        table.put_listener(LocalListener(name="new", routing_key="service-0", host="127.0.0.1", port=9090), now=1.0)
        table.drop_listener("new", now=1.0)
        return table.take_changes()

    benchmark(change)


def test_make_a_leaf_with_its_identity(benchmark: BenchmarkFixture) -> None:
    authority = Authority()
    assert benchmark(authority.issue, "north").leaf
