"""A repeated request adds no second job: by its id, or by its content if a model makes it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from daybook.api import jobs
from daybook.errors import InvalidInput
from daybook.ledger.engine import open_ledger
from daybook.owners import Actor, acting_as
from daybook.toolbox import call

GIVEN: dict[str, Any] = {"prompt": "Hello?", "every": "1h", "agent": "default"}
CLEO, DAVE = Actor("agent:cleo"), Actor("agent:dave")

pytestmark = pytest.mark.usefixtures("daybook_home")


async def names() -> list[str]:
    return sorted(job.name for job in await jobs.list_jobs())


async def age_jobs(by: timedelta) -> None:
    """Make all jobs older."""
    from sqlalchemy import update

    from daybook.ledger.tables import JobRow

    async with open_ledger() as ledger, ledger.write() as session:
        await session.execute(update(JobRow).values(created_at=ledger.now() - by))


@pytest.mark.floor("A", "AddJob with the same idempotency key again returns the first job")
async def test_a_repeated_idempotency_key_returns_the_job_that_it_added() -> None:
    first = await jobs.add({**GIVEN, "idempotency_key": "ticket-17"})
    again = await jobs.add({**GIVEN, "idempotency_key": "ticket-17"})
    assert again.id == first.id
    assert jobs.REPEATED_NOTE in again.notes
    assert jobs.REPEATED_NOTE not in first.notes
    await age_jobs(timedelta(days=3))
    assert (await jobs.add({**GIVEN, "idempotency_key": "ticket-17"})).id == first.id
    assert await names() == ["hello"]


async def test_another_idempotency_key_or_none_adds_another_job() -> None:
    await jobs.add({**GIVEN, "idempotency_key": "a"})
    await jobs.add({**GIVEN, "idempotency_key": "b"})
    await jobs.add(GIVEN)
    await jobs.add(GIVEN)
    assert await names() == ["hello", "hello-2", "hello-3", "hello-4"]


async def test_a_repeated_idempotency_key_with_other_fields_is_refused() -> None:
    await jobs.add({**GIVEN, "idempotency_key": "a"})
    with pytest.raises(InvalidInput, match=r'other fields, to add the job "hello"') as refused:
        await jobs.add({**GIVEN, "prompt": "Changed?", "idempotency_key": "a"})
    assert refused.value.field == "idempotency_key"
    assert await names() == ["hello"]


async def test_an_idempotency_key_belongs_to_its_owner_and_user() -> None:
    for owner in (CLEO, DAVE, Actor("agent:cleo", user_id="ann")):
        with acting_as(owner):
            added = await jobs.add({**GIVEN, "idempotency_key": "a"})
            assert jobs.REPEATED_NOTE not in added.notes
    assert len(await names()) == 3


async def test_concurrent_repetitions_add_one_job() -> None:
    added = await asyncio.gather(*(jobs.add({**GIVEN, "idempotency_key": "a"}) for _ in range(5)))
    assert len({job.id for job in added}) == 1
    assert await names() == ["hello"]


@pytest.mark.parametrize("actor", [CLEO, Actor(via="mcp"), Actor(via="run")])
async def test_the_same_fields_from_a_model_within_a_minute_are_one_job(actor: Actor) -> None:
    with acting_as(actor):
        first = await jobs.add(GIVEN)
        again = await jobs.add(GIVEN)
        assert (again.id, jobs.REPEATED_NOTE in again.notes) == (first.id, True)
        other = await jobs.add({**GIVEN, "prompt": "Hello again?"})
        await age_jobs(timedelta(seconds=61))
        later = await jobs.add(GIVEN)
    assert len({first.id, other.id, later.id}) == 3


async def test_the_same_fields_of_two_agents_or_users_are_two_jobs() -> None:
    for actor in (CLEO, DAVE, Actor("agent:cleo", user_id="ann")):
        with acting_as(actor):
            assert jobs.REPEATED_NOTE not in (await jobs.add(GIVEN)).notes
    assert len(await names()) == 3


async def test_a_repetition_at_the_limit_of_jobs_is_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DAYBOOK_LIMITS", '{"jobs": 1}')
    with acting_as(CLEO):
        first = await jobs.add(GIVEN)
        assert (await jobs.add(GIVEN)).id == first.id
        with pytest.raises(InvalidInput):
            await jobs.add({**GIVEN, "prompt": "Hello again?"})


@pytest.mark.parametrize("idempotency_key", ["", " ", 5, "x" * 201, "a\nb"])
async def test_an_invalid_idempotency_key_is_refused_and_stores_nothing(
    idempotency_key: object,
) -> None:
    with pytest.raises(InvalidInput, match=r"^idempotency_key: "):
        await jobs.add({**GIVEN, "idempotency_key": idempotency_key})
    assert await names() == []


async def test_the_tool_says_that_a_repeated_request_added_nothing() -> None:
    given = {"prompt": "Hello?", "schedule": "every 1h", "idempotency_key": "a"}
    with acting_as(Actor(via="mcp")):
        first, again = await call("cron_add", given), await call("cron_add", given)
    assert first.text.startswith('Added. Job "hello"')
    assert again.text.startswith('Job "hello"')
    assert jobs.REPEATED_NOTE in again.text
