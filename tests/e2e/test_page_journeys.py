"""The pages in a browser: what a new user does there, and what stored texts cannot do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daybook.agents.candidates import MACHINE_VARIABLE
from daybook.home import Home
from daybook.operations.login import LOGIN_PATH
from tests import attack
from tests.e2e.browsers import NEEDS_CHROMIUM, Watched, serving
from tests.e2e.first_light import Up
from tests.servers import migrate

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600), NEEDS_CHROMIUM]

PROGRAM = """\
import sys
words = sys.stdin.read().split()
if "nothing" in words:
    sys.exit("there is no text")
print(f"**{len(words)} words**")
"""


def test_no_stored_text_runs_in_a_browser(tmp_path: Path, chromium: Browser) -> None:
    stored = list[attack.Stored]()

    async def fill(ledger: Any) -> None:
        stored.append(await attack.store(ledger))

    with serving(tmp_path, fill) as served, chromium.new_context() as context:
        watched = Watched(context, served.url)
        watched.page.goto(served.link)
        watched.page.wait_for_url(f"{served.url}/")
        for path in stored[0].pages:
            if path.endswith("/log"):
                continue  # there is no Prefect
            watched.open(path)
            watched.page.evaluate(
                "document.querySelectorAll('details').forEach(d => d.open = true)"
            )
            assert watched.page.locator("img, iframe, object, embed").count() == 0, path
        watched.open(stored[0].pages[0])
        assert attack.payload("job") in watched.page.inner_text("main")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the machine's programs; there is none yet."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Iterator[Up]:
    home = migrate(Home(tmp_path_factory.mktemp("up") / "home"))
    machine = {"path": f"{programs}{os.pathsep}{os.defpath}", "ports": {}}
    variables = {MACHINE_VARIABLE: json.dumps(machine)}
    running = Up(home.path, tmp_path_factory.mktemp("empty"), variables=variables)
    try:
        running.until(lambda lines: any(LOGIN_PATH in line for line in lines), 240)
        yield running
    finally:
        running.end()


def test_a_new_user_adds_a_job_sees_it_run_breaks_it_finds_out_why_and_fixes_it(
    up: Up, chromium: Browser, tmp_path: Path
) -> None:
    """Nothing is typed in a terminal after `daybook up`."""
    program = tmp_path / "count.py"
    program.write_text(PROGRAM)
    link = next(line for line in up.lines if LOGIN_PATH in line).split()[-1]
    url = link.partition(LOGIN_PATH)[0]
    with chromium.new_context() as context:
        watched = Watched(context, url)
        page = watched.page
        page.set_default_timeout(60_000)
        page.goto(link)
        page.wait_for_url(lambda found: LOGIN_PATH not in found)

        add_agent(watched, program)
        watched.open("/jobs/new")
        page.get_by_label("Name").fill("count-words")
        page.get_by_label("Schedule").fill("every weekday at 9:00")
        preview = page.locator("#preview")
        preview.locator("li").nth(4).wait_for()  # it appears while one types
        assert "at 09:00 on weekdays" in preview.inner_text()
        page.get_by_label("Prompt").fill("Count these words")
        page.get_by_label("Agent", exact=True).fill("counter")
        page.get_by_role("button", name="Add the job").click()
        page.get_by_role("button", name="Run now").click()
        assert ended(watched) == "succeeded"
        assert page.locator(".prose strong").inner_text() == "3 words"

        edit_agent_in_use(watched, tmp_path)
        watched.open("/jobs?q=count-words")

        page.get_by_role("link", name="count-words").click()
        page.get_by_role("link", name="Edit").click()
        page.get_by_label("Prompt").fill("Count nothing")
        page.get_by_role("button", name="Save").click()
        said = page.get_by_role("status").inner_text()
        assert "Count these words" in said
        assert "Count nothing" in said
        page.get_by_role("button", name="Run now").click()
        assert ended(watched) == "failed"

        watched.open("/")
        page.get_by_role("link", name="count-words").first.click()
        assert "there is no text" in page.inner_text("main")
        watched.open("/jobs?state=failing")
        page.get_by_role("link", name="count-words").click()
        page.get_by_role("link", name="Edit").click()
        page.get_by_label("Prompt").fill("Count it")
        page.get_by_role("button", name="Save").click()
        page.get_by_role("button", name="Run now").click()
        assert ended(watched) == "succeeded"
        assert not watched.problems


@pytest.mark.parametrize("width", [1280, 390])
def test_an_agent_that_the_machine_has_is_added_and_asked_by_keyboard(
    up: Up, programs: Path, chromium: Browser, width: int
) -> None:
    name = f"found-{width}"
    for program, version in {"codex": "codex-cli 0.143.0", "gemini": "0.49.0"}.items():
        file = programs / program
        file.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo {version} || cat\n')
        file.chmod(0o755)
    link = up.daybook_json("open", "--no-browser")["url"]
    url = link.partition(LOGIN_PATH)[0]
    with chromium.new_context(viewport={"width": width, "height": 900}) as context:
        watched = Watched(context, url)
        page, keyboard = watched.page, watched.page.keyboard
        page.set_default_timeout(60_000)
        page.goto(link)
        page.wait_for_url(lambda found: LOGIN_PATH not in found)

        watched.open("/agents/found")
        shown = page.locator("select[name=agent]")
        assert "codex 0.143.0 is on the PATH" in shown.inner_text()
        assert fits(watched)
        tab_to(watched, "select[name=agent]")
        keyboard.type("Gem")
        tab_to(watched, "input[name=name]")
        keyboard.press("ControlOrMeta+a")
        keyboard.type(name)
        keyboard.press("Enter")

        page.wait_for_url(f"{url}/agents/*/{name}/edit?*")
        assert "a folder that it does not trust" in page.inner_text("main")
        assert fits(watched)
        tab_to(watched, "textarea[name=prompt]")
        keyboard.type("Say <b>hello</b>.")
        keyboard.press("Tab")
        keyboard.press("Enter")
        answer = page.get_by_role("status")
        answer.get_by_text("The test succeeded:").wait_for()
        assert "Say <b>hello</b>." in answer.inner_text()
        assert fits(watched)
        assert not watched.problems


@pytest.mark.parametrize("width", [1280, 375])
def test_an_agent_is_asked_answered_and_stopped_by_keyboard(
    up: Up, chromium: Browser, width: int
) -> None:
    slow = f"slow-{width}"
    up.daybook_json("agents", "add", slow, "--", "/bin/sleep", "60")
    link = up.daybook_json("open", "--no-browser")["url"]
    url = link.partition(LOGIN_PATH)[0]
    with chromium.new_context(viewport={"width": width, "height": 900}) as context:
        watched = Watched(context, url)
        page, keyboard = watched.page, watched.page.keyboard
        page.set_default_timeout(60_000)
        page.goto(link)
        page.wait_for_url(f"{url}/")

        keyboard.press("/")  # search, the list of keys, and the menu
        page.wait_for_url(f"{url}/search")
        keyboard.type("first-l")
        keyboard.press("Enter")
        page.get_by_role("link", name="first-light", exact=True).wait_for()
        watched.open("/runs")
        keyboard.press("?")
        page.get_by_role("dialog").get_by_text("Next and previous row").wait_for()
        keyboard.press("Escape")
        # On a busy machine the dialog, which is closed now, is still the target of the next key.
        page.locator("dialog#keys:not([open])").dispatch_event("keydown", {"key": "j"})
        page.locator("tbody tr a:focus").wait_for()  # a newer run may be the first row by now
        keyboard.press("g")
        keyboard.press("s")
        page.wait_for_url(f"{url}/sessions")
        tab_to(watched, "#ask textarea")
        keyboard.type("Which <b>one</b>?")
        tab_to(watched, "#ask button")
        keyboard.press("Enter")
        page.wait_for_url(f"{url}/sessions/default*")
        answers = page.locator(".answer-turn .prose")
        answers.get_by_text("Which <b>one</b>?").wait_for()  # without a reload
        tab_to(watched, "#reply textarea")
        keyboard.type("And why?")
        keyboard.press("Tab")
        keyboard.press("Enter")
        page.locator("#message-4 .prose").get_by_text("And why?").wait_for()
        summary = page.locator("#message-4 summary")
        summary.press("Enter")
        page.locator("#work-of-4").get_by_text("default").wait_for()
        assert fits(watched)

        watched.open("/sessions")
        page.locator("select[name=agent]").select_option(slow)
        page.locator("#ask textarea").fill("Take your time.")
        page.locator("#ask button").press("Enter")
        page.locator(".answer-turn .status.s-running").wait_for()
        page.get_by_role("button", name="Stop").press("Enter")
        page.wait_for_url(f"{url}/runs/*")
        assert ended(watched) == "cancelled"
        assert not watched.problems


def fits(watched: Watched) -> bool:
    """Return whether the page needs no scrolling to the side."""
    wide: bool = watched.page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    return wide


def tab_to(watched: Watched, selector: str) -> None:
    """Press the tab key until the element has the focus."""
    for _ in range(60):
        if watched.page.locator(f"{selector}:focus").count():
            return
        watched.page.keyboard.press("Tab")
    raise AssertionError(f"the tab key does not reach {selector}")


def add_agent(watched: Watched, program: Path) -> None:
    """Add the agent `counter`, which runs ``program``."""
    page = watched.page
    watched.open("/agents/new?variant=command")
    page.get_by_label("Name", exact=True).fill("counter")
    page.get_by_label("Command").fill(f"/usr/bin/env\npython3\n{program}")
    page.get_by_text("More settings").click()
    # The earlier prompts are not its input.
    page.locator("select[name=history]").select_option("none")
    page.get_by_role("button", name="Add the agent").click()
    assert "It was added." in page.get_by_role("status").inner_text()


def edit_agent_in_use(watched: Watched, folder: Path) -> None:
    """Change the agent `counter` by keyboard; a job uses it, so there is no button to remove it."""
    page = watched.page
    watched.open("/agents")
    page.get_by_role("link", name="Edit counter").press("Enter")
    page.get_by_text("Used by count-words.").wait_for()
    assert page.get_by_text("Remove…").count() == 0
    page.get_by_text("More settings").press("Enter")
    page.get_by_label("Work directory").press_sequentially(str(folder))
    page.keyboard.press("Enter")
    page.wait_for_url(f"{watched.url}/agents?**")
    assert "It was changed." in page.get_by_role("status").inner_text()


def ended(watched: Watched) -> str:
    """Reload the page of a run until the run has ended; return its status."""
    end = time.monotonic() + 120
    status = watched.page.locator(".head .status")
    while (found := status.inner_text()) in ("waiting", "claimed", "running"):
        assert time.monotonic() < end, found
        watched.page.reload(wait_until="networkidle")
    return found
