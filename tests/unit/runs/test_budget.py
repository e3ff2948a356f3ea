"""Tokens of a run and of a day: granted at the claim, and refused when they are used."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.jobs.limits import AgentLimits
from daybook.ledger.states import Outcome, Status
from daybook.runs import budget, claims
from daybook.runs.claim_requests import ClaimRequest, ClaimResult, Finished, Granted, Waiting
from daybook.runs.usage import tokens, total
from tests.unit.runs.test_limits_at_claim import owned
from tests.world import World

pytestmark = pytest.mark.anyio


def took(count: int) -> dict[str, Any]:
    """So many tokens, a quarter of them in the answer; a price is no token."""
    out = count // 4
    return {"input_tokens": count - out, "output_tokens": out, "cost_usd": 99.0, "requests": 7}


async def spend(world: World, offer: ClaimRequest, count: int) -> Granted:
    return await world.settled(offer, Status.SUCCEEDED, usage=took(count))


async def at(world: World, offer: ClaimRequest) -> ClaimResult:
    world.clock.set(max(world.clock.now(), offer.due))
    return await world.claim(offer)


async def test_nothing_limits_a_job_without_a_budget(world: World) -> None:
    stored = await world.add()
    assert (await world.granted(world.offer(stored))).tokens is None


async def test_a_run_is_granted_its_tokens(world: World) -> None:
    stored = await world.add(tokens_per_run=800, cron="0 * * * *")
    granted = await world.granted(world.offer(stored))
    assert granted.tokens == 800
    # Who takes the claim over from the worker is told the same.
    again = await claims.read_grant(world.ledger, granted.run_id, granted.fence)
    assert again.tokens == 800


@pytest.mark.parametrize(
    ("policy", "limit", "least"), [(800, 500, 500), (500, 800, 500), (0, 600, 600), (700, 0, 700)]
)
async def test_an_agents_run_has_the_least_of_both(
    world: World, policy: int, limit: int, least: int
) -> None:
    stored = await owned(world, tokens_per_run=policy, cron="0 * * * *")
    rules = AgentLimits.of({"tokens_per_run": limit, "tokens_per_day": 0})
    assert (await world.granted(world.offer(stored, rules=rules))).tokens == least


async def tried(world: World, offer: ClaimRequest, count: int) -> ClaimResult:
    """One attempt that took so many and failed for now; what the next one is answered."""
    granted = await world.begun(offer)
    failed = Outcome(Status.FAILED, error="busy", usage=took(count))
    until = world.clock.now() + timedelta(minutes=1)
    await claims.retry(world.ledger, granted.run_id, granted.fence, failed, until)
    world.clock.set(until)
    return await world.claim(offer)


async def test_a_further_attempt_has_what_is_left(world: World) -> None:
    stored = await world.add(tokens_per_run=800, cron="0 * * * *")
    answer = await tried(world, world.offer(stored), 300)
    assert isinstance(answer, Granted)
    assert answer.tokens == 500


async def test_nothing_left_fails_the_run(world: World) -> None:
    stored = await world.add(tokens_per_run=800, cron="0 * * * *")
    answer = await tried(world, world.offer(stored), 812)
    assert isinstance(answer, Finished)
    row = await world.row(str(answer.run_id))
    assert (row.status, row.error) == ("failed", "tokens: 812 of 800 per run are used")
    assert (await world.job_row(stored.id)).last_error == row.error


async def test_the_days_limit_refuses_the_next_run(world: World) -> None:
    """12,345 of 10,000 are taken at one; at two nothing is left, and at midnight there is."""
    stored = await world.add(tokens_per_day=10_000, cron="0 * * * *", timezone="Asia/Dhaka")
    granted = await spend(world, world.offer(stored), 4_000)
    assert granted.tokens == 10_000
    granted = await spend(world, world.offer(stored), 8_345)
    assert granted.tokens == 6_000
    answer = await at(world, world.offer(stored))
    assert isinstance(answer, Finished)
    told = "tokens: 12,345 of 10,000 per day are used, until 2026-01-16 00:00 Asia/Dhaka"
    assert (answer.status, answer.reason) == (Status.SKIPPED, told)
    assert (await world.row(str(answer.run_id))).attempts == 0
    # Midnight in Dhaka is 18:00 UTC.
    midnight = world.offer(stored, due=world.clock.now().replace(hour=18, minute=0, microsecond=0))
    assert (await world.granted(midnight)).tokens == 10_000


async def test_what_a_closed_gate_took_counts(world: World) -> None:
    stored = await world.add(tokens_per_day=100, cron="0 * * * *")
    granted = await world.granted(world.offer(stored))
    await world.settle(granted, Status.SKIPPED, reason="check: nothing new", usage=took(60))
    assert (await world.granted(world.offer(stored))).tokens == 40


UNTOLD = {"input_tokens": None, "output_tokens": None, "cost_usd": None, "requests": 1}
"""Of a model whose provider does not tell."""


async def test_what_a_gate_took_counts_beside_an_answer_that_tells_nothing(world: World) -> None:
    stored = await world.add(tokens_per_day=1_000, cron="0 * * * *")
    granted = await world.granted(world.offer(stored))
    await claims.begin(world.ledger, granted.run_id, granted.fence, usage=took(900))
    await world.settle(granted, Status.SUCCEEDED, usage=UNTOLD)
    row = await world.row(granted.run_id)
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["cost_usd"]) == (None, None)
    assert (await world.granted(world.offer(stored))).tokens == 100


def test_known_parts_of_an_unknown_sum_are_kept_through_further_sums() -> None:
    once = total([took(900), UNTOLD])
    assert once == {**UNTOLD, "requests": 8, "known_tokens": 900}
    again = total([once, took(50), UNTOLD, {"input_tokens": 7}])
    assert tokens(again) == 957
    assert total([took(900), took(40)]) == {**took(940), "cost_usd": 198.0, "requests": 14}
    assert total([UNTOLD]) == UNTOLD


async def test_runs_at_work_hold_what_they_were_granted(world: World) -> None:
    """700 of 1,000 a run: the second has 300, the third waits until one has ended."""
    fields: dict[str, Any] = {"tokens_per_day": 1_000, "tokens_per_run": 700, "overlap": "allow"}
    stored = await world.add(**fields, cron="0 * * * *", session="new")
    first, second, third = [
        world.offer_of(await claims.request(world.ledger, stored, name, "manual")) for name in "abc"
    ]
    one, other = await world.begun(first), await world.begun(second)
    assert (one.tokens, other.tokens) == (700, 300)
    answer = await at(world, third)
    assert isinstance(answer, Waiting)
    assert answer.why == "tokens: active runs may use all that is left of 1,000 per day"
    await world.settle(one, Status.SUCCEEDED, usage=took(100))
    world.clock.set(answer.until)
    granted = await world.claim(third)
    assert isinstance(granted, Granted)
    assert granted.tokens == 600  # 1,000 - 100 - 300


async def test_an_agents_day_is_that_of_all_its_jobs(world: World) -> None:
    """Removing a job and adding another begins no new day, nor does another zone."""
    rules = AgentLimits.of({"tokens_per_day": 1_000}, timezone="UTC")
    first = await owned(world, name="first", every="1h")
    await spend(world, world.offer(first, rules=rules), 1_000)
    await world.archive(first.id)
    for number, zone in enumerate(("UTC", "Asia/Tokyo", "Pacific/Kiritimati")):
        other = await owned(world, name=f"job {number}", cron="30 * * * *", timezone=zone)
        answer = await at(world, world.offer(other, rules=rules))
        assert isinstance(answer, Finished)
        assert answer.reason.startswith(
            "tokens: 1,000 of 1,000 per day of agent:scout are used, until 2026-01-16 00:00 UTC"
        )
    others = await owned(world, "agent:other", name="other", every="1h")
    assert (await world.granted(world.offer(others, rules=rules))).tokens == 1_000


@pytest.mark.parametrize(
    ("told", "of_agent", "left"), [(None, True, 600), (took(150), True, 850), (None, False, 1000)]
)
async def test_an_agent_gets_nothing_back_by_cancelling(
    world: World, told: dict[str, Any] | None, of_agent: bool, left: int
) -> None:
    given: dict[str, Any] = {"cron": "0 * * * *", "tokens_per_run": 400}
    if of_agent:
        stored = await owned(world, **given)
        rules = AgentLimits.of({"tokens_per_run": 0, "tokens_per_day": 1000})
    else:
        stored, rules = await world.add(**given, tokens_per_day=1000), AgentLimits()
    granted = await world.begun(world.offer(stored, rules=rules))
    assert granted.tokens == 400
    ended = Outcome(Status.CANCELLED, "cancelled", usage=told)
    await claims.finish(world.ledger, granted.run_id, granted.fence, ended)

    world.clock.move(timedelta(minutes=1))
    async with world.ledger.read() as session:
        row = await world.row(granted.run_id)
        policy = row.parameters["policy"] | {"tokens_per_run": 0}
        row.parameters, row.usage = row.parameters | {"policy": policy}, None  # as of another run
        budget_of = await budget.for_run(session, row, stored, rules, world.clock.now())
    assert budget_of.tokens == left


async def test_what_asks_no_agent_needs_no_tokens(world: World) -> None:
    rules = AgentLimits.of({"tokens_per_day": 1_000})
    first = await owned(world, name="first", every="1h")
    await spend(world, world.offer(first, rules=rules), 1_000)
    hook = await owned(world, name="hook", url="https://a.example.org", every="1h", prompt=None)
    granted = await world.granted(world.offer(hook, kind="webhook", rules=rules))
    assert granted.tokens is None
    gated: dict[str, Any] = {
        "check": {"prompt": "new?"},
        "url": "https://a.example.org",
        "prompt": None,
    }
    asking = await owned(world, name="asking", every="1h", **gated)
    answer = await at(world, world.offer(asking, kind="webhook", rules=rules))
    assert isinstance(answer, Finished)
    assert answer.reason.startswith("tokens: ")


async def test_a_run_by_hand_is_no_way_round(world: World) -> None:
    stored = await world.add(tokens_per_day=100, cron="0 * * * *")
    await spend(world, world.offer(stored), 100)
    asked = await claims.request(world.ledger, stored, "now", "manual")
    answer = await world.claim(world.offer_of(asked))
    assert isinstance(answer, Finished)
    assert answer.reason.startswith("tokens: 100 of 100")


async def test_an_agents_run_with_parameters_of_its_own_is_no_way_round(world: World) -> None:
    stored = await owned(world, tokens_per_run=10, cron="0 * * * *")
    rules = AgentLimits.of({"tokens_per_run": 50, "tokens_per_day": 70})
    policy = {**stored.job.policy.model_dump(mode="json"), "tokens_per_run": 5_000}
    parameters = {**stored.job.parameters(), "policy": policy}
    offer = replace(
        world.offer(stored, rules=rules, due=world.clock.now()),
        occurrence="flow:custom",
        trigger="manual",
        parameters=parameters,
    )
    assert (await spend(world, offer, 60)).tokens == 50
    assert (await world.granted(world.offer(stored, rules=rules))).tokens == 10
