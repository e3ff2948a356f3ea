"""The page of the people in chats."""

from __future__ import annotations

import httpx
import pytest

from daybook.features.conversations import operations
from daybook.features.conversations.tables import PersonRow
from tests.unit.web.submitting import submit
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]

PAGE = "/settings/people"


async def test_quiet_hours_are_set_on_the_page(
    world: World, browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def channels() -> list[str]:
        return ["telegram"]

    monkeypatch.setattr(operations, "channels", channels)
    now = world.ledger.now()
    async with world.ledger.write() as session:
        anna = PersonRow(
            channel="telegram",
            person_id="1",
            chat_id="1",
            name="Anna",
            role="operator",
            paired_at=now,
            used_at=now,
        )
        session.add(anna)
    path = f"{PAGE}/{anna.id}/quiet"
    answer, _ = await submit(browser, PAGE, path, quiet_hours="22:00-07:00 UTC")
    assert answer.status_code == 303
    assert (await operations.list_people())[0].quiet_hours == "22:00-07:00 UTC"
    assert 'value="22:00-07:00 UTC"' in (await browser.get(PAGE)).text
    answer, _ = await submit(browser, PAGE, path, quiet_hours="22-7")
    assert answer.status_code == 400
    assert "not a range of hours" in answer.text
    assert (await operations.list_people())[0].quiet_hours == "22:00-07:00 UTC"
