"""Access checks: the jobs and runs that the current actor may see and change.

The operator, and the operator's programs, see every job. An agent sees its own jobs and their runs,
or all jobs and runs if its limits have `all_jobs`. For any other job or run, the agent gets the
same error as for a job or run that does not exist. The functions that find a job or run, and those
that check limits, log each refusal of an agent as `limit_refused`. The functions that find a job or
run raise `Ambiguous` or `NotFound`; `NotFound` suggests the most similar name of a job that the
actor may see.
"""

from __future__ import annotations

import getpass
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession

from daybook import owners, settings
from daybook.errors import InvalidInput, NotFound, UnreadableJob
from daybook.jobs import limits, provenance, store
from daybook.jobs.actions import WEBHOOK
from daybook.jobs.model import Job, edit
from daybook.jobs.store import StoredJob
from daybook.ledger import references
from daybook.ledger.references import Match, Noun
from daybook.policies.policy import matches, tools_of
from daybook.policies.sandboxes import stronger
from daybook.runs import history
from daybook.runs.history import RunAndJob
from daybook.short_text import one_line

log = logging.getLogger(__name__)

TRIGGERS = {
    **dict.fromkeys(("cli", "web", "chat"), "manual"),
    **{"api": "api", "mcp": "mcp", "run": "mcp"},
}
"""The trigger of a requested run, by `Actor.via`.

If a tool inside a run requests another run (`run`), the trigger is `mcp`.
"""


def visible_owner() -> str | None:
    """Return the owner whose jobs the actor may see. None means that the actor may see all jobs."""
    actor = owners.current_actor()
    owner_limits = limits.load_limits(actor.owner)
    return None if owner_limits is None or owner_limits.all_jobs else actor.owner


def current_trigger() -> str:
    """Return the trigger of a run that the actor requests now."""
    return TRIGGERS.get(owners.current_actor().via, "api")


def require_operator() -> None:
    """Raise `InvalidInput` if the actor is an agent."""
    if owners.current_actor().is_agent:
        raise InvalidInput(
            "agent",
            "an agent cannot call this operation",
            "ask the operator; a program can use a client without an agent",
        )


def person() -> str:
    """Return the person who acts, and the interface: `ann (cli)`, or `the operator (web)`."""
    actor = owners.current_actor()
    name = actor.user_id
    if not name and actor.via == "cli":
        try:
            name = getpass.getuser()
        except (OSError, KeyError):  # the user id has no name
            name = ""
    return f"{name or 'the operator'} ({actor.via})"


async def find_job(session: AsyncSession, ref: str, *, archived: bool = False) -> StoredJob:
    """Return the job that `store.find` finds among the jobs that the actor may see."""
    async with _not_found(session, "job", ref):
        return await store.find(session, ref, archived=archived, owner=visible_owner())


async def find_removable_job(session: AsyncSession, ref: str) -> StoredJob:
    """Return the job as `find_job` does; a stand-in if the job cannot be read."""
    try:
        return await find_job(session, ref)
    except UnreadableJob as error:
        found = await store.read_all(session, [error.job_id])
        if not found:
            raise
        return found[0]


async def list_jobs(session: AsyncSession, most: int | None = None) -> list[StoredJob]:
    """Return the jobs that the actor may see, by default all, sorted by name (`store.read_all`)."""
    return await store.read_all(session, owner=visible_owner(), most=most)


async def find_run(session: AsyncSession, ref: str) -> RunAndJob:
    """Return the run that `history.find` finds among the runs that the actor may see."""
    async with _not_found(session, "run", ref):
        return await history.find(session, ref, owner=visible_owner())


async def find_job_or_run(
    session: AsyncSession, ref: str, *, archived: bool = False, noun: Noun = references.RUN
) -> Match:
    """Return what `history.find_or_job` finds among the jobs and runs that the actor may see."""
    async with _not_found(session, "run", ref):
        return await history.find_or_job(
            session, ref, archived=archived, owner=visible_owner(), noun=noun
        )


async def find_live_run(session: AsyncSession, ref: str) -> RunAndJob:
    """Return the run that `history.find_live` finds among the runs that the actor may see."""
    async with _not_found(session, "run", ref):
        return await history.find_live(session, ref, owner=visible_owner())


async def find_logged_run(session: AsyncSession, ref: str) -> RunAndJob:
    """Return the run that `history.find_logged` finds among the runs that the actor may see."""
    async with _not_found(session, "run", ref):
        return await history.find_logged(session, ref, owner=visible_owner())


async def find_last_run(session: AsyncSession, ref: str) -> RunAndJob:
    """Return the run ``ref``; if ``ref`` is a job, return the last run of the job.

    The job may have been removed. Raise `NotFound`, also for a job without runs, and `Ambiguous`.
    """
    match = await find_job_or_run(session, ref, archived=True)
    if match.noun is references.RUN:
        return await find_run(session, match.id)
    recent = await recent_runs(session, match.id, 1)
    if not recent:
        raise NotFound("run", ref, f'job "{ref}" has no run yet')
    return recent[0]


async def recent_runs(
    session: AsyncSession,
    job_id: str | None,
    limit: int,
    conditions: Sequence[ColumnElement[bool]] = (),
    order: ColumnElement[Any] | None = None,
) -> list[RunAndJob]:
    """Return the last runs (`history.recent`) that the actor may see, of one job or all."""
    found = await history.recent(
        session, job_id, limit, owner=visible_owner(), conditions=conditions, order=order
    )
    return list(found)


def check_limits(job: Job, whose: str, now: datetime, *, changes: bool = True) -> None:
    """Raise `InvalidInput` if the job exceeds the limits of its owner ``whose``.

    With ``changes``, the actor's own limits apply as well.
    """
    actor = owners.current_actor().owner
    for each in filter(owners.is_agent, dict.fromkeys((whose, actor) if changes else (whose,))):
        with log_refusals(each, job.name):
            limits.check(job, each, limits.load_limits(each), now)


def inherit_tool_rules(job: Job, now: datetime) -> Job:
    """Return a job that the actor adds or changes, with the actor's `approve` and `only_tools`.

    Otherwise a run could let another job make the calls for which the run itself has to wait, or
    that it must not make. A job that makes only one call gets only the entries that name it. Raise
    `InvalidInput` if the job names tools that the actor's run may not call.

    A job that asks an agent also has at least the sandbox of the actor's run.
    """
    actor, call = owners.current_actor(), job.action.own_call()
    given, only = actor.approve, job.policy.only_tools
    if call is not None:
        given = tuple(each for each in tools_of(given) if matches(call[0], each))
    if actor.only_tools:
        check = job.policy.check
        called = [] if call is None or call[0] == WEBHOOK else [("tool", call[0])]
        called += [("check", each) for _, each in check.tools()]
        for field, each in [*called, *(("only_tools", entry) for entry in only)]:
            if not _is_within(each, actor.only_tools):
                hint = f"use {', '.join(actor.only_tools)}"
                raise InvalidInput(field, f'this run may not call "{each}"', hint)
        if check.prompt:
            problem = "asks an agent, which may call tools that this run may not call"
            raise InvalidInput("check", problem, "leave it out")
    changes: dict[str, object] = {}
    if given:
        changes["approve"] = list(dict.fromkeys((*job.policy.approve, *given)))
    if actor.only_tools and job.action.agents() and not only:
        changes["only_tools"] = list(actor.only_tools)
    if actor.sandbox != "off" and (job.action.agents() or job.policy.check.prompt):
        level = _sandbox_level(job)
        if (needed := stronger(level, actor.sandbox)) != level:
            changes["sandbox"] = needed
    return edit(job, changes, now=now) if changes else job


def _is_within(entry: str, allowed: Sequence[str]) -> bool:
    """Return whether ``entry``, a tool's name or a pattern, names only tools that are allowed.

    Whether one pattern contains another is not decided: a pattern has to be one of ``allowed``.
    """
    is_pattern = any(mark in entry for mark in "*?[")
    return entry in allowed or (not is_pattern and any(matches(entry, each) for each in allowed))


def _sandbox_level(job: Job) -> str:
    """Return the job's sandbox, or the operator's if it chooses none."""
    return job.policy.sandbox or settings.load().sandbox


def check_tool_rules(before: Job, after: Job) -> None:
    """Raise `InvalidInput` if an agent changes the job's rules for its tools.

    The job may inherit entries of `approve` and `only_tools` from the run that changes it. An agent
    may choose a stronger sandbox.
    """
    actor = owners.current_actor()
    if not actor.is_agent:
        return
    level = _sandbox_level(after)
    if stronger(_sandbox_level(before), level) != level:
        raise InvalidInput("sandbox", "only the operator can weaken it", "leave it out")
    inherited = (*before.policy.approve, *actor.approve)
    for field in ("approve", "approve_within", "only_tools"):
        old, new = getattr(before.policy, field), getattr(after.policy, field)
        if field == "only_tools" and not old and new == actor.only_tools:
            continue
        if field == "approve" and set(before.policy.approve) <= set(new) <= set(inherited):
            continue
        if old != new:
            raise InvalidInput(field, "only the operator can change it", "leave it out")


def check_enabling(before: StoredJob, after: Job) -> None:
    """Raise `InvalidInput` if an agent enables a job that a person or a program has disabled.

    An agent may enable a job that an agent disabled, or that Daybook disabled, for example after
    failures.
    """
    if before.job.enabled or not after.enabled or not owners.current_actor().is_agent:
        return
    row = before.row
    creator = row.owner if owners.is_agent(row.owner) else row.created_by
    by = before.revision.written_by.get(provenance.ENABLED, creator)
    if by != "daybook" and not owners.is_agent(by):
        word = references.command_word(row)
        hint = f"ask the operator, who can run `daybook resume {word}`"
        raise InvalidInput("enabled", "the operator disabled this job", hint)


async def check_job_count(session: AsyncSession, whose: str, name: str) -> None:
    """Raise `InvalidInput` if ``whose`` already has its maximum number of jobs.

    Call this in the transaction that adds the job, because another process may add a job after an
    earlier count.
    """
    owner_limits = limits.load_limits(whose)
    if owner_limits is None:
        return
    with log_refusals(whose, name):
        if await store.count_owned(session, whose) >= owner_limits.jobs:
            problem = f"{whose} already has its maximum of {owner_limits.jobs} jobs"
            raise InvalidInput("jobs", problem, "remove one first")


@contextmanager
def log_refusals(whose: str, name: str) -> Iterator[None]:
    """If ``whose`` is an agent, log each `InvalidInput` that the block raises.

    Raise the error again.
    """
    try:
        yield
    except InvalidInput as error:
        if owners.is_agent(whose):
            extra = {"action": "limit_refused", "owner": whose, "job": name, "field": error.field}
            log.warning('%s, job "%s": %s', whose, name, one_line(error), extra=extra)
        raise


@asynccontextmanager
async def _not_found(session: AsyncSession, noun: str, ref: str) -> AsyncIterator[None]:
    """Replace a `NotFound` that the block raises by one that suggests a similar job name.

    If the actor is an agent, also log the error.
    """
    try:
        yield
    except NotFound as error:
        actor = owners.current_actor()
        if actor.is_agent:
            extra = {"action": "limit_refused", "owner": actor.owner, noun: one_line(ref)}
            log.warning(
                "%s requested an unknown job or run: %s", actor.owner, one_line(error), extra=extra
            )
        names = await store.live_names(session, visible_owner())
        raise NotFound(error.noun, ref, str(error), known=names) from None
