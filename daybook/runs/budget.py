"""Budgets of runs: what was used, and whether a run or a request may use more.

`daybook.jobs.budgets` has the limits. Two places judge by them, each in the transaction that writes
its decision::

    claim            used up: the run is skipped, or fails if it has had an attempt
                     all that is left is reserved: it waits
    start of a step  a request to a model reserves its estimate with its row (`daybook.runs.steps`)
                     would exceed a limit: the run fails before the request
                     would exceed it only with the requests of others in progress: it waits

Nothing is counted twice, because nothing is counted: each judgement adds up the rows. An attempt
belongs to the day on which it began, with all its requests::

    attempts of the day                 an ended one contains its steps (`outcomes.close_attempt`)
    + steps of attempts in progress     a request in progress or without a reply: its estimate

So a process that is killed loses nothing, and requests in parallel exceed a budget at most by the
error of their estimates. Programs have no steps: what they use is counted when they report it.

From `NEARLY_SPENT` of a daily limit on, the judgement also queues an alert to the operator. Its key
in the outbox is the limit and the day, so there is one, whatever is restarted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Select, and_, bindparam, case, func, literal, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.delivery import outbox
from daybook.jobs import budgets
from daybook.jobs import policy as policies
from daybook.jobs.actions import CONVERSATION_KINDS
from daybook.jobs.budgets import HomeBudget, Limit, Scope
from daybook.jobs.limits import AgentLimits
from daybook.jobs.store import StoredJob
from daybook.jobs.summaries import JobSummary
from daybook.ledger.states import Status
from daybook.ledger.tables import AttemptRow, JobRow, OutboxRow, RunRow, StepRow
from daybook.runs import claim_requests
from daybook.runs.usage import Amount
from daybook.schedules.zones import midnight, wall_time

log = logging.getLogger(__name__)

RETRY_INTERVAL = timedelta(seconds=30)
"""How long a run waits before it claims again if other runs have reserved what is left."""

NEARLY_SPENT = 0.8
"""Share of a daily limit from which it is reported."""

EVENT = "budget"
"""The event of the alert."""

_ROUNDING_USD = 1e-9  # sums of prices are not exact
_AMOUNT = ("tokens", "usd", "unpriced")
_NOTHING = Amount()


@dataclass(frozen=True)
class RunBudget:
    """The limits on one run, and what their scopes are.

    ``unpriced_usd`` is what a request at an unknown price counts as; None refuses it. ``began`` is
    when the attempt began that the request belongs to, which decides its day; None at a claim.
    """

    limits: tuple[Limit, ...]
    timezone: str
    unpriced_usd: float | None
    run_id: str
    job_id: str | None
    owner: str
    agent: str
    began: datetime | None = None

    @property
    def limits_usd(self) -> bool:
        return any(limit.unit == "usd" for limit in self.limits)

    def day(self, now: datetime) -> date:
        """Return the day whose limits apply."""
        return wall_time(self.began or now, ZoneInfo(self.timezone)).date()

    def value(self, limit: Limit, amount: Amount) -> float:
        """Return the amount in the unit of the limit."""
        if limit.unit == "tokens":
            return amount.tokens
        return amount.usd + amount.unpriced * (self.unpriced_usd or 0.0)


@dataclass(frozen=True)
class Used:
    """What a scope has used: ``spent``, and ``reserved`` for requests in progress."""

    spent: Amount = _NOTHING
    reserved: Amount = _NOTHING


@dataclass(frozen=True)
class Judgement:
    """Whether a run may go on: ``refused`` says why not, ``held`` what it has to wait for.

    ``tokens`` are those that are left, None if nothing limits them.
    """

    refused: str = ""
    held: str = ""
    tokens: int | None = None


def of_run(
    run_id: str, parameters: Mapping[str, Any], stored: StoredJob | None, rules: AgentLimits
) -> RunBudget | None:
    """Return the budget of a run that asks an agent; None if nothing limits it."""
    owner = stored.row.owner if stored is not None else ""
    owner_limits = rules.for_owner(owner) if owner else None
    policy = policies.policy_from_parameters(parameters)
    agent = claim_requests.agent_name(parameters)
    limits = tuple(
        limit
        for limit in budgets.limits(
            policy, (owner, owner_limits) if owner_limits is not None else None, agent, rules.budget
        )
        if stored is not None or limit.scope not in ("job", "owner")
    )
    if not limits:
        return None
    job_id = stored.id if stored is not None else None
    unpriced = rules.budget.unpriced_usd
    return RunBudget(limits, rules.timezone, unpriced, run_id, job_id, owner, agent)


def asks_agent(row: RunRow) -> bool:
    """Return whether a run asks an agent, itself or in its check."""
    policy = policies.policy_from_parameters(row.parameters)
    return row.kind in CONVERSATION_KINDS or bool(policy.check.prompt)


async def judge(
    session: AsyncSession,
    budget: RunBudget,
    now: datetime,
    estimate: Amount = _NOTHING,
    number: int = 0,
) -> Judgement:
    """Judge a claim, or the request with the ``estimate`` whose step has this ``number``.

    Queue the alerts of limits that are nearly reached.
    """
    day = budget.day(now)
    used = await read_used(session, budget, day, number)
    left = None
    held = ""
    for limit in budget.limits:
        sums = used[limit.scope]
        value = budget.value(limit, sums.spent)
        reserved = budget.value(limit, sums.reserved)
        asked = budget.value(limit, estimate)
        if limit.is_daily and value + reserved + asked >= NEARLY_SPENT * limit.most:
            await _alert(session, budget, limit, value + reserved + asked, now)
        if limit.unit == "usd" and budget.unpriced_usd is None and sums.spent.unpriced:
            return Judgement(refused=_unpriced(limit, sums.spent.unpriced))
        over = value + asked - limit.most
        if over > _ROUNDING_USD or (not asked and over >= -_ROUNDING_USD):
            return Judgement(refused=_refusal(budget, limit, value, estimate, day))
        over += reserved
        if over > _ROUNDING_USD or (not asked and over >= -_ROUNDING_USD):
            what = f"{limit.amount(limit.most)} per {limit.period}"
            held = f"budget: active runs may use all that is left of {what}"
        if limit.unit == "tokens":
            free = int(limit.most - value - reserved)
            left = free if left is None else min(left, free)
    return Judgement(held=held, tokens=left)


def _refusal(budget: RunBudget, limit: Limit, value: float, estimate: Amount, day: date) -> str:
    text = f"budget: {limit.used(value)} are used"
    if asked := budget.value(limit, estimate):
        text += f", and the next request is estimated at {limit.amount(asked)}"
    if limit.is_daily:
        end = midnight(day + timedelta(days=1), ZoneInfo(budget.timezone))
        local = end.astimezone(ZoneInfo(budget.timezone))
        text += f"; the day ends at {local:%Y-%m-%d %H:%M} {budget.timezone}"
    return text


def _unpriced(limit: Limit, count: int) -> str:
    requests = "a request has" if count == 1 else f"{count:,} requests have"
    return (
        f"budget: {requests} an unknown price, so {limit.amount(limit.most)} per {limit.period} "
        "cannot be kept; set unpriced_usd in [budget]"
    )


async def _alert(
    session: AsyncSession, budget: RunBudget, limit: Limit, used: float, now: datetime
) -> None:
    """Queue the alert that a daily limit is nearly reached, unless it was queued before."""
    day = budget.day(now)
    which = {"job": budget.job_id, "owner": budget.owner, "agent": budget.agent}
    key = f"{EVENT}:{limit.scope}:{which.get(limit.scope, '')}:{limit.unit}:{day}"
    queued = select(col(OutboxRow.id)).where(col(OutboxRow.key) == key)
    if (await session.execute(queued)).first() is not None:
        return
    name = limit.of.removeprefix(" of ")
    if limit.scope == "job" and budget.job_id is not None:
        job = await session.get(JobRow, budget.job_id)
        name = job.name if job is not None else budget.job_id
    share, most = used / limit.most, limit.amount(limit.most)
    await outbox.enqueue_message(
        session,
        key=key,
        purpose=outbox.ALERT,
        event=EVENT,
        channel=outbox.operator_channel(),
        subject=f"budget: {name}: {share:.0%} of {most} per day",
        body=(
            f"{limit.used(used)} are used or reserved on {day} ({budget.timezone}). Over the "
            "limit, runs are skipped or fail until midnight.\nWhat cost it: daybook spend "
            "--since today"
        ),
        job_id=budget.job_id if limit.scope in ("job", "owner") else None,
        now=now,
    )
    log.warning("budget: %s: %s", name, limit.used(used), extra={"action": EVENT})


# --- the sums


async def read_used(
    session: AsyncSession, budget: RunBudget, day: date, number: int = 0
) -> dict[Scope, Used]:
    """Return what each scope of the budget's limits has used; the daily ones on this day.

    The step ``number`` of the run itself is left out.
    """
    scopes = tuple(dict.fromkeys(limit.scope for limit in budget.limits))
    tz = ZoneInfo(budget.timezone)
    values = {
        "begin": midnight(day, tz).astimezone(UTC),
        "end": midnight(day + timedelta(days=1), tz).astimezone(UTC),
        "of_run": budget.run_id,
        "of_job": budget.job_id,
        "of_owner": budget.owner,
        "of_agent": budget.agent,
        "of_number": number,
    }
    row = list((await session.execute(_query(scopes), values)).one())
    width = len(_AMOUNT)
    amounts = iter(Amount(*row[at : at + width]) for at in range(0, len(row), width))
    used = {}
    for scope in scopes:
        ended, answered, reserved = islice(amounts, 3)
        used[scope] = Used(ended + answered, reserved)
    return used


@dataclass(frozen=True)
class DailyUse:
    """What the attempts of a day have used of one daily limit, with the requests in progress.

    ``name`` is that of the job or the agent; None for the limit of all runs. ``unpriced`` requests
    have no known price and no fallback, so ``used`` does not contain them.
    """

    limit: Limit
    name: str | None
    job_id: str | None
    used: float
    unpriced: int

    @property
    def share(self) -> float:
        return self.used / self.limit.most


async def of_day(
    session: AsyncSession, jobs: Iterable[JobSummary], home: HomeBudget, day: date, tz: ZoneInfo
) -> list[DailyUse]:
    """Return the use of the daily limits of ``jobs``, of agents and of all runs on this day."""
    limits: list[tuple[Limit, str | None, str | None]] = [
        (limit, None, None) for limit in budgets.daily("home", home)
    ]
    limits += [
        (limit, name, None)
        for name, each in home.agents.items()
        for limit in budgets.daily("agent", each)
    ]
    limits += [(limit, job.name, job.id) for job in jobs for limit in budgets.daily("job", job)]
    if not limits:
        return []
    sums = await _sums_by_job_and_agent(session, day, tz)
    found = []
    for limit, name, job_id in limits:
        counts = [
            amount
            for (of_job, agent), amount in sums.items()
            if {"home": True, "agent": name == agent, "job": job_id == of_job}[limit.scope]
        ]
        amount = sum(counts, Amount())
        unpriced = amount.unpriced if limit.unit == "usd" else 0
        used = amount.tokens if limit.unit == "tokens" else amount.usd
        if home.unpriced_usd is not None:
            used, unpriced = used + unpriced * home.unpriced_usd, 0
        found.append(DailyUse(limit, name, job_id, used, unpriced))
    return found


async def _sums_by_job_and_agent(
    session: AsyncSession, day: date, tz: ZoneInfo
) -> dict[tuple[str | None, str | None], Amount]:
    key = col(AttemptRow.job_id), col(AttemptRow.agent)
    in_day = and_(
        col(AttemptRow.started_at) >= midnight(day, tz).astimezone(UTC),
        col(AttemptRow.started_at) < midnight(day + timedelta(days=1), tz).astimezone(UTC),
    )
    ended = select(*key, *(func.sum(getattr(AttemptRow, name)) for name in _AMOUNT))
    ended = ended.where(in_day).group_by(*key)
    active = (
        select(*key, *(func.sum(getattr(StepRow, name)) for name in _AMOUNT))
        .select_from(_ACTIVE_STEPS)
        .where(col(AttemptRow.finished_at).is_(None), in_day)
        .group_by(*key)
    )
    sums: dict[tuple[str | None, str | None], Amount] = {}
    for query in (ended, active):
        for job_id, agent, *amount in (await session.execute(query)).all():
            sums[job_id, agent] = sums.get((job_id, agent), _NOTHING) + Amount(*amount)
    return sums


_RUNS: Any = RunRow.__table__  # type: ignore[attr-defined]
_ATTEMPTS: Any = AttemptRow.__table__  # type: ignore[attr-defined]
_STEPS: Any = StepRow.__table__  # type: ignore[attr-defined]
_ACTIVE_STEPS = _RUNS.join(
    _ATTEMPTS, and_(_ATTEMPTS.c.run_id == _RUNS.c.id, _ATTEMPTS.c.number == _RUNS.c.attempts)
).join(_STEPS, and_(_STEPS.c.run_id == _RUNS.c.id, _STEPS.c.attempt == _ATTEMPTS.c.number))
"""The steps of the last attempts of runs."""


@lru_cache(maxsize=32)
def _query(scopes: tuple[Scope, ...]) -> Select[Any]:
    """Return the query of one row: for each scope the sums of `_AMOUNT`, of three parts.

    They are the attempts; of attempts in progress, the requests that have ended; and those in
    progress. One query, built once: building it, or sending another, takes longer than its work.
    """
    attempt, step = AttemptRow, StepRow
    owned = select(col(JobRow.id)).where(col(JobRow.owner) == bindparam("of_owner"))
    in_day = and_(
        col(attempt.started_at) >= bindparam("begin"), col(attempt.started_at) < bindparam("end")
    )
    conditions: dict[Scope, Any] = {
        "run": col(attempt.run_id) == bindparam("of_run"),
        "job": and_(in_day, col(attempt.job_id) == bindparam("of_job")),
        "owner": and_(in_day, col(attempt.job_id).in_(owned)),
        "agent": and_(in_day, col(attempt.agent) == bindparam("of_agent")),
        "home": in_day,
    }
    in_progress = col(step.status) == Status.RUNNING
    own = and_(col(step.run_id) == bindparam("of_run"), col(step.number) == bindparam("of_number"))

    def sums(row: Any, condition: Any) -> list[Any]:
        values = (getattr(row, name) for name in _AMOUNT)
        return [
            func.coalesce(func.sum(case((condition, each), else_=0)), 0)
            if condition is not None
            else func.coalesce(func.sum(each), 0)
            for each in values
        ]

    parts = []
    for scope in scopes:
        parts.append(select(*sums(attempt, None)).where(conditions[scope]).subquery())
        steps = select(*sums(step, ~in_progress), *sums(step, in_progress))
        active = steps.select_from(_ACTIVE_STEPS).where(
            col(attempt.finished_at).is_(None),
            col(step.kind) == literal("request"),
            conditions[scope],
            ~own,
        )
        parts.append(active.subquery())
    columns = [column for part in parts for column in part.c]
    first, *others = parts
    joined: Any = first
    for other in others:
        joined = joined.join(other, true())
    return select(*columns).select_from(joined)
