"""`daybook callbacks list`, `show` and `retry`, and the delivery in `runs` and `show`."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook import api
from daybook.cli import formatting
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.views import Notification
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow, QueueRow, RunRow
from daybook.ledger.views import Run
from daybook.runs import claims
from tests.commands import Daybook
from tests.costs import one_in
from tests.unit.cli.conftest import MADE
from tests.unit.cli.test_imports import imported
from tests.unit.cli.test_reading import on_a_terminal
from tests.unit.conftest import view

HOOK = "https://ops.example.org/hook"
LATER = datetime(2099, 1, 1, tzinfo=UTC)
PENDING, FAILED, DELIVERED = (f"msg_{digit * 32}" for digit in "abc")
NOTIFY: dict[str, Any] = {"on_complete": f"{HOOK}?token=t0k3n", "on_fail": f"{HOOK}?token=t0k3n"}
ONE = {
    *("id", "purpose", "event", "job", "job_removed", "run_id", "to", "chat_id", "status"),
    *("attempts", "next_at", "created_at", "finished_at", "error", "note"),
}


def row(id_: str, minutes: int, **fields: Any) -> OutboxRow:
    made = MADE + timedelta(minutes=minutes)
    usual: dict[str, Any] = {
        "purpose": "callback",
        "event": "failed",
        "queue": HOOK,
        "address": f"{HOOK}?token=t0k3n",
        "body": '{"version": 1, "event": "failed"}',
        "next_at": LATER,
        "created_at": made,
    }
    return OutboxRow(id=id_, key=id_, **usual | fields)


def tried(code: int | None, error: str) -> dict[str, Any]:
    return {"at": "2026-11-02T08:00:01+00:00", "seconds": 0.25, "status_code": code, "error": error}


async def _fill(file: Path) -> str:
    """Add a job with a run that has two callbacks and a message, and return the run's id."""
    async with Ledger(f"sqlite+aiosqlite:///{file}") as ledger:
        job = new_job(now=MADE, prompt="Any news?", name="brief", on_demand=True, **NOTIFY)
        async with ledger.write() as session:
            stored = await store.add(session, job, "brief", MADE)
            quiet = new_job(now=MADE, prompt="Psst.", name="quiet", on_demand=True)
            await store.add(session, quiet, "quiet", MADE)
        run = await claims.request(ledger, stored, "first", "manual")
        of_job = {"job_id": stored.id, "run_id": run.id}
        async with ledger.write() as session:
            refused = tried(None, "connection refused")
            broken = tried(500, "it answered 500 Internal Server Error")
            session.add_all(
                [
                    row(PENDING, 2, attempts=1, tries=[refused], error=refused["error"], **of_job),
                    row(
                        FAILED,
                        1,
                        status=Delivery.FAILED,
                        attempts=11,
                        tries=[refused, broken],
                        error=broken["error"],
                        finished_at=MADE,
                        **of_job,
                    ),
                    row(
                        DELIVERED,
                        0,
                        purpose="message",
                        event="completed",
                        queue="channel:team",
                        address="team",
                        chat_id="42",
                        body="All is well.",
                        status=Delivery.DELIVERED,
                        attempts=1,
                        tries=[tried(None, "")],
                        finished_at=MADE,
                        **of_job,
                    ),
                    QueueRow(queue=HOOK, failures=5, since=MADE, paused_until=LATER),
                ]
            )
            stored_run = await session.get(RunRow, run.id)
            assert stored_run is not None
            stored_run.delivery = Delivery.FAILED
        return run.id


@pytest.fixture
def run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "UTC")
    return asyncio.run(_fill(tmp_path / "ledger.db"))


@pytest.fixture
def book(run_id: str, tmp_path: Path) -> Callable[[str], list[Any]]:
    """Return a query of the outbox: `book("status, attempts")`, one tuple per row, by id."""

    def columns_of(columns: str) -> list[Any]:
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as file:
            return file.execute(f"SELECT {columns} FROM outbox ORDER BY id").fetchall()

    return columns_of


def test_list_returns_callbacks_and_messages_newest_first(daybook: Daybook, run_id: str) -> None:
    found = daybook("callbacks", "list", "--json").json
    assert [each["id"] for each in found] == [PENDING, FAILED, DELIVERED]
    assert all(each.keys() == ONE for each in found)
    pending, failed, delivered = found
    assert (pending["job"], pending["run_id"], pending["to"]) == ("brief", run_id, HOOK)
    assert (pending["next_at"], failed["next_at"]) == ("2099-01-01T00:00:00Z", None)
    assert (failed["status"], failed["attempts"], failed["finished_at"] is None) == (
        *("failed", 11),
        False,
    )
    assert (delivered["to"], delivered["chat_id"], delivered["purpose"]) == (
        *("team", "42"),
        "message",
    )
    assert "t0k3n" not in json.dumps(found)


@pytest.mark.parametrize(
    ("typed", "ids"),
    [
        (["--status", "failed"], [FAILED]),
        (["--status", "delivered"], [DELIVERED]),
        (["--status", "pending", "--job", "brief"], [PENDING]),
        (["--limit", "2"], [PENDING, FAILED]),
        (["--job", "quiet"], []),
    ],
)
@pytest.mark.usefixtures("run_id")
def test_list_filters_by_status_job_and_limit(
    daybook: Daybook, typed: list[str], ids: list[str]
) -> None:
    found = daybook("callbacks", "list", *typed, "--json").json
    assert [each["id"] for each in found] == ids


@pytest.mark.usefixtures("run_id")
def test_the_table_of_list_has_the_recipient_and_the_error(daybook: Daybook) -> None:
    head, pending, failed, delivered = daybook("callbacks", "list").out.splitlines()
    assert head.split() == ["ID", "JOB", "EVENT", "TO", "STATUS", "TRIES", "CREATED", "ERROR"]
    row = rf"a{{8}} +brief +failed +{HOOK} +pending +1 +\d+ days ago +connection"
    assert re.match(row, pending)
    assert re.match(rf"b{{8}} +brief +failed +{HOOK} +failed +11 .* it answered 500 Int", failed)
    assert re.match(r"c{8} +brief +completed +team \(chat 42\) +delivered +1 ", delivered)
    nothing = daybook("callbacks", "list", "--job", "quiet")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "No callbacks or messages match.\n")


@pytest.mark.parametrize("columns", one_in(3, [40, 80, 120]))
@pytest.mark.usefixtures("run_id")
def test_each_callback_is_one_line_on_a_terminal(columns: int) -> None:
    head, *lines = on_a_terminal(columns, "callbacks", "list")
    assert [re.split(" +", line)[0] for line in lines] == ["a" * 8, "b" * 8, "c" * 8]
    assert "STATUS" in head
    assert max(map(len, lines)) <= columns
    assert all(" failed" in line or " pending" in line or " delivered" in line for line in lines)


@pytest.mark.parametrize("ref", [FAILED, FAILED[:8], FAILED[4:12]])
@pytest.mark.usefixtures("run_id")
def test_show_has_each_attempt_and_the_body(daybook: Daybook, ref: str) -> None:
    found = daybook("callbacks", "show", ref, "--json").json
    assert found.keys() == ONE | {"subject", "body", "tries", "paused_until"}
    assert found["body"] == '{"version": 1, "event": "failed"}'
    assert [each["status_code"] for each in found["tries"]] == [None, 500]
    assert found["tries"][0].keys() == {"at", "seconds", "status_code", "error"}
    assert found["tries"][0]["at"] == "2026-11-02T08:00:01Z"
    assert found["paused_until"] is None  # a failed callback is not sent again

    assert "days ago" in daybook("callbacks", "show", ref).out
    out = daybook("callbacks", "show", ref, "--absolute").out
    assert out.startswith(f"failed of brief to {HOOK}: failed\n")
    assert re.search(r"^  tries +\S+ 08:00:01  0.2 s  connection refused$", out, re.MULTILINE)
    assert re.search(r"^ +\S+ 08:00:01  0.2 s  500  it answered 500", out, re.MULTILINE)
    assert '\n    "version": 1,\n' in out


@pytest.mark.usefixtures("run_id")
def test_show_of_a_pending_callback_has_the_next_attempt_and_the_pause(daybook: Daybook) -> None:
    found = daybook("callbacks", "show", PENDING, "--json").json
    assert found["paused_until"] == found["next_at"] == "2099-01-01T00:00:00Z"
    out = daybook("callbacks", "show", PENDING).out
    assert re.search(r"^  next try +2099-01-01 00:00:00$", out, re.MULTILINE)
    assert re.search(r"^  paused +until 2099-01-01 00:00:00", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        ([FAILED[:8]], {FAILED: "pending"}),
        ([FAILED[4:10], PENDING], {FAILED: "pending"}),
        (["--failed"], {FAILED: "pending"}),
    ],
)
def test_retry_makes_a_callback_due_and_resets_its_attempts(
    daybook: Daybook, book: Any, typed: list[str], status: dict[str, str]
) -> None:
    result = daybook("callbacks", "retry", *typed, "--json")
    now = SYSTEM_CLOCK.now()
    count = max(len([each for each in typed if each != "--failed"]), 1)
    assert (result.code, result.json) == (0, {"retried": count})
    before = {PENDING: "pending", FAILED: "failed", DELIVERED: "delivered"}
    assert dict(book("id, status")) == before | status
    due = {id_: datetime.fromisoformat(at) for id_, at in book("id, next_at")}
    assert due[FAILED].replace(tzinfo=UTC) <= now
    assert (due[PENDING].replace(tzinfo=UTC) <= now) is (PENDING in typed)
    made = {PENDING: 0 if PENDING in typed else 1, FAILED: 0, DELIVERED: 1}
    assert dict(book("id, attempts")) == made


@pytest.mark.parametrize(
    ("typed", "code", "said_of_it"),
    [
        (["list", "--status", "lost"], 2, ["--status", "pending, delivered, failed"]),
        (["list", "--limit", "0"], 2, ["--limit", "1 or more"]),
        (["list", "--job", "nobody"], 3, ['job "nobody" not found']),
        (["show", "99"], 3, ['callback "99" not found']),
        (["show", ""], 3, ["not found"]),
        (["retry"], 2, ["--failed"]),
        (["retry", FAILED, "--failed"], 2, ["--failed"]),
        (["retry", FAILED, "99"], 3, ['callback "99" not found']),
        (["retry", FAILED, DELIVERED], 2, ["was delivered"]),
    ],
)
def test_an_invalid_command_is_refused_and_changes_nothing(
    daybook: Daybook, book: Any, typed: list[str], code: int, said_of_it: list[str]
) -> None:
    before = book("id, status, attempts, next_at")
    result = daybook("callbacks", *typed)
    assert (result.code, result.out) == (code, "")
    for each in said_of_it:
        assert each in result.err
    error = daybook("callbacks", *typed, "--json").json["error"]
    assert error["code"] == {2: "invalid_input", 3: "not_found"}[code]
    assert book("id, status, attempts, next_at") == before


def test_runs_shows_the_delivery_next_to_the_status(daybook: Daybook, run_id: str) -> None:
    head, line = daybook("runs", "brief").out.splitlines()
    columns = head.split()
    assert columns.index("DELIVERY") == columns.index("STATUS") + 1
    assert re.search(r" waiting +failed ", line)
    (run,) = daybook("runs", "brief", "--json").json
    assert (run["id"], run["delivery"]) == (run_id, "failed")


def test_show_of_a_run_lists_the_state_of_each_delivery(daybook: Daybook, run_id: str) -> None:
    run = daybook("show", run_id, "--json").json
    assert run["delivery"] == "failed"
    assert {each["id"]: each["status"] for each in run["deliveries"]} == {
        PENDING: "pending",
        FAILED: "failed",
        DELIVERED: "delivered",
    }
    assert all(each.keys() == ONE for each in run["deliveries"])
    out = daybook("show", run_id).out
    for each in (
        rf"{HOOK}: failed after 11 tries: it answered 500 Internal Server Error",
        rf"{HOOK}: pending, 1 try, next 2099-01-01 00:00:00: connection refused",
        r"team \(chat 42\): delivered",
    ):
        assert re.search(rf"^  (delivery)? +{each}$", out, re.MULTILINE), each


@pytest.mark.usefixtures("run_id")
def test_show_of_a_job_lists_its_recipients(daybook: Daybook) -> None:
    job = daybook("show", "brief", "--json").json
    assert job["recipients"] == {"completed": [HOOK], "failed": ["inbox", HOOK]}
    assert job["notify"]["on_fail"] == NOTIFY["on_fail"]
    out = daybook("show", "brief").out
    expected = rf"^  notifies +completed, failed → {HOOK}\n +failed → inbox$"
    assert re.search(expected, out, re.MULTILINE)
    assert re.search(r"^  notifies +failed → inbox$", daybook("show", "quiet").out, re.MULTILINE)


@pytest.mark.usefixtures("run_id")
@pytest.mark.slow
def test_callbacks_commands_do_not_import_prefect() -> None:
    for typed in (["list"], ["show", FAILED], ["retry", FAILED]):
        names = imported("callbacks", *typed)
        assert "sqlalchemy" in names
        assert not names & {"prefect", "rich"}
    for typed in ([], ["destinations"], ["destinations", "add", "--help"]):
        assert not imported("callbacks", *typed) & {"prefect", "sqlalchemy", "sqlmodel"}


def test_an_empty_list_says_how_to_add_a_callback(
    daybook: Daybook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    result = daybook("callbacks", "list")
    assert (result.code, result.out) == (0, "")
    assert "--on-fail" in result.err
    assert daybook("callbacks", "list", "--json").json == []
    assert daybook("callbacks", "retry", "--failed", "--json").json == {"retried": 0}


@pytest.mark.parametrize(
    "verb",
    [
        *("callbacks list", "callbacks show", "callbacks retry", "inbox"),
        *(f"callbacks destinations {each}" for each in ("add", "list", "rotate", "test", "remove")),
    ],
)
def test_help_has_an_example(daybook: Daybook, verb: str) -> None:
    result = daybook(*verb.split(), "--help")
    assert result.code == 0
    assert f"Example: daybook {verb}" in result.out


def test_the_help_of_each_group_lists_its_commands(daybook: Daybook) -> None:
    assert "List callbacks and messages" in daybook("callbacks").out
    assert "Remove a destination" in daybook("callbacks", "destinations", "--help").out


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"status": "delivered", "attempts": 0}, "delivered"),
        ({"status": "delivered", "attempts": 3}, "delivered after 3 tries"),
        ({"status": "suppressed", "note": "withdrawn: why"}, "withdrawn: why"),
        ({"status": "failed", "attempts": 1, "error": "no\nyes"}, "failed after 1 try: no"),
    ],
)
def test_the_state_of_a_delivery_is_described(changed: dict[str, Any], expected: str) -> None:
    one = {"attempts": 1, "error": None, "note": "", "next_at": None} | changed
    assert formatting.delivery_state(view(Notification, **one)) == expected


TOLD_INBOX = view(Notification, to="inbox", chat_id="", status="delivered", attempts=0, error=None)


@pytest.mark.parametrize(
    ("delivery", "parts", "expected"),
    [
        ("not_requested", [], ""),
        ("delivered", [], "delivered"),  # as in `up`, which passes no parts
        (
            "suppressed",
            [TOLD_INBOX],
            "inbox: delivered\nnot sent: a repeat, nothing to report, or the job is silent",
        ),
    ],
)
def test_the_deliveries_of_a_run_are_described(
    delivery: str, parts: list[Notification], expected: str
) -> None:
    assert formatting.delivery_details(view(Run, delivery=delivery), parts) == expected


def test_an_attempt_that_is_already_due_is_shown_as_now() -> None:
    past, later = MADE, LATER
    assert formatting.next_try(past) == formatting.next_try(past, None) == "now"
    assert (
        formatting.next_try(past, later)
        == formatting.next_try(later, past)
        == formatting.local_time(later)
    )
    waits = view(Notification, status="pending", attempts=2, error="refused", next_at=past)
    assert formatting.delivery_state(waits) == "pending, 2 tries, next now: refused"


def test_remove_says_that_a_destination_above_the_url_signs_next(
    daybook: Daybook, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def remove(name: str) -> list[str]:
        return ["brief"]

    monkeypatch.setattr(api.destinations, "remove", remove)
    said = daybook("callbacks", "destinations", "remove", "ops")
    assert (said.code, said.out) == (0, "Removed the destination ops\n")
    assert " ".join(said.err.split()) == (
        "From now on the next destination above its URL, or, if there is none, the home's secret, "
        "signs callbacks of brief."
    )
