"""Imported jobs at Prefect: they are deployed at once, and notes say what their runs would miss."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from daybook.api import agents, jobs, runs
from daybook.errors import InvalidInput
from daybook.features.imports import operations
from tests.unit.features.imports import files
from tests.world.prefect_world import PrefectWorld


async def test_imported_jobs_are_deployed_with_a_note_on_an_unknown_agent(
    world: PrefectWorld, tmp_path: Path
) -> None:
    known = files.ANNA_ROW | {"id": "known", "name": "Known"}
    unknown = files.ANNA_ROW | {"id": "unknown", "name": "Unknown", "agent_id": "nobody"}
    path = files.database(tmp_path / "anna.db", scheduler_jobs=[known, unknown])

    report = await operations.run("anna", str(path))

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


@pytest.mark.slow
async def test_the_import_of_a_crontab_makes_the_agent_that_runs_its_commands(
    world: PrefectWorld, tmp_path: Path
) -> None:
    path = files.crontab(
        tmp_path, "@yearly cat; echo done%some%input\n@yearly exit 3\n@yearly true\n"
    )

    report = await operations.run("crontab", str(path))

    assert report.notes == []
    assert [job.notes for job in report.jobs] == [[], [], []]
    agent = await agents.show("shell")
    assert (agent.kind, agent.settings["command"]) == ("command", ["/bin/sh"])
    assert agent.settings["history"] == "none"
    ends = []
    for job in report.jobs:
        requested = await runs.run(job.name)
        assert requested.flow_run_id is not None
        flow_run = await world.client.read_flow_run(UUID(requested.flow_run_id))
        await world.executions.complete(flow_run)
        ended = await runs.show(requested.id)
        ends.append((ended.status, ended.output, ended.error))
        await jobs.remove(job.name)
    assert ends[0] == ("succeeded", "some\ninput\ndone", None)
    assert (ends[2][0], ends[2][1] or "") == ("succeeded", "")
    assert ends[1][0] == "failed"
    assert "sh exited with code 3" in str(ends[1][2])

    repeated = await operations.run("crontab", str(path))
    assert [job.result for job in repeated.jobs] == ["unchanged"] * 3


async def test_an_import_that_is_refused_makes_no_agent(
    world: PrefectWorld, tmp_path: Path
) -> None:
    for agent in await agents.list_agents():
        if agent.name == "shell":
            await agents.remove("shell")
    with pytest.raises(InvalidInput, match=r"line 2: cron"):
        await operations.run(
            "crontab", str(files.crontab(tmp_path, "@daily true\n99 * * * * no\n"))
        )
    assert "shell" not in {each.name for each in await agents.list_agents()}


async def test_another_agent_with_the_name_of_the_shell_refuses_the_import(
    world: PrefectWorld, tmp_path: Path
) -> None:
    await agents.add("shell", "command", {"command": ["cat"]}, replace=True)
    with pytest.raises(InvalidInput, match='the agent "shell" is not the program /bin/sh'):
        await operations.run("crontab", str(files.crontab(tmp_path, "@hourly refused\n")))
    assert not [job for job in await jobs.list_jobs() if job.name == "refused"]
    await agents.remove("shell")
