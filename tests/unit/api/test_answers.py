"""The latest answers, as Today shows them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from daybook import owners
from daybook.api import answers
from daybook.api.answers import MAX_ANSWERS, MAX_CHARACTERS
from daybook.errors import InvalidInput
from daybook.jobs import store
from daybook.ledger.states import Status
from daybook.ledger.tables import Fact
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]


async def answer(world: World, name: str, *outputs: str, **fields: object) -> None:
    """Let a job answer, once for each of ``outputs``."""
    job = await world.jobs.add(name, prompt="x", cron="0 * * * *")
    for output in outputs:
        world.passes(minutes=1)
        await world.runs.finished(job, Status.SUCCEEDED, output=output, **fields)


async def test_the_newest_answer_of_each_job_is_listed_newest_first(world: World) -> None:
    await answer(world, "old", "long ago")
    world.passes(hours=25)
    await answer(world, "first", "one", "# Two\n\nwords", warnings=["a call failed"])
    await answer(world, "second", "three")
    await answer(world, "quiet", "something", "All is well.\n\n**[SILENT]**")
    await answer(world, "empty", "")
    found = await answers.latest()
    assert [(each.job, each.headline, each.body) for each in found.answers] == [
        ("second", "three", ""),
        ("first", "Two", "words"),
    ]
    assert found.answers[1].warnings == ["a call failed"]
    assert [name for _, name in found.quiet] == ["empty", "quiet"]
    assert found.more == 0


async def test_long_and_many_answers_are_cut(world: World) -> None:
    for number in range(MAX_ANSWERS + 2):
        await answer(world, f"job-{number}", "x" * (MAX_CHARACTERS + number - 1))
    found = await answers.latest()
    assert (len(found.answers), found.more) == (MAX_ANSWERS, 2)
    assert [each.is_cut for each in found.answers[:1]] == [True]
    assert len(found.answers[0].text) == MAX_CHARACTERS


async def test_a_long_answer_with_white_space_at_its_end_is_not_silent(world: World) -> None:
    await answer(world, "spaced", "News." + "\n" * 300)
    await answer(world, "cut", "x" * 300 + " NO_REPLY")
    await answer(world, "marked", "x" * 300 + "\nNO_REPLY")
    found = await answers.latest()
    assert [each.job for each in found.answers] == ["cut", "spaced"]
    assert [name for _, name in found.quiet] == ["marked"]


async def test_answers_are_read_until_a_time_and_later_ones_are_not(world: World) -> None:
    await answer(world, "first", "one")
    seen = (await answers.latest()).answers[0].at
    world.passes(minutes=1)
    await answer(world, "second", "two")
    await answers.mark_read(seen)
    found = await answers.latest()
    assert [(each.job, each.is_read) for each in found.answers] == [
        ("second", False),
        ("first", True),
    ]
    assert [each.job for each in found.unread] == ["second"]
    await answers.mark_read(seen - timedelta(hours=1))  # an old page
    assert [each.job for each in (await answers.latest()).unread] == ["second"]
    await answers.mark_read(datetime.max.replace(tzinfo=UTC))
    world.passes(minutes=1)
    await answer(world, "third", "three")
    assert [each.job for each in (await answers.latest()).unread] == ["third"]


async def test_a_muted_job_is_left_out_until_the_mute_is_undone(world: World) -> None:
    await answer(world, "loud", "one")
    await answer(world, "calm", "two")
    await answers.mute("loud")
    await answers.mute("loud")
    found = await answers.latest()
    assert ([each.job for each in found.answers], [name for _, name in found.muted]) == (
        ["calm"],
        ["loud"],
    )
    await answers.mute("loud", undo=True)
    found = await answers.latest()
    assert ([each.job for each in found.answers], found.muted) == (["calm", "loud"], [])
    with owners.acting_as(owners.Actor("agent:eva")):
        with pytest.raises(InvalidInput):
            await answers.mute("loud")
        with pytest.raises(InvalidInput):
            await answers.mark_read(world.ledger.now())


async def test_a_deleted_job_leaves_no_mark_that_it_is_muted(world: World) -> None:
    job = await world.jobs.add("loud", on_demand=True)
    await answers.mute("loud")
    async with world.ledger.write() as session:
        assert await session.get(Fact, store.muted_fact(job.id)) is not None
        await store.delete_job(session, job.id)
        assert await session.get(Fact, store.muted_fact(job.id), populate_existing=True) is None
