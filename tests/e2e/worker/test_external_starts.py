"""External runs that a worker cannot start: the states that they get. No worker runs here."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Pending, Running, Scheduled

from daybook.prefect import projection
from daybook.worker import external_runs
from daybook.worker.dispatcher import Dispatcher
from daybook.worker.messages import ProcessSpec
from tests.world.prefect_world import PrefectWorld

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow]

FOREIGN = """
from prefect import flow

@flow
def foreign() -> None: ...
"""


class NoRoom(Dispatcher):
    """Dispatcher that cannot start a process."""

    def __init__(self) -> None: ...

    async def start(self, run: FlowRun, how: ProcessSpec) -> None:
        raise OSError("no process")


@pytest.mark.parametrize(
    ("meanwhile", "shown"),
    [
        (Pending(), "PENDING"),
        (Running(), "RUNNING"),
        (Completed(), "COMPLETED"),
        (Scheduled(), "CRASHED"),
    ],
)
async def test_a_failed_start_crashes_a_run_unless_another_worker_took_it(
    world: PrefectWorld, meanwhile: State[Any], shown: str
) -> None:
    run = await world.foreign.run(await world.foreign.deploy(FOREIGN))

    async def missing_program(_: FlowRun) -> ProcessSpec:
        await world.client.set_flow_run_state(run.id, meanwhile, force=True)
        raise LookupError("its deployment was deleted")

    await external_runs.start(NoRoom(), world.client, run, missing_program, "here:a")

    assert (await world.prefect.shown(run))[0] == shown


async def test_a_run_that_the_worker_cannot_start_crashes_with_the_reason(
    world: PrefectWorld,
) -> None:
    run = await world.foreign.run(await world.foreign.deploy(FOREIGN))

    async def configured(_: FlowRun) -> ProcessSpec:
        await world.client.set_flow_run_state(run.id, Pending(), force=True)
        return ProcessSpec({}, "", "")

    await external_runs.start(NoRoom(), world.client, run, configured, "here:a")

    state = await world.prefect.state(run)
    assert (state.type.value, state.message) == (
        "CRASHED",
        "the worker cannot start it: no process",
    )


async def test_a_jobs_run_is_skipped_if_its_deployment_was_deleted_before_the_claim(
    world: PrefectWorld,
) -> None:
    run = await world.foreign.run(await world.foreign.deploy(FOREIGN))
    tagged = run.model_copy(update={"tags": [projection.ledger_tag(world.ledger.id)]})

    async def missing_program(_: FlowRun) -> ProcessSpec:
        raise ObjectNotFound(LookupError("its deployment was deleted"))

    await external_runs.start(NoRoom(), world.client, tagged, missing_program, "here:a")

    state = await world.prefect.state(run)
    shown = (state.type.value, state.name, state.message)
    assert shown == ("CANCELLED", "Skipped", "its deployment was deleted before the run started")
    assert await world.prefect.log(run) == [("INFO", f"skipped: {state.message}")]


async def test_starting_a_run_that_is_deleted_meanwhile_raises_no_error(
    world: PrefectWorld,
) -> None:
    run = await world.foreign.run(await world.foreign.deploy(FOREIGN))

    async def deleted(_: FlowRun) -> ProcessSpec:
        await world.client.delete_flow_run(run.id)
        raise LookupError("its deployment was deleted")

    await external_runs.start(NoRoom(), world.client, run, deleted, "here:a")
