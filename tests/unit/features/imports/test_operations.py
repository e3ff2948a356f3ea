"""The import as an operation: its arguments, the pending deployments, and anna's own folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from daybook.api import jobs
from daybook.errors import InvalidInput
from daybook.features.imports import operations
from daybook.ledger.engine import open_ledger
from daybook.owners import Actor, acting_as
from tests import rows
from tests.unit.features.imports import files
from tests.unit.features.imports.files import valid, write_json

pytestmark = pytest.mark.usefixtures("daybook_home")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "anna"
    made.mkdir()
    write_json(made / "jobs.json", [files.ANNA])
    monkeypatch.setenv("DAYBOOK_ANNA_FOLDER", str(made))
    return made


async def names() -> list[str]:
    return sorted(job.name for job in await jobs.list_jobs())


async def migrate() -> operations.ImportReport | None:
    async with open_ledger() as ledger:
        return await operations.import_anna(ledger)


async def test_imported_jobs_wait_for_prefect(tmp_path: Path) -> None:
    report = await operations.run("hotplex", str(valid("hotplex", tmp_path)))
    assert report.notes == [jobs.PENDING_NOTE]
    shown = await jobs.show("review-the-code")
    assert (shown.sync, shown.created_by) == ("pending", "import")
    assert shown.last_run is not None
    assert shown.last_run.trigger == "imported"
    assert (await operations.run("hotplex", str(tmp_path))).notes == []


async def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    path = str(valid("picobot", tmp_path))
    cases = (
        (("cron", path, "skip"), "SYSTEM"),
        (("picobot", path, "ask"), "on_conflict"),
        (("picobot", str(tmp_path / "none.db"), "skip"), "path"),
        (("hotplex", str(tmp_path), "skip"), "path"),
    )
    for ((system, given, on_conflict), field), trying in rows.each(cases):
        with trying:
            with pytest.raises(InvalidInput) as refused:
                await operations.run(system, given, on_conflict=on_conflict)
            assert refused.value.field == field
    with acting_as(Actor("agent:cleo")), pytest.raises(InvalidInput, match="agent cannot call"):
        await operations.run("picobot", path)
    assert await names() == []


@pytest.mark.floor("A", "jobs.json is migrated once, automatically, and set aside")
async def test_annas_folder_is_imported_once_and_its_file_set_aside(folder: Path) -> None:
    await jobs.add({"prompt": "Mine", "name": "Email check", "every": "1h"})

    report = await migrate()

    assert report is not None
    assert await names() == ["Email check", "Email check-2"]
    assert os.listdir(folder) == ["jobs.json.imported"]
    assert await migrate() is None

    write_json(folder / "jobs.json", [files.ANNA | {"id": "new", "name": "Later"}])
    assert await migrate() is None
    assert await names() == ["Email check", "Email check-2"]
    assert (folder / "jobs.json").exists()


async def test_a_file_that_was_imported_before_a_kill_is_only_set_aside(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(operations, "_rename", lambda _: None)  # killed before the file is renamed
        await migrate()
    assert (folder / "jobs.json").exists()

    assert await migrate() is None

    assert await names() == ["Email check"]
    assert not (folder / "jobs.json").exists()


async def test_a_broken_file_of_anna_is_not_set_aside(folder: Path) -> None:
    (folder / "jobs.json").write_text('[{"id": "a"')
    with pytest.raises(InvalidInput, match="is not complete JSON"):
        await migrate()
    assert await names() == []
    write_json(folder / "jobs.json", [files.ANNA])
    assert await migrate() is not None


async def test_without_the_setting_or_a_file_nothing_is_imported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "jobs.json").unlink()
    assert await migrate() is None
    write_json(folder / "jobs.json", [files.ANNA])
    assert await migrate() is not None
    monkeypatch.delenv("DAYBOOK_ANNA_FOLDER")
    assert await migrate() is None


async def test_an_unreadable_folder_of_anna_is_refused_until_it_was_imported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DAYBOOK_ANNA_FOLDER", str(tmp_path / "file"))
    with pytest.raises(InvalidInput, match=r"^anna_folder: .*: Not a directory"):
        await migrate()
    monkeypatch.setenv("DAYBOOK_ANNA_FOLDER", "~nobody-here/anna")
    assert await migrate() is None
    monkeypatch.setenv("DAYBOOK_ANNA_FOLDER", str(folder))
    stat = Path.stat

    def denied(path: Path, **options: bool) -> os.stat_result:
        if path.parent == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", denied)
        with pytest.raises(InvalidInput, match=r"anna_folder: .*: Permission denied"):
            await migrate()
    assert await migrate() is not None
    monkeypatch.setattr(Path, "stat", denied)
    assert await migrate() is None


async def test_up_starts_without_the_folder_of_anna_that_it_cannot_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DAYBOOK_ANNA_FOLDER", str(tmp_path / "file"))
    lines = list[str]()
    async with open_ledger() as ledger:
        await operations.migrate_anna(ledger, lines.append)
    (line,) = lines
    assert line.startswith("DAYBOOK_ANNA_FOLDER was not imported: ")
    assert f"{tmp_path}/file/jobs.json cannot be read: Not a directory" in line
    assert "\n" not in line


async def test_up_shows_what_it_has_imported(folder: Path) -> None:
    lines = list[str]()
    async with open_ledger() as ledger:
        await operations.migrate_anna(ledger, lines.append)
        await operations.migrate_anna(ledger, lines.append)
    assert lines[0] == "Imported anna's jobs: Email check"
    assert all(line.startswith("  Email check: ") for line in lines[1:])
