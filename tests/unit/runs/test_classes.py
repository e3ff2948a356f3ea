"""Requirement 12: classes with limits of their own, in addition to the global limit."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.runs import claim_requests, claims, slots
from daybook.runs.claim_requests import ClaimRequest, Granted, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio

LIGHT, HEAVY = "light", "resource-intensive"
LIMITS = {HEAVY: 1, LIGHT: 2}


async def _jobs(world: World, kinds: str) -> list[StoredJob]:
    """Add a job for each letter: l for light, m for medium, h for resource-intensive."""
    names = {"l": LIGHT, "m": "medium", "h": HEAVY}
    return [
        await world.jobs.add(f"{kind}{place}", every="1h", **{"class": names[kind]})
        for place, kind in enumerate(kinds)
    ]


def _offers(world: World, jobs: list[StoredJob], most: int) -> list[ClaimRequest]:
    """Return one request per job; the due times rise by a second, and all have passed."""
    due = world.clock.now().replace(microsecond=0) - timedelta(seconds=len(jobs))
    return [
        ClaimRequest(
            claim_requests.flow_key(job.row.name),
            "agent-prompt",
            "manual",
            due + timedelta(seconds=place),
            f"w:{place}",
            job.job.parameters(),
            job_id=job.id,
            flow_run_id=job.row.name,
            most=most,
            classes=LIMITS,
        )
        for place, job in enumerate(jobs)
    ]


async def _next(world: World, most: int) -> list[str | None]:
    async with world.ledger.read() as session:
        found = await slots.next_up(session, world.clock.now(), most, LIMITS)
    return [row.flow_run_id for row in found]


@pytest.mark.floor("C", "Each type has a limit of its own")
async def test_a_full_class_makes_its_own_runs_wait_and_no_others(world: World) -> None:
    first, second, other = _offers(world, await _jobs(world, "hhm"), most=4)
    held = await world.runs.running(first)

    answer = await world.runs.claim(second)

    assert isinstance(answer, Waiting)
    assert answer.why == "1 of 1 resource-intensive runs are active"
    assert (await world.runs.row(str(answer.run_id))).waits_for == "slot"
    assert isinstance(await world.runs.claim(other), Granted)  # though it was due later
    assert await _next(world, 4) == []

    await world.runs.finish(held, Status.SUCCEEDED)
    assert await _next(world, 4) == ["h1"]
    assert isinstance(await world.runs.claim(second), Granted)


async def test_a_free_slot_of_a_class_goes_to_its_earliest_due_run(world: World) -> None:
    *three, late = _offers(world, await _jobs(world, "hhhh"), most=4)
    held = await world.runs.running(three[0])
    for each in (*three[:0:-1], late):
        assert isinstance(await world.runs.claim(each), Waiting)
    await world.runs.finish(held, Status.SUCCEEDED)

    answer = await world.runs.claim(late)
    assert isinstance(answer, Waiting)
    assert answer.why == "0 of 1 resource-intensive runs are active, and 2 due earlier are waiting"
    assert isinstance(await world.runs.claim(three[1]), Granted)


@pytest.mark.floor("C", "The limit of all jobs holds for every type")
async def test_the_global_limit_applies_to_every_class(world: World) -> None:
    one, two, third = _offers(world, await _jobs(world, "lhl"), most=2)
    await world.runs.running(one)
    await world.runs.running(two)

    answer = await world.runs.claim(third)

    assert isinstance(answer, Waiting)
    assert answer.why == "2 of 2 runs are active"


async def test_only_runs_that_can_start_within_all_limits_are_woken(world: World) -> None:
    jobs = await _jobs(world, "mmm" + "hhh" + "lll" + "mm")
    blockers, others = jobs[:3], jobs[3:]
    all_of_them = _offers(world, [*blockers, *others], most=3)
    held = [await world.runs.running(each) for each in all_of_them[:3]]
    for each in all_of_them[3:]:
        assert isinstance(await world.runs.claim(each), Waiting)
    for blocker in held:
        await world.runs.finish(blocker, Status.SUCCEEDED)

    assert await _next(world, 3) == ["h3", "l6", "l7"]
    assert await _next(world, 5) == ["h3", "l6", "l7", "m9", "m10"]
    # The claim grants exactly the woken runs, in whatever order they claim.
    by_name = {each.flow_run_id: each for each in all_of_them}
    granted = [
        name
        for name in ("m10", "m9", "l8", "l7", "l6", "h5", "h4", "h3")
        if isinstance(await world.runs.claim(by_name[name]), Granted)
    ]
    assert sorted(granted) == ["h3", "l6", "l7"]


async def test_without_class_limits_only_the_global_limit_applies(world: World) -> None:
    many = _offers(world, await _jobs(world, "hhhhh"), most=4)
    answers = [await world.runs.claim(replace(each, classes={})) for each in many]
    assert [type(each) for each in answers] == [Granted] * 4 + [Waiting]


async def test_a_run_without_a_class_counts_as_medium(world: World) -> None:
    """A direct call has no class, nor has a run that an earlier version recorded."""
    limits = {"medium": 1}
    direct = ClaimRequest(
        claim_requests.flow_key("d"),
        "agent-prompt",
        "direct",
        world.clock.now(),
        "here:1",
        {"prompt": "Hi"},
    )
    await world.runs.claimed(direct)
    (job,) = _offers(world, await _jobs(world, "m"), most=4)

    answer = await world.runs.claim(replace(job, classes=limits))

    assert isinstance(answer, Waiting)
    assert answer.why == "1 of 1 medium runs are active"


@pytest.mark.slow
async def test_fifty_concurrent_claims_exceed_no_limit(world: World) -> None:
    left = _offers(world, await _jobs(world, "lmmmh" * 10), most=6)
    order = {each.occurrence: each.due for each in left}
    began: list[str] = []
    async with AsyncExitStack() as opened:
        ledgers = [
            await opened.enter_async_context(Ledger(world.ledger.address, world.clock))
            for _ in range(10)
        ]
        while left:
            async with asyncio.timeout(60):
                claimed = (claims.claim(ledgers[n % 10], each) for n, each in enumerate(left))
                answers = await asyncio.gather(*claimed)
            granted = [each for each in answers if isinstance(each, Granted)]
            kinds = Counter(each.parameters["policy"]["class"] for each in granted)
            assert 1 <= len(granted) <= 6
            assert kinds[HEAVY] <= 1
            assert kinds[LIGHT] <= 2
            began += [each.occurrence for each in granted]
            left = [each for each in left if each.occurrence not in began]
            for each in granted:
                await claims.begin(world.ledger, each.run_id, each.fence)
                await world.runs.finish(each, Status.SUCCEEDED)

    assert len(began) == len(set(began)) == 50
    assert {row.status for row in await world.runs.rows()} == {"succeeded"}  # none was missed
    # From the second round on the ledger knew all waiting runs: each class ran by due time.
    for kind in "lmh":
        of_kind = [order[each] for each in began if each.startswith(f"flow:{kind}")]
        assert of_kind[6:] == sorted(of_kind[6:])
