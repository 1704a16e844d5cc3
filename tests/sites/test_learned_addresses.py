"""
A site in a namespace gets another address while others are linked with it.

    controller south ▸ router south ──link── relay (the node port) ── router north ▸ controller north
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml
from namespace_world import Namespace
from pod_world import Routers
from site_world import plane, world
from sni_relay import SniRelay
from test_controlled_router import controlling, token_for

from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import apply, create, delete
from vanrouter.kube.kinds import NAMESPACES, SECRETS
from vanrouter.pki.authority import van_name
from vanrouter.sites.learned import Learned
from vanrouter.stores import StateFiles

__all__ = ["plane", "world"]


@pytest.fixture
def far(cluster: Any) -> Iterator[Namespace]:
    """South's namespace."""
    name = f"van-test-{secrets.token_hex(4)}"
    with BlockingClient(cluster) as client:
        client.call(create(NAMESPACES, "", {"metadata": {"name": name}}))
        with Namespace(cluster, name, "south") as made:
            yield made
        client.call(delete(NAMESPACES, "", name))


def told(status: Any) -> list[int]:
    return [e["port"] for e in status["site"]["endpoints"]]


def uses(status: Any, port: int) -> bool:
    """And nothing else."""
    there = [link for link in status["links"] if link["active"] and link["endpoint"] == f"127.0.0.1:{port}"]
    return any(link["lanes"] == link["lanesWanted"] for link in there)


async def test_it_is_learned_over_the_live_link_and_used_also_by_a_pod_that_comes_later(
    space: Namespace, far: Namespace, routers: Routers, cluster: Any, nursery: trio.Nursery
) -> None:
    space.put("Site", "north", linkAccess="nodeport", settings={"ingress-host": "127.0.0.1"})
    far.put("Site", "south")
    async with controlling(space) as issuing, controlling(far) as redeeming:
        north = await routers.start(space, "north-1", controller=("127.0.0.1", issuing.port), any_host="127.0.0.23")
        behind = {van_name(issuing.keys.site_id): routers.port}
        status = await routers.until(north, "it has a node port", lambda s: s["site"]["controller"] and told(s))
        (old,) = told(status)
        async with trio.open_nursery() as node:
            await node.start(SniRelay(behind, old, host="127.0.0.23").run)
            token = await trio.to_thread.run_sync(token_for, space, issuing, old)
            with BlockingClient(cluster) as client:
                client.call(apply(SECRETS, far.name, yaml.safe_load(token)))
            south = await routers.start(far, "south-1", controller=("127.0.0.1", redeeming.port), any_host="127.0.0.24")
            await routers.until(south, "they are linked", lambda s: s["site"]["linkedSites"] == 1)
            new = old + 1 if old < 32767 else old - 1
            await node.start(SniRelay(behind, new, host="127.0.0.23").run)
            await trio.to_thread.run_sync(space.set_node_port, new)
            await routers.until(north, "both are told", lambda s: told(s) == [new, old])
            await routers.until(south, "it has learned", lambda s: {"host": "127.0.0.1", "port": new} in s["links"][0]["learned"])
            await routers.until(south, "the live link leaves the old one", lambda s: uses(s, new) and s["links"][0]["active"])
            assert told(await routers.status(north)) == [new, old], "before that goes"
            with trio.fail_after(10):
                while f'["127.0.0.1",{new}]' not in far.data("van-router").get("router.json", ""):  # noqa: ASYNC110
                    await trio.sleep(0.1)
            routers.scope.cancel()  # the pod is deleted, with all that it kept, and so is the old address
            node.cancel_scope.cancel()
        await nursery.start(SniRelay(behind, new, host="127.0.0.23").run)
        start = functools.partial(routers.start, far, "south-2", controller=("127.0.0.1", redeeming.port), any_host="127.0.0.24")
        later = await start()

        await routers.until(later, "the link goes over the new address", lambda s: uses(s, new))


def test_what_was_learned_is_kept_until_nobody_dials_that_site(tmp_path: Path) -> None:
    learned = Learned(StateFiles(tmp_path))
    assert learned.put("north", [("203.0.113.7", 443), ("no host!", 1)])
    assert not learned.put("north", [("203.0.113.7", 443)]), "nothing new"
    learned.offer({"north": [("192.0.2.1", 1)], "west": [("192.0.2.2", 2)]})
    again = Learned(StateFiles(tmp_path))
    assert again.of("north") == [("203.0.113.7", 443)], "its own word counts"
    assert again.of("west") == [("192.0.2.2", 2)]
    again.keep(["west"])
    assert Learned(StateFiles(tmp_path)).of("north") == []
    (tmp_path / "learned.json").write_text("[")
    assert Learned(StateFiles(tmp_path)).of("west") == []
