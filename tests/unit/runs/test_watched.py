"""What a watch has seen: recorded with the success of the run that a change started."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import WatchRow
from daybook.runs import claims
from daybook.runs.claim_requests import Granted
from tests.world import World

pytestmark = pytest.mark.anyio

URL = "https://shop.example.org/prices"


async def watching(world: World, **fields: Any) -> StoredJob:
    fields = {"cron": "0 * * * *", "check": {"watch_url": URL}, **fields}
    return await world.jobs.add("prices", **fields)


async def seen(world: World, job: StoredJob) -> Granted:
    """Claim the next due time, and record what the watch sees first, without a run."""
    granted = await world.runs.claimed(job)
    assert granted.seen is None
    skipped = Outcome(Status.SKIPPED, "check: recorded")
    found = {"check": "one", "source": URL, "at": world.ledger.now().isoformat()}
    await claims.finish(world.ledger, granted.run_id, granted.fence, skipped, found=found)
    return granted


async def changed(world: World, job: StoredJob, content: str = "two", source: str = "") -> Granted:
    """Claim and begin the next due time, whose watch found a change."""
    granted = await world.runs.claimed(job)
    found = {"check": content, "change": f"-one\n+{content}", "source": source or URL}
    found["at"] = world.ledger.now().isoformat()
    await claims.begin(world.ledger, granted.run_id, granted.fence, found=found)
    return granted


async def last_seen(world: World, job: StoredJob) -> str | None:
    granted = await world.runs.claimed(job)
    await world.runs.finish(granted, Status.SKIPPED)
    return granted.seen


async def test_the_first_content_is_seen_without_a_run(world: World) -> None:
    job = await watching(world)
    first = await seen(world, job)
    assert (await world.runs.row(first.run_id)).found is None
    assert await last_seen(world, job) == "one"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.SUCCEEDED, "two"),
        (Status.FAILED, "one"),
        (Status.TIMED_OUT, "one"),
        (Status.CANCELLED, "one"),
    ],
)
async def test_a_change_is_seen_when_its_run_succeeds(
    world: World, status: Status, expected: str
) -> None:
    job = await watching(world)
    await seen(world, job)
    granted = await changed(world, job)
    assert granted.seen == "one"

    await world.runs.finish(granted, status)

    assert (await world.runs.row(granted.run_id)).found is None
    assert await last_seen(world, job) == expected


async def test_an_unknown_run_that_turns_out_to_have_succeeded_has_seen_the_change(
    world: World,
) -> None:
    job = await watching(world)
    await seen(world, job)
    granted = await changed(world, job)
    await world.runs.finish(granted, Status.UNKNOWN)
    assert await last_seen(world, job) == "one"

    await world.runs.finish(granted, Status.SUCCEEDED)

    assert await last_seen(world, job) == "two"


async def test_each_attempt_gets_what_the_check_found(world: World) -> None:
    job = await watching(world, retries=1)
    await seen(world, job)
    request = world.runs.claim_request(job)
    first = await changed(world, job)
    until = world.ledger.now() + timedelta(seconds=1)
    await claims.retry(world.ledger, first.run_id, first.fence, Outcome(Status.FAILED), until)
    world.clock.set(until)

    again = await world.runs.claimed(request)

    assert (again.attempts, again.found["change"]) == (1, "-one\n+two")


async def test_after_an_edit_of_the_watch_nothing_is_seen(world: World) -> None:
    job = await watching(world)
    await seen(world, job)
    job = await world.jobs.edit("prices", check={"watch_command": ["cat", "/tmp/prices"]})
    assert await last_seen(world, job) is None


async def test_a_deleted_job_leaves_no_content(world: World) -> None:
    job = await watching(world)
    async with world.ledger.write() as session:
        session.add(WatchRow(job_id=job.id, source=URL, content="x", seen_at=world.ledger.now()))
    async with world.ledger.write() as session:
        await store.delete_job(session, job.id)
        assert await session.get(WatchRow, job.id) is None


async def test_an_older_look_does_not_replace_a_newer_one(world: World) -> None:
    job = await watching(world)
    await seen(world, job)
    older = await changed(world, job)
    await world.runs.finish(older, Status.UNKNOWN)
    newer = await changed(world, job, "three")
    await world.runs.finish(newer, Status.SUCCEEDED)

    await world.runs.finish(older, Status.SUCCEEDED)

    assert await last_seen(world, job) == "three"


async def test_content_of_another_source_does_not_replace_that_of_the_jobs_watch(
    world: World,
) -> None:
    """A custom run in Prefect may watch another page."""
    job = await watching(world)
    await seen(world, job)
    other = await changed(world, job, "other", source="https://elsewhere.example.org")
    await world.runs.finish(other, Status.SUCCEEDED)
    assert await last_seen(world, job) == "one"
