"""Budgets of requests: each reserves its estimate, and the sums come from the rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from daybook.jobs import summaries
from daybook.jobs.limits import AgentLimits
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import AttemptRow, OutboxRow, StepRow
from daybook.policies.budgets import read
from daybook.runs import budget, claims, leases, steps
from daybook.runs.budget import Judgement, RunBudget
from daybook.runs.claim_requests import Finished, Granted, Waiting
from daybook.runs.usage import Amount
from tests.world import World

pytestmark = pytest.mark.anyio

DEAR = {"input_tokens": 900, "output_tokens": 100, "cost_usd": 0.4, "requests": 1}
UNPRICED = DEAR | {"cost_usd": None}


def rules(**table: Any) -> AgentLimits:
    return AgentLimits(timezone="UTC", budget=read(table))


async def add(world: World, **fields: Any) -> StoredJob:
    stored = await world.jobs.add(on_demand=True, overlap="allow", session="new", **fields)
    world.clock.move(timedelta(minutes=1))  # `world.runs.request` dates its row back
    return stored


async def begun(world: World, stored: StoredJob, of_home: AgentLimits) -> Granted:
    row = await world.runs.request(stored)
    return await world.runs.running(world.runs.claim_request(row, rules=of_home))


def budget_of(granted: Granted, of_home: AgentLimits, began: datetime) -> RunBudget:
    found = budget.of_run(granted.run_id, granted.parameters, granted.job, of_home)
    assert found is not None
    return replace(found, began=began)


async def requested(
    world: World,
    granted: Granted,
    of_home: AgentLimits,
    estimate: Amount,
    *,
    number: int = 1,
    began: datetime | None = None,
) -> Judgement:
    """Start a request to a model in the first attempt of a run."""
    row = StepRow(
        run_id=granted.run_id,
        number=number,
        position=str(number),
        attempt=1,
        kind="request",
        name="m",
        digest="",
        repeatable=True,
        started_at=world.clock.now(),
        tokens=estimate.tokens,
        usd=estimate.usd,
        unpriced=estimate.unpriced,
    )
    of_run = budget_of(granted, of_home, began or world.clock.now())
    return await steps.start(world.ledger, granted.fence, row, (), of_run)


async def answered(
    world: World, granted: Granted, number: int = 1, used: dict[str, Any] = DEAR
) -> None:
    await steps.finish(
        world.ledger,
        granted.fence,
        granted.run_id,
        number,
        Status.SUCCEEDED,
        usage=used,
        amount=Amount.of(used),
    )


async def alerts(ledger: Ledger) -> list[str]:
    async with ledger.read() as session:
        query = select(OutboxRow.subject).where(col(OutboxRow.event) == "budget")
        return list((await session.execute(query)).scalars())


@pytest.mark.dialect
async def test_parallel_requests_reserve_their_estimates_and_wait_for_each_other(
    world: World,
) -> None:
    """Of $1 two requests reserve $0.45 each; the third waits, and goes on when one cost less."""
    stored, home = await add(world), rules(usd_per_day=1.0)
    one, two, three = [await begun(world, stored, home) for _ in range(3)]
    estimate = Amount(1_000, 0.45)
    assert await requested(world, one, home, estimate) == Judgement()
    assert await requested(world, one, home, estimate) == Judgement()  # its answer was lost
    assert await requested(world, two, home, estimate) == Judgement()
    judged = await requested(world, three, home, estimate)
    assert judged.held == "budget: active runs may use all that is left of $1 per day of all runs"
    async with world.ledger.read() as session:
        assert await steps.of_run(session, three.run_id) == []  # it must not be sent
    await answered(world, one, used=DEAR | {"cost_usd": 0.05})
    assert await requested(world, three, home, estimate) == Judgement()
    judged = await requested(world, one, home, Amount(1_000, 0.96), number=2)
    assert judged.refused == (
        "budget: $0.05 of $1 per day of all runs are used, and the next request is estimated at "
        "$0.96; the day ends at 2026-01-16 00:00 UTC"
    )


@pytest.mark.dialect
async def test_a_killed_run_keeps_what_it_used_and_the_estimate_of_its_open_request(
    world: World,
) -> None:
    stored, home = await add(world), rules(usd_per_day=1.0)
    granted = await begun(world, stored, home)
    await requested(world, granted, home, Amount(500, 0.3))
    await answered(world, granted)
    await requested(world, granted, home, Amount(700, 0.35), number=2)

    async def sums() -> Amount:
        of_run = budget_of(granted, home, world.clock.now())
        async with world.ledger.read() as session:
            used = (await budget.read_used(session, of_run, world.clock.now().date()))["home"]
        return used.spent + used.reserved

    before = await sums()
    assert (before.tokens, round(before.usd, 6)) == (1_700, 0.75)
    await world.runs.lose()  # the process and its worker are gone, and nothing was reported
    async with world.ledger.write() as session:
        row = await session.get(type(await world.runs.row(granted.run_id)), granted.run_id)
        assert row is not None
        assert await leases.check_lease(session, row, world.clock.now())
    assert (await world.runs.row(granted.run_id)).status == "unknown"
    assert await sums() == before
    row = await world.runs.row(granted.run_id)
    assert row.usage is not None
    assert row.usage["cost_usd"] == 0.4  # of the request that was answered
    # The late outcome of the process is not counted twice.
    late = Outcome(Status.SUCCEEDED, usage=DEAR)
    await claims.finish(world.ledger, granted.run_id, granted.fence, late)
    assert await sums() == before
    row = await world.runs.row(granted.run_id)
    assert row.usage is not None
    assert row.usage["cost_usd"] == 0.4


async def counted(world: World, granted: Granted) -> Amount:
    """Return what budgets count of the first attempt of a run that has ended."""
    async with world.ledger.read() as session:
        row = await session.get(AttemptRow, (granted.run_id, 1))
    assert row is not None
    return Amount(row.tokens, row.usd, row.unpriced)


async def test_what_a_program_reported_before_it_was_killed_counts(world: World) -> None:
    """Under a budget in US dollars, its answer is a request, which it could not end."""
    stored, home = await add(world), rules(usd_per_day=9.0, unpriced_usd=0.5)
    granted = await begun(world, stored, home)
    await requested(world, granted, home, Amount(unpriced=1))
    reported = UNPRICED | {"requests": 7}
    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "killed", usage=reported)
    assert await counted(world, granted) == Amount(1_000, 0.0, 1)


async def test_what_a_program_reports_late_counts_with_its_price(world: World) -> None:
    """Before, budgets went on to count the fallback for an unknown price as well."""
    stored, home = await add(world), rules(usd_per_day=9.0, unpriced_usd=0.5)
    granted = await begun(world, stored, home)
    await requested(world, granted, home, Amount(unpriced=1))
    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "killed", usage=UNPRICED)
    assert await counted(world, granted) == Amount(1_000, 0.0, 1)
    await world.runs.finish(granted, Status.SUCCEEDED, usage=DEAR)
    assert await counted(world, granted) == Amount(1_000, 0.4)
    row = await world.runs.row(granted.run_id)
    assert row.usage is not None
    assert row.usage["cost_usd"] == 0.4


@pytest.mark.parametrize("is_killed", [False, True])
async def test_the_price_of_a_program_is_kept_if_its_steps_have_more_tokens(
    world: World, is_killed: bool
) -> None:
    """Claude Code's result may leave out what its subagents used, and no step has a price."""
    granted = await world.runs.running(await world.runs.request(await add(world)))
    more = UNPRICED | {"input_tokens": 1_900}
    for number in (1, 2):
        await world.runs.stepped(granted, Status.SUCCEEDED, number=number, usage=more)
    if is_killed:
        await claims.holder_died(world.ledger, granted.run_id, granted.fence, "killed")
        assert await counted(world, granted) == Amount(4_000, 0.0, 2)
    await world.runs.finish(granted, Status.SUCCEEDED, usage=DEAR)
    (attempt,) = await world.runs.attempts()
    assert attempt.usage == {
        "input_tokens": 3_800,
        "output_tokens": 200,
        "cost_usd": 0.4,
        "requests": 2,
    }
    assert await counted(world, granted) == Amount(4_000, 0.4)


async def test_a_late_price_does_not_hide_that_the_price_of_the_check_is_unknown(
    world: World,
) -> None:
    claimed = await world.runs.claimed(await world.runs.request(await add(world)))
    await claims.begin(world.ledger, claimed.run_id, claimed.fence, usage=UNPRICED)
    await world.runs.stepped(claimed, Status.SUCCEEDED, usage=UNPRICED)
    await claims.holder_died(world.ledger, claimed.run_id, claimed.fence, "killed")
    await world.runs.finish(claimed, Status.SUCCEEDED, usage=DEAR)
    assert await counted(world, claimed) == Amount(2_000, 0.4, 1)
    (attempt,) = await world.runs.attempts()
    assert attempt.usage is not None
    assert attempt.usage["cost_usd"] is None


async def test_a_program_that_answers_in_place_of_a_model_counts_with_its_requests(
    world: World,
) -> None:
    stored, home = await add(world), rules(tokens_per_day=9_000)
    granted = await begun(world, stored, home)
    await requested(world, granted, home, Amount(1_000, 0.4))
    await answered(world, granted)  # a second request was refused, so the program was asked
    both = {"input_tokens": 5_900, "output_tokens": 100, "cost_usd": 2.4, "requests": 2}
    await world.runs.finish(granted, Status.SUCCEEDED, usage=both)
    assert await counted(world, granted) == Amount(6_000, 2.4)


@pytest.mark.parametrize(("estimate", "tokens"), [(Amount(unpriced=1), 400), (Amount(30, 0.1), 30)])
async def test_an_agent_cannot_evade_its_tokens_by_a_cancelled_program(
    world: World, estimate: Amount, tokens: int
) -> None:
    home = rules(usd_per_day=9.0, unpriced_usd=0.5)
    stored = await add(world, owner="agent:scout", tokens_per_run=400)
    granted = await begun(world, stored, home)
    await requested(world, granted, home, estimate)
    await world.runs.finish(granted, Status.CANCELLED, reason="cancelled")
    assert (await counted(world, granted)).tokens == tokens


async def spent(world: World, stored: StoredJob, **used: Any) -> None:
    row = await world.runs.request(stored)
    await world.runs.finished(row, Status.SUCCEEDED, usage=DEAR | used)


@pytest.mark.dialect
async def test_each_scope_refuses_the_runs_that_it_counts(world: World) -> None:
    """The agent that answers, the job and the home have budgets of their own."""
    one = await add(world, agent="alpha")
    other = await add(world, name="other", agent="beta", usd_per_day=0.3)
    await spent(world, one)
    await spent(world, other)
    for stored, table, expected in (
        (one, {"agents": {"alpha": {"usd_per_day": 0.4}}}, "$0.40 of $0.40 per day of the agent"),
        (one, {"agents": {"alpha": {"tokens_per_day": 1_000}}}, "1,000 of 1,000 tokens per day"),
        (one, {"usd_per_day": 0.75}, "$0.80 of $0.75 per day of all runs"),
        (one, {"agents": {"beta": {"usd_per_day": 0.1}}}, ""),
        (one, {"usd_per_day": 0.9, "tokens_per_day": 2_001}, ""),
        (other, {}, "$0.40 of $0.30 per day are used; the day ends at 2026-01-16 00:00 UTC"),
    ):
        row = await world.runs.request(stored)
        answer = await world.runs.claim(world.runs.claim_request(row, rules=rules(**table)))
        if expected:
            assert isinstance(answer, Finished)
            assert answer.status is Status.SKIPPED
            assert answer.reason.startswith(f"budget: {expected}"), answer.reason
        else:
            assert isinstance(answer, Granted)
            await claims.cancel(world.ledger, row.id)


async def test_a_claim_waits_if_active_runs_have_reserved_the_rest(world: World) -> None:
    stored, home = await add(world), rules(usd_per_day=1.0)
    granted = await begun(world, stored, home)
    await requested(world, granted, home, Amount(1, 1.0))
    row = await world.runs.request(stored)
    answer = await world.runs.claim(world.runs.claim_request(row, rules=home))
    assert isinstance(answer, Waiting)
    assert answer.why.startswith("budget: active runs may use")
    assert answer.until == world.clock.now() + budget.RETRY_INTERVAL


async def test_an_unknown_price_counts_as_the_fallback_and_never_as_zero(world: World) -> None:
    stored = await add(world)
    await spent(world, stored, cost_usd=None)
    for table, expected in (
        ({"usd_per_day": 1.0}, "budget: a request has an unknown price, so $1 per day of all runs"),
        ({"usd_per_day": 1.0, "unpriced_usd": 1.0}, "budget: $1 of $1 per day of all runs"),
    ):
        row = await world.runs.request(stored)
        answer = await world.runs.claim(world.runs.claim_request(row, rules=rules(**table)))
        assert isinstance(answer, Finished)
        assert answer.reason.startswith(expected)
    await begun(world, stored, rules(usd_per_day=1.0, unpriced_usd=0.5))
    await begun(world, stored, rules(tokens_per_day=1_001))


async def test_a_run_ends_at_its_own_budget_whatever_the_day_has_left(world: World) -> None:
    stored, home = await add(world, usd_per_run=0.5), rules(usd_per_day=9.0, usd_per_run=0.7)
    granted = await begun(world, stored, home)
    await requested(world, granted, home, Amount(1_000, 0.3))
    await answered(world, granted)
    judged = await requested(world, granted, home, Amount(1_000, 0.2), number=2)
    assert judged.refused == (
        "budget: $0.40 of $0.50 per run are used, and the next request is estimated at $0.20"
    )
    assert await requested(world, granted, home, Amount(1_000, 0.1), number=2) == Judgement()


async def test_an_attempt_belongs_to_the_day_on_which_it_began(world: World) -> None:
    """A run that began before midnight stays within the budget of that day."""
    stored, home = await add(world), rules(usd_per_day=0.5)
    world.clock.set(datetime(2026, 1, 15, 23, 59, tzinfo=UTC))
    granted, began = await begun(world, stored, home), world.clock.now()
    await requested(world, granted, home, Amount(1_000, 0.3), began=began)
    await answered(world, granted)
    world.clock.move(timedelta(minutes=2))
    again = await requested(world, granted, home, Amount(1_000, 0.3), number=2, began=began)
    assert "the day ends at 2026-01-16 00:00 UTC" in again.refused
    await begun(world, stored, home)  # today, nothing has been used


async def test_the_check_of_a_skipped_run_counts(world: World) -> None:
    stored, home = await add(world), rules(usd_per_day=0.4)
    row = await world.runs.request(stored)
    granted = await world.runs.claimed(world.runs.claim_request(row, rules=home))
    await world.runs.finish(granted, Status.SKIPPED, reason="check: no", usage=DEAR)
    row = await world.runs.request(stored)
    answer = await world.runs.claim(world.runs.claim_request(row, rules=home))
    assert isinstance(answer, Finished)
    assert answer.reason.startswith("budget: $0.40 of $0.40")


@pytest.mark.dialect
async def test_four_fifths_of_a_daily_budget_raise_one_alert_a_day(world: World) -> None:
    stored, home = await add(world), rules(usd_per_day=1.0, tokens_per_day=1_000_000)
    granted = await begun(world, stored, home)
    await requested(world, granted, home, Amount(1_000, 0.79))
    await answered(world, granted, used=DEAR | {"cost_usd": 0.79})
    assert await alerts(world.ledger) == []
    await requested(world, granted, home, Amount(1_000, 0.05), number=2)
    assert await alerts(world.ledger) == ["budget: all runs: 84% of $1 per day"]
    await answered(world, granted, number=2)
    await requested(world, granted, home, Amount(1_000, 0.05), number=3)
    await world.runs.finish(granted, Status.FAILED, error="budget")
    for _ in range(2):
        row = await world.runs.request(stored)
        await world.runs.claim(world.runs.claim_request(row, rules=home))
    assert len(await alerts(world.ledger)) == 1
    world.clock.move(timedelta(days=1))
    await begun(world, stored, home)
    granted = await begun(world, stored, home)
    await requested(world, granted, home, Amount(1_000, 0.99))
    assert len(await alerts(world.ledger)) == 2


async def test_an_estimate_that_was_too_low_raises_the_alert_when_the_reply_is_recorded(
    world: World,
) -> None:
    stored, home = await add(world), rules(usd_per_day=1.0)
    granted = await begun(world, stored, home)
    await requested(world, granted, home, Amount(1_000, 0.1))
    of_run = budget_of(granted, home, world.clock.now())
    await steps.finish(
        world.ledger,
        granted.fence,
        granted.run_id,
        1,
        Status.SUCCEEDED,
        usage=DEAR,
        amount=Amount(1_000, 1.2),
        budget=of_run,
    )
    assert await alerts(world.ledger) == ["budget: all runs: 120% of $1 per day"]


@pytest.mark.dialect
async def test_a_large_budget_of_tokens_is_read(world: World) -> None:
    for number, tokens in enumerate((0, 3_000_000_000, 10**30)):
        await add(world, name=f"job-{number}", tokens_per_day=tokens)
    async with world.ledger.read() as session:
        found = await summaries.read_budgets(session)
    assert [each.tokens_per_day for each in found] == [3_000_000_000, summaries.MAX_TOKENS]
