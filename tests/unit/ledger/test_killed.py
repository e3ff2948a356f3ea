"""`kill -9` at each write: it is stored whole or not at all, and the next process continues."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any

import pytest

from daybook.errors import FenceRefused
from daybook.ledger.states import Status
from daybook.runs import claims, leases
from daybook.timing import TIMING
from tests.unit.ledger import killed
from tests.unit.ledger.killed import VERBS, When
from tests.unit.runs.ending import end
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]


async def _scene(world: World, verb: str) -> tuple[Any, ...]:
    """Prepare a run in the state that the write changes; return the arguments of the write."""
    stored = await world.jobs.add(every="1h", on_lost="rerun")
    claim_request = world.runs.claim_request(stored)
    match verb:
        case "claim":
            world.clock.set(claim_request.due)
            return (replace(claim_request, most=1, full=True),)
        case "cancel":
            return ((await claims.request(world.ledger, stored, "1", "manual")).id,)
        case "died":
            granted = await world.runs.running(claim_request)
            return granted.run_id, granted.fence, "killed", "last words"
        case "take":
            await world.runs.claimed(claim_request)
            return (end(claim_request, "FAILED"),)
        case "expire_all":
            await world.runs.running(claim_request)
            await world.runs.lose()
            return ()
        case "renew_all":
            granted = await world.runs.running(claim_request)
            world.clock.move(TIMING.run_lease_renewal)
            return "here:1", {claim_request.flow_run_id: granted.run_id}
        case _:
            granted = await world.runs.finished(claim_request, Status.SUCCEEDED)
            return ([granted.run_id],)


async def _rows(world: World) -> list[dict[str, Any]]:
    """Return everything that the ledger contains about runs, attempts and their jobs."""
    rows = await world.runs.rows()
    dumped = [row.model_dump() for row in rows]
    for row in rows:
        dumped += [attempt.model_dump() for attempt in await world.runs.attempts(row.id)]
        dumped.append((await world.jobs.row(str(row.job_id))).model_dump())
    return dumped


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_a_write_of_a_killed_process_is_stored_whole_or_not_at_all(
    world: World, verb: str, when: When
) -> None:
    given = await _scene(world, verb)
    before = await _rows(world)

    code = killed.killed(world.ledger.address, world.clock, verb, given, when)

    assert code == -signal.SIGKILL
    left = await _rows(world)
    assert (left == before) is (when == "before")
    # The next process makes the write, or finds it made: nothing is counted twice.
    await _again(world, verb, given, done=when == "after")
    (row,) = await world.runs.rows()
    job = await world.jobs.row(str(row.job_id))
    expected = {
        "claim": ("waiting", 0, 0),
        "cancel": ("cancelled", 0, 0),
        "died": ("waiting", 1, 0),
        "take": ("failed", 0, 1),
        "expire_all": ("waiting", 1, 0),
        "renew_all": ("running", 1, 0),
        "mirrored": ("succeeded", 1, 0),
    }
    assert (row.status, row.attempts, job.consecutive_failures) == expected[verb]
    assert row.fence <= 2


async def _again(world: World, verb: str, given: tuple[Any, ...], *, done: bool) -> None:
    before = await _rows(world)
    if verb == "died" and done:
        with pytest.raises(FenceRefused):
            await claims.holder_died(world.ledger, *given)
        return
    await VERBS[verb](world.ledger, *given)
    assert (await _rows(world) == before) is done


async def test_the_keeper_releases_a_run_that_a_killed_worker_had_claimed(world: World) -> None:
    # The whole worker was killed between a grant and everything that follows.
    (claim_request,) = await _scene(world, "claim")
    claim_request = replace(claim_request, most=None, full=False)
    code = killed.killed(world.ledger.address, world.clock, "claim", (claim_request,), "after")
    assert code == -signal.SIGKILL
    assert [row.status for row in await world.runs.rows()] == ["claimed"]

    world.clock.move(TIMING.run_lease)
    assert await leases.expire_all(world.ledger) == []
    world.clock.move(TIMING.run_lease)

    assert [row.status for row in await leases.expire_all(world.ledger)] == ["waiting"]
    assert [row.until for row in await world.runs.rows()] == [world.clock.now()]
