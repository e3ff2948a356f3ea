"""`daybook callbacks list`, `show`, `retry`, and delivery in `runs` and `show`: by the ledger."""

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

from daybook.cli import formatting
from daybook.clock import SYSTEM_CLOCK
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import LaneRow, OutboxRow, RunRow
from daybook.runs import claims
from tests.costs import one_in
from tests.unit.cli.conftest import MADE, Say
from tests.unit.cli.test_imports import imported
from tests.unit.cli.test_reading import on_a_terminal

HOOK = "https://ops.example.org/hook"
LATER = datetime(2099, 1, 1, tzinfo=UTC)
PENDING, FAILED, DELIVERED = (f"msg_{digit * 32}" for digit in "abc")
NOTIFY = {"on_complete": f"{HOOK}?token=t0k3n", "on_fail": f"{HOOK}?token=t0k3n"}
ONE = {
    *("id", "purpose", "event", "job", "job_removed", "run_id", "to", "chat_id", "status"),
    *("attempts", "next_at", "created_at", "finished_at", "error", "note"),
}


def row(id_: str, minutes: int, **fields: Any) -> OutboxRow:
    made = MADE + timedelta(minutes=minutes)
    usual: dict[str, Any] = {
        "purpose": "callback",
        "event": "failed",
        "lane": HOOK,
        "address": f"{HOOK}?token=t0k3n",
        "body": '{"version": 1, "event": "failed"}',
        "next_at": LATER,
        "created_at": made,
    }
    return OutboxRow(id=id_, key=id_, **usual | fields)


def tried(code: int | None, error: str) -> dict[str, Any]:
    return {"at": "2026-11-02T08:00:01+00:00", "seconds": 0.25, "status_code": code, "error": error}


async def _fill(file: Path) -> str:
    """A job with a run of which three callbacks were asked for; returns the run's id."""
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
                        lane="channel:team",
                        address="team",
                        chat_id="42",
                        body="All is well.",
                        status=Delivery.DELIVERED,
                        attempts=1,
                        tries=[tried(None, "")],
                        finished_at=MADE,
                        **of_job,
                    ),
                    LaneRow(lane=HOOK, failures=5, since=MADE, paused_until=LATER),
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
    """What stands in the outbox: `book("status, attempts")`, a tuple for each row by its id."""

    def look(columns: str) -> list[Any]:
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as file:
            return file.execute(f"SELECT {columns} FROM outbox ORDER BY id").fetchall()

    return look


def test_list_gives_callbacks_and_messages_newest_first(daybook: Say, run_id: str) -> None:
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
def test_list_gives_some_of_them(daybook: Say, typed: list[str], ids: list[str]) -> None:
    found = daybook("callbacks", "list", *typed, "--json").json
    assert [each["id"] for each in found] == ids


@pytest.mark.usefixtures("run_id")
def test_people_see_to_whom_and_why_not(daybook: Say) -> None:
    head, pending, failed, delivered = daybook("callbacks", "list").out.splitlines()
    assert head.split() == ["ID", "JOB", "EVENT", "TO", "STATUS", "TRIES", "ASKED", "WHY"]
    assert re.match(rf"a{{8}} +brief +failed +{HOOK} +pending +1 +\S+ \S+ +connection", pending)
    assert re.match(rf"b{{8}} +brief +failed +{HOOK} +failed +11 .* it answered 500 Int", failed)
    assert re.match(r"c{8} +brief +completed +team \(chat 42\) +delivered +1 ", delivered)
    nothing = daybook("callbacks", "list", "--job", "quiet")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "No callbacks or messages match.\n")


@pytest.mark.parametrize("columns", one_in(3, [40, 80, 120]))
@pytest.mark.usefixtures("run_id")
def test_on_a_terminal_one_of_them_is_one_line(columns: int) -> None:
    head, *lines = on_a_terminal(columns, "callbacks", "list")
    assert [re.split(" +", line)[0] for line in lines] == ["a" * 8, "b" * 8, "c" * 8]
    assert "STATUS" in head
    assert max(map(len, lines)) <= columns
    assert all(" failed" in line or " pending" in line or " delivered" in line for line in lines)


@pytest.mark.parametrize("ref", [FAILED, FAILED[:8], FAILED[4:12]])
@pytest.mark.usefixtures("run_id")
def test_show_gives_each_try_and_what_was_sent(daybook: Say, ref: str) -> None:
    found = daybook("callbacks", "show", ref, "--json").json
    assert found.keys() == ONE | {"subject", "body", "tries", "paused_until"}
    assert found["body"] == '{"version": 1, "event": "failed"}'
    assert [each["status_code"] for each in found["tries"]] == [None, 500]
    assert found["tries"][0].keys() == {"at", "seconds", "status_code", "error"}
    assert found["tries"][0]["at"] == "2026-11-02T08:00:01Z"
    assert found["paused_until"] is None  # it is not tried again

    out = daybook("callbacks", "show", ref).out
    assert out.startswith(f"failed of brief to {HOOK}: failed\n")
    assert re.search(r"^  tries +\S+ 08:00:01  0.2 s  connection refused$", out, re.MULTILINE)
    assert re.search(r"^ +\S+ 08:00:01  0.2 s  500  it answered 500", out, re.MULTILINE)
    assert '\n    "version": 1,\n' in out


@pytest.mark.usefixtures("run_id")
def test_show_of_one_that_waits_says_for_what(daybook: Say) -> None:
    found = daybook("callbacks", "show", PENDING, "--json").json
    assert found["paused_until"] == found["next_at"] == "2099-01-01T00:00:00Z"
    out = daybook("callbacks", "show", PENDING).out
    assert re.search(r"^  next try +2099-01-01 00:00:00$", out, re.MULTILINE)
    assert re.search(r"^  held back +until 2099-01-01 00:00:00", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        ([FAILED[:8]], {FAILED: "pending"}),
        ([FAILED[4:10], PENDING], {FAILED: "pending"}),
        (["--failed"], {FAILED: "pending"}),
    ],
)
def test_retry_begins_anew_with_the_tries_as_well(
    daybook: Say, book: Any, typed: list[str], status: dict[str, str]
) -> None:
    said = daybook("callbacks", "retry", *typed, "--json")
    now = SYSTEM_CLOCK.now()
    count = max(len([each for each in typed if each != "--failed"]), 1)
    assert (said.code, said.json) == (0, {"retried": count})
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
def test_refused_and_nothing_is_changed(
    daybook: Say, book: Any, typed: list[str], code: int, said_of_it: list[str]
) -> None:
    before = book("id, status, attempts, next_at")
    said = daybook("callbacks", *typed)
    assert (said.code, said.out) == (code, "")
    for each in said_of_it:
        assert each in said.err
    error = daybook("callbacks", *typed, "--json").json["error"]
    assert error["code"] == {2: "invalid_input", 3: "not_found"}[code]
    assert book("id, status, attempts, next_at") == before


def test_runs_have_their_delivery_beside_their_status(daybook: Say, run_id: str) -> None:
    head, line = daybook("runs", "brief").out.splitlines()
    columns = head.split()
    assert columns.index("DELIVERY") == columns.index("STATUS") + 1
    assert re.search(r" waiting +failed ", line)
    (run,) = daybook("runs", "brief", "--json").json
    assert (run["id"], run["delivery"]) == (run_id, "failed")


def test_show_of_a_run_says_what_became_of_each(daybook: Say, run_id: str) -> None:
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
def test_show_of_a_job_says_who_is_told(daybook: Say) -> None:
    job = daybook("show", "brief", "--json").json
    assert job["recipients"] == {"completed": [HOOK], "failed": ["inbox", HOOK]}
    assert job["notify"]["on_fail"] == NOTIFY["on_fail"]
    out = daybook("show", "brief").out
    told = rf"^  notifies +completed, failed → {HOOK}\n +failed → inbox$"
    assert re.search(told, out, re.MULTILINE)
    assert re.search(r"^  notifies +failed → inbox$", daybook("show", "quiet").out, re.MULTILINE)


@pytest.mark.usefixtures("run_id")
@pytest.mark.slow
def test_they_start_without_prefect() -> None:
    for typed in (["list"], ["show", FAILED], ["retry", FAILED]):
        names = imported("callbacks", *typed)
        assert "sqlalchemy" in names
        assert not names & {"prefect", "rich"}
    for typed in ([], ["destinations"], ["destinations", "add", "--help"]):
        assert not imported("callbacks", *typed) & {"prefect", "sqlalchemy", "sqlmodel"}


def test_an_empty_ledger_says_how_to_be_told(
    daybook: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    said = daybook("callbacks", "list")
    assert (said.code, said.out) == (0, "")
    assert "--on-fail" in said.err
    assert daybook("callbacks", "list", "--json").json == []
    assert daybook("callbacks", "retry", "--failed", "--json").json == {"retried": 0}


@pytest.mark.parametrize(
    "verb",
    [
        *("callbacks list", "callbacks show", "callbacks retry", "inbox"),
        *(f"callbacks destinations {each}" for each in ("add", "list", "rotate", "test", "remove")),
    ],
)
def test_help_has_an_example(daybook: Say, verb: str) -> None:
    said = daybook(*verb.split(), "--help")
    assert said.code == 0
    assert f"Example: daybook {verb}" in said.out


def test_help_of_each_group_says_what_is_in_it(daybook: Say) -> None:
    assert "List callbacks and messages" in daybook("callbacks").out
    assert "Remove a destination" in daybook("callbacks", "destinations", "--help").out


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"status": "delivered", "attempts": 0}, "delivered"),
        ({"status": "delivered", "attempts": 3}, "delivered after 3 tries"),
        ({"status": "suppressed", "note": "withdrawn: why"}, "withdrawn: why"),
        ({"status": "failed", "attempts": 1, "error": "no\nyes"}, "failed after 1 try: no"),
    ],
)
def test_what_became_of_one_in_words(changed: dict[str, Any], said: str) -> None:
    one = {"attempts": 1, "error": None, "note": "", "next_at": None} | changed
    assert formatting.delivery_state(one) == said


TOLD_INBOX = {"to": "inbox", "chat_id": "", "status": "delivered", "attempts": 0, "error": None}


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"delivery": "not_requested"}, ""),
        ({"delivery": "not_requested", "deliveries": []}, ""),
        ({"delivery": "delivered"}, "delivered"),  # of `up`, which tells no parts
        (
            {"delivery": "suppressed", "deliveries": [TOLD_INBOX]},
            "inbox: delivered\nnot sent: a repeat, nothing to report, or the job is silent",
        ),
    ],
)
def test_who_was_told_of_a_run_in_words(run: dict[str, Any], said: str) -> None:
    assert formatting.delivery_details(run) == said


def test_a_try_that_is_due_is_not_said_to_be_in_the_past() -> None:
    past, later = "2026-11-02T08:00:00Z", LATER.isoformat()
    assert formatting.next_try(past) == formatting.next_try(past, None) == "now"
    assert (
        formatting.next_try(past, later)
        == formatting.next_try(later, past)
        == formatting.local_time(later)
    )
    waits = {"status": "pending", "attempts": 2, "error": "refused", "next_at": past}
    assert formatting.delivery_state(waits) == "pending, 2 tries, next now: refused"
