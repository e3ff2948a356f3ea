"""A change in a browser: reviewed, changed again, and landed, by keyboard and on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daybook.home import Home
from daybook.operations.login import LOGIN_PATH
from tests.e2e.browsers import NEEDS_CHROMIUM, Watched
from tests.e2e.first_light import Up
from tests.e2e.test_page_journeys import ended, fits, tab_to
from tests.servers import migrate
from tests.unit.features.repositories.projects import at, commit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600), NEEDS_CHROMIUM]

PROGRAM = """\
prompt=$(cat)
case $prompt in
*again*) echo '<b>better</b>' >> a.txt; echo 'I have changed it again.' ;;
*) echo 'def f(): return 1' > new.py; printf 'two\\n' > a.txt; echo 'I have **fixed** it.' ;;
esac
"""


def test_a_change_is_reviewed_changed_again_and_landed(tmp_path: Path, chromium: Browser) -> None:
    project = tmp_path / "project"
    project.mkdir()
    at(project, "init", "-q", "-b", "main")
    commit(project, a="one\n")
    at(project, "switch", "-qc", "mine")
    (tmp_path / "empty").mkdir()
    allowed = {"DAYBOOK_ALLOWED_WORK_DIRS": str(tmp_path)}
    up = Up(migrate(Home(tmp_path / "home")).path, tmp_path / "empty", variables=allowed)
    try:
        up.until(lambda lines: any(LOGIN_PATH in line for line in lines), 240)
        program = ("--", "sh", "-c", PROGRAM)
        up.daybook_json("agents", "add", "coder", *program)
        where = ("--repo", str(project), "--ref", "main", "--agent", "coder", "--name", "fix")
        up.daybook_json("add", "every day at 3:00", "Fix the test", *where)
        run = up.daybook_json("run", "fix", "--wait")["id"]
        review(up, chromium, run)
        assert at(project, "show", "main:a.txt") == "two\n<b>better</b>"
        assert at(project, "status", "--porcelain") == ""
    finally:
        up.end()


def review(up: Up, chromium: Browser, run: str) -> None:
    link = up.daybook_json("open", "--no-browser")["url"]
    url = link.partition(LOGIN_PATH)[0]
    with chromium.new_context(viewport={"width": 1280, "height": 900}) as context:
        watched = Watched(context, url)
        page, keyboard = watched.page, watched.page.keyboard
        page.set_default_timeout(60_000)
        page.goto(link)
        page.wait_for_url(f"{url}/")

        page.get_by_role("link", name="Review: fix has a change for main").press("Enter")
        page.wait_for_url(f"{url}/changes/{run}")
        assert page.locator(".prose strong").inner_text() == "fixed"
        assert page.locator("tr.add .c").all_inner_texts() == ["two", "def f(): return 1"]
        assert page.locator("tr.del .c").all_inner_texts() == ["one"]
        tab_to(watched, "nav[aria-label=View] a:last-child")
        keyboard.press("Enter")
        page.wait_for_url("**?view=split")
        assert page.locator("td.c.del").inner_text() == "one"
        tab_to(watched, "#file-1 > summary")
        keyboard.press("Enter")
        assert not page.locator("#file-1 table").is_visible()

        tab_to(watched, "#actions details:first-of-type summary")
        keyboard.press("Enter")
        tab_to(watched, "textarea[name=prompt]")
        keyboard.type("Do it again.")
        keyboard.press("Tab")
        keyboard.press("Enter")
        page.wait_for_url(f"{url}/runs/**")
        assert ended(watched) == "succeeded"
        watched.open(f"/changes/{run}")
        assert "a later run continues it" in page.inner_text(".head")
        assert page.locator("#actions").count() == 0
        assert not watched.problems
        state = context.storage_state()

    with chromium.new_context(
        storage_state=state, viewport={"width": 390, "height": 844}, has_touch=True
    ) as context:
        watched = Watched(context, url)
        page = watched.page
        page.set_default_timeout(60_000)
        watched.open("/changes")
        assert fits(watched)
        page.get_by_role("link", name="fix", exact=True).first.tap()
        page.get_by_role("heading", name="fix").wait_for()
        address = page.url
        for view in ("", "?view=split"):
            page.goto(f"{address}{view}")
            assert fits(watched)
            visible = page.locator("#file-1 td.c:visible").all_inner_texts()
            assert visible == ["one", "two", "<b>better</b>"]
        page.get_by_role("button", name="Land on main").tap()
        page.get_by_role("status").get_by_text("The change has landed.").wait_for()
        assert "landed on main as" in page.inner_text(".head")
        assert not watched.problems
