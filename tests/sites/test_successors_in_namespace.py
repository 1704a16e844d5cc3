"""
The pod that replaces the only router of a site, which leaves: clients are led to that one until it is ready, and it is ready when it is
linked with it, because other sites have not found it yet.
"""

from __future__ import annotations

from namespace_world import Namespace
from pod_world import Routers, asked
from site_world import condition, free_port

from vanrouter.kube.names import ROUTER_LABELS


async def test_the_successor_of_a_router_that_leaves_is_ready_when_it_is_linked_with_it(space: Namespace, routers: Routers) -> None:
    space.establish()
    space.put_ports()
    space.put("Site", "north")
    port = free_port()
    space.put_pod("van-router-1", "127.0.0.2", **ROUTER_LABELS)
    first = await routers.start(space, "van-router-1", any_host="127.0.0.2", link_port=port)
    await routers.until(first, "the first is ready", lambda s: s["site"]["ready"])

    space.begin_to_delete("van-router-1")
    space.put_pod("van-router-2", "127.0.0.3", ready=False, **ROUTER_LABELS)
    second = await routers.start(space, "van-router-2", any_host="127.0.0.3", link_port=port)
    status = await routers.until(second, "the second is ready", lambda s: s["site"]["ready"])
    assert [link["active"] for link in status["links"]] == [True], "it is ready, and knows nothing"


async def test_probes_of_a_router_that_leaves_find_it_ready_for_as_long_as_it_serves(space: Namespace, routers: Routers) -> None:
    """Else no router of the site is ready until its successor is, and the node refuses connections."""
    space.establish()
    space.put_ports()
    space.put("Site", "north")
    home = await routers.start(space)
    site, port = routers.running, routers.port
    await routers.until(home, "it is ready", lambda s: s["site"]["ready"])
    site.stop(grace=30.0, drain=0.0)
    await routers.until(home, "it leaves", lambda s: condition(s["site"], "Ready")["reason"] == "Leaving")
    assert await asked(port) == 200
    site.refuse()
    assert await asked(port) == 503
