"""Token budgets: how many tokens a run may use, decided at its claim and granted with it.

::

    per run    the smaller of its policy's and its owner's limit, less what its attempts have used
    per day    the policy's: attempts of the job that started today, in the job's time zone
               the owner's: attempts of all jobs of an agent, in the operator's time zone

Tokens granted to runs in progress are reserved: another run gets at most the rest. If nothing is
left, it waits until those runs have ended, so no token of a day is granted twice. An attempt that
reported no usage counts as zero. Exception: in an agent's daily total, a cancelled attempt that
reported no usage counts as all the tokens that it was granted, because an agent could otherwise
evade the limit by cancelling its own runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import policy as policies
from daybook.jobs.actions import CONVERSATION_KINDS
from daybook.jobs.limits import AgentLimits
from daybook.jobs.store import StoredJob
from daybook.ledger.states import HELD, Status
from daybook.ledger.tables import AttemptRow, JobRow, RunRow
from daybook.runs import usage
from daybook.schedules.zones import to_instant, wall_time, zone

RETRY_INTERVAL = timedelta(seconds=30)
"""How long a run waits before it claims again if other runs have reserved the remaining tokens."""

POLICY_FIELDS = ("tokens_per_run", "tokens_per_day")


@dataclass(frozen=True)
class TokenBudget:
    """The granted ``tokens``; None if nothing limits them.

    If no tokens are granted, ``spent`` says why, or ``held`` says what the run has to wait for.
    """

    tokens: int | None = None
    spent: str = ""
    held: str = ""


@dataclass(frozen=True)
class _Day:
    """A daily limit of ``most`` tokens from ``begin`` to ``end``.

    ``whose`` is the condition for the runs that count. ``of`` names the agent in messages; it is
    empty for the limit of one job.
    """

    most: int
    begin: datetime
    end: datetime
    tz: ZoneInfo
    whose: ColumnElement[bool]
    of: str


async def for_run(
    session: AsyncSession, row: RunRow, stored: StoredJob | None, rules: AgentLimits, now: datetime
) -> TokenBudget:
    """Return how many tokens ``row`` may use from now on. Makes no query if there is no limit."""
    owner_limits = rules.for_owner(stored.row.owner) if stored is not None else None
    stored_policy = row.parameters.get("policy")
    has_own_limit = isinstance(stored_policy, Mapping) and any(
        stored_policy.get(name) for name in POLICY_FIELDS
    )
    if not has_own_limit and owner_limits is None:
        return TokenBudget()
    policy = policies.policy_from_parameters(row.parameters)
    if row.kind not in CONVERSATION_KINDS and not policy.check.prompt:
        return TokenBudget()  # its run uses no agent
    limits = policy.tokens_per_run, owner_limits.tokens_per_run if owner_limits else 0
    per_run = min(filter(None, limits), default=0)  # the smaller one of the limits that are set
    allowed = None
    if per_run:
        used = usage.tokens(row.usage)
        if used >= per_run:
            return TokenBudget(spent=f"tokens: {used:,} of {per_run:,} per run are used")
        allowed = per_run - used
    days = []
    if stored is not None and policy.tokens_per_day:
        of_job = col(RunRow.job_id) == stored.id
        tz = zone(stored.job.schedule.timezone)
        days.append(_day(policy.tokens_per_day, tz, of_job, "", now))
    if stored is not None and owner_limits is not None and owner_limits.tokens_per_day:
        owner_jobs = select(JobRow.id).where(col(JobRow.owner) == stored.row.owner)
        of_owner = col(RunRow.job_id).in_(owner_jobs)
        tz = ZoneInfo(rules.timezone)
        days.append(_day(owner_limits.tokens_per_day, tz, of_owner, f" of {stored.row.owner}", now))
    for day in days:
        used = await _used(session, day)
        if used >= day.most:
            end = f"{day.end.astimezone(day.tz):%Y-%m-%d %H:%M} {day.tz.key}"
            why = (
                f"tokens: {used:,} of {day.most:,} per day{day.of} are used; the day ends at {end}"
            )
            return TokenBudget(spent=why)
        free = day.most - used - await _granted(session, day, row)
        if free <= 0:
            why = f"tokens: active runs may use all that is left of {day.most:,} per day{day.of}"
            return TokenBudget(held=why)
        allowed = free if allowed is None else min(allowed, free)
    return TokenBudget(allowed)


def _day(most: int, tz: ZoneInfo, whose: ColumnElement[bool], of: str, now: datetime) -> _Day:
    today = wall_time(now, tz).date()
    begin, end = (
        to_instant(datetime.combine(each, time()), tz)
        for each in (today, today + timedelta(days=1))
    )
    return _Day(most, begin.astimezone(UTC), end, tz, whose, of)


async def _used(session: AsyncSession, day: _Day) -> int:
    """Return how many tokens the attempts and checks that count have used on this day.

    Checks count here only if no attempt followed them; otherwise the attempt includes them.
    """
    attempts = (
        select(AttemptRow.usage, AttemptRow.status, RunRow.tokens)
        .join(RunRow, col(RunRow.id) == col(AttemptRow.run_id))
        .where(day.whose, col(AttemptRow.started_at) >= day.begin)
    )
    checks = select(RunRow.usage).where(
        day.whose, col(RunRow.attempts) == 0, col(RunRow.finished_at) >= day.begin
    )
    taken = sum(
        granted or 0
        if day.of and reported is None and status == Status.CANCELLED
        else usage.tokens(reported)
        for reported, status, granted in (await session.execute(attempts)).tuples()
    )
    return taken + sum(map(usage.tokens, (await session.execute(checks)).scalars()))


async def _granted(session: AsyncSession, day: _Day, row: RunRow) -> int:
    """Return how many tokens are granted to other runs in progress."""
    others = select(RunRow.tokens).where(
        day.whose, col(RunRow.id) != row.id, col(RunRow.status).in_(HELD)
    )
    return sum(filter(None, (await session.execute(others)).scalars()))
