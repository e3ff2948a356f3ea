"""A jobs file at Prefect: the keeper finishes an application that was killed while it waited."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from daybook.api import files, jobs
from daybook.files.documents import to_yaml
from daybook.files.jobs_file import FileText
from daybook.keeper.observer import observe
from daybook.operations.preparation import EXAMPLE_FILE
from daybook.prefect import deployment
from daybook.prefect.fingerprints import Fingerprints
from deployments import steps
from tests.unit.api.killed import killed_apply
from tests.world.prefect_world import PrefectWorld

SEED = 20261126
NAMES = ("one", "two", "three")


def text(prompt: str) -> str:
    schedule = {"cron": "0 9 1 * *", "timezone": "UTC"}
    given = [{"name": name, "prompt": prompt, "schedule": schedule} for name in NAMES]
    return to_yaml({"jobs": given})


@pytest.mark.slow
async def test_the_keeper_finishes_an_apply_that_was_killed_while_it_waited(
    world: PrefectWorld, tmp_path: Path
) -> None:
    path, counted = tmp_path / "team.yaml", tmp_path / "moments"
    variables = {**os.environ, "DAYBOOK_LEDGER_URL": world.ledger.address}

    def apply(moment: int, *options: str) -> int | None:
        return killed_apply(variables, path, counted, moment, options)

    path.write_text(text("First."))
    assert apply(0, "--wait") == 0
    path.write_text(text("Second."))
    assert apply(0) == 0
    stored = int(counted.read_text())  # the moments until the changes are in the ledger
    path.write_text(text("Third."))
    assert apply(0, "--wait") == 0
    assert {job.sync for job in await jobs.list_jobs()} == {"synced"}

    last = int(counted.read_text())  # after it, no job is pending
    for number, moment in enumerate(random.Random(SEED).sample(range(stored + 1, last), 2)):
        prompt = f"Killed {number}."
        path.write_text(text(prompt))
        assert apply(moment, "--wait") == -signal.SIGKILL
        assert await files.drift() == []
        assert "pending" in {job.sync for job in await jobs.list_jobs()}

        await observe(world.ledger, world.client, Fingerprints())

        for job in await jobs.list_jobs():
            assert job.sync == "synced"
            _, _, slug = job.deployment.partition("/")
            assert (await world.deployments.get(slug)).parameters["prompt"] == prompt


async def test_the_deploy_step_prunes_all_jobs_if_only_the_example_is_left(
    world: PrefectWorld, tmp_path: Path
) -> None:
    (tmp_path / Path(EXAMPLE_FILE).name).write_text(to_yaml({"jobs": [{"name": "example"}]}))
    own = tmp_path / "team.yaml"
    own.write_text(text("First."))
    assert await steps.apply_jobs(str(tmp_path), prune=True) == {"jobs": len(NAMES)}
    own.unlink()
    assert await steps.apply_jobs(str(tmp_path)) == {"jobs": 0}
    assert {job.name for job in await jobs.list_jobs()} == set(NAMES)
    assert await steps.apply_jobs(str(tmp_path), prune=True) == {"jobs": 0}
    assert await jobs.list_jobs() == []


async def test_a_users_deployment_with_the_name_of_a_new_job_is_not_overwritten(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "MAX_NAMES", 2)  # two checks
    flow = await world.client.create_flow_from_name("agent-prompt")
    theirs = await world.client.create_deployment(flow, "two", tags=["mine"])

    report = await files.apply([FileText("x.yaml", text("First."))], set_name="team", wait=True)

    assert (report.failed, report.pending) == ({}, [])
    slugs = {job.name: job.deployment.partition("/")[2] for job in await jobs.list_jobs()}
    assert slugs == {"one": "one", "two": "two-2", "three": "three"}
    found = await world.client.read_deployment(theirs)
    assert (found.name, found.tags, found.parameters) == ("two", ["mine"], {})
    await world.client.delete_deployment(theirs)


async def test_a_flow_that_was_deleted_in_prefect_is_created_again(world: PrefectWorld) -> None:
    await world.jobs.add("one", every="1h")
    await world.sync()
    flow = (await world.deployments.get("one")).flow_id
    await world.prefect.request("DELETE", f"/flows/{flow}")
    await world.jobs.add("two", every="1h")

    report = await world.sync()

    assert (report.created, report.failed) == (["two"], {})
    assert (await world.deployments.get("two")).flow_id != flow
