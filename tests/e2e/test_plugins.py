"""Programs with callables of their own: plugin jobs, listeners, and agents that schedule.

The worker's setting `plugins` names the program's module, as the program's users configure it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent
from sqlmodel import col, select

import daybook
from daybook import registry
from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.jobs.actions import ToolCall
from daybook.jobs.views import ChangedJob
from daybook.ledger.tables import Fact, OutboxRow
from daybook.processes import proc
from daybook.schedules.schedule import Every
from daybook.tools import worker_tools
from tests.conftest import PrefectServer
from tests.timings import SHORT
from tests.unit.api.playing import plays
from tests.waiting import becomes_true
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import sqlite_is_free, stand_still
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

# The program's callables; each appends its call as a line of JSON to the file HEARD.
PROGRAM = """
import json, os, signal
import daybook

def noted(what, **more):
    with open(os.environ["HEARD"], "a") as heard:
        heard.write(json.dumps({"what": what, **more}) + "\\n")

@daybook.tool("feeds")
async def feeds(plugin_id: str, key: str, runtime_name: str, payload: object) -> str:
    "Refresh a feed."
    noted("feeds", plugin_id=plugin_id, key=key, runtime_name=runtime_name, payload=payload)
    if payload == "broken":
        raise LookupError("no such feed")
    return f"refreshed {key}"

@daybook.listener
def first(run):
    noted("first", run=run["id"], status=run["status"])
    raise ValueError("the first listener fails")

@daybook.listener
async def second(run):
    noted("second", run=run["id"], status=run["status"])
"""


@dataclass
class Program:
    """The calls that the program's callables have recorded."""

    calls_file: Path

    def lines(self, what: str) -> list[dict[str, Any]]:
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text().splitlines(keepends=True)
        every = [
            json.loads(line) for line in lines if line.endswith("\n")
        ]  # skip a half-written line
        return [each for each in every if each["what"] == what]


@pytest.fixture
def program(
    daybook_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Program]:
    """Put the module `feeds_program` on the path of this process and of its workers."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "feeds_program.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ['PYTHONPATH']}")
    monkeypatch.setenv("DAYBOOK_PLUGINS", "feeds_program")
    monkeypatch.setenv("HEARD", str(tmp_path / "heard"))
    with registry.isolated():
        yield Program(tmp_path / "heard")
    sys.modules.pop("feeds_program", None)


@pytest.fixture
async def world(
    prefect_server: PrefectServer, program: Program, tmp_path: Path
) -> AsyncIterator[PrefectWorld]:
    async with at_prefect(tmp_path, prefect_server, timing=SHORT) as world:
        yield world


async def announced(world: PrefectWorld) -> None:
    """Wait until the worker's keeper leads and has recorded the listeners."""

    async def it_is() -> bool:
        async with world.ledger.read() as session:
            return await session.get(Fact, "listeners") is not None

    assert await becomes_true(it_is, 60.0), world.workers.logs()


async def test_a_plugin_job_calls_its_callable_with_its_payload(
    world: PrefectWorld, program: Program
) -> None:
    await world.workers.begin()
    client = daybook.Client()
    payload = {"urls": ["https://example.org/a"], "depth": 2, "since": None, "ü": "→"}
    job = await client.plugin_job(
        "feeds", "news", runtime_name="rss", payload=payload, schedule="every 1h"
    )
    assert (job.owner, job.kind) == ("plugin", "tool-call")
    assert isinstance(job.action, ToolCall)
    assert job.action.tool == "feeds"
    assert job.name == "feeds: news"
    run = await client.run(job.id, wait=True)
    assert (run.error, run.output) == (None, "refreshed news")
    assert program.lines("feeds") == [
        {"what": "feeds", "plugin_id": "feeds", "key": "news", "runtime_name": "rss"}
        | {"payload": payload}
    ]

    # The same call again changes nothing; a different one edits the job; a new key is a new job.
    same = await client.plugin_job(
        "feeds", "news", runtime_name="rss", payload=payload, schedule="every 1h"
    )
    assert (same.id, same.schedule) == (job.id, job.schedule)
    await client.pause(job.id)
    await client.update(job.id, name="renamed")
    changed = await client.plugin_job(
        "feeds", "news", runtime_name="rss", payload="broken", schedule="every 2h"
    )
    assert (changed.id, changed.enabled) == (job.id, False)
    assert isinstance(changed.schedule, Every) and isinstance(changed.action, ToolCall)
    assert changed.schedule.every == timedelta(hours=2)
    assert changed.action.params["payload"] == "broken"
    other = await client.plugin_job("feeds", "jobs", runtime_name="rss", schedule="on demand")
    assert other.id != job.id and len(await client.list()) == 2

    # The callable's error is the run's error.
    failed = await client.run(job.id, wait=True)
    assert (failed.status, failed.error) == ("failed", "LookupError: no such feed")

    with pytest.raises(InvalidInput, match='tool: unknown "feds"'):
        await client.plugin_job("feds", "x", runtime_name="rss", schedule="@daily")
    with pytest.raises(InvalidInput, match="key: is blank"):
        await client.plugin_job("feeds", " ", runtime_name="rss", schedule="@daily")
    assert len(await client.list()) == 2

    async with world.ledger.read() as session:
        now = world.ledger.now()
        assert await worker_tools.workers_without(session, "feeds", now) == []
        assert len(await worker_tools.workers_without(session, "feds", now)) == 1


def _in_sync() -> ChangedJob:
    return daybook.SyncClient().plugin_job(
        "feeds", "news", runtime_name="rss", payload=[1], schedule="@daily"
    )


async def test_concurrent_programs_with_the_same_plugin_job_create_one(world: PrefectWorld) -> None:
    """Three threads use the synchronous client at the same time."""
    made = await asyncio.gather(*(asyncio.to_thread(_in_sync) for _ in range(3)))
    assert len({each.id for each in made}) == 1
    assert [each.name for each in await daybook.Client().list()] == ["feeds: news"]


async def test_a_plugin_job_runs_while_user_jobs_are_disabled(
    world: PrefectWorld, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_USER_JOBS", "false")
    await world.workers.begin()
    client = daybook.Client()
    user = await client.add("Hello", schedule="in 3s", name="mine")
    plugin = await client.plugin_job("feeds", "news", runtime_name="rss", schedule="in 3s")

    async def both_ended() -> bool:
        runs = [*await client.runs(user.id), *await client.runs(plugin.id)]
        return [each.finished_at is not None for each in runs] == [True, True]

    assert await becomes_true(both_ended, 90.0), world.workers.logs()
    [users_run], [its] = await client.runs(user.id), await client.runs(plugin.id)
    assert (its.status, its.output) == ("succeeded", "refreshed news")
    assert (users_run.status, "are disabled" in users_run.reason) == ("skipped", True)
    # A run by hand still starts.
    assert (await client.run("mine", wait=True)).status == "succeeded"


async def test_each_listener_gets_each_outcome_and_a_failing_one_changes_none(
    world: PrefectWorld, program: Program
) -> None:
    await world.workers.begin()
    await announced(world)
    client = daybook.Client()
    job = await client.add("Hello", schedule="on demand", name="hello")
    tool = await client.add_tool("feeds", _params("broken"), schedule="on demand", name="breaks")
    done = await client.run(job.id, wait=True)
    failed = await client.run(tool.id, wait=True)
    expected = {(done.id, "succeeded"), (failed.id, "failed")}

    async def is_notified() -> bool:
        return all(
            {(each["run"], each["status"]) for each in program.lines(name)} == expected
            and len(program.lines(name)) == 2
            for name in ("first", "second")
        ) and not await _pending(world)

    assert await becomes_true(is_notified, 60.0), world.workers.logs()
    for run in (await client.run_of(done.id), await client.run_of(failed.id)):
        assert (run.id, run.status) in expected
        assert run.delivery in ("not_requested", "delivered")
        deliveries = {each.to: each for each in run.deliveries if each.purpose == "listener"}
        assert {name: each.status for name, each in deliveries.items()} == {
            "feeds_program.first": "failed",
            "feeds_program.second": "delivered",
        }
        assert deliveries["feeds_program.first"].error == "ValueError: the first listener fails"


@pytest.mark.timeout(420)
async def test_the_next_worker_calls_the_listeners_after_the_first_was_killed(
    world: PrefectWorld, program: Program
) -> None:
    """The worker and its processes are killed before they call the listeners of an outcome."""
    worker = await world.workers.begin()
    await announced(world)
    client = daybook.Client()
    job = await client.add("Hello", schedule="on demand", name="hello")
    # The suspended keeper calls no listener from here on.
    await stand_still(worker.pid, lambda: sqlite_is_free(world.ledger.address))
    row = await _cancelled(world, client, job.id)
    head = proc.find(worker.pid)
    assert head is not None
    proc.send_signal(proc.process_tree(head), signal.SIGKILL)
    await worker.child.wait()
    assert program.lines("second") == []
    await world.workers.begin()

    async def is_notified() -> bool:
        return [each["run"] for each in program.lines("second")] == [row]

    assert await becomes_true(is_notified, 150.0), world.workers.logs()
    assert (await client.run_of(row)).status == "cancelled"


async def _cancelled(world: PrefectWorld, client: daybook.Client, job: str) -> str:
    """Request a run, cancel it before it begins, and return its id."""
    run = await client.run(job)
    return str((await client.cancel(run.id)).id)


async def _pending(world: PrefectWorld) -> list[OutboxRow]:
    pending = select(OutboxRow).where(
        col(OutboxRow.purpose) == "listener", col(OutboxRow.status) == "pending"
    )
    async with world.ledger.read() as session:
        return list((await session.execute(pending)).scalars())


def _params(payload: object) -> dict[str, Any]:
    return {"plugin_id": "p", "key": "k", "runtime_name": "r", "payload": payload}


async def test_a_programs_listeners_get_outcomes_of_runs_in_other_processes(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker has these listeners; outcomes from before `listening` arrive once it is entered."""
    monkeypatch.delenv("DAYBOOK_PLUGINS")
    loop, calls = asyncio.get_running_loop(), list[tuple[str, bool]]()

    @daybook.listener(name="show")
    async def show(run: dict[str, Any]) -> None:
        calls.append((run["id"], asyncio.get_running_loop() is loop))

    client = daybook.Client()
    job = await client.add("Hello", schedule="on demand", name="hello")
    await world.workers.begin()
    async with daybook.listening():
        first = await client.run(job.id, wait=True)
    assert calls == [(first.id, True)]
    done_run = await client.run(job.id, wait=True)
    assert len(calls) == 1
    async with daybook.listening():
        pass  # its end delivers what is due
    assert calls[1:] == [(done_run.id, True)]

    sync: list[str] = []
    daybook.listener(name="sync")(lambda run: sync.append(run["id"]))
    last = await asyncio.to_thread(_listens_in_sync, job.id)
    assert sync == [last]


def _listens_in_sync(job: str) -> str:
    client = daybook.SyncClient()
    with daybook.listening():
        return str(client.run(job, wait=True).id)


async def test_an_agent_of_a_program_schedules_jobs_of_its_own(world: PrefectWorld) -> None:
    model, read = plays(
        ("cron_add", {"prompt": "Read the news", "schedule": "0 9 * * 1-5", "name": "news"}),
        ("cron_remove", {"job_id": "mine"}),
        ("cron_list", {}),
    )
    await daybook.Client().add("Hello", schedule="@daily", name="mine")
    agent = Agent(model, toolsets=[daybook.toolset(agent="researcher", user="u-17")])
    await agent.run("Every weekday at nine, read the news.")
    assert "news" in read[0] and 'job "mine" not found' in read[1] and "mine" not in read[2]
    [made] = await daybook.Client(agent="researcher").list()
    assert (made.owner, made.user_id) == ("agent:researcher", "u-17")

    tool = daybook.schedule_tool(agent="researcher")
    answer = await tool.call({"action": "add", "prompt": "Look again", "schedule": "@hourly"})
    assert "Look again" in answer
    answer = await tool.call({"action": "remove", "job_id": "news"})
    assert answer.startswith("Removed.")
    assert "news" not in await tool.call({"action": "list"})
    assert len(await daybook.Client().list()) == 2
