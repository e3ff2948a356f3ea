"""Membership: a worker records itself, reads whether it drains, and leaves runs to others."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from daybook.runs import workers
from daybook.worker import membership
from daybook.worker.membership import Membership
from tests.timings import change
from tests.unit.runs.fleet import record_of
from tests.waiting import becomes_true
from tests.world import World

pytestmark = pytest.mark.anyio


def run_for(world: World, label: str = "", queue: str = "medium") -> FlowRun:
    """Return a run that is due now."""
    parameters: dict[str, Any] = {"policy": {"worker_label": label}}
    due: dict[str, Any] = {"next_scheduled_start_time": world.clock.now()}
    return FlowRun(id=uuid4(), flow_id=uuid4(), parameters=parameters, work_queue_name=queue, **due)


async def known(world: World) -> dict[str, bool]:
    async with world.ledger.read() as session:
        found = await workers.read_all(session, world.clock.now())
    return {each.record.name: each.drain is not None for each in found}


async def test_a_worker_records_itself_and_reads_its_drain_while_it_works(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, membership, worker_check=0.01)
    own = Membership(
        world.ledger,
        "a",
        "here:1:a",
        labels=(),
        queues=(),
        own_record=lambda: record_of(world, "a"),
    )
    task = asyncio.create_task(own.keep())

    async def is_recorded() -> bool:
        return await known(world) == {"a": False}

    async def drains() -> bool:
        return own.is_draining

    async def works() -> bool:
        return not own.is_draining

    assert await becomes_true(is_recorded, 10.0)
    await workers.set_draining(world.ledger, "a", by="")
    assert await becomes_true(drains, 10.0)
    await workers.resume(world.ledger, "a")
    assert await becomes_true(works, 10.0)
    task.cancel()
    await asyncio.wait({task})
    assert await known(world) == {}


def member(
    world: World, *, labels: tuple[str, ...] = (), queues: tuple[str, ...] = ()
) -> Membership:
    own = record_of(world, "a", labels=list(labels), queues=list(queues))
    return Membership(
        world.ledger, "a", "here:1:a", labels=labels, queues=queues, own_record=lambda: own
    )


async def test_a_worker_leaves_to_others_only_the_runs_that_they_may_take(world: World) -> None:
    own = member(world, labels=("big",))

    async def left() -> list[bool]:
        return [await own.is_for_others(run_for(world, each)) for each in ("", "big", "gpu")]

    assert await left() == [False, False, False]
    await workers.record(world.ledger, record_of(world, "b", labels=["gpu"]))
    assert await left() == [False, False, True]
    own.is_draining = True
    assert await left() == [True, False, True]
    await workers.set_draining(world.ledger, "b", by="")
    assert await left() == [False, False, False]
    await workers.resume(world.ledger, "b")
    world.clock.move(timedelta(minutes=1))
    assert await left() == [False, False, False]


async def test_a_worker_leaves_no_run_to_a_worker_that_does_not_serve_its_queue(
    world: World,
) -> None:
    await workers.record(world.ledger, record_of(world, "b", queues=["light", "medium"]))
    own = member(world)
    own.is_draining = True
    assert await own.is_for_others(run_for(world))
    assert not await own.is_for_others(run_for(world, queue="special"))
    assert not await own.is_for_others(run_for(world, queue=""))


async def test_a_worker_leaves_a_run_to_others_only_for_a_while(world: World) -> None:
    own, run = member(world), run_for(world, "gpu", "label-gpu")

    async def is_left() -> bool:
        await workers.record(world.ledger, record_of(world, "b", labels=["gpu"]))
        return await own.is_for_others(run)

    assert await is_left()
    world.clock.move(workers.HANDOVER_INTERVAL - timedelta(seconds=1))
    assert await is_left()
    world.clock.move(timedelta(seconds=1))
    assert not await is_left()


async def test_a_worker_starts_only_runs_of_its_own_queues(world: World) -> None:
    own = member(world, queues=("light",))
    assert own.may_start(run_for(world, queue="light"))
    assert not own.may_start(run_for(world, queue="label-gpu"))
    own.is_draining = True
    assert not own.may_start(run_for(world, queue="light"))
