"""The alarm of what is overdue, and the notes of what is long at work (requirements 33, 59)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlmodel import col, select

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.keeper import alerts as alarm
from daybook.keeper import services
from daybook.keeper.alerts import AlertState
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery, Status
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.runs import audit, claims, overdue
from tests.costs import one_in
from tests.timings import change
from tests.world import World

pytestmark = pytest.mark.anyio

ONE = datetime(2026, 1, 15, 13, 0, tzinfo=UTC)
LATE = ONE + overdue.OVERDUE_GRACE
HALF, MINUTE, HOUR = timedelta(seconds=30), timedelta(minutes=1), timedelta(hours=1)


async def rows_of(ledger: Ledger) -> list[OutboxRow]:
    rows = select(OutboxRow).order_by(col(OutboxRow.created_at), col(OutboxRow.key))
    async with ledger.read() as session:
        return list((await session.execute(rows)).scalars())


async def told(world: World) -> list[OutboxRow]:
    return await rows_of(world.ledger)


async def subjects(world: World) -> list[str]:
    return [row.subject for row in await told(world)]


async def looks(world: World, memory: AlertState, until: datetime) -> None:
    """A leader looks every half minute, from now until then."""
    while world.clock.now() <= until:
        await alarm.queue_alerts(world.ledger, memory)
        world.clock.move(HALF)


async def judged(world: World, job_id: str) -> None:
    """The audit comes round; a job that catches nothing up has missed what passed."""
    await audit.advance(world.ledger, job_id, world.clock.now() - MINUTE)


HOURLY = {"cron": "0 * * * *", "catch_up": "none"}


async def test_the_operator_gets_one_alert_of_all_that_is_overdue(world: World) -> None:
    for name in ("one", "two"):
        await world.add(name, **HOURLY)
    memory = AlertState()
    await looks(world, memory, LATE - HALF)
    assert await told(world) == []

    await looks(world, memory, ONE + timedelta(minutes=50))

    (row,) = await told(world)
    assert (row.purpose, row.event, row.address) == ("alert", "overdue", "inbox")
    assert row.status == Delivery.DELIVERED
    assert row.subject == "overdue: one and 1 more"
    assert "- one, due 2026-01-15T13:00:00+00:00, 2 minutes ago" in row.body
    assert "- two, due 2026-01-15T13:00:00+00:00" in row.body
    assert "daybook status" in row.body
    assert row.created_at < LATE + 2 * HALF


async def test_what_the_audit_judges_until_the_next_look_is_not_told(world: World) -> None:
    stored = await world.add(**HOURLY)
    memory = AlertState()
    for hour in range(1, 4):  # each time a machine that slept over a due time
        world.clock.set(ONE + hour * HOUR - timedelta(minutes=10))
        await alarm.queue_alerts(world.ledger, memory)
        await judged(world, stored.id)
        world.clock.move(HALF)
        await alarm.queue_alerts(world.ledger, memory)

    assert await told(world) == []


async def kept(world: World, job_id: str, until: datetime, memory: AlertState) -> None:
    """A keeper at work: it audits before each look, every half minute."""
    while world.clock.now() <= until:
        await judged(world, job_id)
        await alarm.queue_alerts(world.ledger, memory)
        world.clock.move(HALF)


@pytest.mark.parametrize("catch_up", ["none", "latest"])
@pytest.mark.parametrize("every", ["1m", "5m"])
@pytest.mark.slow
async def test_what_nobody_comes_for_is_told_however_soon_it_is_judged(
    world: World, every: str, catch_up: str
) -> None:
    stored = await world.add(every=every, catch_up=catch_up)
    began, memory = world.clock.now(), AlertState()
    await kept(world, stored.id, began + timedelta(minutes=70), memory)

    alerts = await told(world)
    assert {row.subject for row in alerts} == {"overdue: brief"}  # never that it was over
    first, again = alerts
    assert first.created_at - began < 9 * MINUTE
    assert HOUR <= again.created_at - first.created_at < HOUR + MINUTE

    # Somebody comes, also for what still waits.
    async with world.ledger.read() as session:
        waiting = select(RunRow).where(col(RunRow.status) == Status.WAITING)
        dues = [row.due for row in (await session.execute(waiting)).scalars()]
    for due in dues:
        await world.settled(world.offer(stored, due=due), Status.SUCCEEDED)
    await world.settled(world.offer(stored), Status.SUCCEEDED)
    await kept(world, stored.id, world.clock.now() + MINUTE, memory)
    assert await subjects(world) == ["overdue: brief"] * 2 + ["nothing is overdue any more"]


@pytest.mark.parametrize("catch_up", one_in(2, ["latest", "none"]))
async def test_a_job_that_is_run_at_its_times_is_no_alarm(world: World, catch_up: str) -> None:
    stored = await world.add(cron="*/5 * * * *", catch_up=catch_up)
    due, memory = ONE, AlertState()
    world.clock.set(ONE)
    for _ in range(6):
        await world.settled(world.offer(stored, due=due), Status.SUCCEEDED)
        due += 5 * MINUTE
        await kept(world, stored.id, due - HALF, memory)
        world.clock.set(due)

    assert await told(world) == []


async def test_what_was_due_in_a_night_without_a_machine_is_no_alarm(world: World) -> None:
    stored = await world.add(cron="*/20 * * * *", catch_up="none")
    memory = AlertState()
    await judged(world, stored.id)
    await alarm.queue_alerts(world.ledger, memory)
    world.clock.set(ONE + 8 * HOUR + timedelta(minutes=18))
    await kept(world, stored.id, ONE + 8 * HOUR + timedelta(minutes=19), memory)
    due = ONE + 8 * HOUR + timedelta(minutes=20)
    world.clock.set(due)
    await world.settled(world.offer(stored, due=due), Status.SUCCEEDED)
    await kept(world, stored.id, due + timedelta(minutes=18), memory)

    assert await told(world) == []


@pytest.mark.slow
async def test_a_job_that_was_switched_off_is_overdue_no_more(world: World) -> None:
    stored = await world.add(cron="*/5 * * * *", catch_up="none")
    memory = AlertState()
    await kept(world, stored.id, ONE, memory)
    await world.edit(stored.id, enabled=False)
    await kept(world, stored.id, ONE + 2 * HOUR, memory)

    assert await subjects(world) == ["overdue: brief", "nothing is overdue any more"]


async def test_that_nothing_is_overdue_any_more_is_told_once(world: World) -> None:
    stored = await world.add(**HOURLY)
    memory = AlertState()
    world.clock.set(LATE)
    await looks(world, memory, LATE + MINUTE)
    await judged(world, stored.id)
    await looks(world, memory, LATE + timedelta(minutes=20))
    assert await subjects(world) == ["overdue: brief"]  # it was missed, and nobody has come since

    await world.settled(world.offer(stored), Status.SUCCEEDED)
    await looks(world, memory, world.clock.now() + timedelta(minutes=20))

    assert await subjects(world) == ["overdue: brief", "nothing is overdue any more"]
    over = (await told(world))[1]
    assert (over.purpose, over.event, over.key) == (
        "alert",
        "on_time",
        f"{(await told(world))[0].key}:over",
    )


@pytest.mark.slow
async def test_it_is_told_again_only_of_what_is_new_and_after_an_hour(world: World) -> None:
    await world.add("first", cron="0 13 * * *")
    await world.add("later", cron="20 13 * * *")
    world.clock.set(LATE)
    memory = AlertState()
    await looks(world, memory, ONE + timedelta(hours=5))

    first, again = await told(world)
    assert (first.subject, again.subject) == ("overdue: first", "overdue: first and 1 more")
    assert HOUR <= again.created_at - first.created_at < HOUR + MINUTE


@pytest.mark.slow
async def test_what_comes_and_goes_is_told_once_an_hour(world: World) -> None:
    stored = await world.add(cron="*/10 * * * *", catch_up="none")
    memory = AlertState()
    world.clock.set(ONE)
    while world.clock.now() < ONE + 3 * HOUR:
        await looks(world, memory, world.clock.now() + timedelta(minutes=7))
        await judged(world, stored.id)
        await looks(world, memory, world.clock.now() + 3 * HALF)

    alerts = [row for row in await told(world) if row.event == "overdue"]
    gaps = [b.created_at - a.created_at for a, b in pairwise(alerts)]
    assert 3 <= len(alerts) <= 4
    assert min(gaps) >= HOUR
    # Each has its end, and no end is without one.
    overs = {row.key for row in await told(world) if row.event == "on_time"}
    assert overs <= {f"{row.key}:over" for row in alerts}


async def test_the_next_leader_goes_on_where_the_last_one_was(world: World) -> None:
    stored = await world.add(**HOURLY)
    world.clock.set(LATE)
    for _ in range(5):  # each dies after some looks
        await looks(world, AlertState(), world.clock.now() + MINUTE)
    assert await subjects(world) == ["overdue: brief"]

    await judged(world, stored.id)
    await world.settled(world.offer(stored), Status.SUCCEEDED)
    for _ in range(3):
        await looks(world, AlertState(), world.clock.now() + HALF)
    assert await subjects(world) == ["overdue: brief", "nothing is overdue any more"]


async def test_two_that_lead_at_once_tell_it_once(world: World) -> None:
    await world.add(**HOURLY)
    world.clock.set(LATE)
    async with Ledger(world.ledger.address, world.clock) as other:
        pair = [(world.ledger, AlertState()), (other, AlertState())]
        for _ in range(3):
            await asyncio.gather(*(alarm.queue_alerts(ledger, memory) for ledger, memory in pair))
            world.clock.move(HALF)

    assert await subjects(world) == ["overdue: brief"]


async def test_who_waits_its_turn_is_no_alarm(world: World) -> None:
    stored = await world.add()
    world.clock.set(ONE)
    memory = AlertState()
    for _ in range(20):
        await world.claim(world.offer(stored, due=ONE, most=0))
        await looks(world, memory, world.clock.now())
    assert await told(world) == []

    await looks(world, memory, world.clock.now() + timedelta(minutes=3))  # nobody comes any more
    (row,) = await told(world)
    assert row.subject == "overdue: brief"
    assert "waiting: 0 of 0 runs are active" in row.body


async def test_a_long_list_is_cut(world: World) -> None:
    for number in range(25):
        await world.add(f"job {number:02}", **HOURLY)
    world.clock.set(LATE)
    await looks(world, AlertState(), LATE + MINUTE)

    (row,) = await told(world)
    assert row.body.count("\n- job ") == alarm.MAX_LISTED
    assert "- and 5 more" in row.body


async def test_the_operators_own_channel_gets_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALERT_CHANNEL", "ops")
    await world.add(**HOURLY)
    world.clock.set(LATE)
    await looks(world, AlertState(), LATE + MINUTE)

    (row,) = await told(world)
    assert (row.address, row.status, row.job_id) == ("ops", Delivery.PENDING, None)


# --- progress

TEAM = {"channel": "team", "chat_id": "7", "progress": "10m"}


@pytest.mark.slow
async def test_a_run_that_is_long_at_work_is_told_of_each_so_often(world: World) -> None:
    stored = await world.add(cron="0 * * * *", notify=TEAM, timezone="Europe/Berlin")
    granted = await world.begun(world.offer(stored))
    began = world.clock.now()
    await looks(world, AlertState(), began + timedelta(minutes=35))

    rows = await told(world)
    assert [row.key for row in rows] == [f"progress:{granted.run_id}:{n}" for n in (1, 2, 3)]
    for nth, row in enumerate(rows, 1):
        assert timedelta(0) <= row.created_at - (began + nth * timedelta(minutes=10)) < MINUTE
        assert (row.address, row.chat_id, row.job_id) == ("team", "7", stored.id)
        assert row.subject == "brief: still running"
    assert "since 2026-01-15T14:00:00+01:00 (20 minutes)" in rows[1].body
    # It is no part of what becomes of the outcome.
    assert (await world.row(granted.run_id)).delivery == Delivery.NOT_REQUESTED

    await world.settle(granted, Status.CANCELLED)
    await looks(world, AlertState(), world.clock.now() + HOUR)
    assert len([row for row in await told(world) if row.event == "progress"]) == 3


async def test_after_an_absence_there_is_one_note_of_the_whole_time(world: World) -> None:
    stored = await world.add(cron="0 * * * *", notify=TEAM)
    granted = await world.begun(world.offer(stored))
    world.clock.move(timedelta(minutes=45))
    for _ in range(2):
        await alarm.queue_alerts(world.ledger, AlertState())

    assert [row.key for row in await told(world)] == [f"progress:{granted.run_id}:4"]


@pytest.mark.parametrize(
    "notify",
    [{}, {"channel": "team"}, {"progress": "1m"}, TEAM | {"silent": True}],
    ids=["nothing", "no progress", "no channel", "silent"],
)
async def test_who_did_not_ask_is_not_told(world: World, notify: dict[str, object]) -> None:
    stored = await world.add(cron="0 * * * *", notify=notify)
    await world.begun(world.offer(stored))
    await looks(world, AlertState(), world.clock.now() + timedelta(minutes=20))

    assert await told(world) == []


async def test_a_run_whose_parameters_cannot_be_read_tells_as_its_job(world: World) -> None:
    stored = await world.add(cron="0 * * * *", notify=TEAM)
    granted = await world.begun(world.offer(stored))
    async with world.ledger.write() as session:
        row = await session.get(RunRow, granted.run_id)
        assert row is not None
        row.parameters = {**row.parameters, "notify": {"of": "a later version"}}
        session.add(row)
    await looks(world, AlertState(), world.clock.now() + timedelta(minutes=20))

    assert {row.address for row in await told(world)} == {"team"}


async def test_a_run_that_only_waits_is_not_at_work(world: World) -> None:
    stored = await world.add(cron="0 * * * *", notify=TEAM)
    await claims.request(world.ledger, stored, "now", "manual")
    async with world.ledger.write() as session:
        row = (await session.execute(select(RunRow))).scalar_one()
        row.until = world.clock.now() + 2 * HOUR
        session.add(row)
    await looks(world, AlertState(), world.clock.now() + timedelta(minutes=20))

    assert await told(world) == []


# --- the keeper


@pytest.fixture
def prefect_away() -> Iterator[None]:
    """Nobody listens there, whatever server the session has for others."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield


@pytest.mark.usefixtures("prefect_away", "daybook_home")
async def test_the_leading_keeper_looks_also_while_prefect_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, services, alert_interval=0.05)
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path}/ledger.db") as ledger:
        made = ledger.now() - HOUR
        async with ledger.write() as session:
            job = new_job(now=made, name="brief", prompt="What is new?", cron="* * * * *")
            await store.add(session, job, "brief", made)
        keeping = asyncio.create_task(services.Keeper(ledger, "here:1:a").run())
        try:
            async with asyncio.timeout(30):
                while not (found := await rows_of(ledger)):
                    await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=0.05))
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
    assert [row.subject for row in found] == ["overdue: brief"]
