"""What can be wrong, and what a person reads then: what failed, why, what to do. Everything else goes on."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio
from site_world import World, condition, free_port, resource

from vanrouter.errors import ConfigError, NotReady, StoreError, TokenError
from vanrouter.stores import SiteHome


def problem(status: Any, path: str) -> Any:
    return next(p for p in status["problems"] if p["path"].startswith(path))


async def pair(world: World) -> tuple[SiteHome, SiteHome]:
    """Two running sites, not linked."""
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south", serviceAddress="127.0.0.2")
    await world.start(north)
    await world.start(south)
    return north, south


# ---- Ports ------------------------------------------------------------------------------------------------------------------------------


async def test_a_link_access_in_use_is_named_and_taken_when_it_is_free(world: World) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        home = world.home("north", linkAccess=f"127.0.0.1:{port}")
        await world.start(home)

        async def told() -> Any:
            site = (await world.status(home))["site"]
            ready = condition(site, "Ready")
            return ready if ready["reason"] == "LinkAccessInUse" else None

        ready = await world.until("the site says that its port is in use", told)
        assert f"127.0.0.1:{port}" in ready["message"]
        assert "in use" in ready["message"]
        assert "--link-access" in ready["next"]
        with pytest.raises(NotReady, match="the port is in use"):
            await world.call(home, "token.issue")

    async def is_ready() -> bool:
        return bool((await world.status(home))["site"]["ready"])

    await world.until("the port is taken once it is free", is_ready)


async def test_a_service_port_in_use_is_shown_at_both_ends_and_the_rest_works(world: World, backend: int) -> None:
    north, south = await pair(world)
    await world.link(north, south)
    good = free_port()
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        bad = squatter.getsockname()[1]
        await world.expose(south, "taken", backend, bad)
        await world.expose(south, "hello", backend, good, at=(north,))

        async def told() -> Any:
            listeners = {x["name"]: x for x in (await world.status(north))["listeners"]}
            listening = condition(listeners[f"taken:{bad}"], "Listening") if f"taken:{bad}" in listeners else {}
            return listening if listening.get("reason") == "PortInUse" else None

        listening = await world.until("north names the port in use", told)
        assert str(bad) in listening["message"]
        assert listening["next"]

        async def told_at_south() -> Any:
            service = next(s for s in (await world.status(south))["services"] if s["address"] == "taken")
            return service["problems"]

        problems = await world.until("south hears of it", told_at_south)
        assert (problems[0]["site"], problems[0]["port"]) == ("north", bad)
        assert await world.get(good) == b'{"message":"Hello"}'


async def test_two_listeners_on_one_port(world: World) -> None:
    home = world.home("north")
    port = free_port()
    home.resources.put(resource("Listener", "a", routingKey="a", host="127.0.0.1", port=port))
    home.resources.put(resource("Listener", "b", routingKey="b", host="127.0.0.1", port=port))
    await world.start(home)
    listeners = {x["name"]: x for x in (await world.status(home))["listeners"]}
    listening = condition(listeners["b"], "Listening")
    assert (listening["status"], listening["reason"]) == ("False", "PortTaken")
    assert "listener a" in listening["message"]


async def test_a_target_that_refuses_is_named(world: World) -> None:
    home = world.home("north")
    port, nobody = free_port(), free_port()
    home.resources.put(resource("Listener", "web", routingKey="web", host="127.0.0.1", port=port))
    home.resources.put(resource("Connector", "web", routingKey="web", host="127.0.0.1", port=nobody))
    await world.start(home)

    async def told() -> Any:
        found = condition((await world.status(home))["connectors"][0], "Healthy")
        return found if found["reason"] == "TargetDown" else None

    told_of = await world.until("the connector says that its target refuses", told)
    assert f"127.0.0.1:{nobody}" in told_of["message"]
    assert "server runs" in told_of["next"]
    matched = condition((await world.status(home))["listeners"][0], "Matched")
    assert (matched["status"], matched["reason"]) == ("False", "TargetsDown")


async def test_without_checks_a_target_that_refuses_is_named_when_streams_have_met_it(world: World) -> None:
    home = world.home("north")
    port, nobody = free_port(), free_port()
    home.resources.put(resource("Listener", "web", routingKey="web", host="127.0.0.1", port=port))
    home.resources.put(resource("Connector", "web", routingKey="web", host="127.0.0.1", port=nobody, healthCheck={"type": "none"}))
    await world.start(home)

    async def listens() -> bool:
        return condition((await world.status(home))["listeners"][0], "Ready")["status"] == "True"

    await world.until("the listener is ready", listens)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(8), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(1)  # reset, never a clean end

    async def told() -> Any:
        found = condition((await world.status(home))["connectors"][0], "Healthy")
        return found if found["reason"] == "TargetFails" else None

    told_of = await world.until("the connector says that its target refuses", told)
    assert f"127.0.0.1:{nobody}" in told_of["message"]
    assert "server runs" in told_of["next"]


# ---- Resources ------------------------------------------------------------------------------------------------------------------------


async def test_a_broken_file_keeps_its_last_good_form_also_over_a_restart(world: World, backend: int) -> None:
    home = world.home("north")
    port = free_port()
    home.resources.put(resource("Connector", "web", routingKey="web", host="127.0.0.1", port=backend))
    path = home.resources.put(resource("Listener", "web", routingKey="web", host="127.0.0.1", port=port))
    site = await world.start(home)
    path.write_text(path.read_text().replace("port:", "prot:"))
    answer = await world.call(home, "reconcile")
    told = next(p for p in answer["problems"] if p["path"] == path.name)
    assert "Listener/web: spec.prot: is not a field" in told["message"]
    assert "last good form stays in force" in told["message"]
    assert told["hint"] == "did you mean port?"
    assert await world.get(port) == b'{"message":"Hello"}'
    site.stop(drain=0.0)
    await trio.sleep(0.5)
    await world.start(home)
    await trio.sleep(0.3)
    assert await world.get(port) == b'{"message":"Hello"}'


async def test_one_name_in_two_files_names_both(world: World) -> None:
    home = world.home("north")
    path = home.resources.put(resource("Listener", "web", routingKey="web", host="127.0.0.1", port=free_port()))
    (home.resources.directory / "other.yaml").write_text(path.read_text())
    await world.start(home)
    told = problem(await world.status(home), "other.yaml")
    assert "Listener/web" in told["message"]
    assert path.name in told["message"]
    assert "other.yaml" in told["message"]


async def test_what_a_host_cannot_do_is_said_and_not_done(world: World) -> None:
    home = world.home("north")
    pods = resource("Listener", "pods", routingKey="a", host="127.0.0.1", port=free_port(), exposePodsByName=True)
    home.resources.put(pods)
    home.resources.put(resource("Policy", "strict", default="strict"))
    await world.start(home)
    status = await world.status(home)
    assert condition(status["listeners"][0], "Configured")["reason"] == "NotSupported"
    assert "not in force" in problem(status, "Policy/strict")["message"]
    with pytest.raises(OSError, match="failed"):
        await trio.open_tcp_stream("127.0.0.1", pods.spec.port)


async def test_a_directory_without_a_site_does_not_start(world: World) -> None:
    home = SiteHome(world.root / "empty")
    home.create()
    with pytest.raises(ConfigError, match="there is no Site in"):
        await world.start(home)


@pytest.mark.parametrize("name", ["identity.key", "ca.key"])
async def test_a_key_that_others_may_read_is_refused_before_anything_starts(world: World, name: str) -> None:
    home = world.home("north")
    site = await world.start(home)
    site.stop()
    await trio.sleep(0.3)
    home.state.path(name).chmod(0o644)
    with pytest.raises(ConfigError, match=f"{name} is open to other users") as caught:
        await world.start(home)
    assert f"chmod 600 {home.state.path(name)}" in caught.value.hint


async def test_a_credential_that_others_may_read_is_not_used(world: World) -> None:
    north, south = await pair(world)
    name = await world.link(north, south)
    (south.state.credentials / name / "tls.key").chmod(0o644)
    await world.start(south)
    link = (await world.status(south))["links"][0]
    assert not link["active"]
    configured = condition(link, "Configured")
    assert "tls.key is open to other users" in configured["message"]
    assert "chmod 600" in configured["next"]


# ---- Links and tokens -------------------------------------------------------------------------------------------------------------------


async def test_an_unreachable_endpoint_says_where_why_and_what_to_do(world: World) -> None:
    north, south = await pair(world)
    name = await world.link(north, south)
    nobody = free_port()
    link = south.resources.get("Link", name)
    assert link is not None
    south.resources.put(
        resource("Link", name, endpoints=[{"host": "127.0.0.1", "port": nobody}], tlsCredentials=name, siteId=link.spec.site_id)  # type: ignore[attr-defined]
    )
    await world.call(north, "stop")
    await world.call(south, "reconcile")

    async def told() -> Any:
        found = condition((await world.status(south))["links"][0], "Operational")
        return found if found["reason"] == "Unreachable" else None

    operational = await world.until("south says that the link cannot be brought up", told)
    assert f"127.0.0.1:{nobody}" in operational["message"]
    assert "check that the other site runs" in operational["next"]


async def test_a_token_with_a_wrong_endpoint_does_not_spoil_the_right_one(world: World) -> None:
    north, south = await pair(world)
    token = (await world.call(north, "token.issue"))["yaml"]
    port = next(line.rsplit(":", 1)[1] for line in token.splitlines() if "127.0.0.1:" in line).strip("\"'")
    with pytest.raises(TokenError, match=r"refused|unreachable|answer"):
        await world.call(south, "token.redeem", token=token.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}"), name="wrong", cost=9)
    name = (await world.call(south, "token.redeem", token=token, name="right", cost=3))["link"]
    await world.until_linked(north, south)
    link = south.resources.get("Link", "right")
    assert (name, link.spec.cost) == ("right", 3)  # type: ignore[union-attr]
    assert south.resources.get("Link", "wrong") is None


async def test_a_name_that_does_not_resolve(world: World) -> None:
    north, south = await pair(world)
    name = await world.link(north, south)
    south.resources.put(resource("Link", "other", endpoints=[{"host": "no.such.host.invalid", "port": 1}], tlsCredentials=name))
    await world.call(south, "reconcile")

    async def told() -> Any:
        found = next(x for x in (await world.status(south))["links"] if x["name"] == "other")
        operational = condition(found, "Operational")
        return operational if "no.such.host.invalid" in operational["message"] else None

    assert "name servers" in (await world.until("the name is said not to resolve", told))["next"]


async def test_two_sites_of_one_name_work_and_both_say_so(world: World, backend: int) -> None:
    first = world.home("first", site_name="same", linkAccess=f"127.0.0.1:{free_port()}")
    second = world.home("second", site_name="same", serviceAddress="127.0.0.2")
    await world.start(first)
    await world.start(second)
    await world.link(first, second)
    port = free_port()
    second.resources.put(resource("Connector", "hello", routingKey="hello", host="127.0.0.1", port=backend, expose={"port": port}))
    await world.call(second, "reconcile")

    async def there() -> bool:
        return bool((await world.status(first))["listeners"])

    await world.until("the first site has the service", there)
    assert await world.get(port) == b'{"message":"Hello"}'
    for home in (first, second):
        site = (await world.status(home))["site"]
        assert site["ready"]
        assert condition(site, "UniqueName")["reason"] == "DuplicateName"
        assert condition(site, "UniqueName")["next"]


async def test_a_used_token_is_refused_and_how_to_find_out_is_said(world: World) -> None:
    north, south = await pair(world)
    east = world.home("east", serviceAddress="127.0.0.3")
    await world.start(east)
    token = (await world.call(north, "token.issue"))["yaml"]
    await world.call(south, "token.redeem", token=token)
    with pytest.raises(TokenError, match="bad, used up or expired") as caught:
        await world.call(east, "token.redeem", token=token)
    assert "van token create" in caught.value.hint
    assert (await world.status(east))["links"] == []
    assert not list((east.state.directory / "pending").glob("*"))


async def test_an_expired_token_is_refused_by_the_issuers_clock(world: World) -> None:
    ahead = 0.0
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south")
    import time

    await world.start(north, wall=lambda: time.time() + ahead)
    await world.start(south)
    token = (await world.call(north, "token.issue", expiry_seconds=60))["yaml"]
    ahead = 61.0
    with pytest.raises(TokenError, match="bad, used up or expired"):
        await world.call(south, "token.redeem", token=token)


async def test_malformed_foreign_and_own_tokens(world: World) -> None:
    north, south = await pair(world)
    token = (await world.call(north, "token.issue"))["yaml"]
    with pytest.raises(TokenError, match="not a Secret"):
        await world.call(south, "token.redeem", token="hello")
    with pytest.raises(TokenError, match="sekret is not a field"):
        await world.call(south, "token.redeem", token=token.replace("secret:", "sekret:"))
    with pytest.raises(TokenError, match="issued by this very site"):
        await world.call(north, "token.redeem", token=token)
    # Of another site that has gone, with its CA: somebody else answers at the endpoint now.
    port = (await world.status(north))["site"]["endpoints"][0]["port"]
    await world.call(north, "stop")
    await trio.sleep(0.4)
    other = world.home("other", linkAccess=f"127.0.0.1:{port}")
    await world.start(other)

    async def is_ready() -> bool:
        return bool((await world.status(other))["site"]["ready"])

    await world.until("the other site is ready", is_ready)
    with pytest.raises(TokenError) as caught:
        await world.call(south, "token.redeem", token=token)
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "CA" in str(caught.value) or "certificate" in str(caught.value)
    assert caught.value.hint


async def test_a_site_without_link_access_says_how_to_get_one(world: World) -> None:
    home = world.home("south")
    await world.start(home)
    with pytest.raises(TokenError, match="no link access") as caught:
        await world.call(home, "token.issue")
    assert "--link-access" in caught.value.hint


async def test_a_ledger_that_cannot_be_opened_costs_tokens_and_nothing_else(world: World, backend: int) -> None:
    home = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    home.state.ledger.mkdir(mode=0o700)
    await world.start(home)
    with pytest.raises(StoreError, match=r"ledger\.sqlite"):
        await world.call(home, "token.issue")
    status = await world.status(home)
    assert status["site"]["ready"]
    assert "ledger.sqlite" in problem(status, "/")["message"]


async def test_a_second_site_that_comes_first_by_name_does_not_take_the_place_of_the_one_that_runs(world: World) -> None:
    north = world.home("north")
    site = await world.start(north)
    north.resources.put(resource("Site", "alpha", serviceAddress="127.0.0.9"))

    async def told() -> Any:
        return next((p for p in (await world.status(north))["problems"] if p["path"].startswith("Site/alpha")), None)

    found = await world.until("the second Site is named", told)
    assert "this site is north" in found["message"]
    assert site.wanted.site_spec.service_address != "127.0.0.9"
