"""Budgets of runs: their use so far, and the decision whether a run or a request may use more.

`daybook.policies.budgets` defines the limits. Two operations check the limits, each in the
transaction that writes the decision::

    claim            a budget is used up: the run is skipped, or fails if it has had an attempt
                     the rest of a budget is reserved: the run waits
    start of a step  a request to a model reserves its estimate in its row (`daybook.runs.steps`)
                     the estimate exceeds a limit: the run fails before the request
                     it exceeds a limit only with the requests in progress: the request waits

There are no counters, so nothing is counted twice: each check adds up the rows. All requests of an
attempt belong to the day on which the attempt began::

    attempts of the day                 if ended, with their steps (`outcomes.close_attempt`)
    + steps of attempts in progress     a request without a reply counts as its estimate

So a killed process loses no usage, and parallel requests exceed a budget by at most the error of
their estimates. The usage of a program counts when the program reports it. If a budget in US
dollars limits the run, a program's answer is one request at an unknown price until that report.

From `NEARLY_SPENT` of a daily limit on, the check also queues an alert to the operator. The alert's
key in the outbox names the limit and the day, so no restart can repeat the alert.
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
from daybook.jobs.limits import AgentLimits
from daybook.jobs.store import StoredJob
from daybook.jobs.summaries import JobBudget
from daybook.ledger.column_types import big_sum
from daybook.ledger.states import Status
from daybook.ledger.tables import AttemptRow, JobRow, OutboxRow, RunRow, StepRow
from daybook.policies import budgets
from daybook.policies import policy as policies
from daybook.policies.budgets import HomeBudget, Limit, Scope
from daybook.runs import claim_requests
from daybook.runs.usage import Amount
from daybook.schedules.zones import midnight, wall_time

log = logging.getLogger(__name__)

RETRY_INTERVAL = timedelta(seconds=30)
"""How long a run waits before it claims again if other runs have reserved the rest of a budget."""

NEARLY_SPENT = 0.8
"""Share of a daily limit from which Daybook alerts the operator."""

_DAY_ENDS, _MINUTE = "; the day ends at ", "%Y-%m-%d %H:%M"

EVENT = "budget"
"""The event of the alert."""

_ROUNDING_USD = 1e-9  # sums of prices are not exact
_AMOUNT = ("tokens", "usd", "unpriced")
_NOTHING = Amount()


@dataclass(frozen=True)
class RunBudget:
    """The limits on one run, and the run, job, owner and agent to which they apply.

    ``unpriced_usd`` is the amount for a request at an unknown price. If it is None, limits in US
    dollars refuse everything after such a request. ``began`` is the start of the request's attempt,
    which decides the day; None at a claim.
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
        """Return the day whose limits apply, in the time zone ``timezone``."""
        return wall_time(self.began or now, ZoneInfo(self.timezone)).date()

    def value(self, limit: Limit, amount: Amount) -> float:
        """Return the amount in the unit of the limit: tokens or US dollars."""
        if limit.unit == "tokens":
            return amount.tokens
        return amount.usd + amount.unpriced * (self.unpriced_usd or 0.0)


@dataclass(frozen=True)
class Used:
    """The use of a scope: ``spent``, and ``reserved`` for requests in progress."""

    spent: Amount = _NOTHING
    reserved: Amount = _NOTHING


@dataclass(frozen=True)
class Judgement:
    """Decision whether a run may continue.

    ``refused`` is the reason to refuse the run, and ``held`` is the reason to make it wait; both
    are empty if the run may continue. ``tokens`` is the number of tokens left, None if no limit
    counts tokens.
    """

    refused: str = ""
    held: str = ""
    tokens: int | None = None


def of_run(
    run_id: str, parameters: Mapping[str, Any], stored: StoredJob | None, rules: AgentLimits
) -> RunBudget | None:
    """Return the budget of a run that asks an agent; None if no limit applies."""
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
    """Return whether a run asks an agent, in its action or in its check."""
    return row.asks_agent or bool(row.policy.check.prompt)


async def judge(
    session: AsyncSession,
    budget: RunBudget,
    now: datetime,
    estimate: Amount = _NOTHING,
    number: int = 0,
) -> Judgement:
    """Decide about a claim, or about a request with this ``estimate`` in the step ``number``.

    Queue the alerts of daily limits that are nearly reached.
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
        text += f"{_DAY_ENDS}{local:{_MINUTE}} {budget.timezone}"
    return text


def is_of_ended_day(error: str | None, now: datetime) -> bool:
    """Return whether a run failed with ``error`` because of the budget of a day that has ended.

    Such a job needs no person, because its next run uses the budget of another day.
    """
    text, _, end = (error or "").rpartition(_DAY_ENDS)
    if not text.startswith("budget: "):
        return False
    try:
        local, _, timezone = end.rpartition(" ")
        parsed = datetime.strptime(local, _MINUTE).replace(tzinfo=ZoneInfo(timezone))
    except (KeyError, ValueError, OSError):  # another text, or a zone that is not known any more
        return False
    return parsed <= now


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
    """Return the use of each scope of the budget's limits, without the run's own step ``number``.

    For daily limits, return the use on ``day``.
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
    """The use of one daily limit by the attempts of a day, including requests in progress.

    ``name`` is the name of the job or agent; None for the limit of all runs. ``used`` is in the
    unit of the limit, without the ``unpriced`` requests, which have no known price and no price
    from the setting `unpriced_usd`.
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
    session: AsyncSession, jobs: Iterable[JobBudget], home: HomeBudget, day: date, tz: ZoneInfo
) -> list[DailyUse]:
    """Return the use of the daily limits of ``jobs``, of agents and of all runs on ``day``."""
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
    ended = select(*key, *(_sum(name, getattr(AttemptRow, name)) for name in _AMOUNT))
    ended = ended.where(in_day).group_by(*key)
    active = (
        select(*key, *(_sum(name, getattr(StepRow, name)) for name in _AMOUNT))
        .select_from(_ACTIVE_STEPS)
        .where(col(AttemptRow.finished_at).is_(None), in_day)
        .group_by(*key)
    )
    sums: dict[tuple[str | None, str | None], Amount] = {}
    for query in (ended, active):
        for job_id, agent, *amount in (await session.execute(query)).all():
            sums[job_id, agent] = sums.get((job_id, agent), _NOTHING) + Amount(*amount)
    return sums


def _sum(name: str, column: Any) -> Any:
    return func.sum(column) if name == "usd" else big_sum(column)


_RUNS: Any = RunRow.__table__  # type: ignore[attr-defined]
_ATTEMPTS: Any = AttemptRow.__table__  # type: ignore[attr-defined]
_STEPS: Any = StepRow.__table__  # type: ignore[attr-defined]
_ACTIVE_STEPS = _RUNS.join(
    _ATTEMPTS, and_(_ATTEMPTS.c.run_id == _RUNS.c.id, _ATTEMPTS.c.number == _RUNS.c.attempts)
).join(_STEPS, and_(_STEPS.c.run_id == _RUNS.c.id, _STEPS.c.attempt == _ATTEMPTS.c.number))
"""The steps of each run's last attempt, joined with the run and the attempt."""


@lru_cache(maxsize=32)
def _query(scopes: tuple[Scope, ...]) -> Select[Any]:
    """Return a query with one row: for each scope, three sums of each column of `_AMOUNT`.

    The first sum is over attempts, the second over the ended requests of attempts in progress, and
    the third over the requests in progress. A single cached query reads all scopes, because
    building or sending a query takes longer than executing it.
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
        values = {name: getattr(row, name) for name in _AMOUNT}
        if condition is not None:
            values = {name: case((condition, each), else_=0) for name, each in values.items()}
        return [func.coalesce(_sum(name, each), 0) for name, each in values.items()]

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
