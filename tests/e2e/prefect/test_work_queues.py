"""Work queues of the classes in Prefect: kept by the keeper, and used by the deployments."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.states import Scheduled

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput
from daybook.prefect import scheduled_runs, work_pool, work_queues
from daybook.prefect.parameter_schema import WORK_POOL
from daybook.prefect.work_queues import CLASS_QUEUES, QueuesState
from tests.waiting import becomes_true
from tests.world.prefect_world import PrefectWorld

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

LIGHT, MEDIUM, HEAVY = CLASS_QUEUES


async def queues(world: PrefectWorld) -> dict[str, Any]:
    found = await world.prefect.ui.read_work_queues(work_pool_name=WORK_POOL)
    return {each.name: each for each in found}


async def edit_queue(world: PrefectWorld, name: str, **changes: Any) -> None:
    """Save the queue's edit form, or flip its switch."""
    await world.prefect.request("PATCH", f"/work_pools/{WORK_POOL}/queues/{name}", changes)


async def delete_queue(world: PrefectWorld, name: str) -> None:
    await world.prefect.request("DELETE", f"/work_pools/{WORK_POOL}/queues/{name}")


@pytest.fixture
async def world(world: PrefectWorld) -> Any:
    await work_pool.ensure(world.client)
    world.prefect.traffic.writes.clear()
    yield world
    for name in (await queues(world)).keys() - {"default"}:
        await delete_queue(world, name)
    await work_pool.ensure(world.client)


async def test_each_class_has_a_queue_in_the_order_of_the_priorities(world: PrefectWorld) -> None:
    found = await queues(world)
    assert sorted(found, key=lambda name: found[name].priority) == [LIGHT, MEDIUM, HEAVY, "default"]
    assert {name: found[name].priority for name in CLASS_QUEUES} == {LIGHT: 1, MEDIUM: 2, HEAVY: 3}
    # Prefect would hide the runs that exceed a limit, so that they were overdue and not waiting.
    assert {each.concurrency_limit for each in found.values()} == {None}
    assert await work_queues.ensure(world.client) == []
    assert not world.prefect.traffic.writes


async def test_the_description_of_a_queue_has_the_limit_of_its_class(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = QueuesState()
    await work_queues.ensure(world.client, kept)
    before = (await queues(world))[HEAVY].description
    assert before.startswith("Jobs of the class resource-intensive: no limit of their own (")
    monkeypatch.setenv("DAYBOOK_MAX_RESOURCE_INTENSIVE", "1")
    monkeypatch.setenv("DAYBOOK_MAX_LIGHT", "2")

    assert await work_queues.ensure(world.client, kept) == [LIGHT, HEAVY]

    found = await queues(world)
    assert "at most 1 run at the same time (DAYBOOK_MAX_RESOURCE_INTENSIVE)" in (
        found[HEAVY].description
    )
    assert "at most 2 runs at the same time (DAYBOOK_MAX_LIGHT)" in found[LIGHT].description
    # Another Daybook in this pool has other limits: they do not overwrite each other forever.
    await edit_queue(world, LIGHT, description="at most 7 runs")
    assert await work_queues.ensure(world.client, kept) == []


async def test_missing_and_limited_queues_are_corrected_and_priorities_are_the_operators(
    world: PrefectWorld, caplog: pytest.LogCaptureFixture
) -> None:
    await work_queues.ensure(world.client, labels=["gpu"])
    for name in (MEDIUM, "label-gpu"):
        await edit_queue(world, name, concurrency_limit=1)
    await edit_queue(world, HEAVY, priority=1)
    await delete_queue(world, LIGHT)

    assert await work_queues.ensure(world.client) == ["label-gpu", LIGHT, MEDIUM]

    found = await queues(world)
    assert found[MEDIUM].concurrency_limit is None
    assert "set DAYBOOK_MAX_MEDIUM instead" in caplog.text
    assert found["label-gpu"].concurrency_limit is None
    assert "set DAYBOOK_MAX_PER_LABEL instead" in caplog.text
    await delete_queue(world, "label-gpu")
    assert found[HEAVY].priority < found[MEDIUM].priority
    assert await work_queues.ensure(world.client) == []


async def test_without_a_pool_there_is_nothing_to_keep(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_queues, "WORK_POOL", "no-such-pool")
    assert await work_queues.ensure(world.client) == []


async def test_a_deployment_is_in_the_queue_of_its_class(world: PrefectWorld) -> None:
    job = await world.deploy(every="1h", **{"class": "light"})
    assert (await world.deployments.get(job.row.slug)).work_queue_name == LIGHT
    assert {run.work_queue_name for run in await world.prefect.runs(job)} == {LIGHT}

    await world.jobs.edit(job.id, **{"class": "resource-intensive"})
    await world.sync()

    found = await world.deployments.get(job.row.slug)
    assert (found.work_pool_name, found.work_queue_name) == (WORK_POOL, HEAVY)
    assert {run.work_queue_name for run in await world.prefect.runs(job)} == {HEAVY}
    assert (await world.sync()).writes == 0


async def test_a_class_chosen_in_prefects_form_moves_the_deployment(world: PrefectWorld) -> None:
    job = await world.deploy()
    parameters = (await world.deployments.get(job.row.slug)).parameters
    parameters["policy"]["class"] = "light"
    # The form sends pool and queue too, even if they were not edited.
    routing = {"work_pool_name": WORK_POOL, "work_queue_name": MEDIUM}
    await world.deployments.edit(job.row.slug, parameters=parameters, **routing)
    await world.sync()
    assert (await world.jobs.get(job.id)).job.policy.class_ == "light"
    assert (await world.deployments.get(job.row.slug)).work_queue_name == LIGHT


@pytest.mark.parametrize(("chosen", "then"), [(LIGHT, MEDIUM), ("default", MEDIUM), ("gpu", "gpu")])
async def test_only_an_operators_own_queue_replaces_that_of_the_class(
    world: PrefectWorld, chosen: str, then: str
) -> None:
    job = await world.deploy(every="1h")
    routing = {"work_pool_name": WORK_POOL, "work_queue_name": chosen}
    await world.deployments.edit(job.row.slug, **routing)
    await world.sync()
    found = await world.deployments.get(job.row.slug)
    assert (found.work_pool_name, found.work_queue_name) == (WORK_POOL, then)
    assert (await world.sync()).writes == 0
    # A change of the schedule to none posts the deployment again.
    await world.jobs.edit(job.id, on_demand=True)
    await world.sync()
    assert (await world.deployments.get(job.row.slug)).work_queue_name == then


async def test_no_waiting_run_is_lost_with_its_queue(world: PrefectWorld) -> None:
    """Prefect offers a run whose queue was deleted to no worker."""
    until = SYSTEM_CLOCK.now().replace(microsecond=0) + timedelta(minutes=7)
    job = await world.deploy(every="1h")
    row, run = await world.waiting_run(job, until=until)
    await delete_queue(world, MEDIUM)

    await scheduled_runs.ensure_all(world.ledger, world.client)
    assert (await world.runs.row(row.id)).flow_run_id == str(run.id)  # a new run would be in none
    await work_queues.ensure(world.client)
    await world.sync()
    done = await scheduled_runs.ensure_all(world.ledger, world.client)

    row = await world.runs.row(row.id)
    assert [row.flow_run_id] == done.made
    assert row.status == "waiting"
    runs = await world.prefect.runs(job)
    assert str(run.id) not in {str(each.id) for each in runs}
    assert {each.work_queue_name for each in runs} == {MEDIUM}
    assert await world.prefect.start(row.flow_run_id) == until
    assert not await scheduled_runs.ensure_all(world.ledger, world.client)


async def test_a_queue_is_unserved_until_a_worker_polls_it(world: PrefectWorld) -> None:
    for name in CLASS_QUEUES:  # workers of other tests may have polled it
        await delete_queue(world, name)
    await work_queues.ensure(world.client)
    state = await work_pool.read(world.client, world.ledger.id)
    assert set(CLASS_QUEUES) <= set(state.unserved)
    poll = world.prefect.ui.get_scheduled_flow_runs_for_work_pool
    await poll(WORK_POOL, [LIGHT], SYSTEM_CLOCK.now())

    async def served() -> bool:  # Prefect notes a poll in the background
        return LIGHT not in (await work_pool.read(world.client, world.ledger.id)).unserved

    assert await becomes_true(served, 20.0)
    assert MEDIUM in (await work_pool.read(world.client, world.ledger.id)).unserved


async def test_due_runs_that_no_worker_claims_are_counted(world: PrefectWorld) -> None:
    job = await world.deploy()
    poll = world.prefect.ui.get_scheduled_flow_runs_for_work_pool
    await poll(WORK_POOL, [], SYSTEM_CLOCK.now())  # a worker serves all queues
    now = SYSTEM_CLOCK.now()
    for seconds in (-60, -45, -10, 60):
        await world.prefect.ui.create_flow_run_from_deployment(
            UUID(str(job.row.deployment_id)),
            state=Scheduled(scheduled_time=now + timedelta(seconds=seconds)),
        )

    async def counted() -> bool:  # Prefect notes a poll in the background
        return (await work_pool.read(world.client, world.ledger.id, now)).unclaimed == 2

    assert await becomes_true(counted, 20.0)
    assert (await work_pool.read(world.client, world.ledger.id)).unclaimed == 0
    assert (await work_pool.read(world.client, "another", now)).unclaimed == 0


async def test_a_worker_refuses_a_queue_that_does_not_exist(world: PrefectWorld) -> None:
    await delete_queue(world, LIGHT)
    with pytest.raises(InvalidInput) as refused:
        await work_queues.check(world.client, WORK_POOL, [MEDIUM, LIGHT])
    assert str(refused.value) == (
        'queue: the pool "daybook" has no work queue "light" '
        "(use one of: medium, resource-intensive, default)"
    )
