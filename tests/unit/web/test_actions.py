"""Actions on Daybook's pages, submitted as by a browser without JavaScript: what they change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import pytest
import sqlalchemy
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlmodel import SQLModel, select

from daybook.api import runs
from daybook.delivery.views import RunDetails
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow, OutboxRow, RunRow
from daybook.prefect import client as connection
from daybook.prefect import reconcile
from daybook.prefect.reconcile import ReconcileReport
from daybook.web.login import CSRF_FIELD, PageLogin
from daybook.web.pages.forms import MESSAGES
from tests.unit.web.conftest import OWN, client
from tests.world import World

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def prefect_is_away() -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield


@pytest.fixture
def runs_are_requested_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request of a run write the ledger, and create no run in Prefect."""

    async def request_only(
        ledger: Ledger,
        stored: StoredJob,
        request: Callable[[Ledger, StoredJob], Awaitable[RunRow]],
        *_: Any,
    ) -> RunDetails:
        return await runs._view(ledger, (await request(ledger, stored)).id)

    monkeypatch.setattr(runs, "_run", request_only)


@pytest.fixture
def nothing_to_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Prefect answer, and agree with the ledger in everything."""

    async def report(*_: Any) -> ReconcileReport:
        return ReconcileReport()

    monkeypatch.setattr(connection, "connected", nullcontext)
    monkeypatch.setattr(connection, "check_connection", report)
    monkeypatch.setattr(reconcile, "reconcile_all", report)
    monkeypatch.setattr(reconcile, "reconcile_changed_job", report)


@dataclass
class Form:
    """A form of a page: its fields with their values, and the addresses of its buttons."""

    action: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[str] = field(default_factory=list)
    labelled: set[str] = field(default_factory=set)


class Forms(HTMLParser):
    """The forms of a page that write, and its problems by the id of their element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.problems: dict[str, str] = {}
        self.invalid: list[str] = []
        self.status = ""
        self._form: Form | None = None
        self._in_label = False
        self._read: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and given.get("method") == "post":
            self._form = Form(given["action"])
            self.forms.append(self._form)
        elif tag == "label":
            self._in_label = True
        elif tag in ("input", "textarea") and self._form is not None:
            self._form.fields.append((given["name"], given.get("value", "")))
            if self._in_label:
                self._form.labelled.add(given["name"])
            if given.get("aria-invalid"):
                self.invalid.append(given["name"])
                assert given["aria-describedby"] == f"{given['name']}-problem"
        elif tag == "button" and self._form is not None:
            self._form.buttons.append(given.get("formaction", self._form.action))
        if given.get("role") in ("alert", "status"):
            self._read = given.get("id", "") if given["role"] == "alert" else "status"

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "label":
            self._in_label = False
        elif tag in ("p", "section"):
            self._read = None

    def handle_data(self, data: str) -> None:
        if self._read == "status":
            self.status += data
        elif self._read is not None:
            self.problems[self._read] = self.problems.get(self._read, "") + data


async def submit(
    browser: httpx.AsyncClient, page: str, action: str, **typed: str
) -> tuple[httpx.Response, Forms]:
    """Press the button of the page's form that posts to ``action``; return the answer and its page.

    Hidden fields are sent as they are; ``choice`` selects among forms with the same address.
    """
    choice = typed.pop("choice", None)
    forms = [
        each
        for each in Forms((await browser.get(page)).text).forms
        if action in each.buttons and (choice is None or choice in dict(each.fields).values())
    ]
    assert len(forms) == 1, (page, action, forms)
    form = forms[0]
    assert typed.keys() <= form.labelled
    fields = [(name, typed.get(name, value)) for name, value in form.fields]
    answer = await post(browser, action, fields)
    if answer.status_code == 303:
        address = answer.headers["location"]
        assert urlsplit(address).netloc == ""
        return answer, Forms((await browser.get(address)).text)
    return answer, Forms(answer.text)


async def post(
    browser: httpx.AsyncClient,
    path: str,
    fields: Sequence[tuple[str, str]],
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    kind = {"content-type": "application/x-www-form-urlencoded"}
    headers = {"origin": OWN} if headers is None else headers
    return await browser.post(path, content=urlencode(fields), headers={**kind, **headers})


async def everything(world: World) -> dict[str, list[Any]]:
    """Return all rows of all tables."""
    async with world.ledger.read() as session:
        return {
            each.name: sorted((await session.execute(sqlalchemy.select(each))).all(), key=str)
            for each in SQLModel.metadata.sorted_tables
        }


async def send(world: World, key: str, status: str, **fields: Any) -> str:
    """Add a delivery; return its id."""
    now = world.ledger.now()
    given: dict[str, Any] = {
        "purpose": "callback",
        "event": "failed",
        "lane": "https://example.org",
        "address": "https://example.org/hook",
        "subject": key,
        "body": "{}",
        "attempts": 3,
    }
    row = OutboxRow(
        key=key, status=status, next_at=now, created_at=now, finished_at=now, **(given | fields)
    )
    async with world.ledger.write() as session:
        session.add(row)
        await session.flush()
        return str(row.id)


async def message(world: World, key: str) -> str:
    """Add an unread message of the inbox; return its id."""
    fields = {"purpose": "message", "lane": "channel:inbox", "address": "inbox"}
    return await send(world, key, "delivered", **fields)


async def delivery(world: World, ref: str) -> OutboxRow:
    async with world.ledger.read() as session:
        return await session.get_one(OutboxRow, ref)


async def test_run_now_requests_one_run_even_if_the_form_is_sent_twice(
    world: World, browser: httpx.AsyncClient, runs_are_requested_only: None
) -> None:
    job = await world.jobs.add("brief")
    page, action = f"/jobs/{job.id}", f"/jobs/{job.id}/run"
    answer, after = await submit(browser, page, action)
    (row,) = await world.runs.rows(job)
    assert (row.status, row.trigger) == ("waiting", "manual")
    assert urlsplit(answer.headers["location"]).path == f"/runs/{row.id}"
    assert after.status == MESSAGES["requested"]
    form = next(
        each for each in Forms((await browser.get(page)).text).forms if each.action == action
    )
    for _ in range(2):
        assert (await post(browser, action, form.fields)).status_code == 303
    assert len(await world.runs.rows(job)) == 2


async def test_a_run_that_prefect_cannot_start_is_not_requested(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("brief")
    answer, after = await submit(browser, f"/jobs/{job.id}", f"/jobs/{job.id}/run")
    assert answer.status_code == 503
    assert "127.0.0.1:9" in after.problems[""]
    assert await world.runs.rows(job) == []


async def test_pause_stores_its_note_and_resume_enables(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("brief")
    page = f"/jobs/{job.id}"
    _, after = await submit(browser, page, f"{page}/pause", note="on holiday")
    assert after.status == MESSAGES["paused"]
    stored = await world.jobs.get("brief")
    assert (stored.job.enabled, stored.row.disabled_reason) == (False, "paused: on holiday")
    await submit(browser, page, f"{page}/resume")
    stored = await world.jobs.get("brief")
    assert (stored.job.enabled, stored.row.disabled_reason) == (True, "")


async def test_a_note_that_is_too_long_is_refused_at_its_field_and_kept(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("brief")
    before = await everything(world)
    note = '"><script>' + "x" * 5_000
    answer, after = await submit(browser, f"/jobs/{job.id}", f"/jobs/{job.id}/pause", note=note)
    assert answer.status_code == 400
    assert after.invalid == ["note"]
    assert after.problems["note-problem"].startswith("note: ")
    assert ("note", note) in [pair for each in after.forms for pair in each.fields]
    assert "<script>x" not in answer.text
    assert await everything(world) == before


async def test_skip_next_and_its_undo(world: World, browser: httpx.AsyncClient) -> None:
    job = await world.jobs.add("brief", cron="0 * * * *")
    page = f"/jobs/{job.id}"
    await submit(browser, page, f"{page}/skip")
    now = world.ledger.now()
    following = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    skips = (await world.jobs.row(job.id)).skips
    assert [datetime.fromisoformat(each) for each in skips] == [following]
    await submit(browser, page, f"{page}/unskip")
    assert (await world.jobs.row(job.id)).skips == []


async def test_snooze_and_its_end(world: World, browser: httpx.AsyncClient) -> None:
    job = await world.jobs.add("brief")
    page = f"/jobs/{job.id}"
    await submit(browser, page, f"{page}/snooze", until="2h")
    snoozed_until = (await world.jobs.row(job.id)).snoozed_until
    assert snoozed_until is not None
    assert timedelta() <= snoozed_until - world.at(hours=2) < timedelta(seconds=1)
    answer, after = await submit(browser, page, f"{page}/snooze", until="yesterday")
    assert (answer.status_code, after.invalid) == (400, ["until"])
    assert (await world.jobs.row(job.id)).snoozed_until == snoozed_until
    await submit(browser, page, f"{page}/unsnooze")
    assert (await world.jobs.row(job.id)).snoozed_until is None


async def test_remove_archives_the_job_and_its_page_offers_nothing_more(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("brief")
    answer, after = await submit(browser, f"/jobs/{job.id}", f"/jobs/{job.id}/remove")
    assert urlsplit(answer.headers["location"]).path == "/jobs"
    assert after.status == MESSAGES["removed"]
    assert (await world.jobs.row(job.id)).archived_at == world.ledger.now()
    assert Forms((await browser.get(f"/jobs/{job.id}")).text).forms == []


@pytest.mark.parametrize(("prefer", "prompt"), [("ledger", "Ours"), ("prefect", "Theirs")])
async def test_a_conflict_is_resolved_for_either_side(
    world: World, browser: httpx.AsyncClient, nothing_to_sync: None, prefer: str, prompt: str
) -> None:
    job = await world.jobs.add("brief", prompt="Ours", cron="0 * * * *")
    await dispute(world, job)
    page = f"/jobs/{job.id}"
    text = (await browser.get(page)).text
    assert "Ours" in text
    assert "Theirs" in text
    _, after = await submit(browser, page, f"{page}/resolve", choice=prefer)
    assert after.status == MESSAGES["resolved"]
    row = await world.jobs.row(job.id)
    assert row.conflict is None
    assert (await world.jobs.get("brief")).job.parameters()["prompt"] == prompt


async def dispute(world: World, job: StoredJob) -> None:
    theirs = {**job.job.parameters(), "prompt": "Theirs"}
    async with world.ledger.write() as session:
        row = await session.get_one(JobRow, job.id)
        row.conflict = {"at": world.ledger.now().isoformat(), "fields": {"parameters": theirs}}
        session.add(row)


async def test_a_waiting_run_is_cancelled(world: World, browser: httpx.AsyncClient) -> None:
    run = await world.runs.request(await world.jobs.add("brief"))
    _, after = await submit(browser, f"/runs/{run.id}", f"/runs/{run.id}/cancel")
    assert (await world.runs.row(run)).status == "cancelled"
    assert after.status == MESSAGES["cancelled"]
    assert [each.action for each in after.forms] == [f"/runs/{run.id}/retry"]


async def test_a_run_in_progress_is_not_cancelled_while_prefect_is_away(
    world: World, browser: httpx.AsyncClient
) -> None:
    run_id = (await world.runs.running(await world.jobs.add("brief"))).run_id
    before = await everything(world)
    answer, after = await submit(browser, f"/runs/{run_id}", f"/runs/{run_id}/cancel")
    assert answer.status_code == 503
    assert "127.0.0.1:9" in after.problems[""]
    assert await everything(world) == before


async def test_an_action_on_what_does_not_exist_has_a_page(browser: httpx.AsyncClient) -> None:
    (form,) = Forms((await browser.get("/jobs/new")).text).forms
    for path in ("/jobs/no/pause", "/runs/no/cancel", "/callbacks/no/retry", "/inbox/no/read"):
        answer = await post(browser, path, form.fields)
        assert answer.status_code == 404, path
        assert "<main" in answer.text


async def test_an_ended_run_is_retried(
    world: World, browser: httpx.AsyncClient, runs_are_requested_only: None
) -> None:
    job = await world.jobs.add("brief")
    ended = (await world.runs.finished(job, Status.FAILED, error="no")).run_id
    answer, _ = await submit(browser, f"/runs/{ended}", f"/runs/{ended}/retry")
    (again,) = [each for each in await world.runs.rows(job) if each.id != ended]
    assert (again.retry_of, again.trigger) == (ended, "retry")
    assert urlsplit(answer.headers["location"]).path == f"/runs/{again.id}"


async def test_one_delivery_is_retried_or_all_that_failed(
    world: World, browser: httpx.AsyncClient
) -> None:
    first, second = [await send(world, key, "failed") for key in ("a", "b")]
    done = await send(world, "c", "delivered")
    await submit(browser, f"/callbacks/{first}", f"/callbacks/{first}/retry")
    found = [(await delivery(world, each)).status for each in (first, second, done)]
    assert found == ["pending", "failed", "delivered"]
    assert (await delivery(world, first)).attempts == 0
    await submit(browser, "/callbacks", "/callbacks/retry")
    found = [(await delivery(world, each)).status for each in (first, second, done)]
    assert found == ["pending", "pending", "delivered"]


async def test_one_message_is_marked_as_read_or_all_that_the_list_showed(
    world: World, browser: httpx.AsyncClient
) -> None:
    one, two, three = [await message(world, key) for key in ("a", "b", "c")]
    await submit(browser, f"/inbox/{one}", f"/inbox/{one}/read")
    read = [(await delivery(world, each)).read_at is not None for each in (one, two, three)]
    assert read == [True, False, False]
    (form,) = Forms((await browser.get("/inbox")).text).forms
    late = await message(world, "d")
    assert (await post(browser, "/inbox/read", form.fields)).status_code == 303
    read = [(await delivery(world, each)).read_at is not None for each in (two, three, late)]
    assert read == [True, True, False]
    token = [(name, value) for name, value in form.fields if name == CSRF_FIELD]
    assert (await post(browser, "/inbox/read", token)).status_code == 400
    assert (await delivery(world, late)).read_at is None


async def test_a_task_is_cancelled_and_queued_again(
    world: World, browser: httpx.AsyncClient
) -> None:
    first = await world.tasks.add("tidy up")
    page = f"/tasks/{first.task_id}"
    await submit(browser, page, f"{page}/cancel", reason="not needed")
    assert (await world.tasks.run(first.id)).status == "cancelled"
    assert (await world.tasks.events(first.id))[-1].reason == "not needed"
    _, after = await submit(browser, page, f"{page}/retry")
    assert after.status == MESSAGES["queued"]
    assert {each.id: each.status for each in await world.tasks.runs()}.pop(first.id) == "cancelled"
    assert sorted(each.status for each in await world.tasks.runs()) == ["cancelled", "queued"]


NEW = {"name": "brief", "schedule": "every weekday at 9:00", "prompt": "What is new?\nShortly."}


async def test_a_job_is_previewed_and_added(world: World, browser: httpx.AsyncClient) -> None:
    before = await everything(world)
    answer, after = await submit(browser, "/jobs/new", "/jobs/new/preview", **NEW)
    assert answer.status_code == 200
    assert "at 09:00 on weekdays" in after.status
    assert answer.text.count("<li>") - (await browser.get("/jobs/new")).text.count("<li>") == 5
    assert dict(after.forms[0].fields)["schedule"] == NEW["schedule"]
    assert NEW["prompt"] in answer.text
    assert await everything(world) == before
    zone = "Europe/Berlin"
    answer, after = await submit(browser, "/jobs/new", "/jobs/new", timezone=zone, **NEW)
    assert after.status == MESSAGES["added"]
    stored = await world.jobs.get("brief")
    assert urlsplit(answer.headers["location"]).path == f"/jobs/{stored.id}"
    assert stored.job.parameters()["prompt"] == NEW["prompt"]
    assert stored.job.schedule.timezone == zone
    assert stored.row.created_by == "web"


async def test_a_form_of_a_new_job_that_is_sent_twice_adds_one(
    world: World, browser: httpx.AsyncClient
) -> None:
    (form,) = Forms((await browser.get("/jobs/new")).text).forms
    fields = [(name, NEW.get(name, value)) for name, value in form.fields]
    for _ in range(2):
        assert (await post(browser, "/jobs/new", fields)).status_code == 303
    async with world.ledger.read() as session:
        assert len((await session.execute(select(JobRow))).all()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schedule", ""),
        ("schedule", "now and then"),
        ("prompt", ""),
        ("name", "x" * 1_000),
        ("timezone", "Mars/Base"),
    ],
)
async def test_a_mistake_in_a_new_job_is_shown_at_its_field_and_nothing_is_stored(
    world: World, browser: httpx.AsyncClient, name: str, value: str
) -> None:
    before = await everything(world)
    answer, after = await submit(browser, "/jobs/new", "/jobs/new", **{**NEW, name: value})
    assert (answer.status_code, after.invalid) == (400, [name])
    assert after.problems[f"{name}-problem"].startswith(f"{name}: ")
    assert await everything(world) == before


async def test_what_a_page_says_after_an_action_is_not_in_its_address(
    browser: httpx.AsyncClient,
) -> None:
    assert "wire the money" not in (await browser.get("/jobs?done=wire+the+money")).text


async def test_a_form_that_is_no_text_is_refused(browser: httpx.AsyncClient) -> None:
    body = f"{CSRF_FIELD}=\xff".encode("latin-1")
    answer = await browser.post("/jobs/new", content=body, headers={"origin": OWN})
    assert answer.status_code == 403


async def test_no_write_is_done_without_the_token_the_origin_and_the_session(
    world: World,
    server: PageLogin,
    browser: httpx.AsyncClient,
    nothing_to_sync: None,
    runs_are_requested_only: None,
) -> None:
    """Each route that accepts a write, of the application's own table, and each kind of attack."""
    job = await world.jobs.add("brief")
    await dispute(world, job)
    run = await world.runs.request(job)
    refs = {
        "jobs": job.id,
        "runs": run.id,
        "callbacks": await send(world, "a", "failed"),
        "inbox": await message(world, "b"),
        "tasks": (await world.tasks.add("tidy up")).task_id,
    }
    writes = [
        each.path
        for each in server.application.routes  # type: ignore[attr-defined]
        if not (getattr(each, "methods", None) or {"GET"}) <= {"GET", "HEAD"}
    ]
    assert len(writes) > len(refs)
    (form,) = Forms((await browser.get("/jobs/new")).text).forms
    token = dict(form.fields)[CSRF_FIELD]
    typed = [*NEW.items(), ("until", "2h"), ("prefer", "prefect"), ("message", refs["inbox"])]
    own = {"origin": OWN}
    before = await everything(world)
    async with client(server) as stranger, client(server) as other:
        await other.get(server.new_link())
        (form,) = Forms((await other.get("/jobs/new")).text).forms
        foreign = dict(form.fields)[CSRF_FIELD]
        assert foreign != token
        for path in writes:
            address = path.replace("{ref}", refs[path.split("/")[1]])
            assert "{" not in address
            for who, sent, headers in (
                (browser, None, own),
                (browser, "", own),
                (browser, "x" + token[1:] if token[0] != "x" else "y", own),
                (browser, foreign, own),
                (browser, token, {"origin": "http://evil.example"}),
                (browser, token, {"origin": "http://127.0.0.1:9999"}),
                (browser, token, {"origin": "null"}),
                (browser, token, {}),
                (browser, token, own | {"sec-fetch-site": "same-site"}),
                (stranger, token, own),
            ):
                fields = [*typed, *([] if sent is None else [(CSRF_FIELD, sent)])]
                answer = await post(who, address, fields, headers)
                assert answer.status_code == 403, (address, sent, headers)
            assert (await browser.get(f"{address}?{CSRF_FIELD}={token}")).status_code in (
                200,
                404,
                405,
            )
    assert await everything(world) == before
