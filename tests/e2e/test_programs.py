"""Programs that have Daybook inside, as their users write them: with a loop and without.

A worker carries out what they ask for; what they see of it is compared with the ledger.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

import daybook
from daybook.errors import InvalidInput, NotFound
from tests.world import World
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


@pytest.mark.journey
async def test_a_program_keeps_a_job_from_its_beginning_to_its_end(world: World) -> None:
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
    assert (job["name"], job["words"]) == ("brief", "at 09:00 on weekdays, Europe/Berlin")
    assert (job["owner"], job["created_by"], job["user_id"]) == ("user", "api", "")
    assert job["metadata"] == {"repository": "daybook"}
    assert [each["name"] for each in await client.list()] == ["brief"]

    changed = await client.update("brief", schedule="30 9 * * *")
    assert (changed["schedule"]["expr"], changed["prompt"]) == ("30 9 * * *", job["prompt"])
    [first, *_] = await client.next("brief", count=2)
    assert first["local"][11:16] == "09:30"

    assert (await client.pause("brief", "holidays"))["disabled_reason"] == "paused: holidays"
    assert [each["id"] for each in await client.list("disabled")] == [job["id"]]
    assert await client.list("enabled") == []
    run = await client.run("brief", wait=True, request_id="ticket-17")
    assert (run["status"], run["trigger"], run["job"]) == ("succeeded", "api", "brief")
    assert "Summarise open pull requests" in run["output"]
    again = await client.run("brief", request_id="ticket-17")
    assert again["id"] == run["id"]
    assert [each["id"] for each in await client.runs("brief")] == [run["id"]]
    assert (await client.run_of(run["id"][:12]))["output"] == run["output"]

    assert (await client.resume("brief"))["enabled"] is True
    assert (await client.get("brief"))["last_run"]["id"] == run["id"]
    await client.remove("brief")
    assert await client.list() == []
    with pytest.raises(NotFound, match='job "brief" not found'):
        await client.pause("brief")
    assert [each["id"] for each in await client.runs(job["id"])] == [run["id"]]


async def test_what_is_refused_says_what_is_legal_and_stores_nothing(world: World) -> None:
    client = daybook.Client()
    with pytest.raises(InvalidInput, match="schedule"):
        await client.add("Read the news", schedule="every day")
    with pytest.raises(InvalidInput, match="promt"):
        await client.add("Read the news", schedule="@daily", promt="x")
    with pytest.raises(InvalidInput, match='unknown "nobody"'):
        await client.add("Read the news", schedule="@daily", agent="nobody")
    with pytest.raises(InvalidInput, match="use one of: enabled, disabled, "):
        await client.list("broken")
    with pytest.raises(InvalidInput, match="one of these is given"):
        await client.next()
    with pytest.raises(InvalidInput, match="agent: "):
        daybook.Client(agent=" ")
    assert await client.list() == []


async def test_what_is_made_in_a_context_is_its_agents_and_its_users(world: World) -> None:
    operator = daybook.Client()
    await operator.add("Mine", schedule="@daily", name="mine")
    with daybook.context(agent="researcher", user="u-17"):
        client = daybook.Client()
        made = await client.add("Read the news", schedule="@hourly", agent="default", name="news")
        assert (made["owner"], made["user_id"], made["created_by"]) == (
            "agent:researcher",
            "u-17",
            "api",
        )
        assert [each["name"] for each in await client.list()] == ["news"]
        with pytest.raises(NotFound, match='job "mine" not found'):
            await client.remove("mine")
        with pytest.raises(InvalidInput, match="schedule: is due every 5s"):
            await client.update("news", schedule="every 5s")
        with daybook.context(user="u-18"):
            other = await client.add("Read on", schedule="@daily", name="more")
        assert (other["owner"], other["user_id"]) == ("agent:researcher", "u-18")
    # The same without a block, and as the operator sees it.
    assert len(await daybook.Client(agent="researcher").list()) == 2
    assert [each["name"] for each in await operator.list()] == ["mine", "more", "news"]


def _in_sync() -> list[Any]:
    """A program without a loop."""
    with daybook.context(user="u-1"):
        client = daybook.SyncClient()
        job = client.add_webhook("https://example.org/hook", schedule="on demand", name="hook")
        told = [job["kind"], job["method"], job["user_id"]]
        client.update("hook", method="PUT")
        told.append(client.get("hook")["method"])
        told.append(client.remove("hook")["name"])
        return [*told, client.list()]


async def test_the_sync_face_does_the_same(world: World) -> None:
    """In a thread without a loop, and, as in a notebook, in one whose loop runs."""
    told = ["webhook", "POST", "u-1", "PUT", "hook", []]
    assert await asyncio.to_thread(_in_sync) == told
    assert _in_sync() == told


def test_the_sync_face_has_every_verb_with_its_text() -> None:
    verbs = {name for name in vars(daybook.Client) if not name.startswith("_")}
    assert verbs == {name for name in vars(daybook.SyncClient) if not name.startswith("_")}
    for name in verbs:
        ours, twin = getattr(daybook.Client, name), getattr(daybook.SyncClient, name)
        assert inspect.getdoc(ours) and inspect.getdoc(twin) == inspect.getdoc(ours)
        if name == "tasks":  # their operations: tests/unit/api/test_task_client.py
            continue
        assert inspect.signature(twin) == inspect.signature(ours)
        assert not inspect.iscoroutinefunction(twin)
