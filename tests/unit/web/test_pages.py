"""Daybook's pages in process: each page, what it shows, and what it does not run."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from anyio.lowlevel import checkpoint
from sqlmodel import select

from daybook.delivery import sending
from daybook.delivery.sending import DeliveryResult
from daybook.features.work_tools import kept_files
from daybook.home import Home
from daybook.ledger.states import Delivery, Status
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.runs.daily import Total
from daybook.web import login, pages
from daybook.web.login import PageLogin
from daybook.web.pages import assets, site
from tests import morning
from tests.unit.web.conftest import OWN, client, no_health
from tests.world import World

pytestmark = pytest.mark.anyio

MAX_PAGES_OF_A_KIND = 3
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


class Page(HTMLParser):
    """The elements and links of a page, and what its policy would have to stop."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.inline: list[str] = []
        self.tags: Counter[str] = Counter()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        given = dict(attrs)
        if tag == "a":
            self.links.append(given.get("href") or "")
        if (tag == "script" and "src" not in given) or tag == "style":
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        self.loads += [given[name] or "" for name in ("src", "srcset", "data") if name in given]
        if tag == "link":
            self.loads.append(given.get("href") or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def kind_of(path: str) -> str:
    return re.sub(r"(?<=/)[^/]*[0-9a-f]{8,}[^/]*", "ID", path)


async def test_every_page_answers_and_shows_what_is_stored_as_text(
    world: World, browser: httpx.AsyncClient, nothing_to_sync: None
) -> None:
    await morning.fill(world.ledger, days=1)
    seen, waiting, kinds = set[str](), ["/"], Counter[str]()
    shown = ""
    while waiting:
        path = waiting.pop(0)
        kind = kind_of(urlsplit(path).path)
        if path == "/agents/found":  # it asks the programs of this machine
            continue
        if path in seen or kinds[kind] >= MAX_PAGES_OF_A_KIND:
            continue
        seen.add(path)
        kinds[kind] += 1
        answer = await browser.get(path)
        if "attachment" in answer.headers.get("content-disposition", ""):
            continue  # no browser shows it
        page = Page(answer.text)
        # The run of a session's messages is gone: sessions outlive their runs.
        assert answer.status_code == (404 if "0" * 32 in path else 200), (path, page.text)
        assert not page.inline, path
        assert page.tags["img"] == 0, path  # the only images are those of the attack
        for each in page.loads:
            assert each.startswith("/static/"), (path, each)
        for each in page.links:
            parts = urlsplit(urljoin(OWN + path, each))
            assert parts.scheme in ("http", "https"), (path, each)
            if parts.netloc == urlsplit(OWN).netloc and not each.startswith("#"):
                waiting.append(parts.path + (f"?{parts.query}" if parts.query else ""))
        shown += page.text
    assert {
        *("/jobs/ID", "/runs/ID", "/callbacks/ID", "/inbox/ID", "/tasks/ID", "/changes/ID"),
    } <= set(kinds)
    assert "/sessions/writer%3Ateam" in kinds or "/sessions/writer:team" in kinds
    assert morning.ATTACK in shown
    assert morning.ATTACKING_LINKS in shown  # neither a link nor an image: the text itself


async def test_a_transcript_is_a_file_to_save(world: World, browser: httpx.AsyncClient) -> None:
    granted = await world.runs.running(await world.jobs.add())
    call = {"kind": "tool", "name": "mail", "position": "1.1", "input": morning.ATTACK}
    await world.runs.stepped(granted, Status.SUCCEEDED, **call, output="Hm.")
    page = Page((await browser.get(f"/runs/{granted.run_id}")).text)
    for ending, kind in (("md", "text/markdown"), ("json", "application/json")):
        path = f"/runs/{granted.run_id}/transcript.{ending}"
        assert path in page.links
        answer = await browser.get(path)
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"] == (
            f'attachment; filename="transcript-{granted.run_id[:8]}.{ending}"'
        )
        assert "Hm." in answer.text
    assert answer.json()["steps"][0]["input"] == morning.ATTACK


async def test_a_run_shows_its_steps_as_text(world: World, browser: httpx.AsyncClient) -> None:
    granted = await world.runs.running(await world.jobs.add())
    call = {"kind": "tool", "name": "mail", "position": "1.1", "input": morning.ATTACK}
    ended = {"error": "no such address", "output": "Hm."}
    await world.runs.stepped(granted, Status.FAILED, **call, **ended)
    page = Page((await browser.get(f"/runs/{granted.run_id}")).text)
    for shown in (morning.ATTACK, "Called", "mail", "1.1", "no such address", "Hm."):
        assert shown in page.text
    assert page.tags["img"] == 0 and not page.inline


async def test_a_run_links_the_pages_that_it_has_read(
    world: World, browser: httpx.AsyncClient
) -> None:
    granted = await world.runs.running(await world.jobs.add())
    call = {"kind": "tool", "name": "web_fetch", "position": "1.1", "input": 'url="x"'}
    title, address = "<img src=x onerror=alert(1)> & co", "https://example.org/?a=1&b='2"
    output = f"[x: a page of the web; x]\nTitle: {title}\nAddress: {address}\n\nText"
    await world.runs.stepped(granted, Status.SUCCEEDED, **call, output=output)
    page = Page((await browser.get(f"/runs/{granted.run_id}")).text)
    assert address in page.links and title in page.text
    assert page.tags["bdi"] == 1  # the title cannot turn around the address beside it
    assert page.tags["img"] == 0 and not page.inline


async def test_a_run_offers_the_files_that_it_has_written_to_save(
    world: World, browser: httpx.AsyncClient
) -> None:
    granted = await world.runs.running(await world.jobs.add())
    name = 'a & "b"/<script>\u00fc?#.html'
    async with world.ledger.write() as session:
        for path, content in ((name, b"<script>x</script>"), ("key", b"dbt_" + b"A" * 43)):
            await kept_files.record(session, world.ledger, granted.run_id, path, content)
    page = Page((await browser.get(f"/runs/{granted.run_id}")).text)
    assert name in page.text and "not kept: it contains a secret" in page.text
    (link,) = (each for each in page.links if "/files/" in each)
    assert page.tags["script"] == Page((await browser.get("/")).text).tags["script"]
    answer = await browser.get(link)
    assert answer.content == b"<script>x</script>"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == (
        """attachment; filename="_script____.html"; """
        "filename*=UTF-8''%3Cscript%3E%C3%BC%3F%23.html"
    )
    for missing in ("key", "b", "../../etc/passwd"):
        assert (await browser.get(f"/runs/{granted.run_id}/files/{missing}")).status_code == 404


async def test_a_running_run_shows_its_duration_tokens_and_cost_so_far(
    world: World, browser: httpx.AsyncClient
) -> None:
    granted = await world.runs.running(await world.jobs.add())
    for number in (1, 2):
        used = {"input_tokens": 1_000 * number, "output_tokens": 7, "cost_usd": 0.25}
        await world.runs.stepped(granted, Status.SUCCEEDED, number=number, usage=used)
    world.passes(seconds=200)
    path = f"/runs/{granted.run_id}"
    text = " ".join(Page((await browser.get(path)).text).text.split())
    facts = ("Duration3 min 20 s so far", "Tokens3,000 in, 14 out", "Cost$0.50")
    assert [fact for fact in facts if fact not in text] == []
    await world.runs.finish(granted, Status.SUCCEEDED)
    text = " ".join(Page((await browser.get(path)).text).text.split())
    assert "Duration3 min 20 s" in text and "so far" not in text


async def test_a_delivered_message_is_shown_as_delivered(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("brief", prompt="x", every="1h", channel="team")
    granted = await world.runs.running(job)
    await world.runs.finish(granted, Status.SUCCEEDED, output="Done.")
    sent = [
        DeliveryResult(row.id, row.fence, Delivery.DELIVERED, None, 0.1)
        for row in await sending.claim(world.ledger, "test", most=5)
    ]
    await sending.record(world.ledger, sent)
    events = (await browser.get(f"/runs/{granted.run_id}")).text.partition("<h2>Events</h2>")[2]
    assert "Delivered message to team" in events
    assert "Tried" not in events and "s-failed" not in events


async def test_a_delivered_alert_about_a_run_is_shown_wherever_the_run_is(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("brief", prompt="x", every="1h")
    granted = await world.runs.running(job)
    await world.runs.finish(granted, Status.FAILED, error="broken")
    sent = [
        DeliveryResult(row.id, row.fence, Delivery.DELIVERED, None, 0.1)
        for row in await sending.claim(world.ledger, "test", most=5)
    ]
    await sending.record(world.ledger, sent)
    for path in (f"/runs/{granted.run_id}", "/runs", f"/jobs/{job.id}"):
        assert "alert delivered" in Page((await browser.get(path)).text).text, path


@pytest.mark.parametrize(("cost_usd", "shown"), [(0.0, "$0"), (None, "–")])
async def test_a_known_cost_of_zero_is_not_an_unknown_cost(
    cost_usd: float | None, shown: str, world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("brief", prompt="x", every="1h")
    granted = await world.runs.running(job)
    used = {"input_tokens": 9, "output_tokens": 7, "cost_usd": cost_usd}
    await world.runs.finish(granted, Status.SUCCEEDED, output="Done.", usage=used)
    unpriced = "0" if cost_usd is not None else "1"
    spend = " ".join(Page((await browser.get("/spend")).text).text.split())
    for fact in (f"Today{shown}", f"30 days{shown}", f"Runs without a price{unpriced}"):
        assert fact in spend
    assert ("No run has a known cost." in spend) is (cost_usd is None)
    for path in ("/jobs", "/agents", f"/jobs/{job.id}"):
        text = Page((await browser.get(path)).text).text
        assert ("$0" in text) is (cost_usd is not None), path


@pytest.mark.parametrize("path", LISTS)
async def test_an_empty_list_says_what_to_do_next(browser: httpx.AsyncClient, path: str) -> None:
    answer = await browser.get(path)
    assert answer.status_code == 200
    assert 'class="empty"' in answer.text


async def test_a_browser_that_is_not_logged_in_sees_nothing(
    world: World, server: PageLogin
) -> None:
    job = await world.jobs.add("secret-plan")
    async with client(server) as stranger:
        for path in (*LISTS, f"/jobs/{job.id}", "/runs/x/log", "/nothing"):
            answer = await stranger.get(path)
            assert answer.status_code == 401
            assert "daybook open" in answer.text
            assert "secret-plan" not in answer.text


async def test_a_link_works_once_and_its_cookie_is_strict(server: PageLogin) -> None:
    link = server.new_link()
    async with client(server) as first, client(server) as second:
        answer = await first.get(link)
        for word in ("HttpOnly", "SameSite=Strict", "Path=/"):
            assert word in answer.headers["set-cookie"]
        assert (await first.get("/")).status_code == 200
        assert (await second.get(link)).status_code == 403
        assert (await second.get("/")).status_code == 401


async def test_a_page_may_load_only_from_its_server_and_is_not_cached(
    browser: httpx.AsyncClient,
) -> None:
    for path in ("/", "/nothing"):
        headers = (await browser.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["cache-control"] == "no-store"


async def test_a_link_of_another_site_leads_to_the_page_but_a_request_of_one_is_refused(
    browser: httpx.AsyncClient,
) -> None:
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    answer = await browser.get("/jobs?q=%22%3E%3Cb%3E", headers=followed)
    assert 'content="0;url=/jobs?q=%22%3E%3Cb%3E"' in answer.text
    for path in ("/%5Cevil.example", "/%09/evil.example", "/%2F/evil.example"):
        leading = (await browser.get(path, headers=followed)).text.partition('content="0;url=/')[2]
        assert leading[0] not in "\\/\t"
    for mode in ("no-cors", "cors"):
        headers = {"sec-fetch-site": "same-site", "sec-fetch-mode": mode}
        assert (await browser.get("/jobs", headers=headers)).status_code == 403


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"origin": OWN}, 405),  # the list accepts no form, but the request gets that far
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": OWN, "sec-fetch-site": "same-site"}, 403),
        ({}, 403),
    ],
)
async def test_a_write_is_accepted_from_own_pages_only(
    browser: httpx.AsyncClient, headers: dict[str, str], code: int
) -> None:
    assert (await browser.post("/jobs", headers=headers)).status_code == code


async def test_a_large_form_is_refused(browser: httpx.AsyncClient) -> None:
    body = b"x" * (login.MAX_FORM_BYTES + 1)
    assert (await browser.post("/jobs", headers={"origin": OWN}, content=body)).status_code == 413


async def test_static_files_are_kept_by_browsers_and_nothing_else_is_served(
    server: PageLogin,
) -> None:
    async with client(server) as stranger:
        style = await stranger.get("/static/daybook.css?v=1")
        assert style.headers["content-type"].startswith("text/css")
        assert "immutable" in style.headers["cache-control"]
        # Its address does not name its content, as that of the service worker.
        style = await stranger.get("/static/daybook.css")
        assert style.headers["cache-control"] == "no-cache"
        assert ".p1000{left:100%}" in (await stranger.get("/static/positions.css")).text
        for name in ("htmx.LICENSE.txt", "..%2Fapp.py", "none.css", "%00.css", f"{'x' * 300}.css"):
            assert (await stranger.get(f"/static/{name}")).status_code == 404


async def test_a_stranger_fills_no_memory_with_names_of_files(server: PageLogin) -> None:
    async with client(server) as stranger:
        before = assets._content.cache_info().currsize
        for number in range(3):
            assert (await stranger.get(f"/static/{number}.css")).status_code == 404
    assert assets._content.cache_info().currsize == before


async def test_unknown_things_and_filters_have_a_page(browser: httpx.AsyncClient) -> None:
    for path, code in (
        ("/jobs/nothing", 404),
        ("/runs/nothing", 404),
        ("/callbacks?status=maybe", 400),
        ("/runs?status=maybe", 400),
        ("/jobs?page=999999999999", 200),
    ):
        answer = await browser.get(path)
        assert answer.status_code == code
        assert "<main" in answer.text


async def test_a_ledger_that_cannot_be_opened_has_a_page(
    daybook_home: Home, of_this_user: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", f"sqlite+aiosqlite:///{daybook_home.path}/no/l.db")
    (daybook_home.path / "no").write_text("a file, not a folder")
    application = pages.application(no_health)
    server = login.protect(application, 4280)
    async with client(server) as browser:
        await browser.get(server.new_link())
        answer = await browser.get("/jobs")
        assert answer.status_code == 503
        assert "does not answer" in answer.text
    await application.state.site.close()


async def test_the_pages_close_their_ledger_after_their_last_query(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query that continues would use a connection that is closed already."""
    pages = site.Site(no_health)
    steps: list[str] = []

    async def totals() -> list[Total]:
        try:
            await asyncio.Event().wait()
        finally:
            await checkpoint()
            steps.append("query")
        return []

    monkeypatch.setattr(pages, "totals", totals)
    ledger = await pages.ledger()
    close = ledger.close

    async def closes() -> None:
        steps.append("ledger")
        await close()

    monkeypatch.setattr(ledger, "close", closes)
    await checkpoint()
    await pages.close()
    assert steps == ["query", "ledger"]


async def test_a_run_shows_its_prompt_answer_attempts_tries_and_events(
    world: World, browser: httpx.AsyncClient
) -> None:
    await morning.fill(world.ledger, days=1)
    async with world.ledger.read() as session:
        sent = (await session.execute(select(OutboxRow).where(OutboxRow.attempts == 3))).scalars()
        run_id = next(iter(sent)).run_id
    page = Page((await browser.get(f"/runs/{run_id}")).text)
    for part in (
        "Which tests failed and then passed on main?",
        "the provider returned status 529",
        "Attempt 3 failed",
        "Tried callback to https://ops.example.org/hook",
        "status 502",
        "Outcome recorded",
    ):
        assert part in page.text
    async with world.ledger.read() as session:
        answered = select(RunRow).where(RunRow.output == morning.ANSWER)
        run_id = next(iter((await session.execute(answered)).scalars())).id
    text = (await browser.get(f"/runs/{run_id}")).text
    assert "<td>412 Retry budget</td>" in text
    assert "<code>checks failed</code>" in text


async def test_the_filters_of_the_jobs_are_those_of_the_address(
    world: World, browser: httpx.AsyncClient
) -> None:
    await world.jobs.add("brief", prompt="x", agent="writer", cron="0 8 * * *", tags=["team"])
    await world.jobs.add("export", prompt="y", every="1h")
    await world.jobs.edit("export", enabled=False)

    async def names(query: str) -> set[Any]:
        page = (await browser.get(f"/jobs?{query}")).text
        return set(re.findall(r'<td class="name"><a href="/jobs/\w+">(.*?)</a>', page))

    assert await names("") == {"brief", "export"}
    assert await names("q=BRI") == {"brief"}
    assert await names("tag=team") == {"brief"}
    assert await names("agent=writer") == {"brief"}
    assert await names("state=paused") == {"export"}
    assert await names("state=enabled&tag=none") == set()


async def test_a_ledger_that_was_moved_away_is_used_again_when_it_is_back(
    daybook_home: Home, of_this_user: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = daybook_home.path / "of-the-page.db"
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", f"sqlite+aiosqlite:///{file}")
    application = pages.application(no_health)
    server = login.protect(application, 4280)
    async with client(server) as browser:
        await browser.get(server.new_link())
        assert (await browser.get("/jobs")).status_code == 200
        opened = await application.state.site.ledger()
        moved = file.rename(file.with_suffix(".away"))
        answer = await browser.get("/jobs")
        assert answer.status_code == 503
        assert "move the file back to continue" in answer.text
        assert not file.exists()  # no page creates a new, empty ledger
        moved.rename(file)
        assert (await browser.get("/jobs")).status_code == 200
        assert await application.state.site.ledger() is opened
    await application.state.site.close()
