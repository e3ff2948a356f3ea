"""The page of imports: a preview that stores nothing, and an import that is done once."""

from __future__ import annotations

import html
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from daybook.features.imports import page as imports
from daybook.features.imports import readers
from daybook.owners import USER
from tests import rows
from tests.unit.features.imports import files as samples
from tests.unit.web.conftest import OWN
from tests.unit.web.submitting import Form, Forms, everything, post, submit
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_to_sync")]

PAGE, PREVIEW = "/settings/import", "/settings/import/preview"
CRONTAB = """\
API_KEY=canary-1234567890abcdef
30 2 * * * backup.sh
0 9 * * 1-5 report.sh
"""


async def upload(
    browser: httpx.AsyncClient, system: str, files: dict[str, bytes], text: str = ""
) -> httpx.Response:
    shown = Forms((await browser.get(f"{PAGE}?system={system}")).text)
    (form,) = (each for each in shown.forms if each.buttons == [PREVIEW])
    fields = {name: value for name, value in form.fields if name != "file"}
    return await browser.post(
        PREVIEW,
        data=fields | {"text": text},
        files=[("file", each) for each in files.items()] or [("file", ("", b""))],
        headers={"origin": OWN},
    )


def confirm(answer: httpx.Response) -> Form:
    (form,) = (each for each in Forms(answer.text).forms if PAGE in each.buttons)
    return form


async def test_a_crontab_is_pasted_seen_and_imported_once(
    world: World, browser: httpx.AsyncClient
) -> None:
    before = await everything(world)
    answer, _ = await submit(browser, PAGE, PREVIEW, text=CRONTAB.rstrip())
    assert answer.status_code == 200
    for words in ("backup", "at 02:30 every day", "report", "at 09:00 on weekdays", "API_KEY"):
        assert words in answer.text, words
    assert "canary" not in answer.text
    assert await everything(world) == before
    form = confirm(answer)
    for _ in range(2):  # a double click
        done = await post(browser, PAGE, form.fields)
        assert done.status_code == 303
    assert sorted(await world.jobs.ids()) == ["backup", "report"]
    after = await browser.get(done.headers["location"])
    assert imports.MESSAGES["imported"] in after.text and "canary" not in after.text
    again, _ = await submit(browser, PAGE, PREVIEW, text=CRONTAB)
    assert "There is nothing to add" in again.text and "imported before" in again.text
    assert not [each for each in Forms(again.text).forms if PAGE in each.buttons]


async def test_a_job_whose_box_is_cleared_is_left_out(
    world: World, browser: httpx.AsyncClient
) -> None:
    answer, _ = await submit(browser, PAGE, PREVIEW, text=CRONTAB)
    form = confirm(answer)
    chosen = [value for name, value in form.fields if name == "job"]
    assert len(chosen) == 2
    fields = [each for each in form.fields if each != ("job", chosen[0])]
    shown = await post(browser, PREVIEW, fields)
    assert dict(confirm(shown).fields)["job"] == chosen[1]
    assert len([name for name, _ in confirm(shown).fields if name == "shown"]) == 2
    assert (await post(browser, PAGE, fields)).status_code == 303
    assert sorted(await world.jobs.ids()) == ["report"]


async def test_files_of_a_folder_are_read_together(
    world: World, browser: httpx.AsyncClient
) -> None:
    timer = b"[Timer]\nOnCalendar=Mon 07:15\n"
    service = b"[Service]\nType=oneshot\nExecStart=/usr/bin/backup\n"
    answer = await upload(browser, "systemd", {"a.timer": timer})
    assert "a.service, which is not in its folder" in answer.text
    assert not [each for each in Forms(answer.text).forms if PAGE in each.buttons]
    answer = await upload(browser, "systemd", {"a.timer": timer, "a.service": service})
    assert "at 07:15 on Mondays" in answer.text
    assert (await post(browser, PAGE, confirm(answer).fields)).status_code == 303
    assert list(await world.jobs.ids()) == ["a"]


async def test_jobs_that_daybook_cannot_run_are_named_and_left_out(
    world: World, browser: httpx.AsyncClient
) -> None:
    timers = {
        "good.timer": b"[Timer]\nOnCalendar=daily\n",
        "good.service": b"[Service]\nExecStart=/usr/bin/good\n",
        "bad.timer": b"[Timer]\nOnCalendar=daily\n",
        "bad.service": b"[Service]\nUser=nobody\nExecStart=/usr/bin/bad\n",
    }
    answer = await upload(browser, "systemd", timers)
    assert answer.status_code == 200
    assert "bad.service: has User=" in answer.text and "--leave-out" not in answer.text
    assert "as requested" not in answer.text
    assert (await post(browser, PAGE, confirm(answer).fields)).status_code == 303
    assert list(await world.jobs.ids()) == ["good"]


async def test_a_database_is_uploaded(
    world: World, browser: httpx.AsyncClient, tmp_path: Path
) -> None:
    path = samples.valid("picobot", tmp_path)
    answer = await upload(browser, "picobot", {"pico.db": path.read_bytes()})
    assert answer.status_code == 200
    assert (await post(browser, PAGE, confirm(answer).fields)).status_code == 303
    (job_id,) = (await world.jobs.ids()).values()
    assert await world.runs.rows(await world.jobs.get(job_id))


async def test_a_database_that_computes_much_is_refused(
    world: World, browser: httpx.AsyncClient, tmp_path: Path
) -> None:
    path = samples.valid("picobot", tmp_path)
    with closing(sqlite3.connect(path)) as database, database:
        bomb = "bomb TEXT GENERATED ALWAYS AS (hex(zeroblob(400000000))) VIRTUAL"
        database.execute(f"ALTER TABLE schedules ADD COLUMN {bomb}")
    answer = await upload(browser, "picobot", {"pico.db": path.read_bytes()})
    assert answer.status_code == 400
    assert "too big" in answer.text
    assert await world.jobs.ids() == {}


async def test_files_that_cannot_be_imported_get_an_error_and_store_nothing(
    world: World, browser: httpx.AsyncClient
) -> None:
    before = await everything(world)
    cases: tuple[tuple[str, dict[str, bytes], str], ...] = (
        ("crontab", {}, "file: is missing"),
        ("crontab", {"c": b"0 9 * * * a.sh\n", "d/c": b"0 9 * * * b.sh\n"}, "two files are called"),
        ("crontab", {"..": b"0 9 * * * a.sh\n"}, "is no name of a file"),
        ("crontab", {"a" * 300: b"0 9 * * * a.sh\n"}, "is too long a name"),
        ("crontab", {"c": b"\xff\xfe 0 9\n"}, "c, line 1: is not UTF-8 text"),
        ("crontab", {"c": b"0 9 * *\n"}, "c, line 1"),
        ("crontab", {"c": b"@reboot a.sh\n"}, "@reboot"),
        ("crontab", {"c": b"0 9 * * * a.sh\n" * 1_001}, "has 1,001 jobs, more than 1,000"),
        ("openclaw", {"jobs.json": b"[" * 100_000}, "nested too deeply"),
        ("openclaw", {"jobs-state.json": b"{}", "x.jsonl": b"{}"}, "path: jobs.json: cannot be"),
        ("openclaw", {"jobs.json": b"{<script>alert(1)</script>"}, "is not complete JSON"),
        ("picobot", {"a.db": b"SQLite format 3\0" + b"\xff" * 99}, "a.db: is "),
        ("anna", {"../../jobs.json": b"{"}, "jobs.json: is not complete JSON"),
        ("systemd", {"a": b"x", "b": b"y"}, "upload: has no file *.timer"),
        ("hermes", {"j.json": b'{"version": 9}'}, "j.json: has the version 9"),
    )
    for (system, files, problem), trying in rows.each(cases):
        with trying:
            answer = await upload(browser, system, files)
            found = Forms(answer.text)
            assert (answer.status_code, list(found.problems)) == (400, ["file-problem"])
            assert problem in html.unescape(found.problems["file-problem"])
            assert "daybook-import-" not in answer.text and "<script>alert" not in answer.text
    assert await everything(world) == before


async def test_an_import_needs_the_files_that_were_shown(
    world: World, browser: httpx.AsyncClient
) -> None:
    answer, _ = await submit(browser, PAGE, PREVIEW, text=CRONTAB)
    fields = confirm(answer).fields
    imports._kept.clear()  # the server was restarted
    answer = await post(browser, PAGE, fields)
    assert answer.status_code == 400
    assert "choose it again" in answer.text
    for system in ("", "cron", "openclaw/../crontab"):
        changed = [(name, system if name == "system" else value) for name, value in fields]
        assert (await post(browser, PAGE, changed)).status_code == 400
    assert await world.jobs.ids() == {}


async def test_the_server_keeps_few_uploads(world: World, browser: httpx.AsyncClient) -> None:
    for number in range(imports.MAX_KEPT + 2):
        await submit(browser, PAGE, PREVIEW, text=f"{number} 9 * * * a.sh")
    assert len(imports._kept) == imports.MAX_KEPT


async def test_scripts_of_a_copied_file_are_those_of_this_users_hermes(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = (
        '[{"id": "a", "name": "tidy", "no_agent": true, "script": "tidy.sh",'
        ' "schedule": {"kind": "interval", "minutes": 5}}]'
    )
    answer = await upload(browser, "hermes", {"jobs.json": job.encode()})
    assert (await post(browser, PAGE, confirm(answer).fields)).status_code == 303
    stored = await world.jobs.get("tidy")
    assert stored.row.owner == USER
    assert f"{Path.home()}/.hermes/scripts/tidy.sh" in str(stored.job.parameters()["prompt"])


def test_each_system_has_a_form() -> None:
    assert readers.FILES.keys() == readers.READERS.keys()
