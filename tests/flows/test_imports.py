"""Imported jobs at Prefect: they are deployed at once, and notes say what their runs would miss."""

from __future__ import annotations

from pathlib import Path

from daybook.api import imports, jobs
from tests.unit.imports import files
from tests.world.prefect_world import PrefectWorld


async def test_imported_jobs_are_deployed_with_a_note_on_an_unknown_agent(
    world: PrefectWorld, tmp_path: Path
) -> None:
    known = files.ANNA_ROW | {"id": "known", "name": "Known"}
    unknown = files.ANNA_ROW | {"id": "unknown", "name": "Unknown", "agent_id": "nobody"}
    path = files.database(tmp_path / "anna.db", scheduler_jobs=[known, unknown])

    report = await imports.run("anna", str(path))

    assert report.notes == []
    first, second = report.jobs
    assert first.notes == []
    assert "its runs would fail" in second.notes[0]
    assert "nobody" in second.notes[0]
    for job in report.jobs:
        shown = await jobs.show(job.name)
        assert shown.sync == "synced"
        deployment = await world.deployments.get(shown.deployment.partition("/")[2])
        assert deployment.parameters["prompt"] == "Summarise the news"
        await jobs.remove(job.name)
