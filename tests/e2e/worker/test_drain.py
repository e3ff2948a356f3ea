"""Two workers, of which one drains and one has a label: who starts which run, and who waits."""

from __future__ import annotations

from datetime import timedelta

import pytest
from prefect.client.schemas.objects import FlowRun

from daybook.ledger.tables import RunRow
from daybook.runs import workers
from tests.timings import SHORT
from tests.waiting import becomes_true
from tests.world.agents import WORKS
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

SOON = SHORT.worker_check + timedelta(seconds=60)


def worker_of(row: RunRow) -> str:
    return row.holder.split(":")[3]


async def row_of(world: PrefectWorld, run: FlowRun, status: str, waits_for: str = "") -> RunRow:
    """Return the row of ``run`` as soon as it has this state."""

    async def found() -> bool:
        return any(map(matches, await world.runs.rows()))

    def matches(row: RunRow) -> bool:
        return (row.flow_run_id, row.status, row.waits_for) == (str(run.id), status, waits_for)

    assert await becomes_true(found, SOON.total_seconds()), world.workers.logs()
    return next(filter(matches, await world.runs.rows()))


@pytest.mark.timeout(300)
async def test_a_run_starts_only_on_a_worker_that_has_its_label_and_does_not_drain(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add(WORKS)
    fields = {"agent": agent.name, "session": "new", "overlap": "allow"}
    plain = await world.deploy(**fields)
    labelled = await world.deploy(**fields, worker_label="gpu")
    await world.workers.begin(name="plain")

    # No worker has the label: the run waits, and says why.
    first = await world.prefect.custom_run(labelled)
    waiting = await row_of(world, first, "waiting", "no_worker")
    assert waiting.reason == "no worker with the label gpu is online"

    world.workers.variables["DAYBOOK_WORKER_LABELS"] = "gpu"
    gpu = await world.workers.begin(name="gpu")
    assert worker_of(await row_of(world, first, "running")) == "gpu"

    # The draining worker starts nothing, and its run goes on.
    await workers.set_draining(world.ledger, "gpu", by="test")
    second = await world.prefect.custom_run(labelled)
    waiting = await row_of(world, second, "waiting", "no_worker")
    assert waiting.reason == "the worker gpu is draining"
    other = await world.prefect.custom_run(plain)
    assert worker_of(await row_of(world, other, "running")) == "plain"
    agent.release(2)
    for each in (first, other):
        await row_of(world, each, "succeeded")

    # It drains also after its restart, until it is resumed.
    await world.workers._stop(gpu)
    await world.workers.begin(name="gpu")
    third = await world.prefect.custom_run(labelled)
    await row_of(world, third, "waiting", "no_worker")
    await workers.resume(world.ledger, "gpu")
    for each in (second, third):
        assert worker_of(await row_of(world, each, "running")) == "gpu"
    agent.release(2)
    for each in (second, third):
        await row_of(world, each, "succeeded")
    assert agent.effect_count == 4
    queue = await world.prefect.ui.read_work_queue_by_name("label-gpu", work_pool_name="daybook")
    deployment = await world.prefect.ui.read_deployment(str(labelled.row.deployment_id))
    assert deployment.work_queue_id == queue.id
