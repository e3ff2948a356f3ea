"""The task queue: fields of a task, its chain of runs, and the operator's commands."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook import owners
from daybook.errors import Ambiguous, InvalidInput, NotFound, NothingClaimable
from daybook.features.tasks import claims, counts, queue
from daybook.features.tasks.states import TaskRunStatus
from daybook.features.tasks.tables import TaskRow, TaskRunRow
from tests import rows
from tests.world import World
from tests.world.tasks import AGENT

pytestmark = pytest.mark.anyio


async def _find(world: World, ref: str) -> tuple[TaskRow, TaskRunRow]:
    async with world.ledger.read() as session:
        return await queue.find(session, ref)


async def _attention(world: World, run_id: str) -> None:
    """Let three leases of the run expire, claimed by a session `one`."""
    for _ in range(3):
        await world.tasks.register()
        await world.tasks.claim(lease="1s")
        world.clock.move(timedelta(seconds=1))
        assert await world.tasks.sweep() == [run_id]


async def test_add_stores_a_task_and_its_first_run(world: World) -> None:
    with owners.acting_as(AGENT):
        task, run = await queue.add(
            world.ledger,
            " tidy up ",
            instructions="the shed,\nthen the house",
            priority="high",
            owner="agent:maria",
            workspace="garden",
            channel="mail",
            capabilities=["dig", "carry"],
            preferred=["sing"],
            paused=True,
        )

    assert await _find(world, run.id) == (task, run)
    assert (task.title, task.instructions) == ("tidy up", "the shed,\nthen the house")
    assert (task.priority, task.owner, task.created_by) == (1, "agent:maria", "agent:maria")
    assert (task.capabilities, task.preferred) == (["carry", "dig"], ["sing"])
    assert (run.number, run.status, run.queued_at) == (1, "queued", world.ledger.now())
    assert (task.workspace, task.channel, task.paused) == ("garden", "mail", True)


INVALID: list[dict[str, Any]] = [
    {"title": " "},
    {"title": "x" * 201},
    {"title": "two\nlines"},
    {"instructions": "x" * 20_001},
    {"priority": "later"},
    {"owner": "somebody"},
    {"owner": "agent:"},
    {"owner": "plugin"},
    {"workspace": "\x07"},
    {"channel": "x" * 101},
    {"capabilities": [""]},
    {"preferred": ["a b"]},
]


async def test_a_task_with_an_invalid_field_is_refused_and_not_stored(world: World) -> None:
    for wrong, row in rows.each(INVALID):
        with row:
            with pytest.raises(InvalidInput) as refused:
                await world.tasks.add(**{"title": "tidy up", **wrong})
            assert refused.value.field in wrong
            assert world.tasks.everything()["tasks"] == world.tasks.everything()["task_runs"] == []


async def test_live_runs_are_listed_in_claim_order_and_ended_runs_newest_first(
    world: World,
) -> None:
    for title, priority in (("a", "low"), ("b", "urgent"), ("c", "urgent")):
        await world.tasks.add(title, priority=priority)
        world.clock.move(timedelta(seconds=1))
    await world.tasks.register()
    claimed = await world.tasks.claim()
    await queue.cancel(world.ledger, "c")

    async def titles(status: list[TaskRunStatus] | None, limit: int | None = None) -> list[str]:
        async with world.ledger.read() as session:
            found = await queue.runs(session, status=status, limit=limit)
        return [task.title for task, _ in found]

    assert claimed.task.title == "b"
    assert await titles(None) == ["b", "a"]
    assert await titles([TaskRunStatus.QUEUED]) == ["a"]
    assert await titles(list(TaskRunStatus)) == ["c", "b", "a"]
    assert await titles(list(TaskRunStatus), 2) == ["c", "b"]
    assert await titles([]) == []


async def test_a_task_is_found_by_title_task_id_or_run_id(world: World) -> None:
    run = await world.tasks.add("tidy up")
    await queue.cancel(world.ledger, run.id)
    again = await queue.retry(world.ledger, run.id)

    assert (await _find(world, "tidy up"))[1].id == again.id
    assert (await _find(world, run.task_id))[1].id == again.id
    assert (await _find(world, run.task_id[:16]))[1].id == again.id
    assert (await _find(world, run.id))[1].id == run.id
    for nobody in ("", "%", "tidy", "zz"):
        with pytest.raises(NotFound):
            await _find(world, nobody)
    await world.tasks.add("tidy up")
    with pytest.raises(Ambiguous, match="tidy up"):
        await _find(world, "tidy up")


async def test_a_title_that_equals_a_full_id_does_not_hide_the_task_with_that_id(
    world: World,
) -> None:
    run = await world.tasks.add()
    for full_id in (run.id, run.task_id):
        title = await world.tasks.add(f"x{full_id}")
        async with world.ledger.write() as session:
            row = await session.get_one(TaskRow, title.task_id)
            row.title = full_id  # stored by an older version
        assert (await _find(world, full_id))[1].id == run.id


# --- pause


async def test_a_paused_task_is_not_claimed_but_its_holder_continues(world: World) -> None:
    held = await world.tasks.claimed("one")
    await queue.pause(world.ledger, held.run.id, "too loud")
    await claims.heartbeat(world.ledger, held.run.id, held.token)
    await claims.release(world.ledger, held.run.id, held.token)
    with pytest.raises(NothingClaimable, match="the task is paused"):
        await world.tasks.claim("one")
    task, _ = await _find(world, held.run.id)
    assert (task.paused, task.paused_reason) == (True, "too loud")

    await queue.resume(world.ledger, task.id)
    await queue.resume(world.ledger, task.id)

    assert (await world.tasks.claim("one")).run.id == held.run.id
    names = [event.event for event in await world.tasks.events(held.run.id)]
    assert (names.count("paused"), names.count("resumed")) == (1, 1)


# --- retries


@pytest.mark.floor("D", "Retries of a run form a chain of at most ten")
async def test_a_task_has_a_chain_of_at_most_ten_runs(world: World) -> None:
    run = await world.tasks.add()
    await world.tasks.register()
    chain = [run.id]
    for number in range(1, 11):
        claimed = await world.tasks.claim()
        assert (claimed.run.id, claimed.run.number) == (chain[-1], number)
        await claims.fail(world.ledger, claimed.run.id, claimed.token, "no broom")
        if number < 10:
            chain.append((await queue.retry(world.ledger, run.task_id)).id)
    before = world.tasks.everything()

    with pytest.raises(InvalidInput, match="has had 10 runs"):
        await queue.retry(world.ledger, run.task_id)

    assert world.tasks.everything() == before
    rows = sorted(await world.tasks.runs(), key=lambda row: row.number)
    assert [row.id for row in rows] == chain
    assert [row.number for row in rows] == list(range(1, 11))
    assert {row.status for row in rows} == {"failed"}


async def test_only_a_run_that_did_not_succeed_can_be_retried_and_only_once(world: World) -> None:
    run = await world.tasks.add()
    with pytest.raises(InvalidInput, match=f"^run: {run.id[:8]} is queued"):
        await queue.retry(world.ledger, run.id)
    await world.tasks.register()
    claimed = await world.tasks.claim()
    with pytest.raises(InvalidInput, match="is claimed"):
        await queue.retry(world.ledger, run.id)
    await claims.fail(world.ledger, run.id, claimed.token)
    again = await queue.retry(world.ledger, run.id)
    (event,) = await world.tasks.events(again.id)
    assert (event.event, event.reason) == ("retried", f"after {run.id[:8]}")
    with pytest.raises(InvalidInput, match=f"^run: {run.id[:8]} has already been retried"):
        await queue.retry(world.ledger, run.id)
    claimed = await world.tasks.claim()
    await claims.complete(world.ledger, again.id, claimed.token)
    with pytest.raises(
        InvalidInput,
        match=r"is completed \(.* needs_attention, failed, cancelled",
    ):
        await queue.retry(world.ledger, run.task_id)
    assert len(await world.tasks.runs()) == 2


async def test_a_retry_cancels_a_run_that_needs_attention(world: World) -> None:
    run = await world.tasks.add()
    await _attention(world, run.id)

    again = await queue.retry(world.ledger, run.task_id)

    old = await world.tasks.run(run.id)
    assert (old.status, old.finished_at, old.attention) == ("cancelled", world.ledger.now(), "")
    assert (again.number, again.status, again.expiries) == (2, "queued", 0)
    assert (await world.tasks.claim()).run.id == again.id


# --- recover, cancel


async def test_recover_queues_a_claimed_run_again(world: World) -> None:
    claimed = await world.tasks.claimed()
    world.clock.move(timedelta(seconds=3))

    await queue.recover(world.ledger, claimed.run.id, "it hangs")

    row = await world.tasks.run(claimed.run.id)
    assert (row.status, row.session_id, row.queued_at) == ("queued", None, world.ledger.now())
    event = (await world.tasks.events(row.id))[-1]
    assert (event.event, event.actor, event.reason, event.session) == (
        "recovered",
        "user",
        "it hangs",
        "one",
    )
    for legal_no_more in (queue.recover,):
        with pytest.raises(InvalidInput, match="is queued"):
            await legal_no_more(world.ledger, row.id)


async def test_recover_requeues_a_starving_run_and_keeps_its_escalation_steps(world: World) -> None:
    run = await world.tasks.add()
    async with world.ledger.write() as session:
        row = await session.get(TaskRunRow, run.id)
        assert row is not None
        row.starved_cycles, row.tiers, row.attention = 10, ["fan_out"], "no agent came"
    world.clock.move(timedelta(seconds=3))

    await queue.recover(world.ledger, run.id)

    row = await world.tasks.run(run.id)
    assert (row.status, row.queued_at, row.attention) == ("queued", world.ledger.now(), "")
    assert (row.starved_cycles, row.tiers) == (0, ["fan_out"])
    async with world.ledger.read() as session:
        assert (await counts.read_counts(session, world.ledger.now())).starving == 0


async def test_the_runs_of_a_paused_task_do_not_count_as_starving(world: World) -> None:
    run = await world.tasks.add()
    async with world.ledger.write() as session:
        (await session.get_one(TaskRunRow, run.id)).starved_cycles = 3

    async def starving() -> int:
        async with world.ledger.read() as session:
            return (await counts.read_counts(session, world.ledger.now())).starving

    assert await starving() == 1
    await queue.pause(world.ledger, run.id)
    assert await starving() == 0
    await queue.resume(world.ledger, run.id)
    assert await starving() == 1


@pytest.mark.parametrize("state", ["queued", "claimed", "needs_attention"])
async def test_a_live_run_is_cancelled(world: World, state: str) -> None:
    run = await world.tasks.add()
    await world.tasks.register()
    if state == "needs_attention":
        await _attention(world, run.id)
    if state == "claimed":
        await world.tasks.claim()

    await queue.cancel(world.ledger, run.id, "not needed")

    row = await world.tasks.run(run.id)
    assert (row.status, row.finished_at, row.session_id) == ("cancelled", world.ledger.now(), None)
    assert row.attention == ""
    event = next(each for each in await world.tasks.events(run.id) if each.event == "cancelled")
    assert event.reason == "not needed"
    for act in (queue.cancel, queue.recover):
        with pytest.raises(InvalidInput, match="is cancelled"):
            await act(world.ledger, run.id)
    with pytest.raises(NothingClaimable):
        await world.tasks.claim()
