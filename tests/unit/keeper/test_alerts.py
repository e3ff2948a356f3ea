"""Alerts about overdue jobs, and progress messages of long runs (requirements 33, 59)."""

from __future__ import annotations

import asyncio
import traceback
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from sqlmodel import col, select

from daybook import feature, settings
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.dispatcher import dispatch
from daybook.delivery.outbox import QueueKind
from daybook.delivery.outgoing import ChannelSender
from daybook.errors import InvalidInput, Unreachable
from daybook.feature import Feature
from daybook.finding import problem, warning
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.keeper import alerts as alarm
from daybook.keeper import services
from daybook.keeper.alerts import AlertState, PingState
from daybook.keeper.keeper import Keeper
from daybook.keeper.overview import Overview
from daybook.keeper.term import Context, Term
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery, Status
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.runs import audit, claims, overdue
from tests.costs import one_in
from tests.receiver import Handler, answer, cut, redirect, serving
from tests.timings import change
from tests.world import World

pytestmark = pytest.mark.anyio

ONE = datetime(2026, 1, 15, 13, 0, tzinfo=UTC)
LATE = ONE + overdue.OVERDUE_GRACE
HALF, MINUTE, HOUR = timedelta(seconds=30), timedelta(minutes=1), timedelta(hours=1)
FIVE = 5 * MINUTE


async def rows_of(ledger: Ledger) -> list[OutboxRow]:
    rows = select(OutboxRow).order_by(col(OutboxRow.created_at), col(OutboxRow.key))
    async with ledger.read() as session:
        return list((await session.execute(rows)).scalars())


async def alert_rows(world: World) -> list[OutboxRow]:
    return await rows_of(world.ledger)


async def subjects(world: World) -> list[str]:
    return [row.subject for row in await alert_rows(world)]


async def looks(world: World, memory: AlertState, until: datetime, every: timedelta = HALF) -> None:
    """Run the leader's alert service until ``until``, by default every half minute."""
    while world.clock.now() <= until:
        await alarm.queue_alerts(world.ledger, memory)
        world.clock.move(every)


async def judged(world: World, job_id: str) -> None:
    """Audit the job up to a minute ago; without catch-up, passed due times are missed."""
    await audit.advance(world.ledger, job_id, world.clock.now() - MINUTE)


HOURLY = {"cron": "0 * * * *", "catch_up": "none"}


async def test_all_overdue_jobs_share_one_alert_to_the_operator(world: World) -> None:
    for name in ("one", "two"):
        await world.jobs.add(name, **HOURLY)
    memory = AlertState()
    await looks(world, memory, ONE - FIVE, FIVE)
    await looks(world, memory, LATE - HALF)
    assert await alert_rows(world) == []

    await looks(world, memory, LATE + MINUTE)
    await looks(world, memory, ONE + timedelta(minutes=50), FIVE)

    (row,) = await alert_rows(world)
    assert (row.purpose, row.event, row.address) == ("alert", "overdue", "inbox")
    assert row.status == Delivery.DELIVERED
    assert row.subject == "overdue: one and 1 more"
    assert "- one, due 2026-01-15T13:00:00+00:00, 2 minutes ago" in row.body
    assert "- two, due 2026-01-15T13:00:00+00:00" in row.body
    assert "daybook status" in row.body
    assert row.created_at < LATE + 2 * HALF


async def test_a_due_time_that_the_audit_records_before_the_next_check_gives_no_alert(
    world: World,
) -> None:
    stored = await world.jobs.add(**HOURLY)
    memory = AlertState()
    for hour in range(1, 4):  # each time, the machine was suspended over a due time
        world.clock.set(ONE + hour * HOUR - timedelta(minutes=10))
        await alarm.queue_alerts(world.ledger, memory)
        await judged(world, stored.id)
        world.clock.move(HALF)
        await alarm.queue_alerts(world.ledger, memory)

    assert await alert_rows(world) == []


async def run_services(
    world: World, job_id: str, until: datetime, memory: AlertState, every: timedelta = HALF
) -> None:
    """Run the audit and then the alert service until ``until``, by default every half minute."""
    while world.clock.now() <= until:
        await judged(world, job_id)
        await alarm.queue_alerts(world.ledger, memory)
        world.clock.move(every)


@pytest.mark.parametrize("catch_up", ["none", "latest"])
@pytest.mark.parametrize("every", ["1m", "5m"])
@pytest.mark.slow
async def test_a_job_that_no_worker_claims_is_overdue_although_the_audit_records_it(
    world: World, every: str, catch_up: str
) -> None:
    stored = await world.jobs.add(every=every, catch_up=catch_up)
    began, memory = world.clock.now(), AlertState()
    await run_services(world, stored.id, began + timedelta(minutes=70), memory)

    alerts = await alert_rows(world)
    assert {row.subject for row in alerts} == {"overdue: brief"}  # never that it has ended
    first, again = alerts
    assert first.created_at - began < 9 * MINUTE
    assert HOUR <= again.created_at - first.created_at < HOUR + MINUTE

    # A worker claims the next due time, and those that still wait.
    async with world.ledger.read() as session:
        waiting = select(RunRow).where(col(RunRow.status) == Status.WAITING)
        dues = [row.due for row in (await session.execute(waiting)).scalars()]
    for due in dues:
        await world.runs.finished(world.runs.claim_request(stored, due=due), Status.SUCCEEDED)
    await world.runs.finished(stored, Status.SUCCEEDED)
    await run_services(world, stored.id, world.clock.now() + MINUTE, memory)
    assert await subjects(world) == ["overdue: brief"] * 2 + ["nothing is overdue any more"]


async def test_a_run_that_is_missed_just_after_an_alert_is_in_the_next_one(world: World) -> None:
    one = await world.jobs.add("one", cron="0 13 * * *", catch_up="none")
    two = await world.jobs.add("two", cron="1 13 * * *", catch_up="none")
    memory = AlertState()
    world.clock.set(ONE)
    while world.clock.now() <= ONE + timedelta(minutes=65):
        await judged(world, one.id)
        await judged(world, two.id)
        await alarm.queue_alerts(world.ledger, memory)
        world.clock.move(HALF if world.clock.now() < ONE + FIVE else FIVE)

    first, second = await alert_rows(world)
    assert "- one, due" in first.body
    assert "- two, due" not in first.body
    assert "- two, due" in second.body


@pytest.mark.parametrize("catch_up", one_in(2, ["latest", "none"]))
async def test_a_job_that_runs_at_its_due_times_gives_no_alert(world: World, catch_up: str) -> None:
    stored = await world.jobs.add(cron="*/5 * * * *", catch_up=catch_up)
    due, memory = ONE, AlertState()
    world.clock.set(ONE)
    for _ in range(3):
        await world.runs.finished(world.runs.claim_request(stored, due=due), Status.SUCCEEDED)
        due += FIVE
        await run_services(world, stored.id, due - HALF, memory)
        world.clock.set(due)

    assert await alert_rows(world) == []


async def test_due_times_while_the_machine_was_off_give_no_alert(world: World) -> None:
    stored = await world.jobs.add(cron="*/20 * * * *", catch_up="none")
    memory = AlertState()
    await judged(world, stored.id)
    await alarm.queue_alerts(world.ledger, memory)
    world.clock.set(ONE + 8 * HOUR + timedelta(minutes=18))
    await run_services(world, stored.id, ONE + 8 * HOUR + timedelta(minutes=19), memory)
    due = ONE + 8 * HOUR + timedelta(minutes=20)
    world.clock.set(due)
    await world.runs.finished(world.runs.claim_request(stored, due=due), Status.SUCCEEDED)
    await run_services(world, stored.id, due + timedelta(minutes=18), memory, MINUTE)

    assert await alert_rows(world) == []


@pytest.mark.slow
async def test_a_disabled_job_is_no_longer_overdue(world: World) -> None:
    stored = await world.jobs.add(cron="*/5 * * * *", catch_up="none")
    memory = AlertState()
    await run_services(world, stored.id, ONE, memory)
    await world.jobs.edit(stored.id, enabled=False)
    await run_services(world, stored.id, ONE + HOUR, memory)

    assert await subjects(world) == ["overdue: brief", "nothing is overdue any more"]


async def test_the_end_of_an_overdue_alert_is_sent_once(world: World) -> None:
    stored = await world.jobs.add(**HOURLY)
    memory = AlertState()
    world.clock.set(LATE)
    await looks(world, memory, LATE + MINUTE)
    await judged(world, stored.id)
    await looks(world, memory, LATE + timedelta(minutes=20), FIVE)
    assert await subjects(world) == [
        "overdue: brief"
    ]  # it was missed, and no worker has claimed since

    await world.runs.finished(stored, Status.SUCCEEDED)
    await looks(world, memory, world.clock.now() + timedelta(minutes=20), FIVE)

    assert await subjects(world) == ["overdue: brief", "nothing is overdue any more"]
    over = (await alert_rows(world))[1]
    assert (over.purpose, over.event, over.key) == (
        "alert",
        "on_time",
        f"{(await alert_rows(world))[0].key}:over",
    )


@pytest.mark.slow
async def test_a_further_alert_needs_a_new_overdue_job_and_an_hour(world: World) -> None:
    await world.jobs.add("first", cron="0 13 * * *")
    await world.jobs.add("later", cron="20 13 * * *")
    world.clock.set(LATE)
    memory = AlertState()
    await looks(world, memory, ONE + timedelta(hours=3))

    first, again = await alert_rows(world)
    assert (first.subject, again.subject) == ("overdue: first", "overdue: first and 1 more")
    assert HOUR <= again.created_at - first.created_at < HOUR + MINUTE


@pytest.mark.slow
async def test_a_job_that_is_overdue_again_and_again_gives_one_alert_an_hour(world: World) -> None:
    stored = await world.jobs.add(cron="*/10 * * * *", catch_up="none")
    memory = AlertState()
    world.clock.set(ONE)
    while world.clock.now() < ONE + 3 * HOUR:
        await looks(world, memory, world.clock.now() + timedelta(minutes=7))
        await judged(world, stored.id)
        await looks(world, memory, world.clock.now() + 3 * HALF)

    alerts = [row for row in await alert_rows(world) if row.event == "overdue"]
    gaps = [b.created_at - a.created_at for a, b in pairwise(alerts)]
    assert 3 <= len(alerts) <= 4
    assert min(gaps) >= HOUR
    # Each message about an end belongs to an alert.
    overs = {row.key for row in await alert_rows(world) if row.event == "on_time"}
    assert overs <= {f"{row.key}:over" for row in alerts}


async def test_a_new_leader_continues_the_alerts_of_the_last_one(world: World) -> None:
    stored = await world.jobs.add(**HOURLY)
    world.clock.set(LATE)
    for _ in range(5):  # each leader dies after some checks
        await looks(world, AlertState(), world.clock.now() + MINUTE)
    assert await subjects(world) == ["overdue: brief"]

    await judged(world, stored.id)
    await world.runs.finished(stored, Status.SUCCEEDED)
    for _ in range(3):
        await looks(world, AlertState(), world.clock.now() + HALF)
    assert await subjects(world) == ["overdue: brief", "nothing is overdue any more"]


async def test_two_leaders_at_once_send_an_alert_only_once(world: World) -> None:
    await world.jobs.add(**HOURLY)
    world.clock.set(LATE)
    async with Ledger(world.ledger.address, world.clock) as other:
        pair = [(world.ledger, AlertState()), (other, AlertState())]
        for _ in range(3):
            await asyncio.gather(*(alarm.queue_alerts(ledger, memory) for ledger, memory in pair))
            world.clock.move(HALF)

    assert await subjects(world) == ["overdue: brief"]


async def test_a_waiting_run_gives_no_alert_while_workers_try_to_claim_it(world: World) -> None:
    stored = await world.jobs.add()
    world.clock.set(ONE)
    memory = AlertState()
    for _ in range(20):
        await world.runs.claim(world.runs.claim_request(stored, due=ONE, most=0))
        await looks(world, memory, world.clock.now())
    assert await alert_rows(world) == []

    await looks(world, memory, world.clock.now() + timedelta(minutes=3))  # no worker tries any more
    (row,) = await alert_rows(world)
    assert row.subject == "overdue: brief"
    assert "waiting: 0 of 0 runs are active" in row.body


async def test_a_long_list_of_overdue_jobs_is_truncated(world: World) -> None:
    for number in range(25):
        await world.jobs.add(f"job {number:02}", **HOURLY)
    world.clock.set(LATE)
    await looks(world, AlertState(), LATE + MINUTE)

    (row,) = await alert_rows(world)
    assert row.body.count("\n- job ") == alarm.MAX_LISTED
    assert "- and 5 more" in row.body


async def test_an_overdue_alert_goes_to_the_operators_channel(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALERT_CHANNEL", "ops")
    await world.jobs.add(**HOURLY)
    world.clock.set(LATE)
    await looks(world, AlertState(), LATE + MINUTE)

    (row,) = await alert_rows(world)
    assert (row.address, row.status, row.job_id) == ("ops", Delivery.PENDING, None)


# --- progress

TEAM = {"channel": "team", "chat_id": "7", "progress": "10m"}


@pytest.mark.slow
async def test_a_long_run_sends_a_progress_message_at_each_interval(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *", notify=TEAM, timezone="Europe/Berlin")
    granted = await world.runs.running(stored)
    began = world.clock.now()
    await looks(world, AlertState(), began + timedelta(minutes=35))

    rows = await alert_rows(world)
    assert [row.key for row in rows] == [f"progress:{granted.run_id}:{n}" for n in (1, 2, 3)]
    for nth, row in enumerate(rows, 1):
        assert timedelta(0) <= row.created_at - (began + nth * timedelta(minutes=10)) < MINUTE
        assert (row.address, row.chat_id, row.job_id) == ("team", "7", stored.id)
        assert row.subject == "brief: still running"
    assert "since 2026-01-15T14:00:00+01:00 (20 minutes)" in rows[1].body
    # Progress does not count for the delivery of the outcome.
    assert (await world.runs.row(granted.run_id)).delivery == Delivery.NOT_REQUESTED

    await world.runs.finish(granted, Status.CANCELLED)
    await looks(world, AlertState(), world.clock.now() + HOUR)
    assert len([row for row in await alert_rows(world) if row.event == "progress"]) == 3


@pytest.mark.floor("E", "The agent's reply is delivered to the chat")
@pytest.mark.floor("E", "A long run sends progress notes to the chat")
async def test_progress_and_the_answer_arrive_in_the_chat_of_the_job(
    world: World, daybook_home: Home
) -> None:
    notify = {"channel": "file", "chat_id": "brief.md", "progress": "10m"}
    stored = await world.jobs.add(cron="0 * * * *", notify=notify)
    granted = await world.runs.running(stored)
    world.clock.move(timedelta(minutes=11))
    await alarm.queue_alerts(world.ledger, AlertState())
    await world.runs.finish(granted, Status.SUCCEEDED, output="All is well.")

    sender = ChannelSender(cast(Any, None), world.ledger, None)  # a file needs no client
    sent = await dispatch(world.ledger, "keeper", {QueueKind.CHANNEL: sender})

    assert sent.delivered == 2
    [file] = (daybook_home.path / "out").iterdir()
    assert file.name == "brief.md"
    assert "still running" in file.read_text()
    assert "All is well." in file.read_text()
    assert (await world.runs.row(granted.run_id)).delivery == Delivery.DELIVERED


async def test_after_an_outage_of_the_keeper_one_progress_message_covers_all(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *", notify=TEAM)
    granted = await world.runs.running(stored)
    world.clock.move(timedelta(minutes=45))
    for _ in range(2):
        await alarm.queue_alerts(world.ledger, AlertState())

    assert [row.key for row in await alert_rows(world)] == [f"progress:{granted.run_id}:4"]


@pytest.mark.parametrize(
    "notify",
    [{}, {"channel": "team"}, {"progress": "1m"}, TEAM | {"silent": True}],
    ids=["nothing", "no progress", "no channel", "silent"],
)
async def test_a_job_without_progress_notifications_sends_none(
    world: World, notify: dict[str, object]
) -> None:
    stored = await world.jobs.add(cron="0 * * * *", notify=notify)
    await world.runs.running(stored)
    await looks(world, AlertState(), world.clock.now() + timedelta(minutes=20), FIVE)

    assert await alert_rows(world) == []


async def test_a_run_with_unreadable_notify_parameters_sends_progress_as_its_job_says(
    world: World,
) -> None:
    stored = await world.jobs.add(cron="0 * * * *", notify=TEAM)
    granted = await world.runs.running(stored)
    async with world.ledger.write() as session:
        row = await session.get(RunRow, granted.run_id)
        assert row is not None
        row.parameters = {**row.parameters, "notify": {"of": "a later version"}}
        session.add(row)
    await looks(world, AlertState(), world.clock.now() + timedelta(minutes=20), FIVE)

    assert {row.address for row in await alert_rows(world)} == {"team"}


async def test_a_waiting_run_sends_no_progress_message(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *", notify=TEAM)
    await claims.request(world.ledger, stored, "now", "manual")
    async with world.ledger.write() as session:
        row = (await session.execute(select(RunRow))).scalar_one()
        row.until = world.clock.now() + 2 * HOUR
        session.add(row)
    await looks(world, AlertState(), world.clock.now() + timedelta(minutes=20), FIVE)

    assert await alert_rows(world) == []


# --- the keeper


def _fail() -> None:
    raise OSError("no sensor")


def _interval_that_fails() -> timedelta:
    raise OSError("no interval")


LOOPS_THAT_FAIL = (
    services.Loop(interval=lambda: HOUR, everywhere=True, services=(), prepare=_fail),
    services.Loop(interval=_interval_that_fails, everywhere=True, services=()),
)


@pytest.mark.usefixtures("daybook_home")
async def test_the_leader_sends_alerts_without_prefect_and_beside_foreign_loops_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, services, alert_interval=0.05)
    foreign = Feature(package=__name__, loops="LOOPS_THAT_FAIL")
    load = Feature.load
    monkeypatch.setattr(
        Feature,
        "load",
        lambda each, name: globals()[name] if each is foreign else load(each, name),
    )
    monkeypatch.setattr(services, "features", lambda: (foreign,))
    monkeypatch.setattr(feature, "failures", {})
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path}/ledger.db") as ledger:
        made = ledger.now() - HOUR
        async with ledger.write() as session:
            job = new_job(now=made, name="brief", prompt="What is new?", cron="* * * * *")
            await store.add(session, job, "brief", made)
        keeping = asyncio.create_task(Keeper(ledger, "here:1:a").run())
        try:
            async with asyncio.timeout(30):
                while not (found := await rows_of(ledger)):
                    await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=0.05))
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
    assert [row.subject for row in found] == ["overdue: brief"]
    assert "OSError" in feature.failures["loops of test_alerts"]


# --- the ping


def ping_of(context: Context, term: Term) -> services.Cycle:
    """Return the cycle of the service `ping`."""
    (ping,) = [each for loop in services.LOOPS for each in loop.services if each.name == "ping"]
    return ping.start(context, term)


def pings_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_PING_URL", url)


async def test_the_ping_stops_while_a_run_is_overdue(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:
        pings_to(f"{server.address}/key", monkeypatch)
        await alarm.ping(PingState())
        assert [(each.method, each.path) for each in server.requests] == [("GET", "/key")]
        await alarm.ping(PingState(), is_overdue=True)
        assert len(server.requests) == 1


async def test_the_ping_goes_out_only_while_the_findings_that_count_are_clear(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def read() -> Overview:
        failed = warning("jobs", "brief failed once", "daybook show brief")
        return Overview([], [failed, problem("pool", "it is paused", "resume it")])

    state = PingState()
    caplog.set_level("INFO", "daybook.keeper.alerts")
    async with serving() as server:
        pings_to(f"{server.address}/key", monkeypatch)
        for _ in range(2):
            await alarm.ping(state, read)
        assert not server.requests
        monkeypatch.setenv("DAYBOOK_PING_FINDINGS", "late, prefect")
        await alarm.ping(state, read, is_overdue=True)
        assert not server.requests
        await alarm.ping(state, read)
        assert len(server.requests) == 1
        monkeypatch.setenv("DAYBOOK_PING_FINDINGS", "prefect")
        await alarm.ping(state, read, is_overdue=True)  # which does not count now
        assert len(server.requests) == 2
        monkeypatch.setenv("DAYBOOK_PING_FINDINGS", "jobs")  # a warning, but it is named
        await alarm.ping(state, read, is_overdue=True)
        assert len(server.requests) == 2
    logged = ["no pings: pool: it is paused", "pings again: all findings are clear"]
    logged.append("no pings: jobs: brief failed once")
    assert [each.message for each in caplog.records if "ping" in each.message] == logged


async def test_the_findings_reach_the_ping_of_a_leader(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read() -> Overview:
        return Overview([], [problem("pool", "it is paused", "resume it")])

    async with serving() as server:
        pings_to(f"{server.address}/key", monkeypatch)
        keeper = Keeper(world.ledger, "here:1:a", read_overview=read)
        await keeper.leadership._turn()
        term = await keeper.leading()
        term.imports.observed_at = world.clock.now()
        await ping_of(keeper.context(cast("Any", None)), term)()
        assert not server.requests


def test_an_unknown_finding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_PING_FINDINGS", "late, pol")
    with pytest.raises(InvalidInput, match='DAYBOOK_PING_FINDINGS: "pol" is not a finding; write'):
        settings.load()


async def test_without_a_url_nothing_is_pinged(world: World) -> None:
    await alarm.ping(PingState())


async def test_a_leader_that_has_not_read_prefect_does_not_ping(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:
        pings_to(f"{server.address}/key", monkeypatch)
        term = Term()
        ping = ping_of(Keeper(world.ledger, "here:1:a").context(cast("Any", None)), term)
        await ping()
        assert not server.requests
        term.imports.observed_at = world.clock.now()
        await ping()
        assert len(server.requests) == 1
        term.alerts.seen = {"a due time"}
        await ping()
        assert len(server.requests) == 1


@pytest.mark.parametrize("answers", [answer(500), redirect("https://elsewhere.example"), cut()])
async def test_a_failed_ping_is_reported_without_the_url(
    world: World, monkeypatch: pytest.MonkeyPatch, answers: Handler
) -> None:
    async with serving() as server:
        server.steps = [answers]
        pings_to(f"{server.address}/s3cr3t", monkeypatch)
        with pytest.raises(
            Unreachable, match=r"^DAYBOOK_PING_URL does not accept the ping: "
        ) as no:
            await alarm.ping(PingState())
        assert "s3cr3t" not in "".join(traceback.format_exception(no.value))
        assert len(server.requests) == 1


def test_a_ping_url_without_a_scheme_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pings_to("hc-ping.com/s3cr3t", monkeypatch)
    with pytest.raises(InvalidInput, match="DAYBOOK_PING_URL") as refused:
        settings.load()
    assert "s3cr3t" not in str(refused.value)
