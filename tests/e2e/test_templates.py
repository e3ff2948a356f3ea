"""Each template of Daybook, from `daybook new` to an answer with facts that only the sites have."""

from __future__ import annotations

import json
import re
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
from tests import certificates, imap_server
from tests.e2e.browsers import NEEDS_CHROMIUM, Watched
from tests.e2e.first_light import Up
from tests.providers import KEY, Answer, ModelRequest, provider
from tests.servers import migrate
from tests.unit.features.repositories.projects import at, commit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

DAYBOOK = f"{sys.executable} -m daybook"
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d{1,5}/[^\s>)]*")
ISSUES = "/repos/a/b/issues?state=all&sort=updated&direction=desc&per_page=15"
README = Path(__file__).parents[2] / "README.md"
ADVISORIES = "/advisories?ecosystem=pip&per_page=100&affects=NAME@VERSION,NAME@VERSION"
MERGES = "/projects/a%2Fb/merge_requests?scope=all&order_by=updated_at&per_page=15"
TICKETS = "/projects/a%2Fb/issues?scope=all&order_by=updated_at&per_page=15"
FAILED = "/repos/a/b/actions/runs?status=failure&per_page=5&exclude_pull_requests=true"
FACTS = {
    "/news": ("text/html", "<h1>News</h1><p>The lighthouse was painted green.</p>"),
    "/feed": ("application/rss+xml", "<rss><item><title>Ferry at 17:45</title></item></rss>"),
    ISSUES: ("application/json", json.dumps([{"number": 4711, "title": "The lamp is dark"}])),
    ISSUES.replace("a/b", "astral-sh/uv"): (
        "application/json",
        json.dumps([{"number": 4712, "title": "A quay that only this site has"}]),
    ),
    "/lock.txt": ("text/plain", "lanterna==1.2.3"),
    ADVISORIES: ("application/json", json.dumps([{"ghsa_id": "GHSA-lamp-0001"}])),
    MERGES: ("application/json", json.dumps([{"iid": 4712, "title": "Paint the lamp"}])),
    TICKETS: ("application/json", json.dumps([{"iid": 4713, "title": "No paint is left"}])),
    FAILED: ("application/json", json.dumps([{"name": "tests", "head_branch": "green-paint"}])),
    "/price": ("text/html", "<p>The lamp costs 12.50 euros.</p>"),
}
"""Content type and content of each page of the site."""


class Site(BaseHTTPRequestHandler):
    """A site with the pages of `FACTS`, the APIs of GitHub and GitLab among them."""

    def do_GET(self) -> None:
        kind, content = FACTS.get(self.path, ("text/html", ""))
        body = content.encode()
        self.send_response(200 if content else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reads(request: ModelRequest) -> Answer:
    """Read what the prompt is about, and answer with what it contains.

    That is each address of the prompt, one after the other, the mail, or a file.
    """
    prompts = [text for role, text in request.messages if role == "user"]
    pages = [text for role, text in request.messages if role == "tool"]
    addresses = list(dict.fromkeys(ADDRESS.findall(prompts[-1])))
    if "mailbox_search" in request.tools and "Triage my mail" in prompts[-1]:
        if not pages:
            return Answer("", tool="mailbox_search", arguments={"since": "2026-01-01"})
        if len(pages) == 1:
            (uid,) = re.findall(r"Id: (\d+)", pages[0])
            return Answer("", tool="mailbox_read", arguments={"id": int(uid)})
    elif not addresses and not pages:
        return Answer("", tool="files_read", arguments={"path": "notes.md"})
    if len(pages) < len(addresses):
        return Answer("", tool="web_fetch", arguments={"url": addresses[len(pages)].rstrip(".")})
    return Answer("\n".join(pages))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, str]]:
    """Yield a home whose agent `default` is a model that reads, and the address of the site."""
    home, empty = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("empty")
    migrate(Home(home))
    certificate = certificates.localhost(tmp_path_factory.mktemp("certificate"))
    with site() as address, provider() as model, imap_server.serving(certificate) as mail:
        model.script = [reads]
        mail.deliver("Harbour", "The harbour closes on 3 December.")
        variables = {
            "DAYBOOK_ALLOWED_HOSTS": "127.0.0.1",
            "DAYBOOK_ALLOWED_WORK_DIRS": str(tmp_path_factory.getbasetemp()),
            "DAYBOOK_IMAP_URL": mail.url,
            "SSL_CERT_FILE": str(certificate),
        }
        running = Up(home, empty, variables=variables)
        try:
            running.until(lambda lines: any(each.startswith("Ready") for each in lines), 120)
            words = ("agents", "add", "default", "--replace", "--model", "openai:gpt-6-luna")
            given = ("--base-url", model.address, "--key-stdin")
            running.daybook_json(*words, *given, given=KEY)
            secret = ("secrets", "add", "imap", "--host", "127.0.0.1")
            running.daybook_json(*secret, given=imap_server.PASSWORD)
            yield running, address
        finally:
            running.end()


def write_notes(folder: Path) -> None:
    """Make a folder with notes, which is also a repository."""
    at(folder, "init", "-q")
    (folder / "notes.md").write_text("The pier was closed.")
    commit(folder)


TEMPLATES = {
    "morning-brief": ({"pages": "{site}/news {site}/feed"}, ["painted green", "17:45"]),
    "pull-requests": ({"repository": "a/b", "api": "{site}"}, ["4711", "lamp is dark"]),
    "security-check": (
        {"manifest": "{site}/lock.txt", "api": "{site}"},
        ["lanterna==1.2.3", "GHSA-lamp-0001"],
    ),
    "merge-requests": (
        {"project": "a/b", "api": "{site}"},
        ["Paint the lamp", "No paint is left"],
    ),
    "inbox": ({}, ["The harbour closes on 3 December."]),
    "failed-ci": ({"repository": "a/b", "api": "{site}"}, ["green-paint"]),
    "limit": ({"page": "{site}/price", "what": "the price", "limit": "below 20"}, ["12.50"]),
    "page-watch": ({"page": "{site}/price"}, []),
    "weekly-report": ({"folder": "{folder}"}, ["The pier was closed."]),
    "nightly-fix": ({"repository": "{folder}", "verify": "true"}, ["The pier was closed."]),
}
"""The answers to each template's questions, and the facts in the answer of its first run."""


def test_every_template_is_tried(local: tuple[Up, str]) -> None:
    up, _ = local
    listed = up.daybook_json("new")
    assert [each["name"] for each in listed] == sorted(TEMPLATES)


@NEEDS_CHROMIUM
def test_a_person_adds_a_job_of_each_template_on_the_page_and_reads_its_first_answer(
    local: tuple[Up, str], chromium: Browser, tmp_path: Path
) -> None:
    up, address = local
    lines = up.until(lambda lines: any(LOGIN_PATH in line for line in lines), 60)
    link = next(line for line in lines if LOGIN_PATH in line).split()[-1]
    url = link.partition(LOGIN_PATH)[0]
    with chromium.new_context() as context:
        watched = Watched(context, url)
        page = watched.page
        page.set_default_timeout(60_000)
        page.goto(link)
        page.wait_for_url(lambda reached: reached in (f"{url}/", f"{url}/start"))
        watched.open("/jobs")
        page.get_by_role("link", name="Start from a template").press("Enter")
        page.get_by_role("link", name="A value that is compared with a limit").press("Enter")

        page.get_by_label("Which page (address)?").press_sequentially("price")
        page.keyboard.press("Enter")
        assert "no address" in page.get_by_role("alert").inner_text()
        wrong = page.get_by_label("Which page (address)?")
        assert wrong.get_attribute("aria-invalid") == "true"
        assert wrong.evaluate("each => each === document.activeElement")
        assert ["400" in each for each in watched.problems] == [True]  # of the page itself
        watched.problems.clear()
        wrong.fill(f"{address}/price")
        page.get_by_label("Which value on it?").fill("the price")
        page.get_by_label("such as: below 100 euros").fill("below 20 euros")
        page.get_by_label("Name").fill("lamp-price")
        page.keyboard.press("Enter")
        shown = page.locator("pre").inner_text()
        assert "name: lamp-price" in shown
        assert f"Read {address}/price and find this value: the price." in shown
        assert not [each for each in up.daybook_json("list") if each["name"] == "lamp-price"]

        page.get_by_role("button", name="Add the job and run it").press("Enter")
        page.wait_for_url(f"{url}/runs/**")
        assert "The job was added." in page.get_by_role("status").first.inner_text()
        page.get_by_text("The lamp costs 12.50 euros.").first.wait_for()  # the page is live
        assert not watched.problems

        write_notes(tmp_path)
        given = {"site": address, "folder": tmp_path}
        for name, (answers, facts) in TEMPLATES.items():
            watched.open(f"/jobs/new/templates/{name}")
            for question, text in {**answers, "name": f"page-{name}"}.items():
                page.locator(f'[name="{question}"]').fill(text.format(**given))
            page.get_by_role("button", name="Show the job").click()
            page.get_by_role("button", name="Add the job and run it").click()
            page.wait_for_url(f"{url}/runs/**")
            for fact in facts or ["skipped"]:  # the first look at a page is no change
                page.get_by_text(fact).first.wait_for()
            assert not watched.problems, name


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_gives_a_job_whose_first_answer_has_the_facts(
    local: tuple[Up, str], name: str, tmp_path: Path
) -> None:
    up, address = local
    answers, facts = TEMPLATES[name]
    write_notes(tmp_path)
    given = {"site": address, "folder": tmp_path}
    sets = [f"--set '{each}={text.format(**given)}'" for each, text in answers.items()]

    done = up.shell(f"{DAYBOOK} new {name} {' '.join(sets)}")

    assert done.returncode == 0, done.stderr
    assert f"Added {name}" in done.stderr
    if name == "page-watch":  # the first look at a page is no change
        assert f"{name}: skipped" in done.stdout, done.stdout
    else:
        assert f"{name}: succeeded" in done.stdout, done.stdout
    for fact in facts:
        assert fact in done.stdout
    tools = up.daybook_json("agents", "show", "default")["settings"]["tools"]
    needed = {each["name"]: each["tools"] for each in up.daybook_json("new")}[name]
    assert set(needed) <= set(tools)


def test_the_job_of_readme_reports_a_pull_request_that_only_the_site_has(
    local: tuple[Up, str],
) -> None:
    up, address = local
    (words,) = re.findall(r"^\$ daybook (new .*)$", README.read_text(), re.MULTILINE)

    done = up.shell(f"{DAYBOOK} {words} --set api={address} --name from-readme")

    assert done.returncode == 0, done.stderr
    assert "from-readme: succeeded" in done.stdout
    assert "A quay that only this site has" in done.stdout
