"""The query that detects changes of the pages: what they show, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from daybook.api import changes, tokens
from daybook.features.tasks import pause
from daybook.ledger.engine import Ledger, sharing
from daybook.ledger.states import Delivery, Status
from daybook.ledger.tables import JobRow, OutboxRow
from daybook.runs import claims, leases
from tests.world import World

pytestmark = pytest.mark.anyio

SENT = {
    "purpose": "message",
    "event": "failed",
    "queue": "channel:inbox",
    "address": "inbox",
    "subject": "x",
    "body": "x",
}


async def _send(world: World, key: str, status: str, **fields: Any) -> OutboxRow:
    now = world.ledger.now()
    row = OutboxRow(key=key, status=status, next_at=now, created_at=now, **(SENT | fields))
    async with world.ledger.write() as session:
        session.add(row)
    return row


async def _set(world: World, table: type[Any], ref: str, **fields: Any) -> None:
    async with world.ledger.write() as session:
        row = await session.get_one(table, ref)
        for name, value in fields.items():
            setattr(row, name, value)


@pytest.mark.dialect
async def test_each_change_that_a_page_shows_is_seen(world: World) -> None:
    async def seen(what: str, change: Awaitable[Any]) -> Any:
        before = (await changes.read()).text
        result = await change
        assert (await changes.read()).text != before, what
        return result

    with sharing(world.ledger):
        job = await seen("a job", world.jobs.add("brief"))
        await seen("a run", world.runs.request(job))
        granted = await seen("a claim", world.runs.claimed(await world.runs.row()))
        await seen("a start", claims.begin(world.ledger, granted.run_id, granted.fence))
        await seen("an outcome", world.runs.finish(granted, Status.FAILED, error="no"))
        await seen("an edit", world.jobs.edit("brief", enabled=False))
        await seen("a skip", _set(world, JobRow, job.id, skips=["2027-01-01T00:00:00+00:00"]))
        until = world.at(hours=2)
        await seen("a snooze", _set(world, JobRow, job.id, snoozed_until=until))
        conflict = {"at": world.clock.now().isoformat(), "fields": {}}
        await seen("a conflict", _set(world, JobRow, job.id, conflict=conflict))
        await seen("a sync", _set(world, JobRow, job.id, sync_pending=False))
        message = await seen("a message", _send(world, "a", Delivery.DELIVERED))
        await seen("reading it", _set(world, OutboxRow, message.id, read_at=until))
        callback = {"purpose": "callback", "queue": "https://example.org", "address": "https://e"}
        sent = await seen("a callback", _send(world, "b", Delivery.PENDING, **callback))
        await seen("a try", _set(world, OutboxRow, sent.id, attempts=1, next_at=until))
        ended = {"status": Delivery.FAILED, "finished_at": until}
        await seen("its failure", _set(world, OutboxRow, sent.id, **ended))
        task = await seen("a task", world.tasks.add())
        await seen("a session", world.tasks.register())
        await seen("a claim of it", world.tasks.claim())
        assert (await world.tasks.run(task.id)).status == "claimed"
        await seen("a pause", pause.pause(world.ledger, "for now"))
        await seen("a removal", world.jobs.archive("brief"))


async def test_what_processes_write_for_themselves_is_not_seen(world: World) -> None:
    with sharing(world.ledger):
        job = await world.jobs.add("brief")
        granted = await world.runs.running(await world.runs.request(job))
        before = (await changes.read()).text
        assert await world.ledger.why_unwritable() == ""
        await leases.renew(world.ledger, granted.run_id, granted.fence)
        watermark = world.ledger.now() + timedelta(minutes=1)
        await _set(world, JobRow, job.id, audited_until=watermark)
        assert (await changes.read()).text == before


async def test_the_tokens_of_shared_links_are_known(world: World) -> None:
    with sharing(world.ledger):
        await tokens.add("agent:claude")
        assert (await changes.read()).valid == frozenset()
        link = await tokens.share("hall")
        before = await changes.read()
        assert before.valid == {link.id}
        await tokens.remove("hall")
        assert (await changes.read()).valid == frozenset()
        assert (await changes.read()).text == before.text


async def test_no_long_table_is_read_in_full(tmp_path: Path) -> None:
    """Runs, deliveries and tasks are kept for months; jobs and task sessions are few."""
    query = str(changes._query().compile(compile_kwargs={"literal_binds": True}))
    async with (
        Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger,
        ledger.read() as session,
    ):
        plan = (await session.execute(sqlalchemy.text(f"EXPLAIN QUERY PLAN {query}"))).all()
    steps = [str(each[3]) for each in plan]
    assert any("runs_ended" in each for each in steps), steps
    for table in ("runs", "outbox", "task_runs"):
        scans = [each for each in steps if each.startswith(f"SCAN {table}")]
        assert all("INDEX" in each for each in scans), scans
