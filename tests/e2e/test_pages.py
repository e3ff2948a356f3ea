"""Daybook's pages in a real browser: both themes, a desk and a phone, keyboard, accessibility."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests import morning
from tests.e2e.browsers import NEEDS_CHROMIUM, Served, Watched, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

AXE = "axe-core@4.14.1"
THEMES = ("light", "dark")
SIZES = ((1440, 900), (375, 812))
LISTS = (
    "/",
    "/jobs",
    "/runs",
    "/inbox",
    "/callbacks",
    "/tasks",
    "/sessions",
    "/agents",
    "/memory",
    "/changes",
    "/spend",
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    NEEDS_CHROMIUM,
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home"), lambda ledger: morning.fill(ledger, 2)) as found:
        yield found


@pytest.fixture(scope="module")
def session(served: Served, chromium: Browser) -> Any:
    """Return the cookies of a browser that opened the link, which works once."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(served.link)
    page.wait_for_url(f"{served.url}/")
    assert page.title() == "Today · Daybook"
    other = chromium.new_context().new_page()
    other.goto(served.link)
    assert "has been used" in other.content()
    other.goto(served.url)
    assert "not logged in" in other.content()
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the program that checks accessibility."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("service absent: npm (it is not installed)")
    words = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", AXE]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"service absent: npm ({' '.join(done.stderr.split())[-200:]})")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def details(watched: Watched) -> list[str]:
    """Return one page of each kind that a list leads to, and those of the attack."""
    found = list[str]()
    for path, link in (
        ("/jobs", "td.name > a"),
        ("/jobs?q=morning", "td.name > a"),
        ("/jobs?state=conflict", "td.name > a"),
        ("/runs?status=failed", "td > a[href^='/runs/']"),
        ("/runs?job=morning-brief", "td > a[href^='/runs/']"),
        ("/callbacks", "td.name > a"),
        ("/inbox", "td.name > a"),
        ("/tasks", "td.name > a"),
        ("/sessions", "td.name > a"),
        ("/changes", "td.name > a"),
    ):
        watched.open(path)
        first = watched.page.locator(link).first.get_attribute("href")
        assert first is not None
        found.append(first)
    return [
        *found,
        f"{found[-1]}?view=split",
        f"{found[0]}/edit",
        "/jobs/new",
        "/agents/new",
        "/nothing",
    ]


@pytest.mark.parametrize(
    "theme_and_size",
    [(theme, size) for theme in THEMES for size in SIZES],
    ids=["desk-light", "phone-light", "desk-dark", "phone-dark"],
)
def test_every_page_is_accessible_fits_and_stays_on_this_machine(
    served: Served,
    chromium: Browser,
    session: Any,
    axe: str,
    theme_and_size: tuple[Any, tuple[int, int]],
) -> None:
    theme, (width, height) = theme_and_size
    with chromium.new_context(
        storage_state=session, color_scheme=theme, viewport={"width": width, "height": height}
    ) as context:
        watched = Watched(context, served.url)
        for path in (*LISTS, *details(watched)):
            if path == "/nothing":
                watched.page.goto(served.url + path)  # its status is an error of the console
            else:
                watched.open(path)
            watched.page.evaluate(
                "document.querySelectorAll('details').forEach(d => d.open = true)"
            )
            content = watched.page.evaluate("document.documentElement.scrollWidth")
            assert content <= width, (path, content)
            watched.page.evaluate(axe)
            found = watched.page.evaluate("axe.run()")["violations"]
            serious = [
                (each["id"], [node["html"] for node in each["nodes"]][:3])
                for each in found
                if each["impact"] in ("serious", "critical")
            ]
            assert not serious, (path, serious)


def test_the_menu_of_a_phone_shows_the_link_of_the_page(
    served: Served, chromium: Browser, session: Any
) -> None:
    from playwright.sync_api import expect

    with chromium.new_context(
        storage_state=session, viewport={"width": 390, "height": 844}
    ) as context:
        watched = Watched(context, served.url)
        for path in ("/", "/inbox", "/spend"):
            watched.open(path)
            link = watched.page.locator(".side nav a[aria-current]")
            if path == "/spend":
                watched.page.locator("#more > summary").click()
            expect(link).to_be_in_viewport(ratio=1)


def test_the_timeline_is_used_by_keyboard_and_by_pointer(
    served: Served, chromium: Browser, session: Any
) -> None:
    from playwright.sync_api import expect

    with chromium.new_context(storage_state=session) as context:
        watched = Watched(context, served.url)
        watched.open("/")
        page = watched.page
        page.keyboard.press("Tab")
        expect(page.get_by_text("Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        mark = page.locator("a.mark:focus")
        for _ in range(300):
            page.keyboard.press("Tab")
            if mark.count():
                break
        expect(mark).to_have_count(1)
        tip = mark.locator(".tip")
        expect(tip).to_be_visible()
        box = tip.bounding_box()
        assert box is not None
        assert box["width"] > 40
        assert "due " in tip.inner_text()
        page.keyboard.press("Enter")
        page.wait_for_url("**/runs/*")
        page.go_back()
        page.locator("a.mark").last.hover()
        assert "due " in page.locator("a.mark").last.locator(".tip").inner_text()
        box = page.locator("a.mark").last.locator(".tip").bounding_box()
        assert box is not None
        assert box["x"] >= 0


def test_lists_and_pages_work_without_javascript(
    served: Served, chromium: Browser, session: Any
) -> None:
    with chromium.new_context(storage_state=session, java_script_enabled=False) as context:
        watched = Watched(context, served.url)
        watched.open("/jobs")
        watched.page.get_by_label("Name", exact=True).fill("log-rev")
        watched.page.get_by_role("button", name="Filter").click()
        assert watched.page.locator("td.name > a").all_inner_texts() == ["log-review"]
        watched.page.get_by_role("link", name="log-review").click()
        assert "at 05:45 every day" in watched.page.content()


def test_actions_work_without_javascript_and_by_keyboard(
    served: Served, chromium: Browser, session: Any
) -> None:
    with chromium.new_context(storage_state=session, java_script_enabled=False) as context:
        watched = Watched(context, served.url)
        page = watched.page
        watched.open("/jobs/new")
        page.get_by_label("Name", exact=True).fill("from-the-page")
        page.get_by_label("Schedule").fill("every weekday at 9:00")
        page.get_by_label("Prompt").fill("What is new?")
        page.get_by_role("button", name="Preview").click()
        assert page.get_by_role("status").locator("li").count() == 5
        page.get_by_role("button", name="Add the job").click()
        assert page.get_by_role("status").inner_text().startswith("The job was added.")
        assert page.get_by_role("heading", level=1).inner_text() == "from-the-page"
        pause = page.get_by_text("Pause…")
        pause.focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.type("on holiday")
        page.keyboard.press("Enter")
        page.wait_for_load_state("networkidle")
        assert "Disabled: paused: on holiday" in page.content()
        page.get_by_role("button", name="Resume").press("Enter")
        assert page.get_by_role("status").inner_text() == "The job is enabled."
        page.get_by_text("Remove…").click()
        page.get_by_role("button", name="Remove from-the-page").click()
        assert page.url.startswith(f"{served.url}/jobs?done=removed&")
        assert not watched.problems
