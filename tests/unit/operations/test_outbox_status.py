"""How the outbox is: what `status` and `doctor` say of it, of a real ledger."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from daybook.api import destinations, runs
from daybook.cli import formatting as words
from daybook.delivery import history, outbox, sending
from daybook.delivery.sending import DeliveryResult
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from daybook.operations import outbox_status as told
from daybook.operations import status
from daybook.operations.checks import delivery
from daybook.operations.findings import Severity
from daybook.resources import secrets
from daybook.runs import claims

pytestmark = pytest.mark.anyio

HOOK = "https://ops.example.org/hook"
LONG = timedelta(minutes=5)


@pytest.fixture
async def ledger(daybook_home: Home) -> AsyncIterator[Ledger]:
    """One with a job, and nothing to be told."""
    async with Ledger(f"sqlite+aiosqlite:///{daybook_home.path}/ledger.db") as opened:
        async with opened.write() as session:
            job = new_job(now=opened.now(), prompt="Hello?", name="brief", on_demand=True)
            await store.add(session, job, "brief", opened.now())
        yield opened


@pytest.fixture(autouse=True)
def nowhere() -> Iterator[None]:
    """No Prefect answers: nobody listens on port 9 (discard) of a machine that runs tests."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield


async def ask(ledger: Ledger, key: str, made: datetime, *, next_at: datetime | None = None) -> None:
    async with ledger.write() as session:
        session.add(
            OutboxRow(
                key=key,
                purpose=outbox.CALLBACK,
                event="failed",
                lane=HOOK,
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
    """Let what is due be tried, in vain."""
    (row,) = await sending.claim(ledger, "test", most=1)
    again = ledger.now() if to is Delivery.PENDING else None
    await sending.record(
        ledger, [DeliveryResult(row.id, row.fence, to, again, 0.1, 500, "it was 500")]
    )


def about(problems: list[str], *words: str) -> list[str]:
    return [each for each in problems if all(word in each for word in words)]


async def test_where_nothing_is_told_nothing_is_wrong(ledger: Ledger) -> None:
    found = await status.status()
    assert found["outbox"] == {
        "pending": 0,
        "oldest_pending_at": None,
        "in_flight": 0,
        "failed": 0,
        "paused": [],
        "unread": 0,
        "unread_alerts": 0,
    }
    assert not about(found["problems"], "no process sends")
    assert not about(found["problems"], "unread")
    assert await delivery.outbox() == []


async def test_what_could_be_sent_and_is_not_is_told(ledger: Ledger) -> None:
    now = ledger.now()
    await ask(ledger, "later", now - 2 * LONG, next_at=now + LONG)
    assert await delivery.outbox() == []  # its time has not come

    await ask(ledger, "due", now - LONG)

    found = await status.status()
    assert found["outbox"]["pending"] == 2
    assert datetime.fromisoformat(found["outbox"]["oldest_pending_at"]) == now - 2 * LONG
    since = f"since {(now - LONG):%Y-%m-%dT%H:%M:%S}Z, and no process sends them"
    assert len(about(found["problems"], since, "daybook keeper")) == 1
    (problem,) = await delivery.outbox()
    assert since in problem.message
    assert ("daybook keeper" in problem.fix, problem.severity) == (True, Severity.PROBLEM)


async def test_a_backlog_that_somebody_is_at_is_no_problem(ledger: Ledger) -> None:
    for key in ("one", "two"):
        await ask(ledger, key, ledger.now() - LONG)
    assert await delivery.outbox() != []

    await sending.claim(ledger, "a keeper", most=1)

    assert not about((await status.status())["problems"], "no process sends")
    assert await delivery.outbox() == []


async def test_what_is_on_its_way_is_no_problem(ledger: Ledger) -> None:
    await ask(ledger, "due", ledger.now())
    assert not about((await status.status())["problems"], "no process sends")
    assert await delivery.outbox() == []


async def test_a_listener_that_is_away_is_no_problem(ledger: Ledger) -> None:
    """It may be for a day: what waits for it is not sent by anybody else."""
    name = "my_app.show"
    async with ledger.write() as session:
        session.add(
            OutboxRow(
                key="told",
                purpose=outbox.LISTENER,
                event="failed",
                lane=outbox.queue_of_listener(name),
                address=name,
                body="{}",
                next_at=ledger.now() - LONG,
                created_at=ledger.now() - LONG,
            )
        )
    found = await status.status()
    assert found["outbox"]["pending"] == 1
    assert not about(found["problems"], "no process sends")
    assert await delivery.outbox() == []


async def test_a_destination_that_takes_nothing_is_named(ledger: Ledger) -> None:
    await ask(ledger, "due", ledger.now())
    for _ in range(sending.FAILURES_BEFORE_PAUSE):
        await fail(ledger, Delivery.PENDING)

    found = await status.status()

    (paused,) = found["outbox"]["paused"]
    assert (paused["lane"], paused["failures"], paused["error"]) == (HOOK, 5, "it was 500")
    assert datetime.fromisoformat(paused["paused_until"]) > ledger.now()
    assert len(about(found["problems"], HOOK, "5 times in a row", "it was 500")) == 1
    (problem,) = await delivery.outbox()
    assert HOOK in problem.message
    assert "daybook callbacks retry" in problem.fix


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's clock is nine hours ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("until", "said"),
    [
        (timedelta(minutes=5), "the next attempt is at 2026-11-20 21:05:00: it was 500"),
        (timedelta(0), "the next attempt is due now: it was 500"),
        (timedelta(minutes=-5), "the next attempt is due now: it was 500"),
    ],
)
@pytest.mark.usefixtures("in_tokyo")
def test_the_next_try_is_told_by_this_machines_clock_and_never_in_the_past(
    until: timedelta, said: str
) -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    paused = {"lane": HOOK, "failures": 5, "error": "it was 500", "paused_until": noon + until}
    health = {"paused": [paused], "unread_alerts": 0, "failed": 0}
    (found,) = told.OutboxStatus(health, "", None, noon).findings()
    assert found.message == f"delivery to {HOOK} failed 5 times in a row, {said}"


async def test_a_run_that_only_the_operator_is_told_of_shows_that(ledger: Ledger) -> None:
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
    found = {each["id"]: each for each in await runs.history("brief")}
    assert (found[row.id]["delivery"], found[row.id]["alert"]) == ("not_requested", "delivered")
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
    ],
    ids=["no-secret", "bound-elsewhere", "bound-here"],
)
async def test_the_hint_of_a_destinations_token_keeps_what_the_secret_is_bound_to(
    monkeypatch: pytest.MonkeyPatch, hosts: list[str] | None, command: str | None
) -> None:
    async def every(_: object) -> list[dict[str, Any]]:
        return [] if hosts is None else [{"name": "ops", "hosts": hosts, "problem": None}]

    monkeypatch.setattr(secrets, "list_secrets", every)
    made: Any = SimpleNamespace(token="ops", url="https://ops.example.org/hook")
    notes = await destinations._token_notes(cast(Any, None), made)
    assert [note.partition("; ")[2].rpartition("`")[0] + "`" for note in notes] == (
        [] if command is None else [command]
    )


async def test_what_failed_for_good_is_an_alert_until_it_was_read(ledger: Ledger) -> None:
    await ask(ledger, "due", ledger.now())
    await fail(ledger, Delivery.FAILED)

    found = await status.status()

    assert (found["outbox"]["failed"], found["outbox"]["unread_alerts"]) == (1, 1)
    assert len(about(found["problems"], "1 unread alert: undelivered: 1", "daybook inbox")) == 1
    unread, failed = await delivery.outbox()
    assert unread.severity is Severity.WARNING
    assert failed.severity is Severity.WARNING
    assert "daybook callbacks list --status failed" in failed.fix

    await history.mark_read(ledger)
    found = await status.status()
    assert (found["outbox"]["failed"], found["outbox"]["unread_alerts"]) == (1, 0)
    assert not about(found["problems"], "unread")
    assert [each.message for each in await delivery.outbox()] == [failed.message]


async def test_of_several_alerts_the_last_is_named_and_answers_are_none(ledger: Ledger) -> None:
    await alert(ledger, "failed", "brief: failed")
    await alert(ledger, "paused", "brief: paused")
    await alert(ledger, "recovered", "brief: recovered")

    found = await status.status()

    assert (found["outbox"]["unread"], found["outbox"]["unread_alerts"]) == (3, 2)
    told = about(found["problems"], "2 unread alerts, the last: brief: paused")
    assert len(told) == 1


async def test_a_failure_is_reported_once_beside_its_alert(ledger: Ledger) -> None:
    async with ledger.write() as session:
        row = (await store.find(session, "brief")).row
        row.consecutive_failures, row.last_error = 1, "no answer"
        session.add(row)
    await alert(ledger, "failed", "brief: failed")

    found = (await status.status())["problems"]

    assert [each for each in found if "brief" in each and "failed" in each] == [
        "brief failed once: no answer"
    ]
    assert len(about(found, "1 unread alert; fix: daybook inbox")) == 1
    (unread,) = await delivery.outbox()
    assert (unread.severity, unread.message) == (Severity.WARNING, "1 unread alert")


async def test_an_alert_is_not_lost_behind_many_answers(ledger: Ledger) -> None:
    await alert(ledger, "failed", "brief: failed")
    for number in range(60):
        await alert(ledger, "completed", f"answer {number}")

    found = await status.status()

    assert found["outbox"]["unread_alerts"] == 1
    assert len(about(found["problems"], "1 unread alert: brief: failed")) == 1


async def test_a_home_without_a_ledger_has_nothing_to_tell(daybook_home: Home) -> None:
    assert await delivery.outbox() == []
    assert not (daybook_home.path / "ledger.db").exists()


def test_the_words_of_a_status() -> None:
    from daybook.cli.machine import _outbox

    none: dict[str, Any] = {"pending": 0, "failed": 0, "oldest_pending_at": None}
    assert _outbox(none) == "nothing pending"
    assert _outbox(none | {"failed": 2}).startswith("2 failed")
    since = "2026-11-20T09:00:00+00:00"
    both = _outbox({"pending": 1_200, "failed": 1, "oldest_pending_at": since})
    assert both.startswith("1,200 pending, the oldest since 2026-11-20 ")
    assert both.endswith("; 1 failed")
