"""Alerts about failing jobs (requirement 34): never silent, never in bursts, one per pause."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from daybook.delivery import history, pending, sending
from daybook.delivery.sending import DeliveryResult
from daybook.home import Home
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Delivery, Status
from daybook.ledger.tables import OutboxRow
from daybook.runs import claims
from tests.world import World

pytestmark = pytest.mark.anyio

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
FAIL, WELL = Status.FAILED, Status.SUCCEEDED


async def rows(world: World) -> list[OutboxRow]:
    async with world.ledger.read() as session:
        ordered = select(OutboxRow).order_by(col(OutboxRow.created_at), col(OutboxRow.key))
        return list((await session.execute(ordered)).scalars())


async def events(world: World) -> list[str]:
    return [row.event for row in await rows(world)]


async def run(world: World, stored: StoredJob, status: Status) -> str:
    """Run the job's next due time to this outcome; return the run's id."""
    stored = await world.jobs.get(stored.id)
    granted = await world.runs.finished(stored, status, error="no network", output="[SILENT]")
    return granted.run_id


async def send_all(world: World) -> list[str]:
    """Deliver all due rows; return their events."""
    claimed = await sending.claim(world.ledger, "test", most=100)
    tried = [DeliveryResult(row.id, row.fence, Delivery.DELIVERED, None, 0.1) for row in claimed]
    await sending.record(world.ledger, tried)
    return [row.event for row in claimed]


def minute_of(instant: datetime) -> int:
    return (instant.hour - 12) * 60 + instant.minute


# --- where alerts go


async def test_without_configuration_a_failure_alert_goes_to_the_inbox(world: World) -> None:
    stored = await world.jobs.add()
    run_id = await run(world, stored, FAIL)

    async with world.ledger.read() as session:
        (row,) = await history.inbox(session, unread_only=True)
        health = await history.health(session, world.clock.now())
    assert (row.purpose, row.event, row.subject) == ("alert", "failed", "brief: failed")
    assert row.body.splitlines()[0] == "brief failed: no network"
    assert (health.unread, health.unread_alerts, health.pending) == (1, 1, 0)
    # The alert is for the operator, so it does not count as the run's delivery.
    assert (await world.runs.row(run_id)).delivery == "not_requested"


async def test_a_setting_sends_failure_alerts_to_the_operators_channel(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALERT_CHANNEL", "ops")
    await run(world, await world.jobs.add(), FAIL)
    (row,) = await rows(world)
    assert (row.address, row.queue, row.status) == ("ops", "channel:ops", "pending")


async def test_an_invalid_configuration_loses_no_outcome_and_alerts_the_inbox(
    world: World, daybook_home: Home
) -> None:
    (daybook_home.path / "config.toml").write_text("alert_chanel = 'ops'\n")
    run_id = await run(world, await world.jobs.add(), FAIL)
    assert (await world.runs.row(run_id)).status == "failed"
    assert [row.address for row in await rows(world)] == ["inbox"]


@pytest.mark.parametrize(
    ("fields", "purpose", "address", "delivery"),
    [
        ({"channel": "team"}, "message", "team", "pending"),
        ({"channel": "team", "events": ["completed"]}, "alert", "inbox", "not_requested"),
        ({"channel": "team", "silent": True}, "alert", "inbox", "suppressed"),
    ],
)
async def test_a_failure_goes_to_the_inbox_unless_the_jobs_channel_receives_failures(
    world: World, fields: dict[str, Any], purpose: str, address: str, delivery: str
) -> None:
    stored = await world.jobs.add(cron="0 * * * *", **fields)
    run_id = await run(world, stored, FAIL)
    (row,) = await rows(world)
    assert (row.purpose, row.address, row.event) == (purpose, address, "failed")
    assert (await world.runs.row(run_id)).delivery == delivery


@pytest.mark.parametrize("status", [Status.FAILED, Status.TIMED_OUT, Status.UNKNOWN])
async def test_each_kind_of_failure_creates_an_alert(world: World, status: Status) -> None:
    await run(world, await world.jobs.add(), status)
    assert await events(world) == ["failed"]


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.CANCELLED])
async def test_a_success_or_cancellation_creates_no_alert(world: World, status: Status) -> None:
    await run(world, await world.jobs.add(), status)
    assert await events(world) == []


# --- how often


async def test_a_job_that_always_fails_gets_hourly_alerts_and_is_paused(world: World) -> None:
    stored = await world.jobs.add(cron="*/10 * * * *", channel="team")
    began = 0
    for _ in range(12):
        if (await world.jobs.get(stored.id)).job.enabled:
            await run(world, stored, FAIL)
            began += 1
        else:
            world.clock.move(10 * MINUTE)

    assert began == 10
    alerts = await rows(world)
    assert [(row.event, minute_of(row.created_at)) for row in alerts] == [
        ("failed", 10),
        ("failed", 70),
        ("paused", 100),
    ]
    first, reminder, paused = alerts
    assert first.body.startswith("brief failed: no network\n")
    assert reminder.body.startswith("brief failed, 7 times in a row: no network\n")
    assert paused.subject == "brief: paused"
    assert "paused after 10 failures in a row, last error: no network" in paused.body
    assert "daybook resume brief" in paused.body.splitlines()[1]


async def test_a_pause_is_reported_within_the_hour_after_a_failure_alert(world: World) -> None:
    stored = await world.jobs.add(every="1m", pause_after_failures=3)
    for _ in range(3):
        await run(world, stored, FAIL)
    assert await events(world) == ["failed", "paused"]


async def test_a_manual_failure_of_a_paused_job_reports_no_second_pause(world: World) -> None:
    stored = await world.jobs.add(every="1m", pause_after_failures=2)
    for _ in range(2):
        await run(world, stored, FAIL)
    row = await claims.request(world.ledger, await world.jobs.get(stored.id), "one", "manual")
    granted = await world.runs.running(row)
    await world.runs.finish(granted, FAIL, error="no network")
    assert await events(world) == ["failed", "paused"]


async def test_a_repeated_failure_within_the_hour_has_the_delivery_suppressed(world: World) -> None:
    stored = await world.jobs.add(every="1m", channel="team")
    ids = [await run(world, stored, FAIL) for _ in range(2)]
    assert [(await world.runs.row(each)).delivery for each in ids] == ["pending", "suppressed"]


async def test_each_failure_creates_a_callback_although_alerts_are_limited(world: World) -> None:
    stored = await world.jobs.add(every="1m", on_fail="https://ops.example.org/fail")
    for _ in range(3):
        await run(world, stored, FAIL)
    assert [row.purpose for row in await rows(world)].count("callback") == 3


async def test_a_daily_job_gets_an_alert_for_each_failure(world: World) -> None:
    stored = await world.jobs.add(cron="0 9 * * *")
    for _ in range(3):
        await run(world, stored, FAIL)
    assert await events(world) == ["failed"] * 3


async def test_each_job_has_its_own_alert_limit(world: World) -> None:
    for name in ("one", "two"):
        await run(world, await world.jobs.add(name, every="1m"), FAIL)
    assert await events(world) == ["failed", "failed"]


async def test_a_clock_that_was_set_back_suppresses_no_alert(world: World) -> None:
    stored = await world.jobs.add(every="1m")
    world.clock.move(timedelta(days=7))
    await run(world, stored, FAIL)
    world.clock.move(timedelta(days=-6))
    row = await claims.request(world.ledger, await world.jobs.get(stored.id), "one", "manual")
    granted = await world.runs.running(row)
    await world.runs.finish(granted, FAIL, error="no network")
    assert await events(world) == ["failed", "failed"]


# --- recovery


async def test_a_success_after_failures_sends_one_recovery_message(world: World) -> None:
    stored = await world.jobs.add(every="1m", channel="team")
    for status in (FAIL, FAIL, WELL, WELL):
        await run(world, stored, status)
    alerts = await rows(world)
    assert [row.event for row in alerts] == ["failed", "recovered"]
    assert (alerts[1].address, alerts[1].subject) == ("team", "brief: recovered")
    assert alerts[1].body.startswith("brief succeeded again\n")


async def test_a_success_after_a_pause_sends_a_recovery_message(world: World) -> None:
    stored = await world.jobs.add(every="1m", pause_after_failures=1)
    await run(world, stored, FAIL)
    await world.jobs.edit(stored.id, enabled=True)
    await run(world, stored, WELL)
    assert await events(world) == ["paused", "recovered"]


async def test_a_first_success_sends_no_recovery_message(world: World) -> None:
    await run(world, await world.jobs.add(every="1m"), WELL)
    assert await events(world) == []


async def test_a_late_success_of_an_unknown_run_sends_a_recovery_message(world: World) -> None:
    stored = await world.jobs.add(every="1m")
    granted = await world.runs.running(stored)
    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "its process is gone")
    await world.runs.finish(granted, WELL, output="[SILENT]")
    assert await events(world) == ["failed", "recovered"]


@pytest.mark.slow
async def test_an_alternating_job_sends_at_most_one_failure_and_recovery_per_hour(
    world: World,
) -> None:
    stored = await world.jobs.add(every="5m", channel="team")
    sent = []
    for turn in range(48):  # four hours
        await run(world, stored, WELL if turn % 2 else FAIL)
        sent += [(event, minute_of(world.clock.now()) // 60) for event in await send_all(world)]
    assert sent.count(("failed", 0)) == 1
    for hour in range(4):
        events = [event for event, at in sent if at == hour]
        assert events.count("failed") <= 1
        assert events.count("recovered") <= 1


@pytest.mark.parametrize("channel", ["team", "inbox"])
async def test_a_failure_soon_after_a_recovery_is_sent_when_the_hour_has_passed(
    world: World, channel: str
) -> None:
    stored = await world.jobs.add(cron="*/5 * * * *", channel=channel)
    for status in (FAIL, WELL):
        await run(world, stored, status)  # 12:05, 12:10
    await send_all(world)
    run_id = await run(world, stored, FAIL)  # 12:15
    await run(world, stored, FAIL)
    assert await send_all(world) == []
    assert (await world.runs.row(run_id)).delivery == "pending"
    due = await sending.next_due(world.ledger)
    assert due is not None
    assert minute_of(due) == 65

    world.clock.set(due)
    # Rows for the inbox need no sending.
    assert await send_all(world) == ([] if channel == "inbox" else ["failed"])
    assert (await world.runs.row(run_id)).delivery == "delivered"
    # After that, no alert for an hour.
    for _ in range(6):
        await run(world, stored, FAIL)
    assert await sending.next_due(world.ledger) is None


async def test_a_pause_suppresses_the_delayed_failure_alert(world: World) -> None:
    stored = await world.jobs.add(cron="*/5 * * * *", channel="team", pause_after_failures=2)
    for status in (FAIL, WELL, FAIL, FAIL):
        await run(world, stored, status)
    assert [(row.event, row.status) for row in await rows(world)] == [
        ("failed", "pending"),
        ("recovered", "pending"),
        ("failed", "suppressed"),
        ("paused", "pending"),
    ]


async def test_a_success_suppresses_the_delayed_failure_alert(world: World) -> None:
    stored = await world.jobs.add(cron="*/5 * * * *", channel="team")
    for status in (FAIL, WELL, FAIL):
        run_id = await run(world, stored, status)
    await send_all(world)
    await run(world, stored, WELL)

    assert (await world.runs.row(run_id)).delivery == "suppressed"
    # An unsent failure has no recovery, and the hour still counts from the first alert.
    assert [(row.event, row.status) for row in await rows(world)] == [
        ("failed", "delivered"),
        ("recovered", "delivered"),
        ("failed", "suppressed"),
    ]
    world.clock.move(HOUR)
    assert await send_all(world) == []


async def test_a_success_withdraws_a_postponed_alert_and_ends_the_earlier_one(
    world: World,
) -> None:
    stored = await world.jobs.add(cron="5 * * * *", channel="team")
    await run(world, stored, FAIL)
    assert await send_all(world) == ["failed"]
    await run(world, stored, FAIL)
    [again] = await sending.claim(world.ledger, "test", most=100)
    async with world.ledger.write() as session:
        await pending.postpone(session, again.id, world.at(hours=8), again.queue)
    held = DeliveryResult(again.id, again.fence, Delivery.PENDING, None, 0.0, is_postponed=True)
    await sending.record(world.ledger, [held])
    await run(world, stored, WELL)
    assert [(row.event, row.status) for row in await rows(world)] == [
        ("failed", "delivered"),
        ("failed", "suppressed"),
        ("recovered", "pending"),
    ]
    assert await send_all(world) == ["recovered"]
    await run(world, stored, FAIL)
    assert await send_all(world) == ["failed"]
