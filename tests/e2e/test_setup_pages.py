"""From an empty home to a first answer, with a channel, a tool server, a secret and a hook.

A person does all of it in a browser with the keyboard only, after `daybook up`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daybook.home import Home
from daybook.operations.login import LOGIN_PATH
from tests.e2e.browsers import NEEDS_CHROMIUM, Watched
from tests.e2e.first_light import Up
from tests.e2e.test_page_journeys import ended, fits, tab_to
from tests.providers import KEY, Answer, provider
from tests.servers import migrate

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600), NEEDS_CHROMIUM]

CANARIES = ("canary-topic", "canary-value")


@contextmanager
def chat() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a chat service, and the bodies that it has got."""
    bodies = list[str]()

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Chat) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}", bodies
        finally:
            server.shutdown()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    home = migrate(Home(tmp_path / "home"))
    running = Up(home.path, tmp_path)
    try:
        running.until(lambda lines: any(LOGIN_PATH in line for line in lines), 240)
        yield running
    finally:
        running.end()


class Person:
    """A person at the keyboard, who sees no secret again."""

    def __init__(self, watched: Watched) -> None:
        self.watched, self.page = watched, watched.page

    def write(self, form: str, **typed: str) -> None:
        """Type into the fields of the form with this action, and send it with the Enter key."""
        for name, text in typed.items():
            field = f'form[action="{form}"] [name="{name}"]'
            tab_to(self.watched, field)
            self.page.keyboard.press("ControlOrMeta+a")
            lines = text.split("\n")
            for number, line in enumerate(lines):
                if number:
                    self.page.keyboard.press("Shift+Enter")
                self.page.keyboard.type(line)
        self.press(f'form[action="{form}"] button')

    def press(self, selector: str) -> None:
        """Press the button or the link that the tab key reaches, and wait for the next page."""
        tab_to(self.watched, selector)
        with self.page.expect_navigation():
            self.page.keyboard.press("Enter")
        self.page.wait_for_load_state("networkidle")
        text = self.page.content()
        assert not any(each in text for each in (*CANARIES, KEY))
        assert fits(self.watched), self.page.url
        assert not self.watched.problems

    @property
    def said(self) -> str:
        return self.page.get_by_role("status").first.inner_text()


@pytest.mark.parametrize("width", [1440, 375])
def test_everything_is_set_up_in_the_browser_by_keyboard(
    up: Up, chromium: Browser, width: int
) -> None:
    link = next(line for line in up.lines if LOGIN_PATH in line).split()[-1]
    url = link.partition(LOGIN_PATH)[0]
    with (
        provider() as model,
        chat() as (host, bodies),
        chromium.new_context(viewport={"width": width, "height": 900}) as at,
    ):
        model.script = [Answer("**The lamp is green.**")]
        watched = Watched(at, url)
        page, person = watched.page, Person(watched)
        page.set_default_timeout(60_000)
        page.goto(link)
        page.wait_for_url(f"{url}/start")
        assert fits(watched)

        given = {"model": "openai:small", "base_url": model.address, "api_key": KEY}
        person.write("/agents/new", **given)
        assert page.url.startswith(f"{url}/start?")
        assert "It was added" in person.said
        tab_to(watched, "details.group > summary")
        page.keyboard.press("Enter")
        person.write("/settings/channels/new", name="phone", url=f"json://{host}/canary-topic")
        assert "It was added" in person.said

        watched.open("/settings/servers/new?variant=program&from=/start")
        time = f"{sys.executable}\n-m\nmcp_server_time"
        person.write("/settings/servers/new", name="time", command=time)
        assert "It has 2 tools: time.convert_time" in person.said

        watched.open("/start")
        person.press('a[href="/jobs/new/templates"]')
        person.press('a[href="/jobs/new/templates/limit"]')
        here = "/jobs/new/templates/limit"
        answers = {"page": "http://127.0.0.1:9/lamp", "what": "its price", "limit": "below 9"}
        person.write(f"{here}/preview", **answers)
        person.press(f'form[action="{here}"] button')
        assert ended(watched) == "succeeded"
        assert page.locator(".prose strong").first.inner_text() == "The lamp is green."
        assert model.requests[-1].prompt

        watched.open("/settings/channels/phone/edit")
        person.press('form[action="/settings/channels/phone/test"] button')
        assert "The test succeeded" in person.said
        assert "this channel works" in bodies[-1]

        set_up_a_secret_and_a_hook(person, host)
        import_a_crontab(person)
        watched.open("/settings")
        assert page.locator(".wrong").count() == 0
        assert fits(watched)
        page.goto(up.daybook_json("open", "--no-browser")["url"])
        page.wait_for_url(f"{url}/")


def set_up_a_secret_and_a_hook(person: Person, host: str) -> None:
    """Add a secret and a hook, send a sample delivery, and run the checks of `doctor`."""
    person.watched.open("/settings/secrets/new")
    secret = {"name": "ops", "hosts": host, "value": "canary-value"}
    person.write("/settings/secrets/new", **secret)
    assert "A value is stored" in person.page.inner_text("main")

    person.watched.open("/settings/hooks/new")
    person.write("/settings/hooks/new", name="pulls", job="limit")
    assert person.page.locator(".notice pre").inner_text().startswith("whsec_")
    assert f"{person.watched.url}/hooks/pulls" in person.page.inner_text("main")
    person.press('form[action="/settings/hooks/pulls/test"] button')
    assert "answered 202" in person.said
    assert person.page.locator("#recent + ul li").count() == 1

    person.watched.open("/settings/health")
    person.press('form[action="/settings/health/check"] button')
    assert "All checks were made" in person.said
    assert "versions" in person.page.inner_text("main")


def import_a_crontab(person: Person) -> None:
    """Paste a crontab, see what it becomes, and import it."""
    person.watched.open("/settings/import")
    person.write("/settings/import/preview", text="TOKEN=canary-value\n0 9 * * 1 backup.sh --all")
    assert "at 09:00 on Mondays" in person.page.inner_text("main")
    person.press('form[action="/settings/import"] button.primary')
    assert "The import is done" in person.said and "backup" in person.said
