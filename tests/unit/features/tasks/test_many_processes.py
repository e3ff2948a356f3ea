"""Real processes that claim from one queue, or use one token, at the same time."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from daybook.features.tasks import queue
from tests.unit.features.tasks import claimers
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

SIX, TWELVE = 6, 12
ENDS = {"complete": "completed", "fail": "failed", "release": "queued"}


@pytest.mark.floor("D", "Twelve claimers on three runs: three winners")
async def test_three_of_twelve_sessions_that_claim_at_once_get_the_three_runs(world: World) -> None:
    runs = {(await world.tasks.add(f"task {number}")).id for number in range(3)}
    names = [f"session {number}" for number in range(TWELVE)]
    ids = {(await world.tasks.register(name)).id: name for name in names}

    results = claimers.at_once(
        world.ledger.address, [("claim", name) for name in names], world.clock
    )

    assert len({each.pid for each in results}) == TWELVE
    won = {each.run_id: each.act[1] for each in results if each.run_id}
    assert won.keys() == runs
    lost = [each for each in results if not each.run_id]
    assert Counter(each.code for each in lost) == {"nothing_claimable": 9}
    assert {each.why for each in lost} == {"no task can be claimed: no task is queued"}
    rows = await world.tasks.runs()
    assert {row.id: ids[row.session_id or ""] for row in rows} == won
    assert [(row.status, row.fence) for row in rows] == [("claimed", 1)] * 3
    for run_id in runs:
        events = [event.event for event in await world.tasks.events(run_id)]
        assert events.count("claimed") == 1


@pytest.mark.floor("D", "One active lease per session")
async def test_six_claims_of_one_session_at_once_get_one_run(world: World) -> None:
    for number in range(SIX):
        await world.tasks.add(f"task {number}")
    await world.tasks.register("one")

    results = claimers.at_once(world.ledger.address, [("claim", "one")] * SIX, world.clock)

    assert sum(bool(each.run_id) for each in results) == 1
    assert Counter(each.code for each in results) == {"": 1, "nothing_claimable": SIX - 1}
    statuses = Counter(row.status for row in await world.tasks.runs())
    assert statuses == {"claimed": 1, "queued": SIX - 1}


async def test_one_of_six_processes_that_end_the_same_claim_succeeds(world: World) -> None:
    claimed = await world.tasks.claimed()
    acts = [(kind, claimed.run.id, claimed.token) for kind in ENDS for _ in range(SIX // 3)]

    results = claimers.at_once(world.ledger.address, acts, world.clock)

    (won,) = (each for each in results if each.run_id)
    assert Counter(each.code for each in results) == {"": 1, "token_refused": SIX - 1}
    row = await world.tasks.run(claimed.run.id)
    assert row.status == ENDS[won.act[0]]
    events = [event.event for event in await world.tasks.events(row.id)]
    past = {"complete": "completed", "fail": "failed", "release": "released"}[won.act[0]]
    assert sorted(events) == sorted(["added", "claimed", past])


@pytest.mark.slow
async def test_one_valid_token_ends_the_run_against_eleven_expired_ones(world: World) -> None:
    first = await world.tasks.claimed("one", "60s")
    world.clock.move(timedelta(seconds=60))
    assert await world.tasks.sweep() == [first.run.id]
    await world.tasks.register("two")
    second = await world.tasks.claim("two")
    await queue.recover(world.ledger, first.run.id)
    await world.tasks.register("three")
    third = await world.tasks.claim("three")
    assert {each.run.id for each in (first, second, third)} == {first.run.id}
    over = [("complete", first.run.id, each.token) for each in (first, second)] * 5
    acts = [*over, ("fail", first.run.id, first.token), ("complete", third.run.id, third.token)]

    results = claimers.at_once(world.ledger.address, acts, world.clock)

    (won,) = (each for each in results if each.run_id)
    assert won.act == acts[-1]
    row = await world.tasks.run(first.run.id)
    assert (row.status, row.done_by, row.fence) == ("completed", "three", 3)
