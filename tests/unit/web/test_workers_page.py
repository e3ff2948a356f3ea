"""The page with the workers: their state, and the buttons that drain and resume one."""

from __future__ import annotations

import httpx
import pytest

from daybook import api
from daybook.features.workers.page import MESSAGES, PATH
from daybook.ledger.engine import sharing
from daybook.runs import workers
from daybook.web.login import PageLogin
from tests.unit.runs.fleet import record_of
from tests.unit.web.conftest import OWN, client
from tests.unit.web.submitting import submit
from tests.world import World

pytestmark = pytest.mark.anyio


async def draining(world: World) -> set[str]:
    async with world.ledger.read() as session:
        return set(await workers.drains(session))


async def test_a_worker_is_drained_and_resumed_on_its_page(
    world: World, browser: httpx.AsyncClient
) -> None:
    assert "No worker has used this ledger" in (await browser.get(PATH)).text
    for name in ("a-host", "<b>/b"):
        await workers.record(world.ledger, record_of(world, name, limit=3, labels=["gpu"]))
    page = (await browser.get(PATH)).text
    assert "a-host" in page and "0 of 3" in page and "gpu" in page
    assert "&lt;b&gt;/b" in page and "<b>/b" not in page

    _, after = await submit(browser, PATH, f"{PATH}/drain", choice="<b>/b")
    assert after.status == MESSAGES["worker-draining"]
    assert await draining(world) == {"<b>/b"}
    _, after = await submit(browser, PATH, f"{PATH}/resume")
    assert after.status == MESSAGES["worker-resumed"]
    assert await draining(world) == set()


async def test_a_viewer_sees_no_workers(
    world: World, server: PageLogin, browser: httpx.AsyncClient
) -> None:
    with sharing(world.ledger):
        link = (await api.tokens.share("hall")).url.removeprefix(OWN)
    async with client(server) as viewer:
        await viewer.get(link)
        assert (await viewer.get(PATH)).status_code == 403
