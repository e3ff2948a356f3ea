"""Actions on Daybook's pages, submitted as by a browser without JavaScript: what they change."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from daybook import api
from daybook.features.tasks import page as task_page
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import sharing
from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow, OutboxRow
from daybook.web.login import CSRF_FIELD
from daybook.web.pages.forms import MESSAGES
from daybook.web.pages.site import NOTICE_SECONDS
from tests.unit.web.conftest import OWN
from tests.unit.web.submitting import Forms, everything, post, submit
from tests.world import World

pytestmark = pytest.mark.anyio


async def send(world: World, key: str, status: str, **fields: Any) -> str:
    """Add a delivery; return its id."""
    now = world.ledger.now()
    given: dict[str, Any] = {
        "purpose": "callback",
        "event": "failed",
        "queue": "https://example.org",
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
    fields = {"purpose": "message", "queue": "channel:inbox", "address": "inbox"}
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


async def test_the_inbox_names_the_event_of_an_alert_and_an_approval_is_no_failure(
    world: World, browser: httpx.AsyncClient
) -> None:
    for event, icon in (("approval", "waiting"), ("failed", "failed"), ("budget", "failed")):
        fields = {"purpose": "alert", "queue": "channel:inbox", "address": "inbox"}
        one = await send(world, event, "delivered", event=event, **fields)
        for page in ("/inbox", f"/inbox/{one}"):
            shown = re.findall(
                r'class="status s-(\w+)">.*?</svg>(\w+)', (await browser.get(page)).text
            )
            assert (icon, event) in shown


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
    assert after.status == task_page.MESSAGES["queued"]
    assert {each.id: each.status for each in await world.tasks.runs()}.pop(first.id) == "cancelled"
    assert sorted(each.status for each in await world.tasks.runs()) == ["cancelled", "queued"]


async def test_a_page_says_for_a_minute_what_an_action_did(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("brief")
    answer, after = await submit(browser, f"/jobs/{job.id}", f"/jobs/{job.id}/skip")
    assert after.status == MESSAGES["skipped"]
    address = answer.headers["location"]
    world.clock.move(timedelta(seconds=NOTICE_SECONDS))
    assert Forms((await browser.get(address)).text).status == MESSAGES["skipped"]
    world.clock.move(timedelta(seconds=2))
    assert Forms((await browser.get(address)).text).status == ""
    for address in (
        "/jobs?done=skipped",
        "/jobs?done=skipped&at=x",
        "/jobs?done=skipped&at=" + 99 * "9",
    ):
        assert Forms((await browser.get(address)).text).status == ""


async def test_today_has_a_button_for_what_a_verb_fixes(
    world: World, browser: httpx.AsyncClient, runs_are_requested_only: None
) -> None:
    failing, paused = await world.jobs.add("failing"), await world.jobs.add("paused")
    await world.runs.finished(failing, Status.FAILED, error="no")
    await world.jobs.edit("paused", enabled=False)
    buttons = {each for form in Forms((await browser.get("/")).text).forms for each in form.buttons}
    run, resume = f"/jobs/{failing.id}/run", f"/jobs/{paused.id}/resume"
    assert buttons == {run, resume, "/sync"}
    await submit(browser, "/", resume)
    assert (await world.jobs.get("paused")).job.enabled
    before = len(await world.runs.rows(failing))
    answer, _ = await submit(browser, "/", run)
    assert answer.headers["location"].startswith("/runs/")
    assert len(await world.runs.rows(failing)) == before + 1


async def test_today_brings_waiting_changes_to_prefect(
    world: World, browser: httpx.AsyncClient, nothing_to_sync: None
) -> None:
    await world.jobs.add("brief")
    _, after = await submit(browser, "/", "/sync")
    assert MESSAGES["synced"] in after.status


async def test_what_a_page_says_after_an_action_is_not_in_its_address(
    browser: httpx.AsyncClient,
) -> None:
    assert "wire the money" not in (await browser.get("/jobs?done=wire+the+money")).text


async def test_a_form_that_is_no_text_is_refused(browser: httpx.AsyncClient) -> None:
    body = f"{CSRF_FIELD}=\xff".encode("latin-1")
    answer = await browser.post("/jobs/new", content=body, headers={"origin": OWN})
    assert answer.status_code == 403


async def test_selected_jobs_are_paused_and_resumed(
    world: World, browser: httpx.AsyncClient
) -> None:
    jobs = [await world.jobs.add(name) for name in ("a", "b", "c")]
    (form,) = Forms((await browser.get("/jobs")).text).forms
    assert form.buttons == ["/jobs/tag", "/jobs/untag", "/jobs/pause", "/jobs/resume"]
    chosen = [*form.fields, ("job", jobs[0].id), ("job", jobs[2].id)]
    for path, enabled in (("/jobs/pause", [False, True, False]), ("/jobs/resume", [True] * 3)):
        answer = await post(browser, path, chosen)
        assert "a, c" in (await browser.get(answer.headers["location"])).text
        async with world.ledger.read() as session:
            rows = [await session.get_one(JobRow, each.id) for each in jobs]
            now = [row.disabled_reason == "" for row in rows]
        assert now == enabled, path
    answer = await post(browser, "/jobs/pause", form.fields)
    assert (answer.status_code, "select a job in the list" in answer.text) == (400, True)


async def test_selected_jobs_get_and_lose_a_tag(world: World, browser: httpx.AsyncClient) -> None:
    jobs = [
        await world.jobs.add(name, tags=tags, on_demand=True)
        for name, tags in (("a", ["x"]), ("b", []))
    ]
    (form,) = Forms((await browser.get("/jobs")).text).forms
    hidden = [each for each in form.fields if each[0] != "tag"]
    chosen = [*hidden, *(("job", each.id) for each in jobs)]

    async def tags_after(path: str, tag: str) -> list[list[str]]:
        answer = await post(browser, path, [*chosen, ("tag", tag)])
        assert "a, b" in (await browser.get(answer.headers["location"])).text
        with sharing(world.ledger):
            return [(await api.jobs.show(each.id)).tags for each in jobs]

    assert await tags_after("/jobs/tag", " news ") == [["x", "news"], ["news"]]
    assert await tags_after("/jobs/tag", "news") == [["x", "news"], ["news"]]
    assert await tags_after("/jobs/untag", "x") == [["news"], ["news"]]
    for tag, problem in (("", "is blank"), ("daybook:me", "is reserved for Daybook")):
        answer = await post(browser, "/jobs/tag", [*chosen, ("tag", tag)])
        assert (answer.status_code, problem in answer.text) == (400, True)


async def test_answers_are_marked_as_read_and_muted_on_today(
    world: World, browser: httpx.AsyncClient
) -> None:
    for name in ("loud", "calm"):
        job = await world.jobs.add(name, prompt="x", cron="0 * * * *")
        world.passes(minutes=1)
        await world.runs.finished(job, Status.SUCCEEDED, output=f"# Of {name}\n\nwords of {name}")
    page = (await browser.get("/")).text
    assert "2 unread" in page
    _, after = await submit(browser, "/", "/answers/read")
    assert after.status == MESSAGES["seen"]
    page = (await browser.get("/")).text
    assert ("words of calm" in page, "Of calm" in page, "unread" in page) == (False, True, False)
    await submit(browser, "/", f"/jobs/{job.id}/mute")
    page = (await browser.get("/")).text
    assert ("Of calm" in page, "1 muted job answered" in page) == (False, True)
    await submit(browser, "/", f"/jobs/{job.id}/unmute")
    assert "Of calm" in (await browser.get("/")).text
    for wrong in ("", "yesterday", "2026-11-29"):
        form = Forms((await browser.get("/")).text).forms[0]
        fields = [(CSRF_FIELD, dict(form.fields)[CSRF_FIELD]), ("until", wrong)]
        assert (await post(browser, "/answers/read", fields)).status_code == 400
