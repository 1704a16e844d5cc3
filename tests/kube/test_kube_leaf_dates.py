"""The certificate that a site shows of itself, when nobody renews it: named with its date while there is still time."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from controllers import in_namespace
from test_kube_status_words import as_administrator, until_said

from vanrouter.kube.calls import get, merge_patch
from vanrouter.kube.kinds import CONFIG_MAPS
from vanrouter.kube.leaf_dates import LeafDates, late, leaf_dates
from vanrouter.kube.records import put_site_text, site_text

__all__ = ["as_administrator"]

DAY = 86_400.0
DATES = LeafDates(0.0, 90 * DAY)


@pytest.mark.parametrize(
    ("day", "said"),
    [
        (0, ""),
        (67, ""),
        (68, "is valid until 1970-04-01T00:00:00Z, and was not renewed in time"),
        (91, "was valid until 1970-04-01T00:00:00Z"),
    ],
)
def test_it_is_late_after_three_quarters_of_its_life_and_not_before(day: int, said: str) -> None:
    problem = late(DATES, day * DAY)
    assert said in problem.message if problem else not said
    assert problem is None or "van-controller" in problem.hint


def test_dates_are_read_as_they_are_written_and_what_is_none_says_nothing() -> None:
    assert leaf_dates(DATES.doc()) == DATES
    for wrong in (None, [], {}, {"validFrom": "x", "validUntil": 3}):
        assert leaf_dates(wrong) is None


async def test_van_status_says_it_when_neither_controller_nor_router_is_there_to_say_it(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        async with here.controller() as controller, here.router(controller) as router:
            router.say()
            name = "van-status.site.north"
            await here.until(CONFIG_MAPS, name, lambda v: v and '"validUntil"' in site_text(v) and '"conditions"' in site_text(v))
        value = await here.client.call(get(CONFIG_MAPS, namespace, name))
        said = site_text(value)
        until = datetime.fromtimestamp(int(time.time()) + 10 * DAY, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        begin, end = (said.partition(f'"{key}":"')[2].partition('"')[0] for key in ("validFrom", "validUntil"))
        assert datetime.fromisoformat(end) > datetime.fromisoformat(begin)
        # As it stands when the controller went 80 days ago.
        value["data"] = {}
        put_site_text(value, said.replace(begin, "2026-01-01T00:00:00Z").replace(end, until))
        await here.client.call(merge_patch(CONFIG_MAPS, namespace, name, {"data": value["data"]}))
        with trio.fail_after(30):
            text = await until_said(here, "status", "Secret/van-router-keys", f"valid until {until}")
        assert "van -n" in text
