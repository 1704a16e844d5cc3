"""The everyday flow: two sites, a token, a link, a service, and back."""

from __future__ import annotations

import shutil
import urllib.error
from typing import Any

import pytest
import trio
from declared_tokens import access_token, shown_by
from site_world import World, condition, free_port, resource

from vanrouter.errors import ConfigError, StoreError, TokenError


async def test_a_service_of_one_site_answers_at_the_other(world: World, backend: int) -> None:
    port = free_port()
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south", serviceAddress="127.0.0.2")
    await world.start(north)
    await world.start(south)
    await world.link(north, south)
    await world.expose(south, "hello", backend, port, at=(north, south))
    assert await world.get(port) == b'{"message":"Hello"}'
    assert await world.get(port, "127.0.0.2") == b'{"message":"Hello"}'


async def test_both_ends_of_a_link_and_of_a_key_agree(world: World, backend: int) -> None:
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south", serviceAddress="127.0.0.2")
    await world.start(north)
    await world.start(south)
    name = await world.link(north, south)
    await world.expose(south, "hello", backend, free_port(), at=(north,))
    at_north, at_south = await world.status(north), await world.status(south)
    (incoming,), (outgoing,) = at_north["links"], at_south["links"]
    assert (incoming["direction"], incoming["remoteSiteName"], incoming["remoteSiteId"]) == ("incoming", "south", at_south["site"]["id"])
    assert (outgoing["direction"], outgoing["remoteSiteName"], outgoing["remoteSiteId"]) == ("outgoing", "north", at_north["site"]["id"])
    assert incoming["remoteLinkName"] in ("", name)
    assert condition(incoming, "Operational")["status"] == condition(outgoing, "Operational")["status"] == "True"
    assert at_north["listeners"][0]["matched"]
    assert at_south["connectors"][0]["matched"]
    network = await world.call(south, "network")
    assert sorted(s["name"] for s in network["sites"]) == ["north", "south"]
    assert [link["active"] for link in network["links"]] == [True]


async def test_status_shows_what_the_data_plane_has_counted(world: World, backend: int) -> None:
    port = free_port()
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south", serviceAddress="127.0.0.2")
    await world.start(north)
    await world.start(south)
    await world.link(north, south)
    nothing = {"open": 0, "total": 0, "refused": 0, "reset": 0, "moved": 0, "transit": 0}
    assert (await world.status(north))["site"]["streams"] == nothing
    await world.expose(south, "hello", backend, port, at=(north, south))
    assert await world.get(port)
    with trio.fail_after(5):
        while (await world.status(north))["site"]["streams"] != {**nothing, "total": 1}:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_what_is_taken_back_goes_everywhere(world: World, backend: int) -> None:
    port = free_port()
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south", serviceAddress="127.0.0.2")
    await world.start(north)
    await world.start(south)
    await world.link(north, south)
    await world.expose(south, "hello", backend, port, at=(north,))
    south.resources.delete("Connector", "hello")
    await world.call(south, "reconcile")

    async def gone() -> bool:
        return not (await world.status(north))["services"]

    await world.until("north has forgotten hello", gone)
    with pytest.raises(urllib.error.URLError):
        await world.get(port)


async def test_a_deleted_link_is_gone_at_both_ends_with_its_credential(world: World) -> None:
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south", serviceAddress="127.0.0.2")
    await world.start(north)
    await world.start(south)
    name = await world.link(north, south)
    assert south.state.credential_names() == [name]
    await world.call(south, "link.delete", name=name)

    async def gone() -> bool:
        return not (await world.status(north))["links"] and not (await world.status(south))["links"]

    await world.until("the link is gone at both ends", gone)
    assert south.state.credential_names() == []
    with pytest.raises(ConfigError, match="there is no link"):
        await world.call(south, "link.delete", name=name)


async def test_a_file_that_changes_is_noticed_without_a_word(world: World, backend: int) -> None:
    port = free_port()
    home = world.home("north")
    await world.start(home)
    home.resources.put(resource("Listener", "web", routingKey="web", host="127.0.0.1", port=port))
    home.resources.put(resource("Connector", "web", routingKey="web", host="127.0.0.1", port=backend))

    async def matched() -> bool:
        found = (await world.status(home))["listeners"]
        return bool(found) and condition(found[0], "Ready")["status"] == "True"

    await world.until("the listener is ready", matched)
    assert await world.get(port) == b'{"message":"Hello"}'


async def test_reconciling_twice_changes_nothing(world: World, backend: int) -> None:
    home = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    home.resources.put(resource("Connector", "web", routingKey="web", host="localhost", port=backend, expose={"port": free_port()}))
    await world.start(home)
    await trio.sleep(0.3)
    first = await world.call(home, "reconcile")
    second = await world.call(home, "reconcile")
    assert first == second
    assert first["problems"] == []


async def test_a_token_that_was_redeemed_here_is_refused_as_used(world: World) -> None:
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south")
    await world.start(north)
    await world.start(south)
    token = (await world.call(north, "token.issue", uses=2))["yaml"]
    await world.call(south, "token.redeem", token=token)
    with pytest.raises(TokenError, match="redeemed by this site already"):
        await world.call(south, "token.redeem", token=token)


async def test_a_token_among_the_resources_is_redeemed_once(world: World) -> None:
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south")
    await world.start(north)
    await world.start(south)
    token = (await world.call(north, "token.issue"))["yaml"]
    (south.resources.directory / "from-north.yaml").write_text(token)
    await world.until_linked(north, south)
    await world.call(south, "reconcile")
    status = await world.status(south)
    assert status["problems"] == []
    assert len(status["links"]) == 1


async def test_an_access_token_among_the_resources_is_redeemed_and_one_that_was_changed_says_so(world: World) -> None:
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south")
    issuing = await world.start(north)
    await world.start(south)
    text = access_token(shown_by(issuing.joining.issuer()), cost=7)
    edited = text.replace("name: from-north", "name: edited").replace("site=north", "site=nowhere")
    (south.resources.directory / "edited.yaml").write_text(edited)
    (south.resources.directory / "made-up.yaml").write_text(edited.replace("edited", "made-up").replace("check=", "check=%C3%A9"))
    (south.resources.directory / "from-north.yaml").write_text(text)
    await world.until_linked(north, south)
    status = await world.status(south)
    assert [(p["path"], "do not belong together" in p["message"]) for p in status["problems"]] == [
        ("AccessToken/edited", True),
        ("AccessToken/made-up", True),
    ]
    assert [(link["name"], link["cost"]) for link in status["links"]] == [("from-north", 7)]


async def test_a_link_of_an_access_token_stays_deleted_also_over_a_start_anew(world: World) -> None:
    """Or the token, which may be used by several sites, would be used again and again."""
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south")
    issuing = await world.start(north)
    async with trio.open_nursery() as nursery:
        running = await World(world.root, nursery, world.plane).start(south)
        text = access_token(shown_by(issuing.joining.issuer(), uses=3))
        (south.resources.directory / "from-north.yaml").write_text(text)
        await world.until_linked(north, south)
        await world.call(south, "link.delete", name="from-north")
        running.stop(drain=0.0)
    await world.start(south)
    await trio.sleep(1.0)
    assert (await world.status(south))["links"] == []
    assert [grant["used"] for grant in (await world.status(north))["grants"]] == [1]


async def test_a_link_of_an_access_token_that_cannot_be_forgotten_is_made_anew_by_nobody_and_can_be_deleted_again(world: World) -> None:
    """As on a full disk."""
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south")
    issuing = await world.start(north)
    await world.start(south)
    (south.resources.directory / "from-north.yaml").write_text(access_token(shown_by(issuing.joining.issuer(), uses=3)))
    await world.until_linked(north, south)
    pending = south.state.directory / "pending"
    shutil.rmtree(pending)
    pending.write_text("no directory")
    with pytest.raises(StoreError):
        await world.call(south, "link.delete", name="from-north")
    await trio.sleep(1.0)
    pending.unlink()
    await world.call(south, "link.delete", name="from-north")
    await trio.sleep(1.0)
    assert (await world.status(south))["links"] == []
    assert [grant["used"] for grant in (await world.status(north))["grants"]] == [1]


async def test_the_health_of_a_site_is_asked_on_its_one_port(world: World) -> None:
    import ssl

    port = free_port()
    home = world.home("north", linkAccess=f"127.0.0.1:{port}")
    await world.start(home)

    async def is_ready() -> bool:
        return bool((await world.status(home))["site"]["ready"])

    await world.until("the site is ready", is_ready)

    def ask() -> bytes:
        context = ssl.create_default_context(cadata=(home.state.read("ca.crt") or b"").decode())
        context.check_hostname = True
        context.set_alpn_protocols(["http/1.1"])
        import socket

        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as tls:
            tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            data = b""
            while part := tls.recv(4096):
                data += part
            return data

    answer = await trio.to_thread.run_sync(ask)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"ok\n")


async def test_with_certificates_of_ones_own(world: World) -> None:
    """One CA of the user's for both sites; nobody is admitted until the access lists who may."""
    import time

    from vanrouter.pki import CertificateAuthority, PrivateKey, certificates_to_pem
    from vanrouter.resources.kinds import Metadata, Secret

    port = free_port()
    north, south = world.home("north"), world.home("south")
    await world.start(north)
    await world.start(south)
    ids = {home: (await world.status(home))["site"]["id"] for home in (north, south)}
    authority = CertificateAuthority.create("corporate", ids[north], now=time.time())

    def secret(name: str, *, server: bool) -> Secret:
        key = PrivateKey.generate()
        site = ids[north] if server else ids[south]
        if server:
            leaf = authority.issue_server(key.public_der, site, ["127.0.0.1"], now=time.time())
        else:
            leaf = authority.issue_client(key.public_der, site, now=time.time())
        data = {"tls.crt": certificates_to_pem([leaf]), "tls.key": key.pem().reveal(), "ca.crt": authority.certificate_pem()}
        return Secret(metadata=Metadata(name=name), type="kubernetes.io/tls", data=data)

    def access(admit: list[str]) -> Any:
        roles = [{"name": "inter-router", "port": port}]
        return resource("RouterAccess", "own", roles=roles, bindHost="127.0.0.1", tlsCredentials="server", admit=admit)

    north.resources.put(secret("server", server=True))
    north.resources.put(access([]))
    await world.call(north, "reconcile")
    south.resources.put(secret("client", server=False))
    south.resources.put(resource("Link", "north", endpoints=[{"host": "127.0.0.1", "port": port}], tlsCredentials="client"))
    await world.call(south, "reconcile")

    async def refused() -> Any:
        found = (await world.status(south))["links"][0]
        return condition(found, "Operational")["reason"] == "Rejected"

    await world.until("the link is refused", refused)
    found = condition((await world.status(north))["site"], "LinkAccess")
    assert found["reason"] == "AdmitsNobody"
    assert "spec.admit" in found["next"]
    north.resources.put(access([f"{ids[south]}.van"]))
    await world.call(north, "reconcile")
    south.resources.delete("Link", "north")
    await world.call(south, "reconcile")
    south.resources.put(resource("Link", "north", endpoints=[{"host": "127.0.0.1", "port": port}], tlsCredentials="client"))
    await world.call(south, "reconcile")
    await world.until_linked(north, south)
    assert condition((await world.status(north))["site"], "LinkAccess")["status"] == "True"


async def test_a_token_of_a_site_with_a_certificate_of_ones_own_makes_a_link(world: World) -> None:
    """Who was given the token checks the host against the user's CA, and is admitted beside those whom the access lists."""
    import trustme

    from vanrouter.errors import NotReady
    from vanrouter.resources.kinds import Metadata, Secret

    port = free_port()
    north, south = world.home("north"), world.home("south", serviceAddress="127.0.0.2")
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    leaf = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA)
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    data = {"tls.crt": chain, "tls.key": leaf.private_key_pem.bytes(), "ca.crt": authority.cert_pem.bytes()}

    def access(admit: list[str]) -> Any:
        roles = [{"name": "inter-router", "port": port}]
        return resource("RouterAccess", "own", roles=roles, bindHost="127.0.0.1", tlsCredentials="server", admit=admit)

    north.resources.put(Secret(metadata=Metadata(name="server"), type="kubernetes.io/tls", data=data))
    north.resources.put(access([]))
    await world.start(north)
    await world.start(south)
    with pytest.raises(NotReady, match="it admits nobody"):
        await world.call(north, "token.issue")
    north.resources.put(access(["somebody.example"]))
    await world.call(north, "reconcile")
    token = (await world.call(north, "token.issue"))["yaml"]
    assert "vanrouter.io/verify-host: 'true'" in token
    assert data["ca.crt"].decode().splitlines()[1] in token
    await world.call(south, "token.redeem", token=token)
    await world.until_linked(north, south)


async def test_a_listener_of_several_keys_goes_to_the_first_that_has_a_target(world: World, backend: int) -> None:
    port = free_port()
    home = world.home("north")
    await world.start(home)
    strategy = {"priority": {"routingKeys": ["blue", "green"]}}
    home.resources.put(resource("MultiKeyListener", "web", host="127.0.0.1", port=port, strategy=strategy))
    home.resources.put(resource("Listener", "web", routingKey="other", host="127.0.0.1", port=free_port(), strategy="closest"))
    home.resources.put(resource("Connector", "green", routingKey="green", host="127.0.0.1", port=backend))
    await world.call(home, "reconcile")

    async def matched() -> Any:
        found = (await world.status(home))["multiKeyListeners"]
        return found if found and condition(found[0], "Ready")["status"] == "True" else None

    (found,) = await world.until("the listener is ready", matched)
    assert found["name"] == "web"
    assert [(k["routingKey"], k["matched"]) for k in found["routingKeys"]] == [("blue", False), ("green", True)]
    status = await world.status(home)
    assert status["problems"] == []
    assert [(x["name"], x["strategy"]) for x in status["listeners"]] == [("web", "closest")]
    assert await world.get(port) == b'{"message":"Hello"}'
