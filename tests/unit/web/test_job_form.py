"""The form of a job: a new job, and the edit of one, submitted as without JavaScript."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlmodel import select

from daybook.jobs.store import StoredJob
from daybook.ledger.tables import JobRow
from daybook.web.pages.forms import MESSAGES
from tests.unit.web.submitting import Forms, everything, post, submit
from tests.world import World

pytestmark = pytest.mark.anyio


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


async def edit(
    world: World, browser: httpx.AsyncClient, job: StoredJob, **typed: str
) -> tuple[httpx.Response, Forms]:
    page = f"/jobs/{job.id}/edit"
    return await submit(browser, page, page, **typed)


async def test_an_edit_changes_only_what_was_typed_and_says_what_changed(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add(
        "brief",
        prompt="What is\nnew?",
        cron="0 8 * * *",
        timezone="Europe/Berlin",
        retries=2,
        tags=["a", "b"],
        channel="inbox",
        events=["failed", "completed"],
        exclude=["2030-12-24"],
        check={"watch_url": "https://example.org/a"},
        metadata={"team": "blue"},
    )
    before = (await world.jobs.get("brief")).job
    answer, after = await edit(world, browser, job, schedule="every day at 7:00", retries="4")
    assert urlsplit(answer.headers["location"]).path == f"/jobs/{job.id}"
    assert MESSAGES["edited"] in after.status
    page = (await browser.get(answer.headers["location"])).text
    for part in ("<dt>retries</dt>", "<del>2</del><ins>4</ins>", "<del>at 08:00 every day"):
        assert part in page
    stored = await world.jobs.get("brief")
    assert stored.job.policy == before.policy.model_copy(update={"retries": 4})
    assert stored.job.schedule.to_json()["expr"] == "0 7 * * *"
    assert stored.revision.source == "web"
    unchanged = {"policy", "schedule"}
    assert stored.job.model_dump(exclude=unchanged) == before.model_dump(exclude=unchanged)


async def test_a_form_that_is_saved_as_it_is_changes_nothing(
    world: World, browser: httpx.AsyncClient
) -> None:
    texts: dict[str, dict[str, Any]] = {
        "line-breaks": {"prompt": "\n\na\r\nb\n", "description": "one\ntwo", "every": "90s"},
        "once": {"prompt": "x", "at": "2031-01-15T14:30:00+01:00", "delete_after_run": True},
        "later": {"prompt": "x", "after": "once", "on": "any", "deadline": "2h", "stagger": "5m"},
        "by-hand": {"prompt": "x", "on_demand": True, "session_key": "s", "events": ["missed"]},
        "call": {
            "prompt": None,
            "url": "https://example.org/a?b=c",
            "headers": {"x": "y"},
            "cron": "@daily",
        },
        "tool": {
            "prompt": None,
            "tool": "search.reindex",
            "params": {"a": 1},
            "cron": "0 9 * * 1-5",
        },
        "beat": {
            "prompt": None,
            "kind": "heartbeat",
            "every": "30m",
            "active_hours": "09:00-17:00",
        },
    }
    jobs = {name: await world.jobs.add(name, **given) for name, given in texts.items()}
    before = await everything(world)
    for name, job in jobs.items():
        _, after = await edit(world, browser, job)
        assert after.status.strip() == MESSAGES["unchanged"], name
    assert await everything(world) == before


async def test_headers_parameters_and_variables_are_not_in_the_form_and_are_kept(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add(
        "call",
        prompt=None,
        url="https://example.org/a",
        cron="0 9 * * *",
        headers={"authorization": "Bearer s3cr3t-token"},
        metadata={"note": "m3t4"},
    )
    page = (await browser.get(f"/jobs/{job.id}/edit")).text
    assert "s3cr3t-token" not in page
    assert "m3t4" not in page
    assert "kept as they are: headers, metadata" in page
    await edit(world, browser, job, method="PUT", body="b")
    stored = await world.jobs.get("call")
    parameters = stored.job.parameters()
    assert parameters["headers"] == {"authorization": "Bearer s3cr3t-token"}
    assert (parameters["method"], parameters["body"]) == ("PUT", "b")
    assert stored.job.metadata == {"note": "m3t4"}


async def test_an_edit_made_meanwhile_elsewhere_is_shown_and_not_overwritten(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("brief", prompt="Ours", cron="0 8 * * *", retries=2)
    page = f"/jobs/{job.id}/edit"
    (opened,) = Forms((await browser.get(page)).text).forms
    await world.jobs.edit("brief", prompt="Theirs", retries=5)
    before = await everything(world)
    typed = {"retries": "3", "timeout": "5m"}
    fields = [(name, typed.get(name, value)) for name, value in opened.fields]
    answer = await post(browser, page, fields)
    assert answer.status_code == 400
    assert "brief was changed meanwhile" in answer.text
    assert "<del>Ours</del><ins>Theirs</ins>" in answer.text
    assert "<del>5</del><ins>3</ins>" in answer.text
    assert await everything(world) == before
    (form,) = Forms(answer.text).forms
    shown = dict(form.fields)
    assert (shown["prompt"], shown["retries"], shown["timeout"]) == ("Theirs", "3", "5m")
    assert (await post(browser, page, form.fields)).status_code == 303
    stored = await world.jobs.get("brief")
    assert stored.job.parameters()["prompt"] == "Theirs"
    assert (stored.job.policy.retries, stored.job.policy.timeout.seconds) == (3, 300)


async def test_a_form_that_is_sent_twice_makes_one_edit(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("brief", prompt="x", cron="0 8 * * *")
    page = f"/jobs/{job.id}/edit"
    (opened,) = Forms((await browser.get(page)).text).forms
    fields = [(name, {"prompt": "y"}.get(name, value)) for name, value in opened.fields]
    for message in ("edited", "unchanged"):
        answer = await post(browser, page, fields)
        assert f"done={message}" in answer.headers["location"]
    assert (await world.jobs.get("brief")).revision.number == job.revision.number + 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schedule", "now and then"),
        ("schedule", "after nothing"),
        ("timezone", "Mars/Base"),
        ("prompt", ""),
        ("name", "other"),
        ("retries", "many"),
        ("retries", "99"),
        ("timeout", "5"),
        ("exclude", "someday"),
        ("chat_id", "x"),
        ("on_complete", "ftp://x"),
        ("tags", "daybook:x"),
    ],
)
async def test_a_mistake_in_an_edit_is_shown_at_its_field_and_nothing_is_stored(
    world: World, browser: httpx.AsyncClient, name: str, value: str
) -> None:
    await world.jobs.add("other")
    job = await world.jobs.add("brief", prompt="x", cron="0 8 * * *")
    before = await everything(world)
    answer, after = await edit(world, browser, job, **{name: value})
    assert (answer.status_code, after.invalid) == (400, [name])
    assert (name, value) in after.forms[0].fields
    assert await everything(world) == before


async def test_a_preview_of_an_edit_respects_its_bounds_and_stores_nothing(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("brief", prompt="x", cron="0 8 * * *")
    before = await everything(world)
    page = f"/jobs/{job.id}/edit"
    typed = {"schedule": "0 * * * *", "active_hours": "09:00-11:00", "prompt": "z"}
    answer, after = await submit(browser, page, f"{page}/preview", **typed)
    assert answer.status_code == 200
    assert answer.text.count(", 09:00:00") + answer.text.count(", 10:00:00") == 5
    assert dict(after.forms[0].fields)["prompt"] == "z"
    assert await everything(world) == before
    wrong, after = await submit(browser, page, f"{page}/preview", schedule="now and then")
    assert (wrong.status_code, after.invalid) == (400, ["schedule"])


async def test_the_form_says_who_owns_the_job_and_a_removed_job_has_none(
    world: World, browser: httpx.AsyncClient
) -> None:
    owners = {"user": "", "file:reports": "set <strong>reports</strong>", "agent:bot": "agent:bot"}
    for number, (owner, words) in enumerate(owners.items()):
        job = await world.jobs.add(f"job-{number}")
        async with world.ledger.write() as session:
            row = await session.get_one(JobRow, job.id)
            row.owner = owner
            session.add(row)
        text = (await browser.get(f"/jobs/{job.id}/edit")).text
        assert ("belongs to" in text, words in text) == (bool(words), True)
    await submit(browser, f"/jobs/{job.id}", f"/jobs/{job.id}/remove")
    answer = await browser.get(f"/jobs/{job.id}/edit")
    assert (answer.status_code, "was removed" in answer.text) == (400, True)


@pytest.mark.parametrize("broken", ["shown", "updated_at"])
async def test_an_incomplete_form_changes_nothing(
    world: World, browser: httpx.AsyncClient, broken: str
) -> None:
    job = await world.jobs.add("brief")
    page = f"/jobs/{job.id}/edit"
    (opened,) = Forms((await browser.get(page)).text).forms
    before = await everything(world)
    for value in (None, "", "x", "[]"):
        kept = [(name, each) for name, each in opened.fields if name != broken]
        answer = await post(browser, page, kept if value is None else [*kept, (broken, value)])
        assert answer.status_code == 400
        assert "open the page again" in answer.text
    assert await everything(world) == before
