"""The pages behind a proxy that serves them below a path: every link, a login, a form, a stream."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from urllib.parse import urlsplit

import httpx
import pytest

from daybook.home import Home
from daybook.operations import login
from tests import morning
from tests.e2e.browsers import NEEDS_CHROMIUM, Watched, serving, started_chromium
from tests.reverse_proxy import proxying
from tests.servers import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

PREFIX = "/tools/daybook"
LINK = re.compile(r'\s(?:href|src|action|formaction|hx-get|hx-post)="([^"#][^"]*)"')
MIN_PAGES = 35


@dataclass(frozen=True)
class Proxied:
    """The public URL, below which a proxy forwards the paths that it records."""

    home: Home
    local_url: str
    url: str
    paths: list[str]

    def link(self) -> str:
        """Return a link that logs in at the public URL, as `daybook open --phone` makes it."""
        basic = base64.b64encode(self.home.credential().encode()).decode()
        answer = httpx.post(
            f"{self.local_url}{login.LINKS_PATH}?{login.PUBLIC}",
            headers={"authorization": f"Basic {basic}"},
            trust_env=False,
        )
        return f"{self.url}{login.LOGIN_PATH}?token={answer.json()['token']}"


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    home, port = tmp_path_factory.mktemp("home"), free_port()
    url = f"http://daybook.localhost:{port}{PREFIX}"
    with serving(home, lambda ledger: morning.fill(ledger, 2), url) as served:
        to = urlsplit(served.url).port
        assert to is not None
        with proxying(port, to, PREFIX) as paths:
            yield Proxied(Home(home), served.url, url, paths)


def test_no_link_of_any_page_leaves_the_prefix(proxied: Proxied) -> None:
    """Open one page of each shape, from Today on."""
    public = urlsplit(proxied.url)
    host = {"host": public.netloc}
    with httpx.Client(
        base_url=f"http://127.0.0.1:{public.port}", headers=host, trust_env=False, timeout=60
    ) as browser:
        opened = browser.get(proxied.link().removeprefix(f"http://{public.netloc}"))
        browser.headers["cookie"] = opened.headers["set-cookie"].partition(";")[0]
        found, seen = [f"{PREFIX}/"], set[str]()
        while found:
            path = found.pop()
            shape = re.sub(r"[0-9a-f]{32}|(?<=/sessions/)[^/]+", "*", path.partition("?")[0])
            if shape in seen:
                continue
            seen.add(shape)
            page = browser.get(path)
            assert page.status_code in (200, 503), path  # there is no Prefect
            if not page.headers["content-type"].startswith("text/html"):
                continue
            links = [unescape(each) for each in LINK.findall(page.text)]
            own = [each for each in links if not each.startswith(("http://", "https://"))]
            assert [each for each in own if not each.startswith(f"{PREFIX}/")] == [], path
            forms = re.findall(r'action="([^"]*)"', page.text)
            found += [each for each in own if each not in forms]
    assert len([each for each in seen if "/static/" not in each]) > MIN_PAGES
    assert {f"{PREFIX}/runs/*", f"{PREFIX}/settings/devices"} <= seen


@NEEDS_CHROMIUM
def test_a_browser_uses_the_pages_below_the_prefix(proxied: Proxied) -> None:
    from playwright.sync_api import expect

    with started_chromium() as chromium, chromium.new_context() as context:
        origin = proxied.url.removesuffix(PREFIX)
        context.grant_permissions(["notifications"], origin=origin)
        watched = Watched(context, proxied.url)
        page = watched.page
        page.goto(proxied.link())
        page.wait_for_url(f"{proxied.url}/")
        (cookie,) = context.cookies()
        assert cookie["path"] == PREFIX

        # A form, and the stream that updates the page of the job.
        page.goto(f"{proxied.url}/jobs?q=morning")
        page.locator("td.name > a").first.click()
        page.get_by_text("Snooze…").click()
        page.get_by_label("Until").fill("2h")
        page.get_by_role("button", name="Snooze").click()
        page.wait_for_url("**done=snoozed&**")
        with chromium.new_context(storage_state=context.storage_state()) as other:
            there = other.new_page()
            there.goto(page.url)
            there.get_by_role("button", name="End snooze").click()
            there.wait_for_url("**done=**")
        expect(page.get_by_role("button", name="End snooze")).to_have_count(0, timeout=60_000)
        assert not watched.problems

        # The service worker, and the manifest.
        page.goto(f"{proxied.url}/settings/push")
        page.get_by_role("button", name="Notify this browser").click()
        page.wait_for_selector("#push-problem:not([hidden])")  # Chromium has no push service here
        worker = page.evaluate(
            "navigator.serviceWorker.ready.then((each) => [each.scope, each.active.scriptURL])"
        )
        assert worker == [f"{proxied.url}/", f"{proxied.url}/static/sw.js"]
        start = page.evaluate(
            "(async (at) => new URL((await (await fetch(at)).json()).start_url, at).href)"
            "(document.querySelector('link[rel=manifest]').href)"
        )
        assert start == f"{proxied.url}/"
    assert f"{PREFIX}/live" in proxied.paths
    assert {each for each in proxied.paths if not each.startswith(f"{PREFIX}/")} == set()
