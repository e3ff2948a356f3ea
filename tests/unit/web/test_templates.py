"""The pages of templates: answers give a job, which the page shows, adds and runs once."""

from __future__ import annotations

import html
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from daybook.agents import kinds
from daybook.api import agents
from daybook.features.job_templates.page import MESSAGES
from daybook.features.skills import operations as skills
from daybook.home import Home
from daybook.ledger.engine import sharing
from daybook.prefect import client as connection
from tests.unit.resources.prefect_blocks import FakePrefect, Steps
from tests.unit.web.submitting import Forms, everything, post, submit
from tests.world import World

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("runs_are_requested_only"),
]

PAGE = "/jobs/new/templates/morning-brief"
PREVIEW = f"{PAGE}/preview"
ANSWERS = {"pages": "https://example.org/a?b=<c>", "at": "6:45"}


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> FakePrefect:
    """Return a Prefect with the model `default`, which has the tool `notify`.

    It does not answer about jobs, so they are only stored.
    """
    fake = FakePrefect(tuple(kinds.KINDS.values()), Steps())
    fake.register()
    fake.ui(kinds.MODEL.slug, "default", model="openai:gpt-6-luna", tools=["notify"])

    async def nothing(*_: Any) -> None:
        pass

    for name in ("connected", "answering"):
        monkeypatch.setattr(connection, name, lambda *_: nullcontext(fake))
    monkeypatch.setattr(connection, "connected_if_reachable", lambda *_: nullcontext(None))
    monkeypatch.setattr(agents, "_check_tools", nothing)
    return fake


def tools(prefect: FakePrefect) -> list[str]:
    found: list[str] = prefect.holds()[kinds.MODEL.slug, "default"]["tools"]
    return found


async def test_the_pages_of_jobs_lead_to_every_template(browser: httpx.AsyncClient) -> None:
    for page in ("/", "/jobs"):
        assert 'href="/jobs/new/templates"' in (await browser.get(page)).text
    text = (await browser.get("/jobs/new/templates")).text
    assert PAGE in text and "Morning brief" in text
    assert (await browser.get("/jobs/new/templates/morning-brif")).status_code == 404


async def test_a_job_is_shown_then_added_and_run(
    world: World, browser: httpx.AsyncClient, prefect: FakePrefect
) -> None:
    before = await everything(world)
    answer, shown = await submit(browser, PAGE, PREVIEW, **ANSWERS)
    assert answer.status_code == 200
    text = html.unescape(answer.text)
    assert f"Read each of them: {ANSWERS['pages']}" in text
    assert "at 06:45 on weekdays" in text and "gets the tools web" in text
    assert await everything(world) == before and tools(prefect) == ["notify"]

    (form,) = (each for each in shown.forms if each.buttons == [PAGE])
    for _ in range(2):  # a double click
        answer = await post(browser, PAGE, form.fields)
        assert answer.status_code == 303
    job = await world.jobs.get("morning-brief")
    assert "6:45" not in str(job.job.parameters()["prompt"])
    assert job.job.schedule.to_json()["expr"] == "45 6 * * 1-5"
    assert len(await world.jobs.ids()) == 1
    (run,) = await world.runs.rows(job)
    assert urlsplit(answer.headers["location"]).path == f"/runs/{run.id}"
    assert tools(prefect) == ["notify", "web"]
    after = Forms((await browser.get(answer.headers["location"])).text)
    assert MESSAGES["template-added"] in after.status


async def test_the_page_says_which_tools_the_agent_got(
    browser: httpx.AsyncClient, prefect: FakePrefect
) -> None:
    _, shown = await submit(browser, PAGE, PREVIEW, **ANSWERS)
    (form,) = (each for each in shown.forms if each.buttons == [PAGE])
    answer = await post(browser, PAGE, form.fields)
    page = (await browser.get(answer.headers["location"])).text
    assert "The agent default has the tools web now." in page


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("pages", ""),
        ("pages", "example.org"),
        ("at", "25:00"),
        ("agent", "missing"),
        ("name", "x" * 1_000),
    ],
)
async def test_a_mistake_is_shown_at_its_field_with_what_was_typed(
    world: World, browser: httpx.AsyncClient, prefect: FakePrefect, field: str, wrong: str
) -> None:
    before = await everything(world)
    answer, after = await submit(browser, PAGE, PREVIEW, **{**ANSWERS, field: wrong})
    assert (answer.status_code, after.invalid) == (400, [field])
    assert after.problems[f"{field}-problem"].startswith(f"{field}: ")
    (form,) = after.forms  # nothing can be added
    assert (ANSWERS | {field: wrong}).items() <= dict(form.fields).items()
    assert await everything(world) == before and tools(prefect) == ["notify"]


async def test_a_taken_name_is_refused_at_its_field_and_gives_the_agent_no_tools(
    world: World, browser: httpx.AsyncClient, prefect: FakePrefect
) -> None:
    await world.jobs.add("morning-brief")
    _, shown = await submit(browser, PAGE, PREVIEW, **ANSWERS)
    (form,) = (each for each in shown.forms if each.buttons == [PAGE])
    answer = await post(browser, PAGE, form.fields)
    after = Forms(answer.text)
    assert (answer.status_code, after.invalid) == (400, ["name"])
    assert len(await world.jobs.ids()) == 1
    assert tools(prefect) == ["notify"]


async def test_an_offline_agent_is_shown_with_what_helps(
    browser: httpx.AsyncClient, prefect: FakePrefect
) -> None:
    prefect.ui(kinds.OFFLINE.slug, "away")
    answer, _ = await submit(browser, PAGE, PREVIEW, **ANSWERS, agent="away")
    assert "is offline and reads nothing" in answer.text and "/agents/found" in answer.text


async def test_a_file_that_is_no_template_is_listed_with_its_problem(
    daybook_home: Home, browser: httpx.AsyncClient
) -> None:
    folder = daybook_home.path / "templates" / "tides"
    folder.mkdir(parents=True)
    (folder / "template.yaml").write_text("title: [")
    text = (await browser.get("/jobs/new/templates")).text
    assert "cannot be read" in text and "/jobs/new/templates/tides" not in text


TIDES = """
title: Tides
does: Reports the tides.
questions: {port: {ask: "Which port?"}}
job: {name: tides, schedule: every day at 6:00, prompt: "Tides of ${port}"}
"""


async def test_a_template_of_a_user_brings_its_skill(
    world: World, daybook_home: Home, browser: httpx.AsyncClient, prefect: FakePrefect
) -> None:
    folder = daybook_home.path / "templates" / "tides"
    (folder / "skills" / "tables").mkdir(parents=True)
    (folder / "template.yaml").write_text(TIDES)
    page, skill = "/jobs/new/templates/tides", folder / "skills" / "tables" / "SKILL.md"

    for version in ("first", "second"):
        skill.write_text(f"---\nname: tables\ndescription: The {version} one.\n---\nRead it.")
        typed = {"port": "Husum", "name": f"tides-{version}"}
        _, shown = await submit(browser, page, f"{page}/preview", **typed)
        (form,) = (each for each in shown.forms if each.buttons == [page])
        assert (await post(browser, page, form.fields)).status_code == 303
        with sharing(world.ledger):
            (stored,) = await skills.list_skills()
        assert (stored.name, stored.description) == ("tables", f"The {version} one.")
    assert tools(prefect) == ["notify", "skills.tables"]


async def test_a_skill_of_another_source_is_not_replaced(
    world: World,
    daybook_home: Home,
    browser: httpx.AsyncClient,
    prefect: FakePrefect,
    tmp_path: Path,
) -> None:
    text = "---\nname: tables\ndescription: Mine.\n---\nRead it."
    folder = daybook_home.path / "templates" / "tides"
    for each in (tmp_path / "mine", folder / "skills" / "tables"):
        each.mkdir(parents=True)
        (each / "SKILL.md").write_text(text)
    (folder / "template.yaml").write_text(TIDES)
    with sharing(world.ledger):
        await skills.add(str(tmp_path / "mine"))
    page = "/jobs/new/templates/tides"

    _, shown = await submit(browser, page, f"{page}/preview", port="Husum")
    (form,) = (each for each in shown.forms if each.buttons == [page])
    answer = await post(browser, page, form.fields)

    assert answer.status_code == 400 and '"tables" exists already' in html.unescape(answer.text)
    assert await world.jobs.ids() == {} and tools(prefect) == ["notify"]
