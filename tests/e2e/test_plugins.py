"""Programs with callables of their own: plugin jobs, listeners, and agents that schedule.

A worker has the module of the program in its setting `plugins`, as the program's users set it up.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent
from sqlmodel import col, select

import daybook
from daybook import registry
from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.ledger.tables import Fact, OutboxRow
from daybook.processes import proc
from tests.conftest import PrefectServer
from tests.timings import SHORT
from tests.unit.api.playing import plays
from tests.world import World, at_prefect, so
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, sqlite_is_free, stand_still

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

# What the program registers; each notes its call as a line of JSON in the file HEARD.
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
    """Where it is, and what its callables noted."""

    heard: Path

    def lines(self, what: str) -> list[dict[str, Any]]:
        if not self.heard.exists():
            return []
        lines = self.heard.read_text().splitlines(keepends=True)
        every = [json.loads(line) for line in lines if line.endswith("\n")]  # not one half written
        return [each for each in every if each["what"] == what]


@pytest.fixture
def program(
    daybook_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Program]:
    """A module `feeds_program` on the path of this process and of the workers that it begins."""
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
) -> AsyncIterator[World]:
    async with at_prefect(tmp_path, prefect_server, timing=SHORT) as world:
        yield world


async def announced(world: World) -> None:
    """The worker's keeper leads, and has said who listens."""

    async def it_is() -> bool:
        async with world.ledger.read() as session:
            return await session.get(Fact, "listeners") is not None

    assert await so(it_is, 60.0), world.workers.logs()


async def test_a_plugins_job_reaches_its_callable_unchanged(world: World, program: Program) -> None:
    await world.workers.begin()
    client = daybook.Client()
    payload = {"urls": ["https://example.org/a"], "depth": 2, "since": None, "ü": "→"}
    job = await client.plugin_job(
        "feeds", "news", runtime_name="rss", payload=payload, schedule="every 1h"
    )
    assert (job["owner"], job["kind"], job["tool"]) == ("plugin", "tool-call", "feeds")
    assert job["name"] == "feeds: news"
    run = await client.run(job["id"], wait=True)
    assert (run["error"], run["output"]) == (None, "refreshed news")
    assert program.lines("feeds") == [
        {"what": "feeds", "plugin_id": "feeds", "key": "news", "runtime_name": "rss"}
        | {"payload": payload}
    ]

    # The same once more changes nothing; what differs is changed, and another key is another job.
    same = await client.plugin_job(
        "feeds", "news", runtime_name="rss", payload=payload, schedule="every 1h"
    )
    assert (same["id"], same["schedule"]) == (job["id"], job["schedule"])
    await client.pause(job["id"])
    await client.update(job["id"], name="renamed")
    changed = await client.plugin_job(
        "feeds", "news", runtime_name="rss", payload="broken", schedule="every 2h"
    )
    assert (changed["id"], changed["enabled"]) == (job["id"], False)
    assert (changed["schedule"]["every"], changed["params"]["payload"]) == ("2h", "broken")
    other = await client.plugin_job("feeds", "jobs", runtime_name="rss", schedule="on demand")
    assert other["id"] != job["id"] and len(await client.list()) == 2

    # Its error is the run's.
    failed = await client.run(job["id"], wait=True)
    assert (failed["status"], failed["error"]) == ("failed", "LookupError: no such feed")

    with pytest.raises(InvalidInput, match='tool: unknown "feds"'):
        await client.plugin_job("feds", "x", runtime_name="rss", schedule="@daily")
    with pytest.raises(InvalidInput, match="key: is blank"):
        await client.plugin_job("feeds", " ", runtime_name="rss", schedule="@daily")
    assert len(await client.list()) == 2


def _in_sync() -> dict[str, Any]:
    return daybook.SyncClient().plugin_job(
        "feeds", "news", runtime_name="rss", payload=[1], schedule="@daily"
    )


async def test_two_programs_that_keep_one_plugins_job_have_one(world: World) -> None:
    """At once, each in a thread of its own, and as a program without a loop writes it."""
    made = await asyncio.gather(*(asyncio.to_thread(_in_sync) for _ in range(3)))
    assert len({each["id"] for each in made}) == 1
    assert [each["name"] for each in await daybook.Client().list()] == ["feeds: news"]


async def test_a_plugins_job_fires_though_user_jobs_are_off(
    world: World, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_USER_JOBS", "false")
    await world.workers.begin()
    client = daybook.Client()
    user = await client.add("Hello", schedule="in 3s", name="mine")
    plugin = await client.plugin_job("feeds", "news", runtime_name="rss", schedule="in 3s")

    async def both_ended() -> bool:
        runs = [*await client.runs(user["id"]), *await client.runs(plugin["id"])]
        return [each["finished_at"] is not None for each in runs] == [True, True]

    assert await so(both_ended, 90.0), world.workers.logs()
    [mine], [its] = await client.runs(user["id"]), await client.runs(plugin["id"])
    assert (its["status"], its["output"]) == ("succeeded", "refreshed news")
    assert (mine["status"], "switched off" in mine["reason"]) == ("skipped", True)
    # By hand it runs all the same.
    assert (await client.run("mine", wait=True))["status"] == "succeeded"


async def test_every_outcome_is_told_to_every_listener_and_stays_what_it_is(
    world: World, program: Program
) -> None:
    await world.workers.begin()
    await announced(world)
    client = daybook.Client()
    job = await client.add("Hello", schedule="on demand", name="hello")
    tool = await client.add_tool("feeds", _params("broken"), schedule="on demand", name="breaks")
    done = await client.run(job["id"], wait=True)
    failed = await client.run(tool["id"], wait=True)
    wanted = {(done["id"], "succeeded"), (failed["id"], "failed")}

    async def told() -> bool:
        return all(
            {(each["run"], each["status"]) for each in program.lines(name)} == wanted
            and len(program.lines(name)) == 2
            for name in ("first", "second")
        ) and not await _pending(world)

    assert await so(told, 60.0), world.workers.logs()
    for run in (await client.run_of(done["id"]), await client.run_of(failed["id"])):
        assert (run["id"], run["status"]) in wanted
        assert run["delivery"] in ("not_requested", "delivered")
        told_of = {each["to"]: each for each in run["deliveries"] if each["purpose"] == "listener"}
        assert {name: each["status"] for name, each in told_of.items()} == {
            "feeds_program.first": "failed",
            "feeds_program.second": "delivered",
        }
        assert told_of["feeds_program.first"]["error"] == "ValueError: the first listener fails"


@pytest.mark.timeout(420)
async def test_what_a_killed_worker_had_not_told_the_next_one_tells(
    world: World, program: Program
) -> None:
    """The worker and all of its processes are killed with the outcome in the ledger, untold."""
    worker = await world.workers.begin()
    await announced(world)
    client = daybook.Client()
    job = await client.add("Hello", schedule="on demand", name="hello")
    # The keeper tells nobody from here on.
    await stand_still(worker.pid, lambda: sqlite_is_free(world.ledger.address))
    row = await _cancelled(world, client, job["id"])
    head = proc.find(worker.pid)
    assert head is not None
    proc.send_signal(proc.process_tree(head), signal.SIGKILL)
    await worker.child.wait()
    assert program.lines("second") == []
    await world.workers.begin()

    async def told() -> bool:
        return [each["run"] for each in program.lines("second")] == [row]

    assert await so(told, 150.0), world.workers.logs()
    assert (await client.run_of(row))["status"] == "cancelled"


async def _cancelled(world: World, client: daybook.Client, job: str) -> str:
    """The id of a run that was asked for and cancelled before it began."""
    run = await client.run(job)
    return str((await client.cancel(run["id"]))["id"])


async def _pending(world: World) -> list[OutboxRow]:
    pending = select(OutboxRow).where(
        col(OutboxRow.purpose) == "listener", col(OutboxRow.status) == "pending"
    )
    async with world.ledger.read() as session:
        return list((await session.execute(pending)).scalars())


def _params(payload: object) -> dict[str, Any]:
    return {"plugin_id": "p", "key": "k", "runtime_name": "r", "payload": payload}


async def test_a_program_hears_of_runs_that_others_carry_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker has its listeners; what happened while it did not listen comes when it does."""
    monkeypatch.delenv("DAYBOOK_PLUGINS")
    here, heard = asyncio.get_running_loop(), list[tuple[str, bool]]()

    @daybook.listener(name="show")
    async def show(run: dict[str, Any]) -> None:
        heard.append((run["id"], asyncio.get_running_loop() is here))

    client = daybook.Client()
    job = await client.add("Hello", schedule="on demand", name="hello")
    await world.workers.begin()
    async with daybook.listening():
        first = await client.run(job["id"], wait=True)
    assert heard == [(first["id"], True)]
    away = await client.run(job["id"], wait=True)
    assert len(heard) == 1
    async with daybook.listening():
        pass  # its end tells what is due by then
    assert heard[1:] == [(away["id"], True)]

    sync: list[str] = []
    daybook.listener(name="sync")(lambda run: sync.append(run["id"]))
    last = await asyncio.to_thread(_listens_in_sync, job["id"])
    assert sync == [last]


def _listens_in_sync(job: str) -> str:
    client = daybook.SyncClient()
    with daybook.listening():
        return str(client.run(job, wait=True)["id"])


async def test_an_agent_of_a_program_schedules_for_itself(world: World) -> None:
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
    assert (made["owner"], made["user_id"]) == ("agent:researcher", "u-17")

    tool = daybook.schedule_tool(agent="researcher")
    told = await tool.call({"action": "add", "prompt": "Look again", "schedule": "@hourly"})
    assert "Look again" in told
    told = await tool.call({"action": "remove", "job_id": "news"})
    assert told.startswith("Removed.")
    assert "news" not in await tool.call({"action": "list"})
    assert len(await daybook.Client().list()) == 2
