"""C-7: whatever stands in the resources of a namespace, or comes from other sites: said in status, never a crash, the rest is served."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from typing import Any

import pytest
import trio
from controllers import in_namespace
from fake_router import automatic

from vanrouter.controller import writing
from vanrouter.kube.calls import Kind, apply, create, delete, merge_patch
from vanrouter.kube.kinds import CONFIG_MAPS, SERVICES
from vanrouter.kube.names import RESOURCE

QUOTAS = Kind("", "v1", "resourcequotas", "ResourceQuota")
HEAD = "apiVersion: vanrouter.io/v1alpha1\nkind: Listener\nmetadata: {name: %s}\nspec: {routingKey: a, host: %s, port: %s}\n"
TEXTS = {
    "bomb": "a: &a [x,x,x]\n" + "".join(f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghij")),
    "deep": "[" * 20_000,
    "cut": "kind: [",
    "long": "# " + "x" * 900_000,
    "control": 'apiVersion: vanrouter.io/v1alpha1\nkind: Listener\nmetadata: {name: "a\\u001b[2J\\u0000"}\nspec: {}\n',
    "unknown": "apiVersion: vanrouter.io/v1alpha1\nkind: Listener\nmetadata: {name: a}\nspec: {hots: a}\n",
    "spaces": HEAD % ("spaces", "'Not A Host'", 80),
    "high": HEAD % ("high", "high", 70_000),
    "zero": HEAD % ("zero", "zero", 0),
    "text": HEAD % ("text", "text", "eighty"),
    "name": HEAD % ("x" * 300, "a", 80),
    "elsewhere": HEAD % ("elsewhere, namespace: kube-system", "elsewhere", 80),
    "secret": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {tls.crt: eA==}\n",
    "site": "apiVersion: vanrouter.io/v1alpha1\nkind: Site\nmetadata: {name: other}\nspec: {}\n",
    "service": "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n",
}
BAD_NAMES = ["Bad_Host", "a b", "-x", "x" * 64, "kube.dns", "../../etc", "\x1b[2J", "*", "1.2.3.4"]


def problems(value: Any) -> set[str]:
    return {problem["path"].partition(":")[0] for problem in json.loads(value["data"].get("site.json", "{}")).get("problems", [])}


async def test_what_is_wrong_is_said_and_the_rest_is_served(cluster: Any, namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        async with here.controller() as controller, here.router(controller) as router:
            for name, text in TEXTS.items():
                metadata = {"name": name, "labels": {"vanrouter.io/type": RESOURCE}, "annotations": {"test/a": "y" * 200_000}}
                await here.client.call(create(CONFIG_MAPS, namespace, {"metadata": metadata, "data": {"resource.yaml": text}}))
            keys = {f"{number:03}.yaml": "kind: [" for number in range(300)}
            metadata = {"name": "keys", "labels": {"vanrouter.io/type": RESOURCE}}
            await here.client.call(create(CONFIG_MAPS, namespace, {"metadata": metadata, "data": keys}))
            router.say(listeners=[automatic(name, 80) for name in [*BAD_NAMES, "good"]])
            await here.until(SERVICES, "good", bool, seconds=10.0)
            expected = {f"ConfigMap/{name}" for name in TEXTS if name not in ("long", "elsewhere")}
            await here.until(CONFIG_MAPS, "van-status.site.north", lambda v: v and expected <= problems(v))
            await trio.sleep(1.0)
            written = controller.copies.writes
            await trio.sleep(2.0)
            assert controller.copies.writes <= written + 3
            assert not [r for r in caplog.records if "bug" in r.message], caplog.text


async def test_what_a_quota_refuses_is_said_waits_for_itself_and_keeps_nobody(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        async with here.controller() as controller, here.router(controller) as router:
            router.say(listeners=[automatic("first", 80)])
            await here.until(SERVICES, "first", bool)
            hard = {"services": "2"}
            await here.client.call(apply(QUOTAS, namespace, {"metadata": {"name": "few"}, "spec": {"hard": hard}}))
            status = {"status": {"hard": hard, "used": {"services": "2"}}}
            await here.client.call(merge_patch(QUOTAS, namespace, "few", status, subresource="status"))
            await trio.sleep(1.0)
            router.say(listeners=[automatic("first", 80), automatic("second", 80)])
            said = await here.until(CONFIG_MAPS, "van-status.site.north", lambda v: v and "exceeded quota" in v["data"]["site.json"])
            assert '"Service/second"' in said["data"]["site.json"]
            await here.client.call(delete(QUOTAS, namespace, "few"))
            await here.until(SERVICES, "second", bool, seconds=12.0)
            await here.until(CONFIG_MAPS, "van-status.site.north", lambda v: "exceeded quota" not in v["data"]["site.json"])


async def test_statuses_that_are_refused_keep_no_other_from_its_turn(cluster: Any, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "AT_A_TIME", 2)
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await here.put(HEAD % ("zzz", "zzz", 80))
        status = "van-status.listener.zzz"
        async with here.controller() as controller, here.router(controller) as router:
            router.say()
            await here.until(CONFIG_MAPS, status, bool)
        for name in ("aaa", "bbb", "ccc"):
            await here.put(HEAD % (name, name, 80))
        hard = {"hard": {"configmaps": "0"}}
        await here.client.call(create(QUOTAS, namespace, {"metadata": {"name": "q"}, "spec": hard}))
        patch = {"status": {**hard, "used": {"configmaps": "0"}}}
        await here.client.call(merge_patch(QUOTAS, namespace, "q", patch, subresource="status"))
        async with here.controller() as controller, here.router(controller) as router:
            router.say(listeners=[{"name": "zzz", "spec": {}, "conditions": [], "said": "late", "host": "zzz", "port": 80}])
            await here.until(CONFIG_MAPS, status, lambda v: "late" in v["data"]["status.json"])
            assert await here.get(CONFIG_MAPS, "van-status.listener.aaa") is None
