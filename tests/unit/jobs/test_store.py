"""Job store: finding, naming and removing jobs, and values that no column accepts."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import StatementError
from sqlmodel import col

from daybook.errors import Ambiguous, InvalidInput, NotFound
from daybook.jobs import store
from daybook.jobs.model import edit
from daybook.ledger.tables import JobRow, RevisionRow
from daybook.prefect import links
from tests.world import World

pytestmark = pytest.mark.anyio


async def rename_id(world: World, old: str, new: str) -> None:
    async with world.ledger.write() as session:
        revision = await session.get(RevisionRow, (old, 1))
        assert revision is not None
        await session.execute(delete(RevisionRow).where(col(RevisionRow.job_id) == old))
        await session.execute(update(JobRow).where(col(JobRow.id) == old).values(id=new))
        session.add(RevisionRow(**{**revision.model_dump(), "job_id": new}))


async def _find(world: World, ref: str) -> store.StoredJob:
    async with world.ledger.read() as session:
        return await store.find(session, ref)


@pytest.mark.dialect
@pytest.mark.floor("B", "GetJob finds a job by its id")
@pytest.mark.floor("E", "A job is named by id, unique id prefix or name")
async def test_a_job_is_found_by_name_id_and_unique_prefix(world: World) -> None:
    for name, job_id in (("one", "abc0111"), ("two", "abc0222")):
        await rename_id(world, (await world.jobs.add(name)).id, job_id)

    for ref in ("one", "abc0111", "abc01"):
        assert (await _find(world, ref)).id == "abc0111"
    with pytest.raises(Ambiguous, match=r'"abc0" is ambiguous') as ambiguous:
        await _find(world, "abc0")
    assert "abc0111 (one, of user)" in str(ambiguous.value)
    assert "abc0222 (two, of user)" in str(ambiguous.value)


async def test_each_agent_has_its_own_job_names(world: World) -> None:
    """If a name were refused, an agent would learn that another owner has a job of that name."""
    hers = await world.jobs.add("brief", owner="agent:her")
    his = await world.jobs.add("brief", owner="agent:his")
    async with world.ledger.read() as session:
        assert (await store.find(session, "brief", owner="agent:her")).id == hers.id
        assert (await store.find(session, "brief", owner="agent:his")).id == his.id
    with pytest.raises(Ambiguous) as ambiguous:
        await _find(world, "brief")
    for stored in (hers, his):
        assert f"{stored.id} (brief, of {stored.row.owner})" in str(ambiguous.value)

    own = await world.jobs.add("brief")
    assert (await _find(world, "brief")).id == own.id  # an agent's job cannot hide it
    with pytest.raises(InvalidInput, match="is taken"):
        await world.jobs.add("brief", owner="prefect")
    with pytest.raises(InvalidInput, match="is taken"):
        await world.jobs.add("brief", owner="agent:her")


@pytest.mark.floor("B", "ErrJobNotFound for every reference to an unknown job")
@pytest.mark.parametrize("ref", ["", "nobody", "%", "_"])
async def test_an_unknown_reference_is_not_found(world: World, ref: str) -> None:
    await world.jobs.add()
    with pytest.raises(NotFound, match=f'job "{ref}" not found'):
        await _find(world, ref)


@pytest.mark.dialect
@pytest.mark.floor("C", "A removed job is not found any more")
async def test_a_removed_job_is_not_found_and_its_name_is_free(world: World) -> None:
    old = await world.jobs.add("brief")
    await world.jobs.archive(old.id)
    with pytest.raises(NotFound):
        await _find(world, "brief")

    new = await world.jobs.add("brief")

    assert (await _find(world, "brief")).id == new.id
    assert not (await world.jobs.get(old.id)).job.enabled
    async with world.ledger.read() as session:
        assert [each.id for each in await store.all_jobs(session)] == [new.id]


@pytest.mark.parametrize(
    ("reason", "changes", "on"),
    [
        ("fired, succeeded", {"at": "in 2h"}, True),
        ("fired, failed", {"every": "1h"}, True),
        ("fired, succeeded", {"on_demand": True}, True),
        ("fired, succeeded", {"prompt": "New"}, False),
        ("paused", {"every": "1h"}, False),
    ],
)
async def test_a_new_schedule_enables_a_fired_job_again(
    world: World, reason: str, changes: dict[str, Any], on: bool
) -> None:
    stored = await world.jobs.add(at="in 1h")
    off = stored.job.model_copy(update={"enabled": False})
    async with world.ledger.write() as session:
        stored = await store.change(session, stored, off, world.clock.now(), disabled_reason=reason)

    edited = edit(stored.job, changes, now=world.clock.now())

    assert store.enable_again(stored, edited) == edited.model_copy(update={"enabled": on})


async def test_the_last_removed_job_of_a_name_is_found_if_no_live_job_has_it(world: World) -> None:
    async def find(ref: str) -> str:
        async with world.ledger.read() as session:
            return (await store.find(session, ref, archived=True)).id

    removed = []
    for minute in range(2):
        removed.append((await world.jobs.add("brief")).id)
        world.clock.move(timedelta(minutes=1 + minute))
        await world.jobs.archive(removed[-1])
    assert await find("brief") == removed[1]
    assert await find(removed[0][:12]) == removed[0]

    live = await world.jobs.add("brief")
    assert await find("brief") == live.id
    with pytest.raises(NotFound):
        await find("")


@pytest.mark.dialect
@pytest.mark.floor("E", "A given name in use is refused")
async def test_a_taken_name_is_refused_and_nothing_is_stored(world: World) -> None:
    await world.jobs.add("one")
    two = await world.jobs.add("two")

    with pytest.raises(InvalidInput, match="name"):
        await world.jobs.add("one")
    with pytest.raises(InvalidInput, match="name"):
        await world.jobs.edit(two.id, name="one", prompt="changed")

    assert (await world.jobs.get(two.id)).job == two.job
    async with world.ledger.read() as session:
        assert await store.taken_names(session, "user") == {"one", "two"}


@pytest.mark.dialect
@pytest.mark.floor("B", "A stored job is read again without loss")
async def test_a_job_is_stored_without_loss(world: World) -> None:
    added = await world.jobs.add(
        prompt="Büro ☕\n",
        cron="0 30 2 * * 1-5",
        timezone="Europe/Berlin",
        tags=["a"],
        timeout="90s",
    )

    assert (await world.jobs.get(added.id)).job == added.job


async def test_the_deployment_of_a_removed_job_is_known_until_it_is_deleted(world: World) -> None:
    async def job_of() -> str | None:
        async with world.ledger.read() as session:
            return await links.job_of_deployment(session, "d")

    async def agree(job_id: str, deployment: str | None) -> None:
        async with world.ledger.write() as session:
            await links.record_agreement(session, job_id, deployment, None, world.clock.now())

    assert await job_of() is None
    old = await world.jobs.add("brief")
    await agree(old.id, "d")
    await world.jobs.archive(old.id)
    assert await job_of() == old.id
    new = await world.jobs.add("brief")
    await agree(new.id, "d")
    assert await job_of() == new.id
    await agree(new.id, None)
    await agree(old.id, None)
    assert await job_of() is None


async def test_a_job_that_changed_during_its_reconcile_stays_pending(world: World) -> None:
    stored = await world.jobs.add()
    projected = stored.row.updated_at
    edited = await world.jobs.edit(stored.id, prompt="New")  # in the same microsecond
    async with world.ledger.write() as session:
        await links.record_agreement(session, stored.id, "d", {}, projected)
    assert (await world.jobs.row(stored.id)).sync_pending

    async with world.ledger.write() as session:
        await links.record_agreement(session, stored.id, "d", {}, edited.row.updated_at)
    assert not (await world.jobs.row(stored.id)).sync_pending


async def test_an_outdated_reconcile_records_only_what_it_wrote(world: World) -> None:
    stored = await world.jobs.add()
    outdated = stored.row.updated_at
    edited = await world.jobs.edit(stored.id, prompt="New")
    newer = {"description": "new", "parameters": "new"}
    async with world.ledger.write() as session:
        await links.record_agreement(session, stored.id, "d", newer, edited.row.updated_at)
    older = {"description": "old", "parameters": "old"}
    async with world.ledger.write() as session:
        await links.record_agreement(
            session, stored.id, "d", older, outdated, written={"description"}
        )
    row = await world.jobs.row(stored.id)
    assert row.synced == {"description": "old", "parameters": "new"}
    assert row.sync_pending


@pytest.mark.dialect
async def test_naive_instants_are_refused_and_nothing_is_stored(world: World) -> None:
    naive = datetime(2026, 1, 15, 12, 0)  # noqa: DTZ001
    row = JobRow(
        name="n",
        slug="n",
        kind="agent-prompt",
        created_at=naive,
        updated_at=naive,
        audited_until=naive,
    )

    with pytest.raises(StatementError, match="naive"):
        async with world.ledger.write() as session:
            session.add(row)

    async with world.ledger.read() as session:
        assert await store.taken_names(session, "user") == set()


@pytest.mark.dialect
async def test_instants_are_read_in_utc_to_the_microsecond(world: World) -> None:
    from zoneinfo import ZoneInfo

    world.clock.set(datetime(2026, 7, 1, 14, 0, 0, 123456, tzinfo=ZoneInfo("Asia/Kathmandu")))
    stored = await world.jobs.add()

    created = (await world.jobs.row(stored.id)).created_at
    assert created.isoformat() == "2026-07-01T08:15:00.123456+00:00"
