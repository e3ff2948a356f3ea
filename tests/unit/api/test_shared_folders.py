"""`add`, `edit` and `apply` name the jobs whose programs work in the same folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daybook import home
from daybook.agents import kinds
from daybook.api import files, jobs, shared_folders
from daybook.files.jobs_file import FileText
from daybook.resources import copies
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which jobs may work."""
    monkeypatch.setenv("DAYBOOK_ALLOWED_WORK_DIRS", str(tmp_path))
    (tmp_path / "project" / "docs").mkdir(parents=True)
    (tmp_path / "link").symlink_to("project")
    return tmp_path / "project"


async def agent(world: World, name: str, work_dir: Path) -> None:
    async with world.ledger.write() as session:
        key = await copies.get_or_create_key(session, home.current_home())
        ref, data = (kinds.COMMAND.slug, name), {"command": ["x"], "work_dir": str(work_dir)}
        await copies.put(session, ref, "t", data, key=key, now=world.ledger.now())


def about_folders(notes: list[str]) -> list[str]:
    return [each.partition(" (")[0] for each in notes if "same folder" in each]


async def test_add_edit_and_apply_name_the_other_jobs(world: World, project: Path) -> None:
    def given(name: str, folder: Path) -> dict[str, Any]:
        return {"prompt": "x", "every": "1h", "name": name, "work_dir": str(folder)}

    first = await jobs.add(given("one", project))
    assert about_folders(first.notes) == []
    added = await jobs.add(given("two", project.parent / "link" / "docs"))
    assert about_folders(added.notes) == ["two works in the same folder as one"]
    (note,) = [each for each in added.notes if "same folder" in each]
    assert "so their runs wait for each other (--no-exclusive-dir" in note
    edited = await jobs.edit_job("one", {"work_dir": str(project), "exclusive_dir": False})
    assert about_folders(edited.notes) == ["one works in the same folder as two"]
    assert "exclusive_dir is off" in "".join(edited.notes)
    assert about_folders((await jobs.edit_job("one", {"every": "2h"})).notes) == []

    job = f"kind: agent-prompt, prompt: x, schedule: {{every: 1h}}, policy: {{work_dir: {project}}}"
    text = f"jobs:\n  - {{name: three, {job}}}\n  - {{name: four, {job}}}\n"
    for dry_run in (True, False):
        report = await files.apply([FileText("x.yaml", text)], set_name="team", dry_run=dry_run)
        assert about_folders(report.notes) == [
            "three works in the same folder as four, one, two",
            "four works in the same folder as one, three, two",
        ]


async def test_the_folder_of_an_agent_counts(world: World, project: Path) -> None:
    await agent(world, "cc", project)
    await agent(world, "other", project.parent / "elsewhere")
    one = await world.jobs.add("one", prompt="x", every="1h", agent="cc")
    await world.jobs.add("two", prompt="x", every="1h", agent="daybook-command-agent/cc")
    await world.jobs.add("three", prompt="x", every="1h", agent="other")
    await world.jobs.add("four", prompt="x", every="1h")
    async with world.ledger.read() as session:
        found = await shared_folders.notes(session, {"one": one.job})
    assert about_folders(found) == ["one works in the same folder as two"]
