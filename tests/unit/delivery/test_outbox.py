"""Outbox rows (requirements 29-33): written with the outcome, whichever process records it."""

from __future__ import annotations

import json
import random
import string
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from daybook.delivery import history, outbox, sending
from daybook.delivery.sending import DeliveryResult
from daybook.errors import FenceRefused, IllegalTransition
from daybook.execution import outcome_spool
from daybook.execution.outcome_spool import SpooledOutcome
from daybook.jobs import store
from daybook.jobs.action_fields import MAX_URL_LENGTH
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Delivery, Outcome, Status
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.runs import audit, claims, leases, outcomes, prefect_ends
from daybook.runs.prefect_ends import EndInPrefect
from tests.world import World

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
DONE, FAIL = "https://ops.example.org/done", "https://ops.example.org/fail"
EVERY = {"events": ["completed", "failed", "cancelled", "missed"]}
NOTIFY: dict[str, Any] = {**EVERY, "on_complete": DONE, "on_fail": FAIL, "channel": "team"}

Notification = tuple[str, str, str]


async def rows(world: World) -> list[OutboxRow]:
    async with world.ledger.read() as session:
        ordered = select(OutboxRow).order_by(OutboxRow.created_at, OutboxRow.key)  # type: ignore[arg-type]
        return list((await session.execute(ordered)).scalars())


async def notifications(world: World) -> set[Notification]:
    """Return purpose, event and address of each row."""
    return {(row.purpose, row.event, row.address) for row in await rows(world)}


async def the(world: World, purpose: str) -> OutboxRow:
    (row,) = [each for each in await rows(world) if each.purpose == purpose]
    return row


async def delivery(world: World, run_id: str) -> str:
    return (await world.runs.row(run_id)).delivery


async def hourly(world: World, **fields: Any) -> StoredJob:
    return await world.jobs.add(**{"cron": "0 * * * *", **fields})


async def sent(world: World, which: str, status: Delivery) -> None:
    """Send all due rows for ``which``, with this result."""
    claimed = await sending.claim(world.ledger, "test", most=100)
    await sending.release(world.ledger, [row for row in claimed if row.address != which])
    tried = [
        DeliveryResult(
            row.id, row.fence, status, None, 0.1, 200 if status is Delivery.DELIVERED else 500
        )
        for row in claimed
        if row.address == which
    ]
    await sending.record(world.ledger, tried)


# --- the recipients of each outcome


@pytest.mark.floor("C", "on_complete is called after a success")
@pytest.mark.floor("C", "on_fail is called after a failure or a timeout")
@pytest.mark.floor("C", "notify_on is any of completed, failed and canceled")
@pytest.mark.parametrize(
    ("status", "event", "url"),
    [
        (Status.SUCCEEDED, "completed", DONE),
        (Status.FAILED, "failed", FAIL),
        (Status.TIMED_OUT, "failed", FAIL),
        (Status.UNKNOWN, "failed", FAIL),
        (Status.CANCELLED, "cancelled", FAIL),
    ],
)
async def test_each_outcome_creates_its_callback_and_a_channel_message(
    world: World, status: Status, event: str, url: str
) -> None:
    stored = await hourly(world, **NOTIFY)

    granted = await world.runs.finished(stored, status, output="All is well.", reason="so")

    assert await notifications(world) == {("callback", event, url), ("message", event, "team")}
    assert await delivery(world, granted.run_id) == "pending"
    callback = json.loads((await the(world, "callback")).body)
    assert (callback["status"], callback["event"], callback["id"]) == (
        status,
        event,
        granted.run_id,
    )


@pytest.mark.floor("C", "An event that notify_on does not list calls nothing")
@pytest.mark.parametrize("status", [Status.CANCELLED, Status.FAILED, Status.SUCCEEDED])
async def test_an_outcome_whose_event_is_not_requested_creates_no_callback_or_message(
    world: World, status: Status
) -> None:
    fields: dict[Status, dict[str, Any]] = {
        Status.CANCELLED: {"channel": "team", "on_complete": DONE, "on_fail": FAIL},
        Status.FAILED: {"channel": "team", "on_complete": DONE, "events": ["completed"]},
        Status.SUCCEEDED: {"channel": "team", "on_fail": FAIL, "events": ["failed"]},
    }
    stored = await hourly(world, **fields[status])

    granted = await world.runs.finished(stored, status, output="x")

    # The operator still gets an alert about a failure: see `test_alerts`.
    assert {each for each in await notifications(world) if each[0] != "alert"} == set()
    assert await delivery(world, granted.run_id) == "not_requested"


@pytest.mark.floor("C", "A job without a URL calls nothing")
async def test_a_job_without_notifications_creates_no_rows(world: World) -> None:
    stored = await hourly(world)
    granted = await world.runs.finished(stored, Status.SUCCEEDED, output="x")
    assert await rows(world) == []
    assert await delivery(world, granted.run_id) == "not_requested"


async def test_a_direct_call_notifies_as_its_own_parameters_say(world: World) -> None:
    stored = await hourly(world)
    claim_request = world.runs.claim_request(stored)
    parameters = {**claim_request.parameters, "notify": {"channel": "team", "on_fail": FAIL}}
    direct = {"job_id": None, "occurrence": "flow:f", "trigger": "direct"}
    granted = await world.runs.running(
        world.runs.claim_request(stored, **direct, parameters=parameters)
    )
    await world.runs.finish(granted, Status.FAILED, error="no")

    assert await notifications(world) == {
        ("callback", "failed", FAIL),
        ("message", "failed", "team"),
    }
    assert (await the(world, "message")).job_id is None


async def test_a_run_notifies_as_the_revision_at_its_due_time_says(world: World) -> None:
    stored = await hourly(world, channel="before", chat_id="42")
    granted = await world.runs.running(stored)
    await world.jobs.edit(stored.id, channel="after", chat_id="43")
    await world.runs.finish(granted, Status.SUCCEEDED, output="x")
    row = await the(world, "message")
    assert (row.address, row.chat_id, row.queue) == ("before", "42", "channel:before/42")


async def test_a_run_with_unreadable_notify_parameters_notifies_as_its_job_says(
    world: World,
) -> None:
    stored = await hourly(world, channel="team")
    parameters = {**stored.job.parameters(), "notify": {"chan": "x"}}
    row = RunRow(
        occurrence="flow:f",
        job_id=stored.id,
        kind="agent-prompt",
        trigger="manual",
        due=world.clock.now(),
        status="",
        parameters=parameters,
        queued_at=world.clock.now(),
    )
    async with world.ledger.write() as session:
        await outcomes.record(session, row, Outcome(Status.FAILED, error="no"), world.clock.now())
    assert await notifications(world) == {("message", "failed", "team")}


# --- each way to record an outcome


async def test_a_run_whose_process_died_creates_the_failed_callback(world: World) -> None:
    stored = await hourly(world, **NOTIFY)
    granted = await world.runs.running(stored)
    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "its process is gone")
    body = json.loads((await the(world, "callback")).body)
    assert (body["status"], body["reason"]) == ("unknown", "its process is gone")


async def test_cancelling_a_waiting_run_creates_callback_and_message(world: World) -> None:
    stored = await hourly(world, **NOTIFY)
    row = await claims.request(world.ledger, stored, "one", "manual")
    await claims.cancel(world.ledger, row.id)
    assert await notifications(world) == {
        ("callback", "cancelled", FAIL),
        ("message", "cancelled", "team"),
    }


async def test_expiring_a_lost_lease_creates_the_failed_callback(world: World) -> None:
    stored = await hourly(world, **NOTIFY)
    granted = await world.runs.running(stored)
    await world.runs.lose()
    assert [row.id for row in await leases.expire_all(world.ledger)] == [granted.run_id]
    assert ("callback", "failed", FAIL) in await notifications(world)


async def test_a_failure_imported_from_prefect_creates_the_failed_callback(world: World) -> None:
    stored = await hourly(world, **NOTIFY)
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due)
    assert claim_request.flow_run_id is not None
    end = EndInPrefect(
        claim_request.flow_run_id, "FAILED", "Failed", "Validation of the parameters", claim_request
    )
    assert await prefect_ends.apply_end(world.ledger, end) is Status.FAILED
    assert ("callback", "failed", FAIL) in await notifications(world)


async def test_a_spooled_outcome_sends_the_whole_answer(world: World) -> None:
    stored = await hourly(world, channel="team")
    granted = await world.runs.running(stored)
    answer = "All is well. " * 1_000
    known = Outcome(Status.SUCCEEDED, output=answer)
    outcome_spool.put(SpooledOutcome(world.ledger.id, granted.run_id, granted.fence, known))

    assert (await outcome_spool.drain(world.ledger)).written == 1

    assert len((await world.runs.row(granted.run_id)).output or "") < len(answer)
    assert (await the(world, "message")).body == answer.strip()


@pytest.mark.dialect
async def test_missed_due_times_share_one_row_that_grows_until_it_is_claimed(world: World) -> None:
    fields: dict[str, Any] = {"channel": "team", "on_fail": FAIL, **EVERY}
    stored = await world.jobs.add(cron="*/10 * * * *", catch_up="none", **fields)
    world.clock.move(timedelta(minutes=35))
    await audit.advance(world.ledger, stored.id, world.clock.now())
    row = await the(world, "callback")
    assert json.loads(row.body)["count"] == 3
    assert "3 due times" in (await the(world, "message")).body

    world.clock.move(timedelta(minutes=20))
    await audit.advance(world.ledger, stored.id, world.clock.now())
    again = await the(world, "callback")
    assert (again.id, json.loads(again.body)["count"]) == (row.id, 5)
    assert "5 due times" in (await the(world, "message")).body

    # A row that is claimed or delivered keeps its body.
    (sending_now,) = [
        each
        for each in await sending.claim(world.ledger, "me", most=10)
        if each.purpose == "callback"
    ]
    world.clock.move(timedelta(minutes=20))
    await audit.advance(world.ledger, stored.id, world.clock.now())
    assert (await the(world, "callback")).body == sending_now.body


# --- once, in the transaction of the outcome


async def test_finishing_a_run_again_creates_no_further_rows(world: World) -> None:
    stored = await hourly(world, **NOTIFY)
    granted = await world.runs.finished(stored, Status.SUCCEEDED, output="x")
    before = await rows(world)

    await world.runs.finish(granted, Status.SUCCEEDED, output="x")
    with pytest.raises(IllegalTransition):
        await world.runs.finish(granted, Status.FAILED, error="later")
    with pytest.raises(FenceRefused):
        await claims.finish(
            world.ledger, granted.run_id, granted.fence + 1, Outcome(Status.FAILED, error="no")
        )

    assert await rows(world) == before


@pytest.mark.dialect
async def test_a_rollback_of_the_outcome_removes_its_outbox_rows(world: World) -> None:
    stored = await hourly(world, **NOTIFY)
    granted = await world.runs.running(stored)

    with pytest.raises(RuntimeError):
        async with world.ledger.write() as session:
            row = await session.get(RunRow, granted.run_id)
            assert row is not None
            await outcomes.record(session, row, Outcome(Status.FAILED), world.clock.now())
            assert (await session.execute(select(OutboxRow))).first() is not None
            raise RuntimeError

    assert await rows(world) == []
    assert await delivery(world, granted.run_id) == "not_requested"


async def test_a_message_is_enqueued_once_per_key(world: World) -> None:
    asked: dict[str, Any] = {"purpose": "alert", "event": "overdue", "channel": "team"}
    asked |= {"subject": "late", "body": "late", "now": world.clock.now()}
    async with world.ledger.write() as session:
        assert await outbox.enqueue_message(session, key="overdue:1", **asked) is not None
        assert await outbox.enqueue_message(session, key="overdue:1", **asked) is None
    async with world.ledger.write() as session:
        assert await outbox.enqueue_message(session, key="overdue:1", **asked) is None
        assert await outbox.enqueue_message(session, key="overdue:2", **asked) is not None
    assert len(await rows(world)) == 2


@pytest.mark.parametrize(
    ("late", "event", "url"),
    [(Status.SUCCEEDED, "completed", DONE), (Status.FAILED, "failed", FAIL)],
)
async def test_a_late_outcome_sends_a_correction(
    world: World, late: Status, event: str, url: str
) -> None:
    stored = await hourly(world, **NOTIFY)
    granted = await world.runs.running(stored)
    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "its process is gone")
    first = {row.id for row in await rows(world)}

    await world.runs.finish(granted, late, output="All is well.")

    (row,) = [e for e in await rows(world) if e.purpose == "callback" and e.id not in first]
    body = json.loads(row.body)
    assert (row.event, row.address) == (event, url)
    assert (body["corrects"], body["status"]) == ("unknown", late)
    if late is Status.SUCCEEDED:
        messages = [e for e in await rows(world) if e.event == "completed" and e.address == "team"]
        assert [each.subject for each in messages] == ["brief: succeeded (was unknown)"]


# --- contents


METADATA = {"team": "blue", "numbers": [1, 2.5, None, True], "nested": {"": []}}


@pytest.mark.floor("B", "The metadata reaches the receiver of a job's result")
async def test_a_callback_contains_job_owner_user_tags_and_metadata(
    world: World,
) -> None:
    job = (await hourly(world, on_complete=DONE)).job.model_copy(
        update={"name": "kept", "tags": ("news", "daily"), "metadata": METADATA}
    )
    async with world.ledger.write() as session:
        stored = await store.add(session, job, "kept", world.clock.now(), "user", user_id="u-17")

    await world.runs.finished(stored, Status.SUCCEEDED, output="Done.")

    body = json.loads((await the(world, "callback")).body)
    assert (body["job"], body["job_id"]) == ("kept", stored.id)
    assert (body["owner"], body["user_id"]) == ("user", "u-17")
    assert body["tags"] == ["news", "daily"]
    assert body["metadata"] == METADATA
    assert (await world.jobs.get(stored.id)).job.metadata == METADATA


async def test_only_the_message_of_an_agents_job_contains_its_answer(world: World) -> None:
    notify = {"on_complete": DONE, "channel": "team"}
    job = (await hourly(world)).job.model_copy(update={"name": "agents"})
    job = job.model_copy(update={"notify": job.notify.model_copy(update=notify)})
    async with world.ledger.write() as session:
        stored = await store.add(session, job, "agents", world.clock.now(), owner="agent:default")

    await world.runs.finished(stored, Status.SUCCEEDED, output="secret")

    row = await the(world, "callback")
    assert (row.owner, "secret" in row.body) == ("agent:default", False)
    assert "secret" in (await the(world, "message")).body


@pytest.mark.parametrize(
    ("purpose", "owner", "chat_id"),
    [("progress", "agent:default", "agents.md"), ("alert", "user", "")],
)
async def test_progress_goes_to_the_chat_of_the_job_and_an_alert_to_the_operator(
    world: World, purpose: str, owner: str, chat_id: str
) -> None:
    job = (await hourly(world)).job.model_copy(update={"name": "agents"})
    async with world.ledger.write() as session:
        stored = await store.add(session, job, "agents", world.clock.now(), owner="agent:default")
        row = await outbox.enqueue_message(
            session,
            key="x",
            purpose=purpose,
            event="progress",
            channel="file",
            subject="x",
            body="x",
            job_id=stored.id,
            now=world.clock.now(),
        )
    assert row is not None
    assert (row.owner, row.chat_id) == (owner, chat_id)


@pytest.mark.dialect
async def test_two_very_long_addresses_have_different_destination_queues(world: World) -> None:
    generator = random.Random(1)  # so that no index can make it shorter
    path = "".join(generator.choices(string.ascii_letters, k=MAX_URL_LENGTH - 40))
    one, other = f"https://ops.example.org/{path}1", f"https://ops.example.org/{path}2"
    stored = await hourly(world, on_complete=f"{one}?token=1", on_fail=other)
    await world.runs.finished(stored, Status.SUCCEEDED, output="x")
    await world.runs.finished(stored, Status.FAILED, error="no")

    made = [row for row in await rows(world) if row.purpose == "callback"]
    assert {row.address for row in made} == {f"{one}?token=1", other}
    queues = {row.queue for row in made}
    assert len(queues) == 2
    assert all(each.startswith(f"https://ops.example.org/{path[:200]}") for each in queues)
    assert max(len(each.encode()) for each in queues) <= outbox.MAX_NAME_BYTES


@pytest.mark.dialect
async def test_long_chat_ids_and_keys_are_stored_within_the_byte_limit(world: World) -> None:
    async def tell(key: str) -> OutboxRow | None:
        async with world.ledger.write() as session:
            return await outbox.enqueue_message(
                session,
                key=key,
                purpose="alert",
                event="overdue",
                channel="ü" * 200,
                chat_id="ß" * 200,
                subject="late",
                body="late",
                now=world.clock.now(),
            )

    generator = random.Random(1)
    key = "".join(generator.choices(string.ascii_letters, k=4000))
    row = await tell(key)
    assert row is not None
    assert max(len(row.queue.encode()), len(row.key.encode())) <= outbox.MAX_NAME_BYTES
    assert row.queue.startswith("channel:üü")
    assert await tell(key) is None
    assert await tell(f"{key}.") is not None


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (Status.SUCCEEDED, "brief was succeeded at 2026-01-15T13:00:00+00:00: {{job}}"),
        (Status.FAILED, "brief was failed at 2026-01-15T13:00:00+00:00: "),
    ],
)
async def test_a_message_uses_the_template_of_its_job(
    world: World, status: Status, text: str
) -> None:
    template = "{{job}} was {{status}} at {{due}}: {{output}}"
    stored = await hourly(world, channel="team", template=template)
    # A variable within an answer is not replaced.
    await world.runs.finished(stored, status, output="{{job}}" if "{{" in text else None)
    assert (await the(world, "message")).body == text


# --- suppressed messages


@pytest.mark.parametrize("answer", [None, "Nothing.\nNO_REPLY"])
async def test_an_empty_or_silent_answer_is_suppressed(world: World, answer: str | None) -> None:
    stored = await hourly(world, channel="team", template="said: {{output}}")
    granted = await world.runs.finished(stored, Status.SUCCEEDED, output=answer)
    assert await rows(world) == []
    row = await world.runs.row(granted.run_id)
    assert (row.status, row.delivery) == ("succeeded", "suppressed")


async def test_a_silent_answer_still_goes_to_the_callback(world: World) -> None:
    stored = await hourly(world, channel="team", on_complete=DONE)
    granted = await world.runs.finished(stored, Status.SUCCEEDED, output="[SILENT]")
    assert await notifications(world) == {("callback", "completed", DONE)}
    assert await delivery(world, granted.run_id) == "pending"


@pytest.mark.floor("C", "silent: a job calls no recipient")
async def test_a_silent_job_creates_no_rows(world: World) -> None:
    stored = await hourly(world, **NOTIFY, silent=True)
    granted = await world.runs.finished(stored, Status.SUCCEEDED, output="x")
    assert await rows(world) == []
    assert await delivery(world, granted.run_id) == "suppressed"


async def test_with_only_changed_a_repeated_answer_is_suppressed(world: World) -> None:
    stored = await hourly(world, channel="team", only_changed=True)
    shown = []
    for answer in ("same", "same \n", "other", "other", "same"):
        granted = await world.runs.finished(stored, Status.SUCCEEDED, output=answer)
        shown.append(await delivery(world, granted.run_id))
    assert shown == ["pending", "suppressed", "pending", "suppressed", "pending"]
    assert [row.body for row in await rows(world)] == ["same", "other", "same"]


async def test_with_only_changed_an_undelivered_answer_is_sent_again(world: World) -> None:
    stored = await hourly(world, channel="team", only_changed=True)
    await world.runs.finished(stored, Status.SUCCEEDED, output="same")
    await sent(world, "team", Delivery.FAILED)
    again = await world.runs.finished(stored, Status.SUCCEEDED, output="same")
    assert await delivery(world, again.run_id) == "pending"


async def test_with_only_changed_an_answer_is_new_to_another_channel_or_chat(world: World) -> None:
    stored = await hourly(world, channel="team", chat_id="1", only_changed=True)
    await world.runs.finished(stored, Status.SUCCEEDED, output="same")
    for changes in ({"chat_id": "2"}, {"channel": "ops"}):
        await world.jobs.edit(stored.id, **changes)
        granted = await world.runs.finished(
            await world.jobs.get(stored.id), Status.SUCCEEDED, output="same"
        )
        assert await delivery(world, granted.run_id) == "pending"


# --- the inbox, and the delivery of a run


async def test_an_inbox_message_is_delivered_when_it_is_written(world: World) -> None:
    stored = await hourly(world, channel="inbox")
    granted = await world.runs.finished(stored, Status.SUCCEEDED, output="All is well.")

    assert await delivery(world, granted.run_id) == "delivered"
    assert await sending.claim(world.ledger, "me", most=10) == []
    async with world.ledger.read() as session:
        (row,) = await history.inbox(session, unread_only=True)
    assert (row.subject, row.body) == ("brief: succeeded", "All is well.")
    assert await history.mark_read(world.ledger, [row.id]) == 1
    async with world.ledger.read() as session:
        assert await history.inbox(session, unread_only=True) == []
        assert [each.id for each in await history.inbox(session)] == [row.id]
    assert await history.mark_read(world.ledger) == 0


@pytest.mark.dialect
async def test_the_delivery_of_a_run_is_the_worst_of_its_rows(world: World) -> None:
    stored = await hourly(world, channel="team", on_complete=DONE)
    granted = await world.runs.finished(stored, Status.SUCCEEDED, output="x")
    shown = [await delivery(world, granted.run_id)]
    await sent(world, "team", Delivery.DELIVERED)
    shown.append(await delivery(world, granted.run_id))
    await sent(world, DONE, Delivery.FAILED)
    shown.append(await delivery(world, granted.run_id))
    assert await sending.retry(world.ledger) == 1
    shown.append(await delivery(world, granted.run_id))
    await sent(world, DONE, Delivery.DELIVERED)
    shown.append(await delivery(world, granted.run_id))
    assert shown == ["pending", "pending", "failed", "pending", "delivered"]


async def test_pending_rows_of_a_removed_job_are_delivered(world: World) -> None:
    stored = await hourly(world, on_complete=DONE)
    granted = await world.runs.finished(stored, Status.SUCCEEDED, output="x")
    await world.jobs.archive(stored.id)
    await sent(world, DONE, Delivery.DELIVERED)
    assert await delivery(world, granted.run_id) == "delivered"


async def test_deleting_a_job_without_runs_keeps_its_pending_messages(world: World) -> None:
    stored = await hourly(world)
    async with world.ledger.write() as session:
        await outbox.enqueue_message(
            session,
            key="overdue:x",
            purpose="alert",
            event="overdue",
            channel="team",
            subject="late",
            body="late",
            job_id=stored.id,
            now=world.clock.now(),
        )
    async with world.ledger.write() as session:
        await store.delete_job(session, stored.id)
    (row,) = await rows(world)
    assert (row.job_id, row.status) == (None, "pending")


async def test_a_progress_message_counts_for_the_delivery_of_a_running_run(world: World) -> None:
    stored = await hourly(world, channel="team")
    granted = await world.runs.running(stored)
    async with world.ledger.write() as session:
        await outbox.enqueue_message(
            session,
            key=f"progress:{granted.run_id}:1",
            purpose="message",
            event="progress",
            channel="team",
            subject="brief",
            body="at work for 10m",
            run_id=granted.run_id,
            job_id=stored.id,
            now=world.clock.now(),
        )
    assert await delivery(world, granted.run_id) == "pending"
    await sent(world, "team", Delivery.DELIVERED)
    await world.runs.finish(granted, Status.SUCCEEDED, output="[SILENT]")
    assert await delivery(world, granted.run_id) == "delivered"


async def test_rows_are_found_by_run_job_status_and_id_prefix(world: World) -> None:
    stored, other = (
        await hourly(world, **NOTIFY),
        await hourly(world, name="other", on_complete=DONE),
    )
    granted = await world.runs.finished(stored, Status.SUCCEEDED, output="x")
    await world.runs.finished(
        world.runs.claim_request(other, due=granted.due), Status.SUCCEEDED, output="x"
    )
    await sent(world, "team", Delivery.DELIVERED)
    async with world.ledger.read() as session:
        of_run = await history.list_for_run(session, granted.run_id)
        assert {row.purpose for row in of_run} == {"callback", "message"}
        assert len(await history.recent(session)) == 3
        assert len(await history.recent(session, limit=2)) == 2
        (of_other,) = await history.recent(session, job_id=other.id)
        assert of_other.job_id == other.id
        (delivered,) = await history.recent(session, status="delivered")
        assert delivered.address == "team"
        for ref in (of_other.id, of_other.id[:16], of_other.id[4:20]):
            assert (await history.find(session, ref)).id == of_other.id
