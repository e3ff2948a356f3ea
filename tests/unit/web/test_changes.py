"""The pages of changes: a person reviews, lands, discards, or asks for a change."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from daybook.api import changes, tokens
from daybook.features.repositories import page, review, worktrees
from daybook.features.repositories.page import MESSAGES
from daybook.features.repositories.tables import ChangeRow
from daybook.ledger.engine import sharing
from daybook.ledger.states import Status
from daybook.runs.claim_requests import Granted
from daybook.web.login import PageLogin
from tests import morning
from tests.unit.features.attempts import Started
from tests.unit.features.repositories.projects import at, changed, commit, user_repository
from tests.unit.web.conftest import client
from tests.unit.web.submitting import Forms, submit
from tests.world import World

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("runs_are_requested_only"),
]

HOSTILE = "<script>alert(1)</script>\u202e\x1b[31m\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return user_repository(tmp_path / "project")


async def waiting(world: World, project: Path, **files: str) -> Granted:
    """Return a run whose change waits."""
    with sharing(world.ledger):
        granted = await Started(world)("Nightly fix", repo=str(project), ref="main")
        outcome = await changed(world, granted, **files)
        await world.runs.finish(granted, Status.SUCCEEDED, output=outcome.output)
    return granted


async def status(world: World, granted: Granted) -> str:
    async with world.ledger.read() as session:
        return (await session.get_one(ChangeRow, granted.run_id)).status


async def test_a_person_reviews_and_lands_a_change(
    world: World, browser: httpx.AsyncClient, project: Path
) -> None:
    granted = await waiting(world, project, a="two\n", b=HOSTILE)
    address = f"/changes/{granted.run_id}"
    assert (
        f'href="{address}" aria-label="Review: Nightly fix has a change'
        in (await browser.get("/")).text
    )
    assert (
        f'href="{address}">Review the change' in (await browser.get(f"/runs/{granted.run_id}")).text
    )
    inbox = (await browser.get("/inbox")).text
    assert "Nightly fix: review a change" in inbox
    listed = (await browser.get("/changes")).text
    assert f'href="{address}">Nightly fix' in listed and "waits for a person" in listed

    text = (await browser.get(address)).text
    assert "<strong>fixed</strong>" in text  # the answer
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "<script>alert" not in text
    assert "\u202e" not in text and "\x1b" not in text
    assert '<table class="code">' in text
    assert '<table class="code split">' in (await browser.get(f"{address}?view=split")).text

    _, after = await submit(browser, address, f"{address}/land")
    assert after.status == MESSAGES["change-landed"]
    assert after.forms == []
    assert at(project, "show", "main:a.txt") == "two"
    assert "landed on main as" in (await browser.get("/changes")).text
    assert address not in (await browser.get("/")).text


async def test_files_that_are_not_in_the_patch_are_named(
    world: World, browser: httpx.AsyncClient, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worktrees, "MAX_PATCH_BYTES", 2_000)
    granted = await waiting(world, project, a="x\n" * 2_000, b="<b>", c="y\n")
    text = (await browser.get(f"/changes/{granted.run_id}")).text
    assert "This page does not show the whole change" in text
    others = text.partition("2 files that are not shown")[2]
    assert "<code>b.txt</code>" in others and "<code>c.txt</code>" in others
    assert "a.txt" not in others


async def test_a_conflict_is_shown_and_given_back_to_the_agent(
    world: World, browser: httpx.AsyncClient, project: Path
) -> None:
    granted = await waiting(world, project, a="mine\n")
    at(project, "switch", "-q", "main")
    commit(project, a="theirs\n")
    address = f"/changes/{granted.run_id}"

    _, refused = await submit(browser, address, f"{address}/land")
    assert "has not landed" in refused.problems[""]
    text = (await browser.get(address)).text
    assert "Conflict: main has changed the same lines of a.txt" in text
    (form,) = [each for each in Forms(text).forms if each.action == f"{address}/ask"]
    assert dict(form.fields)["prompt"] == "Make the change again with the newest commits of main."

    answer, after = await submit(browser, address, f"{address}/ask")
    assert answer.headers["location"].startswith("/runs/")
    assert after.status == MESSAGES["change-asked"]
    async with world.ledger.read() as session:
        row = await session.get_one(ChangeRow, granted.run_id)
    assert row.continued_by


async def test_a_blank_question_stays_on_the_page(
    world: World, browser: httpx.AsyncClient, project: Path
) -> None:
    granted = await waiting(world, project, a="two\n")
    address = f"/changes/{granted.run_id}"
    answer, after = await submit(browser, address, f"{address}/ask", prompt=" ")
    assert answer.status_code == 400
    assert after.invalid == ["prompt"]
    assert "is blank" in after.problems["prompt-problem"]
    long = "x" * (review.MAX_NOTE_CHARACTERS + 1)
    _, after = await submit(browser, address, f"{address}/discard", note=long)
    assert after.invalid == ["note"]
    (form,) = [each for each in after.forms if each.action.endswith("discard")]
    assert dict(form.fields)["note"] == long
    assert await status(world, granted) == "waiting"


async def test_a_discarded_change_has_its_note(
    world: World, browser: httpx.AsyncClient, project: Path
) -> None:
    granted = await waiting(world, project, a="two\n")
    address = f"/changes/{granted.run_id}"
    with sharing(world.ledger):
        before = await changes.read()
        _, after = await submit(browser, address, f"{address}/discard", note="Keep <a>.")
        assert await changes.read() != before  # open pages update themselves
    assert after.status == MESSAGES["change-discarded"]
    assert "Keep &lt;a&gt;." in (await browser.get(address)).text
    assert await status(world, granted) == "discarded"


async def test_a_slow_landing_goes_on_after_the_answer(
    world: World, browser: httpx.AsyncClient, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "LANDING_PATIENCE_SECONDS", 0.0)
    granted = await waiting(world, project, a="two\n")
    address = f"/changes/{granted.run_id}"
    _, after = await submit(browser, address, f"{address}/land")
    assert after.status == MESSAGES["change-landing"]
    await asyncio.gather(*page._landings)
    assert await status(world, granted) == "landed"


async def test_a_shared_link_shows_a_change_without_its_buttons(
    world: World, server: PageLogin, project: Path
) -> None:
    granted = await waiting(world, project, a="two\n")
    address = f"/changes/{granted.run_id}"
    with sharing(world.ledger):
        link = (await tokens.share("hall")).url
    async with client(server) as guest:
        assert (await guest.get(link)).status_code == 200
        text = (await guest.get(address)).text
        assert '<table class="code">' in text and Forms(text).forms == []
        assert f'href="{address}"' in (await guest.get("/changes")).text


async def test_there_is_no_change(world: World, browser: httpx.AsyncClient) -> None:
    assert "No changes" in (await browser.get("/changes")).text
    assert (await browser.get("/changes/0123456789abcdef0123456789abcdef")).status_code == 404


async def test_a_run_that_works_has_no_diff_yet(world: World, browser: httpx.AsyncClient) -> None:
    run = await world.runs.request(await world.jobs.add("fix"))
    row = morning.change(run)
    row.status, row.head, row.patch, row.recorded_at = "working", "", "", None
    async with world.ledger.write() as session:
        session.add(row)
    text = (await browser.get(f"/changes/{run.id}")).text
    assert "The run has not recorded a change." in text
    assert Forms(text).forms == []
