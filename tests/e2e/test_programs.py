"""Programs that embed Daybook, with an event loop and without one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import daybook
from daybook.errors import InvalidInput, NotFound
from daybook.jobs.actions import Webhook
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


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
