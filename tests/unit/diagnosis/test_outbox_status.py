"""The reports of `status` and `doctor` on the outbox of a real ledger."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daybook import settings
from daybook.api import destinations, runs
from daybook.cli import formatting as words
from daybook.delivery import history, outbox, sending
from daybook.delivery.sending import DeliveryResult
from daybook.delivery.views import OutboxHealth, PausedQueue
from daybook.diagnosis import outbox_status, status
from daybook.diagnosis.checks import delivery
from daybook.finding import Finding, Severity
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from daybook.resources import secrets
from daybook.runs import claims
from daybook.schedules.zones import time_with_zone

pytestmark = pytest.mark.anyio

HOOK = "https://ops.example.org/hook"
LONG = timedelta(minutes=5)
NOTHING = OutboxHealth(
    pending=0,
    oldest_pending_at=None,
    in_flight=0,
    failed=0,
    paused=[],
    unread=0,
    unread_alerts=0,
)


@pytest.fixture
async def ledger(daybook_home: Home) -> AsyncIterator[Ledger]:
    """Yield a ledger with one job and an empty outbox."""
    async with Ledger(f"sqlite+aiosqlite:///{daybook_home.path}/ledger.db") as opened:
        async with opened.write() as session:
            job = new_job(now=opened.now(), prompt="Hello?", name="brief", on_demand=True)
            await store.add(session, job, "brief", opened.now())
        yield opened


async def ask(ledger: Ledger, key: str, made: datetime, *, next_at: datetime | None = None) -> None:
    async with ledger.write() as session:
        session.add(
            OutboxRow(
                key=key,
                purpose=outbox.CALLBACK,
                event="failed",
                queue=HOOK,
                address=HOOK,
                body="{}",
                next_at=next_at or made,
                created_at=made,
            )
        )


async def alert(ledger: Ledger, event: str, subject: str) -> None:
    async with ledger.write() as session:
        await outbox.enqueue_message(
            session,
            key=subject,
            purpose=outbox.ALERT,
            event=event,
            channel="inbox",
            subject=subject,
            body=subject,
            now=ledger.now(),
        )


async def fail(ledger: Ledger, to: Delivery) -> None:
    """Record a failed attempt for the due message, with the status ``to``."""
    (row,) = await sending.claim(ledger, "test", most=1)
    again = ledger.now() if to is Delivery.PENDING else None
    await sending.record(
        ledger, [DeliveryResult(row.id, row.fence, to, again, 0.1, 500, "it was 500")]
    )


def about(problems: list[Finding], *words: str) -> list[str]:
    return [each for each in map(str, problems) if all(word in each for word in words)]


async def test_an_empty_outbox_has_no_problems(ledger: Ledger) -> None:
    found = await status.status()
    assert found.outbox == NOTHING
    assert not about(found.problems, "no process sends")
    assert not about(found.problems, "unread")
    assert await delivery.outbox() == []


async def test_a_due_message_that_no_process_sends_is_reported(ledger: Ledger) -> None:
    now = ledger.now()
    await ask(ledger, "later", now - 2 * LONG, next_at=now + LONG)
    assert await delivery.outbox() == []  # not due yet

    await ask(ledger, "due", now - LONG)

    found = await status.status()
    assert found.outbox.pending == 2
    assert found.outbox.oldest_pending_at == now - LONG
    at = time_with_zone(now - LONG, settings.load().timezone, now)
    since = f"since {at}, and no process sends them"
    assert len(about(found.problems, since, "daybook keeper")) == 1
    (problem,) = await delivery.outbox()
    assert since in problem.message
    assert ("daybook keeper" in problem.fix, problem.severity) == (True, Severity.PROBLEM)


async def test_a_backlog_that_a_process_is_sending_is_no_problem(ledger: Ledger) -> None:
    for key in ("one", "two"):
        await ask(ledger, key, ledger.now() - LONG)
    assert await delivery.outbox() != []

    await sending.claim(ledger, "a keeper", most=1)

    assert not about((await status.status()).problems, "no process sends")
    assert await delivery.outbox() == []


async def test_a_message_that_just_became_due_is_no_problem(ledger: Ledger) -> None:
    await ask(ledger, "due", ledger.now())
    assert not about((await status.status()).problems, "no process sends")
    assert await delivery.outbox() == []


async def test_a_message_for_an_absent_listener_is_no_problem(ledger: Ledger) -> None:
    """A listener may be absent for a day, and no other process sends its messages."""
    name = "my_app.show"
    async with ledger.write() as session:
        session.add(
            OutboxRow(
                key="sent",
                purpose=outbox.LISTENER,
                event="failed",
                queue=outbox.queue_of_listener(name),
                address=name,
                body="{}",
                next_at=ledger.now() - LONG,
                created_at=ledger.now() - LONG,
            )
        )
    found = await status.status()
    assert found.outbox.pending == 1
    assert not about(found.problems, "no process sends")
    assert await delivery.outbox() == []


async def test_a_destination_that_keeps_failing_is_reported(ledger: Ledger) -> None:
    await ask(ledger, "due", ledger.now())
    for _ in range(sending.FAILURES_BEFORE_PAUSE):
        await fail(ledger, Delivery.PENDING)

    found = await status.status()

    (paused,) = found.outbox.paused
    assert (paused.queue, paused.failures, paused.error) == (HOOK, 5, "it was 500")
    assert paused.paused_until > ledger.now()
    assert len(about(found.problems, HOOK, "5 times in a row", "it was 500")) == 1
    (problem,) = await delivery.outbox()
    assert HOOK in problem.message
    assert "daybook callbacks retry" in problem.fix


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the local time zone to nine hours ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (timedelta(minutes=5), "the next attempt is at 2026-11-20 21:05:00: it was 500"),
        (timedelta(0), "the next attempt is due now: it was 500"),
        (timedelta(minutes=-5), "the next attempt is due now: it was 500"),
    ],
)
@pytest.mark.usefixtures("in_tokyo")
def test_the_next_attempt_is_in_local_time_and_never_in_the_past(
    until: timedelta, expected: str
) -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    paused = PausedQueue(
        queue=HOOK, failures=5, since=noon, paused_until=noon + until, error="it was 500"
    )
    health = NOTHING.model_copy(update={"paused": [paused]})
    (found,) = outbox_status.OutboxStatus(health, "", None, noon).findings()
    assert found.message == f"Delivery to {HOOK} failed 5 times in a row, {expected}"


async def test_a_run_with_only_an_alert_shows_the_delivery_of_the_alert(ledger: Ledger) -> None:
    async with ledger.read() as session:
        stored = await store.find(session, "brief")
    row = await claims.request(ledger, stored, "first", "manual")
    quiet = await claims.request(ledger, stored, "second", "manual")
    async with ledger.write() as session:
        await outbox.enqueue_message(
            session,
            key="alert",
            purpose=outbox.ALERT,
            event="failed",
            channel="inbox",
            subject="brief: failed",
            body="brief failed",
            run_id=row.id,
            now=ledger.now(),
        )
    found = {each.id: each for each in await runs.history("brief")}
    assert (found[row.id].delivery, found[row.id].alert) == ("not_requested", "delivered")
    assert words.delivery_summary(found[row.id]) == "alert delivered"
    assert words.delivery_summary(found[quiet.id]) == "-"


@pytest.mark.parametrize(
    ("hosts", "command"),
    [
        (None, "add it with `daybook secrets add ops --host ops.example.org:443`"),
        (
            ["api.example.org"],
            "bind it with "
            "`daybook secrets add ops --host api.example.org --host ops.example.org:443 --replace`",
        ),
        (["ops.example.org"], None),
        ("ops", "bind it with `daybook secrets add ops --host ops.example.org:443 --replace`"),
    ],
    ids=["no-secret", "bound-elsewhere", "bound-here", "edited-block"],
)
async def test_the_hint_for_a_destinations_token_keeps_the_hosts_of_its_secret(
    monkeypatch: pytest.MonkeyPatch, hosts: Any, command: str | None
) -> None:
    async def every(_: object) -> list[secrets.SecretInfo]:
        secret = secrets.SecretInfo(name="ops", hosts=hosts, problem=None)
        return [] if hosts is None else [secret]

    monkeypatch.setattr(secrets, "list_secrets", every)
    made: Any = SimpleNamespace(token="ops", url="https://ops.example.org/hook")
    notes = await destinations._token_notes(cast(Any, None), made)
    assert [note.partition("; ")[2].rpartition("`")[0] + "`" for note in notes] == (
        [] if command is None else [command]
    )


async def test_a_failed_message_is_an_unread_alert_until_it_is_read(ledger: Ledger) -> None:
    await ask(ledger, "due", ledger.now())
    await fail(ledger, Delivery.FAILED)

    found = await status.status()

    assert (found.outbox.failed, found.outbox.unread_alerts) == (1, 1)
    assert len(about(found.problems, "1 unread alert: undelivered: 1", "daybook inbox")) == 1
    unread, failed = await delivery.outbox()
    assert unread.severity is Severity.WARNING
    assert failed.severity is Severity.WARNING
    assert "daybook callbacks list --status failed" in failed.fix

    await history.mark_read(ledger)
    found = await status.status()
    assert (found.outbox.failed, found.outbox.unread_alerts) == (1, 0)
    assert not about(found.problems, "unread")
    assert [each.message for each in await delivery.outbox()] == [failed.message]


async def test_the_last_of_several_alerts_is_named_and_answers_do_not_count(ledger: Ledger) -> None:
    await alert(ledger, "failed", "brief: failed")
    await alert(ledger, "paused", "brief: paused")
    await alert(ledger, "recovered", "brief: recovered")

    found = await status.status()

    assert (found.outbox.unread, found.outbox.unread_alerts) == (3, 2)
    problems = about(found.problems, "2 unread alerts, the last: brief: paused")
    assert len(problems) == 1


async def test_a_failed_job_with_an_alert_is_reported_once(ledger: Ledger) -> None:
    async with ledger.write() as session:
        row = (await store.find(session, "brief")).row
        row.consecutive_failures, row.last_error = 1, "no answer"
        session.add(row)
    await alert(ledger, "failed", "brief: failed")

    found = (await status.status()).problems

    assert about(found, "brief", "failed") == [
        "brief failed once: no answer; fix: daybook show brief"
    ]
    assert len(about(found, "1 unread alert; fix: daybook inbox")) == 1
    (unread,) = await delivery.outbox()
    assert (unread.severity, unread.message) == (Severity.WARNING, "1 unread alert")


async def test_an_alert_followed_by_many_answers_is_still_reported(ledger: Ledger) -> None:
    await alert(ledger, "failed", "brief: failed")
    for number in range(60):
        await alert(ledger, "completed", f"answer {number}")

    found = await status.status()

    assert found.outbox.unread_alerts == 1
    assert len(about(found.problems, "1 unread alert: brief: failed")) == 1


async def test_a_home_without_a_ledger_has_no_outbox_findings(daybook_home: Home) -> None:
    assert await delivery.outbox() == []
    assert not (daybook_home.path / "ledger.db").exists()


def test_the_outbox_line_of_status_counts_pending_and_failed() -> None:
    from daybook.cli.formatting import local_time
    from daybook.cli.machine import _outbox

    assert _outbox(NOTHING, local_time) == "nothing pending"
    assert _outbox(NOTHING.model_copy(update={"failed": 2}), local_time).startswith("2 failed")
    since = datetime(2026, 11, 20, 9, tzinfo=UTC)
    pending = {"pending": 1_200, "failed": 1, "oldest_pending_at": since}
    both = _outbox(NOTHING.model_copy(update=pending), local_time)
    assert both.startswith("1,200 pending, the oldest from 2026-11-20 ")
    assert both.endswith("; 1 failed")
