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


def run_for(label: str = "") -> FlowRun:
    parameters: dict[str, Any] = {"policy": {"worker_label": label}}
    return FlowRun(id=uuid4(), flow_id=uuid4(), parameters=parameters)


async def known(world: World) -> dict[str, bool]:
    async with world.ledger.read() as session:
        found = await workers.read_all(session, world.clock.now())
    return {each.record.name: each.drain is not None for each in found}


async def test_a_worker_records_itself_and_reads_its_drain_while_it_works(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, membership, worker_check=0.01)
    own = Membership(world.ledger, "a", "here:1:a", (), lambda: record_of(world, "a"))
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


async def test_a_worker_leaves_to_others_only_the_runs_that_they_may_take(world: World) -> None:
    own = Membership(world.ledger, "a", "here:1:a", ("big",), lambda: record_of(world, "a"))
    plain, big, gpu = run_for(), run_for("big"), run_for("gpu")

    async def left() -> list[bool]:
        return [await own.is_for_others(each) for each in (plain, big, gpu)]

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
