"""From nothing to the first answer of a service in the other cluster: the commands that a person types, and how long each takes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benches.kube.ground import Ground, Row
from benches.kube.sites import Owner, seconds, waiting_client

import pods  # isort: skip
from clusters import until  # isort: skip
from test_walkthrough import hello  # isort: skip


def run(ground: Ground) -> Iterator[Row]:
    init, link, expose, total = [], [], [], []
    for number in range(ground.rounds):
        directory = Path(ground.stack.enter_context(tempfile.TemporaryDirectory()))
        north = Owner(ground.namespace(ground.one, f"first-{number}"), ground.image, directory)
        south = Owner(ground.namespace(ground.two, f"first-{number}"), ground.image, directory)
        north.space.apply(pods.client(ground.image))
        south.space.apply(hello(ground.image))
        south.space.wait("deployment/hello", "Available")
        north.space.wait("pod/client")
        init += [seconds(north.van, "init --site-name north"), seconds(south.van, "init --site-name south")]
        token = seconds(until, "an address", lambda north=north: north.try_van("token create secret.yaml").returncode == 0)
        link.append(seconds(south.van, "link create secret.yaml"))
        first = waiting_client(ground, north.space, "hello")
        began = time.time()
        south.van("expose deployment/hello --port 80")
        expose.append(first() - began)
        total.append(sum(init[-2:]) + token + link[-1] + expose[-1])
    yield Row("`van init` until it returns, ready", init, incumbent="7.0 to 17 s")
    yield Row("`van link create`: the link is active when it returns", link, mark="3 s", incumbent="15 to 27 s after the command")
    yield Row(
        "first success: machine time of 5 commands (init twice, token, link, expose)", total, mark="20 s", incumbent="55 s, 15 commands"
    )
