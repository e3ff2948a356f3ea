"""Budgets per run and per day at the claim; `test_request_budget` has those of requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import update

from daybook.jobs import summaries
from daybook.jobs.limits import AgentLimits
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.policies.budgets import HomeBudget
from daybook.runs import audit, budget, claims, daily, retention
from daybook.runs.claim_requests import ClaimRequest, ClaimResult, Finished, Granted
from daybook.runs.retention import RetentionLimits
from daybook.runs.usage import Amount, tokens, total
from tests.unit.runs.test_limits_at_claim import owned
from tests.world import World

pytestmark = pytest.mark.anyio


def usage_of(count: int) -> dict[str, Any]:
    """Return a usage of ``count`` tokens, a quarter of them output; a price does not count."""
    out = count // 4
    return {"input_tokens": count - out, "output_tokens": out, "cost_usd": 99.0, "requests": 7}


async def spend(world: World, claim_request: ClaimRequest, count: int) -> Granted:
    return await world.runs.finished(claim_request, Status.SUCCEEDED, usage=usage_of(count))


async def at(world: World, claim_request: ClaimRequest) -> ClaimResult:
    world.clock.set(max(world.clock.now(), claim_request.due))
    return await world.runs.claim(claim_request)


async def test_a_run_of_a_job_without_a_budget_has_no_token_limit(world: World) -> None:
    stored = await world.jobs.add()
    assert (await world.runs.claimed(stored)).tokens is None


async def test_a_claim_grants_the_jobs_tokens_per_run(world: World) -> None:
    stored = await world.jobs.add(tokens_per_run=800, cron="0 * * * *")
    granted = await world.runs.claimed(stored)
    assert granted.tokens == 800
    # The process that takes the claim over from the worker reads the same number.
    again = await claims.read_grant(world.ledger, granted.run_id, granted.fence)
    assert again.tokens == 800


@pytest.mark.parametrize(
    ("policy", "limit", "least"), [(800, 500, 500), (500, 800, 500), (0, 600, 600), (700, 0, 700)]
)
async def test_a_run_of_an_agents_job_gets_the_lower_of_its_policy_and_owner_limit(
    world: World, policy: int, limit: int, least: int
) -> None:
    stored = await owned(world, tokens_per_run=policy, cron="0 * * * *")
    rules = AgentLimits.of({"tokens_per_run": limit, "tokens_per_day": 0})
    assert (await world.runs.claimed(world.runs.claim_request(stored, rules=rules))).tokens == least


async def tried(world: World, claim_request: ClaimRequest, count: int) -> ClaimResult:
    """Let one attempt use ``count`` tokens and fail; return the answer to the next claim."""
    granted = await world.runs.running(claim_request)
    failed = Outcome(Status.FAILED, error="busy", usage=usage_of(count))
    until = world.clock.now() + timedelta(minutes=1)
    await claims.retry(world.ledger, granted.run_id, granted.fence, failed, until)
    world.clock.set(until)
    return await world.runs.claim(claim_request)


async def test_the_next_attempt_gets_the_tokens_that_are_left(world: World) -> None:
    stored = await world.jobs.add(tokens_per_run=800, cron="0 * * * *")
    answer = await tried(world, world.runs.claim_request(stored), 300)
    assert isinstance(answer, Granted)
    assert answer.tokens == 500


async def test_a_run_fails_before_its_next_attempt_if_no_tokens_are_left(world: World) -> None:
    stored = await world.jobs.add(tokens_per_run=800, cron="0 * * * *")
    answer = await tried(world, world.runs.claim_request(stored), 812)
    assert isinstance(answer, Finished)
    row = await world.runs.row(str(answer.run_id))
    assert (row.status, row.error) == ("failed", "budget: 812 of 800 tokens per run are used")
    assert (await world.jobs.row(stored.id)).last_error == row.error


async def test_a_run_is_skipped_if_the_tokens_of_the_day_are_used(world: World) -> None:
    """Two runs use 12,345 of 10,000 tokens: the third is skipped, one after midnight is not."""
    rules = AgentLimits(timezone="Asia/Dhaka")
    stored = await world.jobs.add(tokens_per_day=10_000, cron="0 * * * *", timezone="Asia/Tokyo")
    granted = await spend(world, world.runs.claim_request(stored, rules=rules), 4_000)
    assert granted.tokens == 10_000
    granted = await spend(world, world.runs.claim_request(stored, rules=rules), 8_345)
    assert granted.tokens == 6_000
    answer = await at(world, world.runs.claim_request(stored, rules=rules))
    assert isinstance(answer, Finished)
    expected = (
        "budget: 12,345 of 10,000 tokens per day are used; the day ends at "
        "2026-01-16 00:00 Asia/Dhaka"
    )
    assert (answer.status, answer.reason) == (Status.SKIPPED, expected)
    end = datetime(2026, 1, 15, 18, tzinfo=UTC)  # midnight in Dhaka
    assert budget.is_of_ended_day(answer.reason, end)
    assert not budget.is_of_ended_day(answer.reason, end - timedelta(seconds=1))
    assert not budget.is_of_ended_day(answer.reason + "/Nowhere", end)
    assert (await world.runs.row(str(answer.run_id))).attempts == 0
    # Midnight in Dhaka is 18:00 UTC.
    midnight = world.runs.claim_request(
        stored, due=world.clock.now().replace(hour=18, minute=0, microsecond=0), rules=rules
    )
    assert (await world.runs.claimed(midnight)).tokens == 10_000


async def test_retention_keeps_what_the_budgets_of_a_day_add_up(world: World) -> None:
    stored = await world.jobs.add(tokens_per_day=1_000, cron="0 * * * *")
    rules = AgentLimits(timezone="UTC")
    for _ in range(9):
        await spend(world, world.runs.claim_request(stored, rules=rules), 110)
    world.clock.move(timedelta(minutes=2))
    await audit.advance(world.ledger, stored.id, world.clock.now())
    async with world.ledger.write() as session:
        await session.execute(update(RunRow).values(unmirrored=False))

    keep = RetentionLimits(timedelta(0), 1)
    await retention.prune_runs(world.ledger, stored.id, keep)
    assert (await spent_today(world, stored, rules)).tokens == 990
    world.clock.move(retention.USAGE_MIN_AGE)
    assert (await retention.prune_runs(world.ledger, stored.id, keep))[0] == 9


@pytest.mark.dialect
async def test_a_budget_may_be_larger_than_a_column_of_the_ledger(world: World) -> None:
    for name, tokens_per_day, most in (
        ("large", 5 * 10**9, 5 * 10**9),
        ("huge", 10**30, 2**63 - 1),
    ):
        stored = await world.jobs.add(name, tokens_per_day=tokens_per_day, cron="0 * * * *")
        assert (await world.runs.claimed(stored)).tokens == most


@pytest.mark.dialect
async def test_more_tokens_than_32_bits_are_stored_summed_and_listed(world: World) -> None:
    stored = await world.jobs.add(tokens_per_day=10**13, cron="0 * * * *")
    for _ in range(2):
        used = {"requests": 10**12, "input_tokens": 10**12, "output_tokens": 1, "cost_usd": None}
        await world.runs.finished(stored, Status.SUCCEEDED, usage=used)

    assert (await world.runs.claimed(stored)).tokens == 8 * 10**12 - 2
    async with world.ledger.read() as session:
        spent = await daily.spending_by_job(session, world.ledger.now() - timedelta(days=1))
        jobs = await summaries.read_budgets(session)
        uses = await budget.of_day(
            session, jobs, HomeBudget(), world.ledger.now().date(), ZoneInfo("UTC")
        )
    assert spent[stored.id].input_tokens == 2 * 10**12
    assert [each.used for each in uses] == [2 * 10**12 + 2]


async def test_the_tokens_of_a_check_that_skips_its_run_count(world: World) -> None:
    stored = await world.jobs.add(tokens_per_day=100, cron="0 * * * *")
    granted = await world.runs.claimed(stored)
    await world.runs.finish(
        granted, Status.SKIPPED, reason="check: nothing new", usage=usage_of(60)
    )
    assert (await world.runs.claimed(stored)).tokens == 40


UNTOLD = {"input_tokens": None, "output_tokens": None, "cost_usd": None, "requests": 1}
"""Of a model whose provider does not say it."""


async def test_the_tokens_of_a_check_count_if_the_answer_reports_no_usage(world: World) -> None:
    stored = await world.jobs.add(tokens_per_day=1_000, cron="0 * * * *")
    granted = await world.runs.claimed(stored)
    await claims.begin(world.ledger, granted.run_id, granted.fence, usage=usage_of(900))
    await world.runs.finish(granted, Status.SUCCEEDED, usage=UNTOLD)
    row = await world.runs.row(granted.run_id)
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["cost_usd"]) == (None, None)
    assert (await world.runs.claimed(stored)).tokens == 100


def test_known_tokens_of_an_incomplete_total_are_kept_in_further_totals() -> None:
    once = total([usage_of(900), UNTOLD])
    assert once == {**UNTOLD, "requests": 8, "known_tokens": 900}
    again = total([once, usage_of(50), UNTOLD, {"input_tokens": 7}])
    assert tokens(again) == 957
    assert total([usage_of(900), usage_of(40)]) == {
        **usage_of(940),
        "cost_usd": 198.0,
        "requests": 14,
    }
    assert total([UNTOLD]) == UNTOLD


async def test_all_jobs_of_an_agent_share_its_tokens_of_the_day(world: World) -> None:
    """Removing a job and adding another starts no new day, and neither does another time zone."""
    rules = AgentLimits.of({"tokens_per_day": 1_000}, timezone="UTC")
    first = await owned(world, name="first", every="1h")
    await spend(world, world.runs.claim_request(first, rules=rules), 1_000)
    await world.jobs.archive(first.id)
    for number, zone in enumerate(("UTC", "Asia/Tokyo", "Pacific/Kiritimati")):
        other = await owned(world, name=f"job {number}", cron="30 * * * *", timezone=zone)
        answer = await at(world, world.runs.claim_request(other, rules=rules))
        assert isinstance(answer, Finished)
        assert answer.reason.startswith(
            "budget: 1,000 of 1,000 tokens per day of agent:scout are used; the day ends at "
            "2026-01-16 00:00 UTC"
        )
    others = await owned(world, "agent:other", name="other", every="1h")
    assert (await world.runs.claimed(world.runs.claim_request(others, rules=rules))).tokens == 1_000


@pytest.mark.parametrize(
    ("usage", "of_agent", "left"),
    [(None, True, 600), (usage_of(150), True, 850), (None, False, 1000)],
)
async def test_only_an_agents_cancelled_run_without_usage_counts_its_whole_grant(
    world: World, usage: dict[str, Any] | None, of_agent: bool, left: int
) -> None:
    given: dict[str, Any] = {"cron": "0 * * * *", "tokens_per_run": 400}
    if of_agent:
        stored = await owned(world, **given)
        rules = AgentLimits.of({"tokens_per_run": 0, "tokens_per_day": 1000})
    else:
        stored, rules = await world.jobs.add(**given, tokens_per_day=1000), AgentLimits()
    granted = await world.runs.running(world.runs.claim_request(stored, rules=rules))
    assert granted.tokens == 400
    ended = Outcome(Status.CANCELLED, "cancelled", usage=usage)
    await claims.finish(world.ledger, granted.run_id, granted.fence, ended)

    again = await world.runs.request(stored)
    next_claim = replace(world.runs.claim_request(again, rules=rules))
    assert (await world.runs.claimed(next_claim)).tokens == min(left, 400)
    used = await spent_today(world, stored, rules)
    assert used.tokens == 1_000 - left


async def spent_today(world: World, stored: StoredJob, rules: AgentLimits) -> Amount:
    """Return what the budgets count for the job or its owner today."""
    of_run = budget.of_run("other", stored.job.parameters(), stored, rules)
    assert of_run is not None
    async with world.ledger.read() as session:
        used = await budget.read_used(session, of_run, world.clock.now().date())
    (scope,) = set(used) - {"run"}
    return used[scope].spent


async def test_only_a_run_that_asks_an_agent_needs_tokens(world: World) -> None:
    rules = AgentLimits.of({"tokens_per_day": 1_000})
    first = await owned(world, name="first", every="1h")
    await spend(world, world.runs.claim_request(first, rules=rules), 1_000)
    hook = await owned(world, name="hook", url="https://a.example.org", every="1h", prompt=None)
    granted = await world.runs.claimed(world.runs.claim_request(hook, kind="webhook", rules=rules))
    assert granted.tokens is None
    gated: dict[str, Any] = {
        "check": {"prompt": "new?"},
        "url": "https://a.example.org",
        "prompt": None,
    }
    asking = await owned(world, name="asking", every="1h", **gated)
    answer = await at(world, world.runs.claim_request(asking, kind="webhook", rules=rules))
    assert isinstance(answer, Finished)
    assert answer.reason.startswith("budget: ")


async def test_a_manual_run_is_refused_too_if_no_tokens_are_left(world: World) -> None:
    stored = await world.jobs.add(tokens_per_day=100, cron="0 * * * *")
    await spend(world, world.runs.claim_request(stored), 100)
    asked = await claims.request(world.ledger, stored, "now", "manual")
    answer = await world.runs.claim(asked)
    assert isinstance(answer, Finished)
    assert answer.reason.startswith("budget: 100 of 100 tokens")


async def test_custom_parameters_of_an_agents_run_cannot_raise_its_token_limit(
    world: World,
) -> None:
    stored = await owned(world, tokens_per_run=10, cron="0 * * * *")
    rules = AgentLimits.of({"tokens_per_run": 50, "tokens_per_day": 70})
    policy = {**stored.job.policy.model_dump(mode="json"), "tokens_per_run": 5_000}
    parameters = {**stored.job.parameters(), "policy": policy}
    claim_request = replace(
        world.runs.claim_request(stored, rules=rules, due=world.clock.now()),
        occurrence="flow:custom",
        trigger="manual",
        parameters=parameters,
    )
    assert (await spend(world, claim_request, 60)).tokens == 50
    assert (await world.runs.claimed(world.runs.claim_request(stored, rules=rules))).tokens == 10
