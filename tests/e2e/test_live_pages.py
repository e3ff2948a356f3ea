"""Pages that update themselves, in a real browser: what changes, and what must not be disturbed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daybook.api import tokens
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger, sharing
from daybook.runs import claims
from tests.e2e.browsers import NEEDS_CHROMIUM, Watched, started_chromium
from tests.servers import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    NEEDS_CHROMIUM,
]


class Machine:
    """A home with a ledger, and the web server on it, which can end and start again."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Start the server; return its one-time link."""
        command = [sys.executable, "-P", "-m", "daybook.web", "--host", "127.0.0.1", "--port"]
        variables = {"DAYBOOK_HOME": str(self.home), "DAYBOOK_TIMEZONE": "UTC", "PATH": "/usr/bin"}
        self.process = subprocess.Popen(
            [*command, str(self.port)],
            stderr=subprocess.PIPE,
            text=True,
            env=variables,
            cwd=self.home,
        )
        link = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            word, _, rest = line.strip().partition(" ")
            link = rest if word == "Open:" else link
            if word == "Health:":
                return link
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.communicate(timeout=60)

    def change(self, what: Callable[[Ledger], Awaitable[Any]]) -> Any:
        async def changed() -> Any:
            async with Ledger(f"sqlite+aiosqlite:///{self.home}/ledger.db") as ledger:
                with sharing(ledger):
                    return await what(ledger)

        # In a thread: playwright has the event loop of this one.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: asyncio.run(changed())).result()

    def add_job(self, name: str) -> str:
        """Add a job; return its id."""

        async def add(ledger: Ledger) -> str:
            now = ledger.now()
            job = new_job(
                now=now, default_timezone="UTC", name=name, prompt="What is new?", cron="0 * * * *"
            )
            async with ledger.write() as session:
                return (await store.add(session, job, name, now)).id

        return str(self.change(add))

    def request_run(self, job_id: str) -> str:
        async def request(ledger: Ledger) -> str:
            async with ledger.read() as session:
                stored = await store.find(session, job_id)
            return (await claims.request(ledger, stored, "now", "manual")).id

        return str(self.change(request))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path)
    yield found
    if found.process is not None and found.process.poll() is None:
        found.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with started_chromium() as chromium:
        yield chromium


SLOW_MS = 60_000
RECOVERY_MS = 150_000
"""More than the longest pause of a page between two tries, and a start of the server."""


def test_a_page_updates_itself_and_disturbs_nothing(machine: Machine, chromium: Browser) -> None:
    from playwright.sync_api import expect

    jobs = [machine.add_job(f"job-{number:02}") for number in range(40)]
    link = machine.start()
    with chromium.new_context(viewport={"width": 1200, "height": 700}) as context:
        watched = Watched(context, machine.url)
        page = watched.page
        page.goto(link)
        page.wait_for_url(f"{machine.url}/")

        # A list: a new row appears; the focus, the place and a half-typed filter stay.
        page.goto(f"{machine.url}/jobs")
        page.get_by_label("Name", exact=True).fill("half-ty")
        focused = page.get_by_role("link", name="job-30", exact=True)
        focused.focus()
        place = page.evaluate("scrollY")
        assert place > 100
        machine.add_job("from-outside")
        expect(page.get_by_role("link", name="from-outside")).to_be_attached(timeout=SLOW_MS)
        expect(focused).to_be_focused()
        assert abs(page.evaluate("scrollY") - place) < 100  # the row above has moved it
        assert page.get_by_label("Name", exact=True).input_value() == "half-ty"

        # A job: its run appears in the history; an open form with what was typed stays.
        page.goto(f"{machine.url}/jobs/{jobs[0]}")
        page.get_by_text("Pause…").click()
        note = page.get_by_label("Note (optional)")
        note.fill("on hol")
        run_id = machine.request_run(jobs[0])
        row = page.locator(f"#r-{run_id}")
        expect(row).to_be_attached(timeout=SLOW_MS)
        expect(note).to_be_visible()
        expect(note).to_be_focused()
        assert note.input_value() == "on hol"
        page.keyboard.type("iday")
        assert note.input_value() == "on holiday"
        page.keyboard.press("Enter")
        page.wait_for_url("**done=paused&**")
        assert "paused: on holiday" in page.content()

        # Today: its mark appears on the timeline without a reload.
        page.goto(machine.url)
        expect(page.locator(f"#lane-{jobs[1]} a.mark")).to_have_count(0)
        other = machine.request_run(jobs[1])
        expect(page.locator(f"#d-{other}")).to_be_attached(timeout=SLOW_MS)
        assert not watched.problems


def test_a_page_says_that_it_is_not_up_to_date_and_recovers_after_a_restart(
    machine: Machine, chromium: Browser
) -> None:
    from playwright.sync_api import expect

    machine.add_job("first")
    link = machine.start()
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(link)
        page.wait_for_url(f"{machine.url}/")
        page.goto(f"{machine.url}/jobs")
        notice = page.get_by_text("Not up to date")
        expect(notice).to_be_hidden()
        machine.stop()
        expect(notice).to_be_visible(timeout=SLOW_MS)
        machine.add_job("second")
        machine.start()
        expect(page.get_by_role("link", name="second")).to_be_attached(timeout=RECOVERY_MS)
        expect(notice).to_be_hidden(timeout=SLOW_MS)
        machine.add_job("third")
        expect(page.get_by_role("link", name="third")).to_be_attached(timeout=SLOW_MS)


def test_a_wall_display_shows_changes_until_its_link_is_revoked(
    machine: Machine, chromium: Browser
) -> None:
    from playwright.sync_api import expect

    machine.add_job("first")
    machine.start()

    async def share(ledger: Ledger) -> str:
        return (await tokens.share("hall")).url.partition("/daybook/")[2]

    path = machine.change(share)
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(f"{machine.url}/daybook/{path}")
        page.wait_for_url(f"{machine.url}/")
        expect(page.get_by_text("Read only")).to_be_visible()
        machine.add_job("second")
        expect(page.get_by_role("link", name="second")).to_be_attached(timeout=SLOW_MS)

        async def revoke(ledger: Ledger) -> None:
            await tokens.remove("hall")

        machine.change(revoke)
        expect(page.get_by_text("This link was revoked.")).to_be_visible(timeout=SLOW_MS)
