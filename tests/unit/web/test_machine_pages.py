"""The pages of this Daybook: maintenance windows, tokens, configuration, jobs files, backups."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from daybook import api
from daybook.api.file_documents import DocumentChange
from daybook.api.files import ApplyReport
from daybook.features.backups.archive import MIN_PASSPHRASE_LENGTH
from daybook.home import Home
from daybook.jobs.views import FieldChange
from daybook.web.login import CSRF_FIELD, PageLogin
from daybook.web.pages import machine
from tests.unit.web.conftest import OWN, client
from tests.unit.web.submitting import Forms, everything, post, submit
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_to_sync")]

FILE = """\
set: team
jobs:
  - name: brief
    schedule: every day at 9:00
    kind: webhook
    url: http://127.0.0.1:9/brief
"""


async def test_a_maintenance_window_is_planned_and_removed(
    world: World, browser: httpx.AsyncClient
) -> None:
    page = "/settings/maintenance/new"
    answer, after = await submit(browser, page, page, until="nonsense")
    assert (answer.status_code, after.invalid) == (400, ["until"])
    answer, _ = await submit(browser, page, page, begin="in 1h", duration="2h", note="new disk")
    there = answer.headers["location"].partition("?")[0]
    assert "new disk" in (await browser.get("/settings/maintenance")).text
    remove = there.replace("/edit", "/remove")
    await submit(browser, there, remove)
    assert "new disk" not in (await browser.get("/settings/maintenance")).text
    assert (await browser.get(there)).status_code == 404


async def test_a_shared_link_is_shown_once_and_ends_with_its_removal(
    server: PageLogin, browser: httpx.AsyncClient
) -> None:
    page = "/settings/tokens/new"
    (form,) = Forms((await browser.get(page)).text).forms
    fields = [(name, {"name": "wall"}.get(name, value)) for name, value in form.fields]
    answers = [await post(browser, page, fields) for _ in range(2)]
    assert [each.status_code for each in answers] == [303, 303]
    there = answers[1].headers["location"]
    shown = (await browser.get(there)).text
    (link,) = re.findall(r"https?://\S+token=dbview_[\w-]+", shown)
    assert link not in (await browser.get(there)).text
    path = link.partition("//")[2].partition("/")[2]
    page = there.partition("?")[0]
    async with client(server) as viewer:
        assert (await viewer.get(f"/{path}")).status_code == 200
        assert (await viewer.get("/")).status_code == 200
        for each in ("/settings", "/settings/tokens", "/settings/secrets/new", "/start"):
            refused = await viewer.get(each)
            assert refused.status_code == 403, each
            assert "wall" not in refused.text
        await submit(browser, page, page.replace("/edit", "/remove"))
        assert (await viewer.get("/")).status_code == 401


async def test_a_token_is_not_edited(world: World, browser: httpx.AsyncClient) -> None:
    page = "/settings/tokens/new"
    answer, _ = await submit(browser, page, page, name="wall")
    there = answer.headers["location"].partition("?")[0]
    (form, *_) = Forms((await browser.get(there)).text).forms
    before = await everything(world)
    token = dict(form.fields)[CSRF_FIELD]
    answer = await post(browser, there, [(CSRF_FIELD, token), ("shown", "{}"), ("owner", "x")])
    assert answer.status_code == 400
    assert "cannot be changed" in answer.text
    assert await everything(world) == before


async def test_the_configuration_shows_no_secret(
    browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_PING_URL", "https://ping.example.org/canary-ping")
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", "postgresql://me:canary-word@h/d?password=canary-q")
    monkeypatch.setenv("DAYBOOK_BACKUP_PASSPHRASE", "canary-passphrase")
    monkeypatch.setenv("DAYBOOK_MAX_CONCURRENT", "7")
    text = (await browser.get("/settings/configuration")).text
    assert "canary" not in text
    assert "me:…@h/d" in text
    assert "max_concurrent = 7" in text


async def test_the_configuration_says_when_a_change_takes_effect(
    browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, daybook_home: Home
) -> None:
    monkeypatch.setenv("DAYBOOK_KEEP_RUNS", "7")
    daybook_home.path.mkdir(exist_ok=True)
    (daybook_home.path / "config.toml").write_text("keep_days = 5\nweb_port = 4290\n")

    async def rows() -> dict[str, str]:
        text = (await browser.get("/settings/configuration")).text
        return dict(re.findall(r'<tr id="(\w+)">(.*?)</tr>', text, re.DOTALL))

    found = await rows()
    at_start = {name for name, row in found.items() if ">at start<" in row}
    assert {"ledger_url", "web_port", "public_url", "max_hook_body"} <= at_start
    # A variable of a running process does not change.
    assert "keep_runs" in at_start and "DAYBOOK_KEEP_RUNS" in found["keep_runs"]
    assert not {"keep_days", "budget", "limits", "alert_channel", "sandbox"} & at_start
    assert "<strong>5</strong>" in found["keep_days"] and "config.toml" in found["keep_days"]
    (daybook_home.path / "config.toml").write_text("keep_days = 6\n")
    assert "<strong>6</strong>" in (await rows())["keep_days"]


async def test_a_jobs_file_is_uploaded_seen_and_applied(
    world: World, browser: httpx.AsyncClient
) -> None:
    page, preview = "/settings/apply", "/settings/apply/preview"
    form = next(
        each for each in Forms((await browser.get(page)).text).forms if each.action == preview
    )
    before = await everything(world)
    answer = await browser.post(
        preview,
        data={CSRF_FIELD: dict(form.fields)[CSRF_FIELD], "text": ""},
        files={"file": ("team.yaml", FILE.encode())},
        headers={"origin": OWN},
    )
    assert answer.status_code == 200
    assert await everything(world) == before
    confirm = next(each for each in Forms(answer.text).forms if each.action == page)
    assert "http://127.0.0.1:9/brief" in answer.text
    for _ in range(2):
        assert (await post(browser, page, confirm.fields)).status_code == 303
    assert list(await world.jobs.ids()) == ["brief"]
    answer, after = await submit(browser, page, preview, text=FILE.replace("9:00", "99:00"))
    assert answer.status_code == 400
    assert "99:00" in "".join(after.problems.values())


async def test_a_file_that_is_chosen_replaces_the_text_of_the_one_before(
    world: World, browser: httpx.AsyncClient
) -> None:
    page, preview = "/settings/apply", "/settings/apply/preview"
    form = next(
        each for each in Forms((await browser.get(page)).text).forms if each.action == preview
    )
    answer = await browser.post(
        preview,
        data={CSRF_FIELD: dict(form.fields)[CSRF_FIELD], "text": FILE, "name": "team.yaml"},
        files={"file": ("other.yaml", FILE.replace("brief", "digest").encode())},
        headers={"origin": OWN},
    )
    confirm = next(each for each in Forms(answer.text).forms if each.action == page)
    given = dict(confirm.fields)
    assert (given["name"], "digest" in given["text"], "brief" in given["text"]) == (
        *("other.yaml", True),
        False,
    )


async def test_the_preview_shows_settings_documents_beside_the_jobs(
    browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def planned(*_: object, dry_run: bool, **__: object) -> ApplyReport:
        key = FieldChange(field="api_key", old=None, new="{{secret:openai}}")
        change = DocumentChange(action="add", kind="agent", name="quick", changes=[key])
        return ApplyReport(
            set="team",
            dry_run=dry_run,
            documents=[change],
            unchanged_documents=7,
            changes=[],
            unchanged=0,
            pending=[],
            failed={},
            notes=["the secret openai: `daybook secrets add openai --host agent:quick`"],
        )

    monkeypatch.setattr(api.files, "apply", planned)
    page = "/settings/apply"
    answer, _ = await submit(browser, page, "/settings/apply/preview", text=FILE)
    for words in ("agent <strong>quick</strong>", "{{secret:openai}}", "Settings: 7 unchanged"):
        assert words in answer.text
    assert "<code>daybook secrets add openai --host agent:quick</code>" in answer.text
    assert page in [each.action for each in Forms(answer.text).forms]


async def test_a_file_without_the_token_is_refused(
    world: World, browser: httpx.AsyncClient
) -> None:
    for data in ({}, {CSRF_FIELD: "x"}):
        answer = await browser.post(
            "/settings/apply",
            data=data,
            files={"file": ("team.yaml", FILE.encode())},
            headers={"origin": OWN},
        )
        assert answer.status_code == 403
    assert await world.jobs.ids() == {}


async def test_a_backup_is_written_now_and_its_passphrase_is_shown_nowhere(
    browser: httpx.AsyncClient, daybook_home: Home, tmp_path: Path
) -> None:
    page, file = "/settings/backups", tmp_path / "one.backup"
    short = "canary-"[: MIN_PASSPHRASE_LENGTH - 1]
    answer, after = await submit(browser, page, page, file=str(file), passphrase=short)
    assert (answer.status_code, after.invalid) == (400, ["passphrase"])
    assert "canary" not in answer.text
    answer, _ = await submit(browser, page, page, file="one", passphrase="canary-passphrase")
    assert (answer.status_code, "canary" in answer.text) == (400, False)
    given = {"file": str(file), "passphrase": "canary-passphrase"}
    answer, after = await submit(browser, page, page, **given)
    assert "The backup was written" in after.status
    assert file.stat().st_size > 0
    assert "canary" not in (await browser.get(answer.headers["location"])).text


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("http://localhost:8321/a", "http://localhost:8321/a"),
        ("postgresql://user:se@cr/et@host:5432/db", "postgresql://user:…@host:5432/db"),
        ("postgresql://host/db?password=secret&x=1", "postgresql://host/db?password=…&x=1"),
        ('redis_url = "redis://:secret@host/0"', 'redis_url = "redis://:…@host/0"'),
    ],
)
def test_the_configuration_hides_passwords_of_urls_and_nothing_else(
    setting: str, shown: str
) -> None:
    assert machine._hide(setting) == shown
