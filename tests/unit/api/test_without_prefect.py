"""Changes of jobs while Prefect is unreachable: stored and pending; and which answers count so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from daybook.api import authorization, jobs, preflight, runs
from daybook.errors import InvalidInput, PrefectRefused, PrefectUnreachable
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import open_ledger
from daybook.ledger.states import Outcome, Status
from daybook.owners import Actor, acting_as
from daybook.prefect import client as connection
from daybook.processes.sandboxes import bubblewrap
from daybook.resources import copies
from daybook.runs import claims, outcomes, rows
from daybook.toolbox import call
from tests.receiver import Request, answer, serving
from tests.timings import change
from tests.unit.diagnosis.checks.conftest import as_prefect

GIVEN: dict[str, Any] = {"prompt": "Hello?", "every": "1h"}


@pytest.mark.usefixtures("daybook_home")
async def test_each_change_of_a_job_is_stored_and_pending() -> None:
    added = await jobs.add({**GIVEN, "name": "brief", "agent": "nobody"})
    assert (added.sync, len(added.notes)) == ("pending", 3)
    assert "so the agents of the job are checked only when it runs" in added.notes[0]
    edited = await jobs.edit_job("brief", {"every": "2h", "tags": ["news"], "prompt": "Hello?"})
    assert [(each.field, each.old, each.new) for each in edited.changes] == [
        ("schedule", "every 1 hour", "every 2 hours"),
        ("tags", [], ["news"]),
    ]
    paused, resumed = await jobs.pause("brief"), await jobs.resume("brief")
    for each in (edited, paused, resumed):
        assert (each.sync, each.notes) == ("pending", [jobs.PENDING_NOTE])
    assert [paused.enabled, resumed.enabled] == [False, True]
    assert (await jobs.show("brief")).words == "every 2 hours"
    assert (await jobs.remove("brief")).name == "brief"
    assert (await jobs.show(added.id)).removed_at is not None


@pytest.mark.usefixtures("daybook_home")
@pytest.mark.parametrize(
    ("schedule", "runs_a_day"),
    [("every 1s", "86,400"), ("*/20 * * * * *", "4,320"), ("every 1m", ""), ("0 9 * * *", "")],
)
async def test_a_job_due_more_than_once_a_minute_has_a_note(schedule: str, runs_a_day: str) -> None:
    added = await jobs.add({"prompt": "Hello?", "schedule": schedule, "name": "often"})
    edited = await jobs.edit_job("often", {"schedule": "every 30s"})
    same = await jobs.edit_job("often", {"description": "x"})
    found = [
        "".join(note for note in each.notes if "a minute" in note) for each in (added, edited, same)
    ]
    note = f"it is due more often than once a minute: up to {runs_a_day} runs a day"
    assert found == [note if runs_a_day else "", jobs.FREQUENCY_NOTE.format(2880), ""]


async def test_a_change_does_not_wait_for_a_prefect_that_hangs(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process accepts connections, and never answers."""
    change(monkeypatch, connection, prefect_answer=0.05)

    async def hang(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serving() as server, asyncio.timeout(30):
        server.steps = [hang]
        with temporary_settings({PREFECT_API_URL: f"{server.address}/api"}):
            added = await jobs.add({**GIVEN, "name": "brief"})
            edited = await jobs.edit_job("brief", {"every": "2h"})
            paused, resumed = await jobs.pause("brief"), await jobs.resume("brief")
            removed = await jobs.remove("brief")

    found = [each.sync for each in (added, edited, paused, resumed)]
    assert (found, edited.words, removed.name) == (["pending"] * 4, "every 2 hours", "brief")


@pytest.mark.usefixtures("daybook_home")
async def test_a_command_that_needs_prefect_names_a_prefect_that_hangs() -> None:
    async def hang(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serving() as server, asyncio.timeout(30):
        server.steps = [hang]
        expected = pytest.raises(PrefectUnreachable, match=r"no answer within 0\.05 s")
        with temporary_settings({PREFECT_API_URL: f"{server.address}/api"}), expected:
            async with connection.answering(0.05):
                pass


async def test_no_known_prefect_is_an_unreachable_one(daybook_home: Home) -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        assert (await jobs.add(GIVEN)).sync == "pending"


@pytest.mark.usefixtures("daybook_home")
async def test_the_tools_say_that_a_change_is_pending() -> None:
    answer = await call("cron_add", {"prompt": "Sum up.", "schedule": "0 9 * * 1-5", "name": "sum"})
    assert not answer.refused, answer.text
    assert f"note: {jobs.PENDING_NOTE}" in answer.text
    assert "note: its last change" in (await call("cron_get", {"job_id": "sum"})).text


@pytest.mark.usefixtures("daybook_home")
@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"on_fail": "ftp://ops.example.org"}, "on_fail"),
        ({"channel": "console"}, "channel"),
        ({"channel": "team"}, "channel"),
        ({"kind": "webhook", "prompt": None, "url": "http://127.0.0.1/x"}, "url"),
    ],
)
async def test_checks_that_need_no_prefect_still_apply(
    more: dict[str, Any], field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LIMITS", '{"channels": ["ops"]}')
    with acting_as(Actor("agent:researcher", via="mcp")):
        with pytest.raises(InvalidInput) as refused:
            await jobs.add({**GIVEN, **more})
        assert refused.value.field == field
        assert await jobs.list_jobs() == []
        assert (await jobs.add({**GIVEN, "channel": "ops"})).sync == "pending"


@pytest.mark.usefixtures("daybook_home")
async def test_an_agents_job_asks_that_agent_if_the_ledger_has_a_copy_of_it(
    daybook_home: Home,
) -> None:
    with acting_as(Actor("agent:researcher", via="mcp")):
        before = await jobs.add(GIVEN)
    async with open_ledger() as ledger, ledger.write() as session:
        key = await copies.get_or_create_key(session, daybook_home)
        ref, now = ("daybook-offline-agent", "researcher"), ledger.now()
        await copies.put(session, ref, "type", {}, key=key, now=now)
    with acting_as(Actor("agent:researcher", via="mcp")):
        after = await jobs.add({**GIVEN, "prompt": "And now?"})
    agents = [each.action.model_dump()["agent"] for each in (before, after)]
    assert agents == ["default", "researcher"]
    assert ["the job asks the default agent" in str(job.notes) for job in (before, after)] == [
        True,
        False,
    ]


@pytest.mark.usefixtures("daybook_home")
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt": "Hello?"}, "the agents of the job"),
        ({"prompt": "Hello?", "channel": "team"}, "the agents and the channels of the job"),
        ({"tool": "shout", "params": {"key": "{{secret:ops}}"}}, "the tools and the secrets of"),
        ({"url": "https://api.example.org/x"}, ""),
    ],
)
async def test_the_note_says_what_is_not_checked_without_prefect(
    fields: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALLOWED_HOSTS", "api.example.org")
    added = await jobs.add({**fields, "every": "1h"})
    *unchecked, pending = added.notes
    assert pending == jobs.PENDING_NOTE
    assert bool(unchecked) == bool(named)
    assert named in "".join(unchecked)


@pytest.mark.usefixtures("daybook_home")
async def test_cancel_reads_the_run_again_before_it_asks_prefect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await jobs.add({**GIVEN, "name": "brief"})
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            stored = await store.find(session, "brief")
        row = await claims.request(ledger, stored, "first", "manual")
    find = authorization.find_live_run

    async def find_and_end(session: Any, ref: str) -> Any:
        found = await find(session, ref)
        async with open_ledger() as ledger, ledger.write() as writing:
            ended = await rows.get(writing, row.id)
            ended.flow_run_id = str(uuid4())
            await outcomes.record(writing, ended, Outcome(Status.SKIPPED, "over"), ledger.now())
        return found

    monkeypatch.setattr(authorization, "find_live_run", find_and_end)
    with pytest.raises(InvalidInput, match="has already ended: skipped"):
        await runs.cancel("brief")


@pytest.fixture
async def paths(daybook_home: Home) -> AsyncIterator[dict[str, tuple[int, Any]]]:
    """Serve a Prefect that answers only its health check, its version and what the test adds."""
    paths = as_prefect("3.8.8")

    async def answers(request: Request, writer: asyncio.StreamWriter) -> None:
        status, content = paths.get(request.path, (404, {}))
        # Prefect's client waits after such an answer, even if it does not retry the request.
        at_once = {"Retry-After": "0"}
        await answer(status, json.dumps(content).encode(), at_once)(request, writer)

    async with serving() as server:
        server.steps = [answers]
        address = f"{server.address}/api"
        with temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}):
            yield paths


Paths = dict[str, tuple[int, Any]]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_server_error_is_an_unreachable_prefect(paths: Paths, status: int) -> None:
    paths["/api/flows/1"] = (status, {"detail": "overloaded"})
    with pytest.raises(PrefectUnreachable, match=f"it returned status {status} overloaded"):
        async with connection.connected() as client:
            (await client._client.get("/flows/1")).raise_for_status()


URL = {"kind": "webhook", "url": "https://api.example.org/x", "every": "1h", "name": "export"}


@pytest.mark.parametrize("status", [500, 429, 418, 403])
async def test_a_deployment_that_fails_is_pending_or_leaves_nothing_stored(
    paths: Paths, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALLOWED_HOSTS", "api.example.org")
    paths["/api/deployments/name/webhook/export"] = (status, {"detail": "no"})
    match status:
        case 500 | 429:
            assert (await jobs.add(URL)).sync == "pending"
        case 403:
            with pytest.raises(PrefectRefused):
                await jobs.add(URL)
        case _:
            with pytest.raises(InvalidInput, match="Prefect rejected it: 418 no"):
                await jobs.add(URL)
    assert len(await jobs.list_jobs()) == (status in {500, 429})


@pytest.mark.floor("C", "A work_dir that does not exist is refused")
@pytest.mark.usefixtures("daybook_home")
async def test_a_work_dir_is_checked_when_a_job_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "repo").mkdir()
    with pytest.raises(InvalidInput, match=r"work_dir: .*/none does not exist on this machine"):
        await jobs.add({**GIVEN, "work_dir": "~/none"})
    assert await jobs.list_jobs() == []
    added = await jobs.add({**GIVEN, "name": "brief", "work_dir": "~/repo"})
    assert added.policy.work_dir == "~/repo"
    with pytest.raises(InvalidInput, match="work_dir: /etc is outside the allowed folders"):
        await jobs.edit_job("brief", {"work_dir": "/etc"})
    (tmp_path / "repo").rmdir()
    assert (await jobs.edit_job("brief", {"every": "2h"})).policy.work_dir == "~/repo"


async def test_a_work_dir_that_may_be_on_another_machine_is_only_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", "postgresql://ann@db.example.org/daybook")
    job = new_job(now=datetime(2027, 1, 15, tzinfo=UTC), work_dir=f"{tmp_path}/none", **GIVEN)
    notes = await preflight.check_action(None, job, "user")
    assert len(notes) == 1
    assert "so every run on a machine like this one will fail" in notes[0]


async def test_a_sandbox_that_this_machine_cannot_build_is_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bubblewrap, "PLACES", ())
    for sandbox, count in (("", 0), ("off", 0), ("workspace", 1)):
        given = {**GIVEN, "sandbox": sandbox}
        notes = await preflight.check_action(
            None, new_job(now=datetime(2027, 1, 15, tzinfo=UTC), **given), "user"
        )
        assert len(notes) == count
    assert "every run on a machine like it will fail: bubblewrap is not installed" in notes[0]
