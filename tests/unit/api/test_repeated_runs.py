"""Runs with another prompt, and runs that repeat an earlier one: what the ledger gets."""

from __future__ import annotations

import pytest

from daybook.api import jobs, runs
from daybook.delivery.views import RunDetails
from daybook.errors import InvalidInput, NotFound
from daybook.home import Home
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import RunRow
from daybook.runs import claims, rows

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def brief(daybook_home: Home, runs_are_requested_only: None) -> None:
    """Add the job `brief`; a request of a run creates no run in Prefect."""
    given = {"prompt": "What is new?", "on_demand": True, "name": "brief", "agent": "helper"}
    await jobs.add(given)


async def row_of(run: RunDetails) -> RunRow:
    async with open_ledger() as ledger, ledger.read() as session:
        return await rows.get(session, run.id)


async def end(run: RunDetails) -> None:
    async with open_ledger() as ledger:
        await claims.cancel(ledger, run.id, "enough")


async def test_a_prompt_replaces_the_jobs_for_one_run() -> None:
    own, other = await runs.run("brief"), await runs.run("brief", prompt="What is old?")
    assert (await row_of(own)).parameters["prompt"] == "What is new?"
    changed = await row_of(other)
    assert (changed.parameters["prompt"], changed.agent) == ("What is old?", "helper")
    assert (await jobs.show("brief")).action.prompt == "What is new?"  # type: ignore[union-attr]


@pytest.mark.parametrize("prompt", [" ", "Hello {{somebody}}"])
async def test_a_prompt_that_the_job_cannot_have_is_refused_and_nothing_is_requested(
    prompt: str,
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await runs.run("brief", prompt=prompt)
    assert refused.value.field == "prompt"
    assert await runs.history("brief") == []


async def test_a_webhook_takes_no_prompt() -> None:
    await jobs.add({"url": "https://example.org/", "on_demand": True, "name": "hook"})
    with pytest.raises(InvalidInput, match="prompt"):
        await runs.run("hook", prompt="Hello?")


async def test_a_retry_repeats_the_run_with_what_it_was_told_then() -> None:
    first = await runs.run("brief", prompt="What is old?")
    await end(first)
    await jobs.edit_job("brief", {"prompt": "Something else", "agent": "other"})
    second = await runs.retry(first.id[:12])
    assert (second.retry_of, second.trigger, second.status) == (first.id, "retry", "waiting")
    row = await row_of(second)
    assert (row.parameters["prompt"], row.agent) == ("What is old?", "helper")
    await end(second)
    by_job = await runs.retry("brief", request_id="again")
    assert by_job.retry_of == second.id
    assert (await runs.retry("brief", request_id="again")).id == by_job.id


async def test_only_a_run_that_has_ended_and_whose_job_exists_is_retried() -> None:
    with pytest.raises(NotFound, match='job "brief" has no run yet'):
        await runs.retry("brief")
    run = await runs.run("brief")
    with pytest.raises(InvalidInput, match="has not ended: waiting"):
        await runs.retry(run.id)
    await end(run)
    async with open_ledger() as ledger, ledger.write() as session:
        row = await session.get(RunRow, run.id)
        assert row is not None
        row.job_id = None
        session.add(row)
    with pytest.raises(InvalidInput, match="has no job any more"):
        await runs.retry(run.id)
