"""The operator's limits on the runs of an agent that are in progress at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.jobs.limits import AgentLimits, Limits
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Status
from daybook.runs import claim_requests
from daybook.runs.claim_requests import ClaimRequest, Granted, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio

LIMITS = {"claude": 1}


async def _requests(world: World, *agents: str) -> list[ClaimRequest]:
    """Return a request for a due time of a job of each agent; the due times rise by a second."""
    jobs: list[StoredJob] = [
        await world.jobs.add(f"job-{number}", every="1h", agent=agent)
        for number, agent in enumerate(agents)
    ]
    due = world.clock.now().replace(microsecond=0) - timedelta(seconds=len(jobs))
    return [
        world.runs.claim_request(
            job,
            occurrence=claim_requests.flow_key(job.row.name),
            trigger="manual",
            due=due + timedelta(seconds=number),
            max_per_agent=LIMITS,
        )
        for number, job in enumerate(jobs)
    ]


async def test_a_full_agent_makes_its_own_runs_wait_and_no_others(world: World) -> None:
    first, second, of_kind, other = await _requests(
        world, "claude", "claude", "daybook-offline-agent/claude", "gpt"
    )
    held = await world.runs.running(first)

    for waiting in (second, of_kind):
        answer = await world.runs.claim(waiting)
        assert isinstance(answer, Waiting)
        assert answer.why == "1 of 1 runs of the agent claude are active"
        assert (await world.runs.row(str(answer.run_id))).waits_for == "agent"
    assert isinstance(await world.runs.claim(other), Granted)

    await world.runs.finish(held, Status.FAILED)
    world.clock.move(timedelta(seconds=5))
    assert isinstance(await world.runs.claim(second), Granted)


async def test_a_free_agent_goes_to_its_earliest_due_run(world: World) -> None:
    first, second, late = await _requests(world, "claude", "claude", "claude")
    held = await world.runs.running(first)
    assert isinstance(await world.runs.claim(second), Waiting)
    await world.runs.finish(held, Status.SUCCEEDED)

    answer = await world.runs.claim(late)
    assert isinstance(answer, Waiting)
    assert answer.why == "0 of 1 runs of the agent claude are active, and 1 due earlier are waiting"
    world.clock.move(timedelta(seconds=5))
    assert isinstance(await world.runs.claim(second), Granted)


async def test_a_run_that_does_not_claim_keeps_no_other_from_its_agent(world: World) -> None:
    first, lost, late = await _requests(world, "claude", "claude", "claude")
    held = await world.runs.running(first)
    for each in (lost, late):
        assert isinstance(await world.runs.claim(each), Waiting)
    await world.runs.finish(held, Status.SUCCEEDED)
    world.clock.move(timedelta(seconds=21))
    assert isinstance(await world.runs.claim(late), Granted)


async def test_a_later_run_in_the_queue_claims_again_later(world: World) -> None:
    requests = await _requests(world, *["claude"] * 4)
    await world.runs.running(requests[0])
    delays = []
    for each in requests[1:]:
        answer = await world.runs.claim(each)
        assert isinstance(answer, Waiting)
        delays.append((answer.until - world.ledger.now()).total_seconds())
    assert delays == [5, 10, 15]


async def test_a_run_that_asks_no_agent_has_no_such_limit(world: World) -> None:
    (prompt,) = await _requests(world, "default")
    await world.runs.running(prompt)
    webhook = ClaimRequest(
        *(claim_requests.flow_key("w"), "webhook", "manual", world.clock.now(), "here:1"),
        {"url": "https://example.org/"},
        max_per_agent={"default": 1},
    )
    assert isinstance(await world.runs.claim(webhook), Granted)
    unnamed = replace(webhook, occurrence="flow:p", kind="agent-prompt", parameters={"prompt": "?"})
    assert isinstance(await world.runs.claim(unnamed), Waiting)


async def test_a_clock_that_was_set_back_behind_a_job_does_not_remove_its_limits(
    world: World,
) -> None:
    stored = await world.jobs.add("x", owner="agent:scout", on_demand=True, agent="expensive")
    world.clock.move(-timedelta(hours=1))
    row = await world.runs.request(stored)
    rules = AgentLimits(for_all=Limits(agents=("default",)))
    claim = await world.runs.claim(world.runs.claim_request(row, rules=rules))
    assert not isinstance(claim, Granted)
