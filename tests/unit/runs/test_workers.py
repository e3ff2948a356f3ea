"""Workers: their records, and what a worker that drains or lacks a label may start."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.errors import NotFound
from daybook.ledger.states import Status
from daybook.policies.policy import Policy
from daybook.runs import workers
from daybook.runs.claim_requests import ClaimRequest, Granted, Waiting
from daybook.timing import TIMING
from tests.unit.runs.fleet import record_of
from tests.world import World

pytestmark = pytest.mark.anyio


async def claim_of(world: World, worker: str, **job: str) -> ClaimRequest:
    row = await world.runs.request(await world.jobs.add(on_demand=True, overlap="allow", **job))
    return replace(world.runs.claim_request(row), worker=worker)


@pytest.mark.dialect
async def test_a_draining_worker_gets_no_run_until_it_is_resumed_even_after_a_restart(
    world: World,
) -> None:
    await workers.record(world.ledger, record_of(world, "a"))
    request = await claim_of(world, "a")
    await workers.set_draining(world.ledger, "a", by="ann")
    await workers.set_draining(world.ledger, "a", by="bob")  # no change

    # It ends, and starts again.
    await workers.forget(world.ledger, "a", "here:1:a")
    await workers.record(world.ledger, record_of(world, "a", holder="here:2:a"))
    waiting = await world.runs.claim(request)

    assert isinstance(waiting, Waiting)
    assert waiting.why == "the worker a is draining"
    assert waiting.until == world.clock.now() + workers.RETRY_INTERVAL
    row = await world.runs.row(str(waiting.run_id))
    assert (row.status, row.waits_for) == ("waiting", "no_worker")
    async with world.ledger.read() as session:
        (known,) = await workers.read_all(session, world.clock.now())
    assert known.drain is not None and known.drain.by == "ann"

    await workers.resume(world.ledger, "a")
    assert isinstance(await world.runs.claim(request), Granted)  # earlier than `until`


async def test_another_worker_takes_what_a_draining_worker_may_not_start(world: World) -> None:
    for name in ("a", "b"):
        await workers.record(world.ledger, record_of(world, name))
    await workers.set_draining(world.ledger, "a", by="")
    request = await claim_of(world, "a")

    refused = await world.runs.claim(request)

    assert isinstance(refused, Waiting)
    assert refused.why == "another worker takes it"
    assert isinstance(await world.runs.claim(replace(request, worker="b")), Granted)


async def test_the_runs_that_a_draining_worker_holds_go_on(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "a"))
    request = await claim_of(world, "a")
    granted = await world.runs.running(request)
    await workers.set_draining(world.ledger, "a", by="")
    assert await world.runs.finish(granted, Status.SUCCEEDED) is Status.SUCCEEDED


async def test_only_a_worker_with_the_label_of_a_job_starts_its_runs(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "plain"))
    request = await claim_of(world, "plain", worker_label="gpu")

    refused = await world.runs.claim(request)
    assert isinstance(refused, Waiting)
    assert refused.why == "no worker with the label gpu is online"

    await workers.record(world.ledger, record_of(world, "gpu", labels=["gpu", "big"]))
    refused = await world.runs.claim(request)
    assert isinstance(refused, Waiting)
    assert refused.why == "another worker takes it"
    await workers.set_draining(world.ledger, "gpu", by="")
    refused = await world.runs.claim(request)
    assert isinstance(refused, Waiting)
    assert refused.why == "the worker gpu is draining"
    await workers.resume(world.ledger, "gpu")
    able = replace(request, worker="gpu", labels=("gpu", "big"))
    assert isinstance(await world.runs.claim(able), Granted)


async def test_a_flow_that_claims_for_itself_needs_no_label(world: World) -> None:
    request = await claim_of(world, "", worker_label="gpu")
    assert isinstance(await world.runs.claim(request), Granted)


async def test_a_worker_that_is_not_seen_is_lost_and_then_forgotten(world: World) -> None:
    for name in ("a", "b", "drained"):
        await workers.record(world.ledger, record_of(world, name))
    await workers.set_draining(world.ledger, "drained", by="")

    async def lost() -> dict[str, bool]:
        async with world.ledger.read() as session:
            known = await workers.read_all(session, world.clock.now())
            assert not await workers.anyone_takes(
                session, Policy(), world.clock.now() + TIMING.run_lease, besides=""
            )
        return {each.record.name: each.is_lost for each in known}

    world.clock.move(TIMING.run_lease - timedelta(seconds=1))
    assert await lost() == {"a": False, "b": False, "drained": False}
    world.clock.move(timedelta(seconds=1))
    await workers.record(world.ledger, record_of(world, "a"))
    assert await lost() == {"a": False, "b": True, "drained": True}
    world.clock.move(workers.RETENTION_AGE)
    await workers.record(world.ledger, record_of(world, "a"))
    # A drain is an order of a person, so it does not expire.
    assert await lost() == {"a": False, "drained": True}


async def test_the_end_of_a_worker_removes_only_its_own_record(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "a", holder="here:2:a"))
    await workers.forget(world.ledger, "a", "here:1:a")
    async with world.ledger.read() as session:
        assert len(await workers.read_all(session, world.clock.now())) == 1
    await workers.forget(world.ledger, "a", "here:2:a")
    async with world.ledger.read() as session:
        assert await workers.read_all(session, world.clock.now()) == []
    for act in (workers.resume(world.ledger, "a"), workers.set_draining(world.ledger, "a", by="")):
        with pytest.raises(NotFound):
            await act


@pytest.mark.parametrize(
    ("queues", "policy", "expected"),
    [
        ([], Policy(), True),
        (["light"], Policy(), False),
        (["light", "medium"], Policy(), True),
        (["light"], Policy(worker_label="gpu"), True),
        ([], Policy(worker_label="cpu"), False),
    ],
)
async def test_a_worker_may_take_runs_of_its_queues_and_labels(
    world: World, queues: list[str], policy: Policy, expected: bool
) -> None:
    record = record_of(world, "a", queues=queues, labels=["gpu"])
    known = workers.KnownWorker.of(record, None, world.clock.now())
    assert known.may_take(policy) is expected
