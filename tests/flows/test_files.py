"""A jobs file at Prefect: the keeper finishes an application that was killed while it waited."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from daybook.api import files, jobs
from daybook.files.documents import to_yaml
from daybook.keeper.observer import observe
from daybook.prefect.fingerprints import Fingerprints
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

    # Not the last ones: how many there are depends on the order of Prefect's answers.
    last = stored + (int(counted.read_text()) - stored) * 3 // 4
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
