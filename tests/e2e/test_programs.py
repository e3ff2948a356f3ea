"""Programs that embed Daybook, with an event loop and without one.

A real worker executes their runs.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import daybook
from daybook.errors import InvalidInput, NotFound
from daybook.jobs.actions import Webhook
from daybook.schedules.schedule import Cron
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


@pytest.mark.floor("A", "A job has the owner kind user")
@pytest.mark.floor("A", "RunJobNow runs a job at once")
@pytest.mark.floor("B", "TriggerJob runs a job at once")
@pytest.mark.floor("B", "TriggerJob returns the outcome with its output")
@pytest.mark.floor("C", "created_by: who made the job")
@pytest.mark.floor("E", "An update of the schedule computes the next run")
@pytest.mark.journey
async def test_a_program_adds_edits_pauses_runs_and_removes_a_job(world: PrefectWorld) -> None:
    await world.workers.begin()
    client = daybook.Client()

    job = await client.add(
        "Summarise open pull requests",
        schedule="0 9 * * 1-5",
        timezone="Europe/Berlin",
        name="brief",
        agent="default",
        metadata={"repository": "daybook"},
    )
    assert (job.name, job.words) == ("brief", "at 09:00 on weekdays, Europe/Berlin")
    assert (job.owner, job.created_by, job.user_id) == ("user", "api", "")
    assert job.metadata == {"repository": "daybook"}
    assert [each.name for each in await client.list()] == ["brief"]

    changed = await client.update("brief", schedule="30 9 * * *")
    assert changed.schedule == Cron(expr="30 9 * * *", timezone="Europe/Berlin")
    assert changed.action == job.action
    [first, *_] = await client.next("brief", count=2)
    assert f"{first.local:%H:%M}" == "09:30"

    assert (await client.pause("brief", "holidays")).disabled_reason == "paused: holidays"
    assert [each.id for each in await client.list("disabled")] == [job.id]
    assert await client.list("enabled") == []
    run = await client.run("brief", wait=True, request_id="ticket-17")
    assert (run.status, run.trigger, run.job) == ("succeeded", "api", "brief")
    assert "Summarise open pull requests" in (run.output or "")
    again = await client.run("brief", request_id="ticket-17")
    assert again.id == run.id
    assert [each.id for each in await client.runs("brief")] == [run.id]
    assert (await client.run_of(run.id[:12])).output == run.output

    assert (await client.resume("brief")).enabled is True
    last = (await client.get("brief")).last_run
    assert last is not None and last.id == run.id
    await client.remove("brief")
    assert await client.list() == []
    with pytest.raises(NotFound, match='job "brief" not found'):
        await client.pause("brief")
    assert [each.id for each in await client.runs(job.id)] == [run.id]


async def test_an_invalid_call_names_the_valid_values_and_stores_nothing(
    world: PrefectWorld,
) -> None:
    client = daybook.Client()
    with pytest.raises(InvalidInput, match="schedule"):
        await client.add("Read the news", schedule="every day")
    with pytest.raises(InvalidInput, match="promt"):
        await client.add("Read the news", schedule="@daily", promt="x")  # type: ignore[call-arg]
    with pytest.raises(InvalidInput, match='unknown "nobody"'):
        await client.add("Read the news", schedule="@daily", agent="nobody")
    with pytest.raises(InvalidInput, match="use one of: enabled, disabled, "):
        await client.list("broken")
    with pytest.raises(InvalidInput, match="exactly one is required"):
        await client.next()
    with pytest.raises(InvalidInput, match="agent: "):
        daybook.Client(agent=" ")
    assert await client.list() == []


@pytest.mark.floor("A", "A job has an agent id and a user id")
@pytest.mark.floor("A", "AddJobForContext: the job inherits agent and user of the context")
async def test_a_job_made_in_a_context_belongs_to_its_agent_and_user(world: PrefectWorld) -> None:
    operator = daybook.Client()
    await operator.add("Mine", schedule="@daily", name="mine")
    with daybook.context(agent="researcher", user="u-17"):
        client = daybook.Client()
        made = await client.add("Read the news", schedule="@hourly", agent="default", name="news")
        assert (made.owner, made.user_id, made.created_by) == (
            "agent:researcher",
            "u-17",
            "api",
        )
        assert [each.name for each in await client.list()] == ["news"]
        with pytest.raises(NotFound, match='job "mine" not found'):
            await client.remove("mine")
        with pytest.raises(InvalidInput, match="schedule: is due every 5s"):
            await client.update("news", schedule="every 5s")
        with daybook.context(user="u-18"):
            other = await client.add("Read on", schedule="@daily", name="more")
        assert (other.owner, other.user_id) == ("agent:researcher", "u-18")
    # The same with a client of the agent outside of a context, and for the operator.
    assert len(await daybook.Client(agent="researcher").list()) == 2
    assert [each.name for each in await operator.list()] == ["mine", "more", "news"]


def _in_sync() -> list[Any]:
    """Run a program without an event loop, and return what it saw."""
    with daybook.context(user="u-1"):
        client = daybook.SyncClient()
        job = client.add_webhook("https://example.org/hook", schedule="on demand", name="hook")
        assert isinstance(job.action, Webhook)
        values = [job.kind, job.action.method, job.user_id]
        client.update("hook", method="PUT")
        values.append(client.get("hook").model_dump(mode="json")["method"])
        values.append(client.remove("hook").name)
        return [*values, client.list()]


async def test_the_sync_client_works_with_and_without_a_running_loop(world: PrefectWorld) -> None:
    """Call it in a thread without a loop and, as in a notebook, in one whose loop runs."""
    values = ["webhook", "POST", "u-1", "PUT", "hook", []]
    assert await asyncio.to_thread(_in_sync) == values
    assert _in_sync() == values
