"""Search: what is found, in which order, and what it costs."""

from __future__ import annotations

import pytest

from daybook import api, owners
from daybook.api import search
from daybook.errors import InvalidInput
from daybook.ledger.states import Status
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]


async def names(text: str) -> list[tuple[str, str]]:
    return [(each.kind, each.name) for each in await api.search.find(text)]


async def test_names_descriptions_answers_and_sessions_are_searched(world: World) -> None:
    brief = await world.jobs.add("morning-brief", every="1h", description="All about Berlin")
    await world.jobs.add("berlin-weather")
    await world.runs.finished(brief, Status.SUCCEEDED, output="# Rain\n\nRain in BERLIN, 100% sure")
    (run,) = await world.runs.rows(brief)

    assert await names("berlin") == [
        ("job", "berlin-weather"),  # a name goes before a description
        ("job", "morning-brief"),
        ("run", "morning-brief"),
    ]
    (found,) = await api.search.find("100%")
    assert (found.id, found.about) == (run.id, "Rain in BERLIN, 100% sure")
    assert await names("1_0%") == []  # no wildcards
    assert await names(run.id[:8]) == [("run", "morning-brief")]
    assert await names(f"{run.id[:8]}0zz") == []


async def test_a_removed_job_is_not_found(world: World) -> None:
    job = await world.jobs.add("old")
    async with world.ledger.write() as session:
        (await session.get_one(type(job.row), job.id)).archived_at = world.ledger.now()
    assert await names("old") == []


@pytest.mark.parametrize("text", ["", "  ", "a" * 201])
async def test_a_text_that_is_blank_or_too_long_has_no_results(world: World, text: str) -> None:
    await world.jobs.add("a-job", on_demand=True, description="a" * 200)
    assert await names(text) == []


async def test_only_the_newest_answers_are_searched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.jobs.add("news")
    for number in range(3):
        await world.runs.finished(job, Status.SUCCEEDED, output=f"word {number}")
        world.passes(minutes=1)
    monkeypatch.setattr(search, "MAX_SEARCHED", 2)
    found = [each.about for each in await api.search.find("word")]
    assert found == ["word 2", "word 1"]


async def test_an_agent_cannot_search(world: World) -> None:
    with owners.acting_as(owners.Actor("agent:eva")), pytest.raises(InvalidInput):
        await api.search.find("brief")
