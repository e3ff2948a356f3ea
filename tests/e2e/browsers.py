"""Daybook's pages in Chromium: a web server of a filled ledger, and a page that notes problems."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from daybook.ledger.engine import Ledger
from tests.servers import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = "/usr/bin/chromium"
NEEDS_CHROMIUM = pytest.mark.skipif(
    shutil.which(CHROMIUM) is None, reason="service absent: chromium"
)


@dataclass(frozen=True)
class Served:
    """A web server of a ledger, and its one-time link."""

    url: str
    link: str


@contextmanager
def serving(
    home: Path, fill: Callable[[Ledger], Awaitable[object]], public_url: str = ""
) -> Iterator[Served]:
    """Fill a new ledger in ``home``, and serve its pages."""

    async def filled() -> None:
        async with Ledger(f"sqlite+aiosqlite:///{home}/ledger.db") as ledger:
            await fill(ledger)

    with ThreadPoolExecutor(1) as pool:  # Playwright has a running event loop in this thread
        pool.submit(lambda: asyncio.run(filled())).result()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-P", "-m", "daybook.web", "--host", "127.0.0.1", "--port"]
    variables = {"DAYBOOK_HOME": str(home), "DAYBOOK_TIMEZONE": "Europe/Berlin", "PATH": "/usr/bin"}
    variables |= {"DAYBOOK_PUBLIC_URL": public_url} if public_url else {}
    with subprocess.Popen(
        [*command, str(port)], stderr=subprocess.PIPE, text=True, env=variables, cwd=home
    ) as process:
        assert process.stderr is not None
        try:
            link = ""
            for line in process.stderr:
                word, _, rest = line.strip().partition(" ")
                link = rest if word == "Open:" else link
                if word == "Health:":
                    break
            assert link, "the server did not start"
            yield Served(url, link)
        finally:
            process.terminate()


@contextmanager
def started_chromium() -> Iterator[Browser]:
    """Yield a Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page that notes what must not happen: errors, and requests to other hosts."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page: Page = context.new_page()
        self.url, self.host = url, urlsplit(url).netloc
        self.problems: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        self.page.on("request", lambda request: self._request(request.url))
        self.page.on("dialog", self._dialog)

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)
        self.page.wait_for_load_state("networkidle")
        assert not self.problems, (path, self.problems)
        # No stored attack ran: `tests.morning` and `tests.attack`.
        assert self.page.title() not in ("owned", "666"), path

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console: {message.text}")

    def _request(self, url: str) -> None:
        if urlsplit(url).netloc != self.host:
            self.problems.append(f"request to {url}")

    def _dialog(self, dialog: Any) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()
