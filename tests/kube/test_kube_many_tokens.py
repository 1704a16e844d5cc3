"""AccessTokens that somebody makes up by the dozen: whom a controller dials then, and how often."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import trio
from controllers import in_namespace
from custom_resources import install_definitions
from declared_tokens import north

from vanrouter.controller.redeeming import AT_A_TIME, KEEP_PENDING
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import apply
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.kinds import SECRETS
from vanrouter.kube.names import selector
from vanrouter.tokens import Endpoint
from vanrouter.tokens.declared import declared_id

TOKENS = CUSTOM_KINDS["AccessToken"]
MANY = AT_A_TIME + 4


@pytest.fixture
def defined(cluster: Any, undefined_afterwards: None) -> None:
    with BlockingClient(cluster) as client:
        install_definitions(client)


class Silence:
    """Somebody who takes connections, and says nothing."""

    def __init__(self) -> None:
        self.now = self.most = self.total = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.total += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await trio.sleep(1.0)
        await stream.aclose()
        self.now -= 1


@pytest.mark.usefixtures("defined")
async def test_few_are_dialled_at_a_time_and_those_that_expired_long_ago_once(cluster: Any, namespace: str, tmp_path: Path) -> None:
    silence = Silence()
    async with in_namespace(cluster, namespace) as south, trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, silence.serve, 0)
        issuer = north(tmp_path)
        issuer.endpoints = [Endpoint("127.0.0.1", listeners[0].socket.getsockname()[1])]
        await south.site("south", "{}")
        for number in range(MANY):
            grant_id = declared_id(issuer.identity.site_id, str(number), "AccessGrant/g", "")
            made = issuer.declare(grant_id, "g", source="somewhere", code="", now=time.time(), uses=1, lifetime=60.0)
            shown = issuer.shown(made, "")
            spec = {"url": shown.url, "code": shown.code, "ca": shown.ca}
            await south.client.call(apply(TOKENS, namespace, {"metadata": {"name": f"t-{number}"}, "spec": spec}))
        async with south.controller(clock=lambda: time.time() + 60 + KEEP_PENDING):
            for number in range(MANY):
                value = await south.until(TOKENS, f"t-{number}", lambda v: (v.get("status") or {}).get("status") == "Error")
                assert "it expired at" in value["status"]["message"]
            await trio.sleep(1.5)
            assert await south.client.pages(SECRETS, namespace, labels=selector("pending")) == []
        assert (silence.total, silence.most) == (MANY, AT_A_TIME)
        nursery.cancel_scope.cancel()
