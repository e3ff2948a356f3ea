"""Every reason to wait, as in `docs/reference/states.md`, through the functions that ask it.

`EXPECTED` says for each question which reasons answer yes. The table `waits.REASONS` is compared
with it, and for each reason a row that waits for it goes through the function that asks.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

import daybook
from daybook.jobs.store import StoredJob
from daybook.ledger import waits
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.runs import (
    audit,
    claim_requests,
    disabled_jobs,
    maintenance,
    overdue,
    prefect_ends,
    rows,
    slots,
    waiting_runs,
)
from daybook.runs.claim_requests import Finished, Granted, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio

PACKAGE = Path(daybook.__file__).parent
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
OTHER_RUNS = {
    *("slot", "worker", "no_worker", "overlap", "holder", "agent", "label", "session", "folder"),
}
EXPECTED = {
    "claims_early": {"slot", "worker", "no_worker", "overlap", "holder"},
    "for_runs": OTHER_RUNS,
    "in_queue": {"slot", "worker", "no_worker", "overlap"},
    "for_slot": {"slot", "worker"},
    "of_worker": {"worker"},
    "ends_with_run": {"overlap", "holder"},
    "ends_with_window": {"maintenance", "overlap"},
    "is_reservation": {"due"},
    "for_person": {"approval"},
    "holder_lost": {"lost"},
    "survives_refusal": {"due", "approval"},
    "can_be_late": {"due", "stagger", "holder"},
}
EVERY = sorted(waits.REASONS)


def test_the_table_answers_each_question_as_expected() -> None:
    for question, expected in EXPECTED.items():
        if question == "can_be_late":
            yes = {each.name for each in waits.REASONS.values() if each.undecided_after is not None}
        else:
            yes = {each.name for each in waits.REASONS.values() if getattr(each, question)}
        assert yes == expected, question
    assert all(each.what and each.ends for each in waits.REASONS.values())


def test_an_unknown_reason_of_a_newer_version_waits_for_its_time() -> None:
    assert waits.of("of_tomorrow") is waits.UNTIL


async def _waiting(
    world: World, stored: StoredJob, reason: str, wait: timedelta = HOUR, trigger: str = "schedule"
) -> RunRow:
    """Add a due time of now that waits for ``reason`` until ``wait`` from now."""
    now = world.clock.now()
    due = now.replace(microsecond=0)
    row = rows.of_job(stored, claim_requests.due_key(stored.id, due), trigger, due, now)
    rows.wait(row, now + wait, "why", waits.REASONS[reason])
    async with world.ledger.write() as session:
        session.add(row)
    return row


@pytest.mark.parametrize("reason", EVERY)
async def test_a_claim_before_the_end_of_the_wait(world: World, reason: str) -> None:
    row = await _waiting(world, await world.jobs.add(cron="0 12 * * *"), reason)
    answer = await world.runs.claim(row)

    if reason in EXPECTED["claims_early"]:
        assert isinstance(answer, Granted)
        assert (await world.runs.row(row.id)).wait_reason is waits.UNTIL
    else:
        assert isinstance(answer, Waiting)
        assert (answer.until, answer.for_person) == (row.until, reason == "approval")


@pytest.mark.parametrize("reason", EVERY)
async def test_a_claim_long_after_the_end_of_the_wait(world: World, reason: str) -> None:
    stored = await world.jobs.add(cron="1 12 * * *", catch_up="none")
    world.clock.move(MINUTE)
    row = await _waiting(world, stored, reason, MINUTE)
    world.clock.move(HOUR)
    answer = await world.runs.claim(row)

    if reason in EXPECTED["can_be_late"]:
        assert isinstance(answer, Finished)
        assert answer.status is Status.MISSED
    else:
        assert isinstance(answer, Granted)


@pytest.mark.parametrize("reason", EVERY)
async def test_a_passed_deadline(world: World, reason: str) -> None:
    stored = await world.jobs.add(cron="0 12 * * *", deadline="10m")
    row = await _waiting(world, stored, reason)
    async with world.ledger.read() as session:
        passed = await waiting_runs.ids_past_deadline(session, row.due + HOUR, 10)

    assert passed == ([] if reason in EXPECTED["is_reservation"] else [row.id])


@pytest.mark.parametrize("reason", EVERY)
async def test_a_disabled_job(world: World, reason: str) -> None:
    stored = await world.jobs.add(cron="0 12 * * *")
    row = await _waiting(world, stored, reason)
    await world.jobs.edit(stored.id, enabled=False)

    assert await disabled_jobs.skip_all(world.ledger) == (reason in EXPECTED["claims_early"])
    world.clock.move(HOUR)
    await disabled_jobs.skip_all(world.ledger)
    status = (await world.runs.row(row.id)).status
    assert status == ("waiting" if reason in EXPECTED["is_reservation"] else "skipped")


@pytest.mark.parametrize("reason", EVERY)
async def test_a_delay(world: World, reason: str) -> None:
    stored = await world.jobs.add(cron="0 12 * * *")
    row = await _waiting(world, stored, reason, trigger="manual")
    world.clock.move(overdue.OVERDUE_GRACE + MINUTE)
    async with world.ledger.read() as session:
        late = await overdue.find_all(session, overdue.DueTimeCache(), world.clock.now())

    if reason in EXPECTED["for_runs"]:
        (each,) = late
        assert each.run is not None
        assert (each.run.id, each.why) == (row.id, "waiting: why")
    else:
        assert late == []


@pytest.mark.parametrize("reason", EVERY)
async def test_prefect_refuses_a_run(world: World, reason: str) -> None:
    row = await _waiting(world, await world.jobs.add(cron="0 12 * * *"), reason)
    await prefect_ends.record_refusal(world.ledger, row, "no such pool")

    after = await world.runs.row(row.id)
    assert after.waits_for == (reason if reason in EXPECTED["survives_refusal"] else "prefect")
    assert prefect_ends.is_refused(after)


@pytest.mark.parametrize("reason", EVERY)
async def test_the_end_of_another_run_of_the_job(world: World, reason: str) -> None:
    stored = await world.jobs.add(cron="0 12 * * *")
    row = await _waiting(world, stored, reason)
    other = rows.of_job(stored, "other", "manual", row.due, row.due)
    async with world.ledger.write() as session:
        await slots.release_slot(session, other, world.clock.now())

    after = await world.runs.row(row.id)
    woken = reason in EXPECTED["ends_with_run"]
    assert (after.waits_for, after.until == world.clock.now()) == (
        "slot" if woken else reason,
        woken,
    )


@pytest.mark.parametrize("reason", EVERY)
async def test_the_removal_of_a_maintenance_window(world: World, reason: str) -> None:
    now = world.clock.now()
    window = maintenance.Window(id="w", begin=now, end=now + HOUR)
    row = await _waiting(world, await world.jobs.add(cron="0 12 * * *"), reason)
    await world.runs.set_row(row, queued_at=now + HOUR)
    async with world.ledger.write() as session:
        await maintenance.add(session, window, now)
        await maintenance.remove(session, window, now)

    until = (await world.runs.row(row.id)).until
    assert until == (now if reason in EXPECTED["ends_with_window"] else now + HOUR)


@pytest.mark.parametrize("reason", EVERY)
async def test_the_audit_of_the_due_time(world: World, reason: str) -> None:
    stored = await world.jobs.add(cron="* * * * *", catch_up="none")
    world.clock.move(MINUTE)
    row = await _waiting(world, stored, reason)
    world.clock.move(HOUR)
    await audit.advance(world.ledger, stored.id, world.clock.now())

    status = (await world.runs.row(row.id)).status
    assert status == ("missed" if reason in EXPECTED["is_reservation"] else "waiting")


async def test_the_next_runs_for_free_slots(world: World) -> None:
    ids, flow_run_ids = {}, list[str]()
    for reason in EVERY:
        stored = await world.jobs.add(f"job-{reason}", cron="0 12 * * *")
        row = await _waiting(world, stored, reason)
        ids[row.id] = reason
        await world.runs.set_row(row, flow_run_id=reason)
        flow_run_ids.append(reason)
    async with world.ledger.read() as session:
        following = await slots.next_up(session, world.clock.now(), len(EVERY), {}, flow_run_ids)

    assert {ids[row.id] for row in following} == EXPECTED["for_slot"]


def test_no_code_compares_the_names_of_reasons() -> None:
    """Only a query may compare the column, and only with names from the table."""
    compared = re.compile(r"waits_for\)?\s*(==|!=|\bin\b|not in|\.in_\(|\.not_in\()")
    lines = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in path.read_text().splitlines()
        if compared.search(line) and "waits." not in line and ".name" not in line
    ]
    assert lines == []
