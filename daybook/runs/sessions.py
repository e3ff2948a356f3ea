"""Sessions: conversations with an agent, their lock, and their stored messages.

::

    claim ──┬─ no run holds the session, none waits ahead ──► granted, with the last messages
            └─ held, or a run due earlier waits for it ─────► waiting; it claims again
    finish ─┬─ succeeded ──► prompt and answer appended, in the transaction of the outcome
            └─ always ─────► the next message of a worker claims at once (`slots.release_session`)

The claim of a session's run is the session's lock (promise 17: two runs never interleave in one
history). There is no other lock that a dead process could leave behind. A run reads the history
under that lock, and no other run appends messages until the run has ended or waits. Other runs may
use the session while a run waits for its next attempt or an approval. All attempts of the run get
the history as it was when the run began, because a recorded step fits only the same prompt. A run
that was recorded as `unknown` but turns out to have succeeded appends its messages late, after the
messages of later runs. The next run reads them.

Only succeeded runs are in the history, with their full texts. A prompt without its answer would
make the model answer an old question, and each retry would add the question once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import func, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.errors import NotFound
from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.json_text import JsonObject
from daybook.ledger import job_kinds, references, triggers, waits
from daybook.ledger.references import Match
from daybook.ledger.states import HELD, LIVE, Status
from daybook.ledger.tables import JobRow, MessageRow, RunRow, SessionRow
from daybook.names import Id
from daybook.owners import USER
from daybook.policies.compression import KEPT_MESSAGES
from daybook.runs import claim_requests, leases, slots
from daybook.runs.claim_requests import agent_name
from daybook.short_text import one_line

MAX_TITLE_LENGTH = 80
"""Maximum length of a session's title, in characters."""

RETRY_INTERVAL = timedelta(seconds=2)
"""How long a run waits before it claims again if its session is busy.

A message that no worker executes, such as one of `daybook session send`, waits so much longer for
each run before it, but at most `MAX_RETRY_INTERVAL`.
"""
MAX_RETRY_INTERVAL = timedelta(seconds=10)

WAITER_GRACE = timedelta(seconds=10)
"""How long a waiting run keeps its turn after it missed its retry.

Runs that are due later wait that long, so a run whose process died does not delay them longer.
"""

MESSAGE_GRACE = timedelta(minutes=5)
"""The same for a run that answers a message and has not begun, so that answers keep their order.

After the death of all processes that could start it, two leases (`leases.check_lease`) and
`Timing.start_limit` may pass until another process claims it.
"""
MESSAGE_INTERVAL = timedelta(seconds=15)
"""How long such a run waits before it claims again by itself, for each run before it.

This is a safety net: the end of the run before it lets it claim at once.
"""
MESSAGE_WAIT = timedelta(minutes=2)
"""The longest time after which such a run claims again, also after a failure of Prefect."""


def session_id_of(
    parameters: Mapping[str, object],
    *,
    job_id: str | None,
    run_id: str,
    stored: StoredJob | None = None,
) -> str:
    """Return the session id of a run with these parameters: the first of these forms that applies.

    ::

        <agent>:<key>                        the parameters name a session key
        <agent>:chat:<channel>:<chat id>     the run continues the session of its channel
        <agent>:job:<job id>                 the runs of the job share one session
        <agent>:run:<run id>                 each occurrence has a new session

    ``<agent>`` is the agent's name without its kind (`kind/name`). Validation refuses keys that
    begin like one of the other forms.
    """
    agent = agent_name(parameters)
    if key := parameters.get("session_key"):
        return f"{agent}:{key}"
    if parameters.get("session") == "chat":
        notify = outbox.notify_of(parameters, stored)
        return f"{agent}:chat:{notify.channel}:{notify.chat_id}"
    if job_id is not None and parameters.get("session", "reuse") == "reuse":
        return f"{agent}:job:{job_id}"
    return f"{agent}:run:{run_id}"


# --- the lock


class SessionWait(NamedTuple):
    """Until when a run waits for its session, and why."""

    until: datetime
    why: str


async def wait_for_turn(
    session: AsyncSession, row: RunRow, now: datetime, *, by_worker: bool = False
) -> SessionWait | None:
    """Return how long ``row`` has to wait for its session; None if its turn has come.

    ``by_worker`` is True if a worker claims, which starts the run as soon as its turn has come.
    Check expired leases on the session first. Of the waiting runs, the earliest due run goes first,
    and so does a message that was written earlier, although its process died.
    """
    if row.session_id is None:
        return None
    others = slots.others_of_session(row)
    why = ""
    held = select(RunRow).where(others, col(RunRow.status).in_(HELD))
    for other in (await session.execute(held)).scalars().all():
        if not await leases.check_lease(session, other, now):
            why = f"session {row.session_id} is busy: run {other.id[:8]} holds it"
    # A run that waits for something else, such as a backoff, has a later `until`.
    until = col(RunRow.until)
    waits_here = col(RunRow.waits_for) == waits.SESSION.name
    claims_soon = (until >= now - WAITER_GRACE) & (waits_here | (until <= now + RETRY_INTERVAL))
    # A message that waits for a slot begins when one is free, whatever its `until` is.
    for_slot = col(RunRow.waits_for).in_(waits.names(lambda each: each.for_slot))
    is_next_message = (
        claim_requests.HAS_SESSION_KEY
        & (col(RunRow.attempts) == 0)
        & (until >= now - MESSAGE_GRACE)
        & ((until <= now + MESSAGE_WAIT) | for_slot)
    )
    waiting = (
        select(RunRow.id, RunRow.occurrence)
        .where(
            others,
            col(RunRow.status) == Status.WAITING,
            claims_soon | is_next_message,
            slots.earlier(row),
        )
        .order_by(*slots.ORDER)
    )
    before = (await session.execute(waiting)).all()
    if not why and not before:
        return None
    if not why:
        why = f"session {row.session_id} is busy: run {before[0].id[:8]} goes first"
        # The turn of another run can pass without its end: it may then wait for something else.
        by_worker = by_worker and claim_requests.is_session_request(before[0].occurrence)
    return SessionWait(now + _interval(row, len(before), by_worker=by_worker), why)


def _interval(row: RunRow, before: int, *, by_worker: bool) -> timedelta:
    """Return how long ``row``, with ``before`` runs before it, waits until it claims again.

    If all runs claimed every two seconds, they would leave no time to answer.
    """
    if by_worker and claim_requests.is_session_request(row.occurrence):
        return min(MESSAGE_INTERVAL * (1 + before), MESSAGE_WAIT)
    if row.started_by is triggers.SESSION:
        return min(RETRY_INTERVAL * (1 + before), MAX_RETRY_INTERVAL)
    return RETRY_INTERVAL


# --- the messages


async def history(
    session: AsyncSession,
    session_id: str,
    limit: int = KEPT_MESSAGES,
    *,
    until: datetime | None = None,
) -> tuple[MessageRow, ...]:
    """Return the last ``limit`` messages of a session, oldest first; empty if none is stored.

    With ``until``, ignore messages that were appended later.
    """
    newest = (
        select(MessageRow)
        .where(
            col(MessageRow.session_id) == session_id,
            true() if until is None else col(MessageRow.at) <= until,
        )
        .order_by(col(MessageRow.number).desc())
        .limit(limit)
    )
    return tuple(reversed((await session.execute(newest)).scalars().all()))


async def prompt_of(session: AsyncSession, row: RunRow) -> str | None:
    """Return the prompt that a run appended to its session; None if it has appended none."""
    own = select(MessageRow.content).where(
        col(MessageRow.session_id) == row.session_id,
        col(MessageRow.run_id) == row.id,
        col(MessageRow.role) == "user",
    )
    prompt: str | None = (await session.execute(own.limit(1))).scalar_one_or_none()
    return prompt


async def without_answer(
    session: AsyncSession, session_id: str, since: datetime | None, limit: int
) -> list[RunRow]:
    """Return the runs of a session that may still answer, or have ended without an answer.

    Of the ended ones, return those that ended after ``since``; of the skipped and missed ones, only
    those that answer a message. Return up to ``limit``, the newest, oldest first.
    """
    is_later = true() if since is None else col(RunRow.finished_at) > since
    has_ended = col(RunRow.status).in_(
        (Status.FAILED, Status.TIMED_OUT, Status.CANCELLED, Status.UNKNOWN)
    )
    is_refused = col(RunRow.status).in_((Status.SKIPPED, Status.MISSED))
    is_answer = col(RunRow.trigger) == triggers.SESSION.name
    query = (
        select(RunRow)
        .where(
            col(RunRow.session_id) == session_id,
            col(RunRow.status).in_(LIVE) | ((has_ended | (is_refused & is_answer)) & is_later),
        )
        .order_by(col(RunRow.queued_at).desc(), col(RunRow.id))
        .limit(limit)
    )
    return list(reversed((await session.execute(query)).scalars().all()))


async def append(
    session: AsyncSession,
    row: RunRow,
    stored: StoredJob | None,
    prompt: str,
    answer: str,
    *,
    now: datetime,
) -> None:
    """Append a run's prompt and answer, both in full, to its session.

    ``stored`` is the run's job; None if it has none, or if the job cannot be read. Call this in the
    transaction that records the run's outcome, so that a crash loses both or neither. Do nothing
    for a run without a session.
    """
    if row.session_id is None:
        return
    source = _source(row, stored)
    stored_session = await ensure(session, row, prompt, now)
    last = select(func.max(MessageRow.number)).where(
        col(MessageRow.session_id) == stored_session.id
    )
    number = (await session.execute(last)).scalar_one() or 0
    for step, (role, content) in enumerate((("user", prompt), ("assistant", answer)), start=1):
        session.add(
            MessageRow(
                session_id=stored_session.id,
                number=number + step,
                role=role,
                content=content,
                source=source,
                run_id=row.id,
                at=now,
            )
        )


async def ensure(session: AsyncSession, row: RunRow, prompt: str, now: datetime) -> SessionRow:
    """Return the stored session of ``row``, used now; create it, with the title of ``prompt``."""
    assert row.session_id is not None
    stored = await session.get(SessionRow, row.session_id)
    if stored is None:
        shared = bool(row.parameters.get("session_key")) or row.parameters.get("session") == "chat"
        stored = SessionRow(
            id=row.session_id,
            agent=agent_name(row.parameters),
            title=title_of(prompt),
            job_id=None if shared else row.job_id,
            created_at=now,
            updated_at=now,
        )
    stored.updated_at = now
    session.add(stored)
    await session.flush()  # its messages refer to it
    return stored


def title_of(text: str) -> str:
    """Return the first line of ``text`` that is not blank, or "", as a session's title."""
    line = next(filter(None, map(str.strip, text.splitlines())), "")
    return one_line(line, MAX_TITLE_LENGTH, " …")


async def set_title(session: AsyncSession, session_id: str, title: str) -> None:
    """Replace the title of a session, unless the session was deleted."""
    stored = await session.get(SessionRow, session_id)
    if stored is not None:
        stored.title = title
        session.add(stored)


def _source(row: RunRow, stored: StoredJob | None) -> JsonObject:
    """Return the origin of a message; `user` is the job's user id, or None."""
    job = stored.row if stored else None
    return {
        "kind": row.kind,
        "channel": outbox.notify_of(row.parameters, stored).channel or None,
        "session": row.session_id,
        "user": (job.user_id or None) if job else None,
        "job": job.name if job else None,
        "job_id": row.job_id,
        "due": row.due.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "trigger": row.trigger,
    }


async def last_output(
    session: AsyncSession, job_id: str | None, *, until: datetime | None = None
) -> str:
    """Return the answer of the job's last succeeded run; empty if there is none.

    With ``until``, ignore runs that ended later. A long answer is shortened, as in the ledger.
    """
    if job_id is None:
        return ""
    newest = (
        select(RunRow.output)
        .where(
            col(RunRow.job_id) == job_id,
            col(RunRow.status) == Status.SUCCEEDED,
            *([] if until is None else [col(RunRow.finished_at) <= until]),
        )
        .order_by(col(RunRow.finished_at).desc())
        .limit(1)
    )
    return (await session.execute(newest)).scalar_one_or_none() or ""


async def output_of(
    session: AsyncSession, row: RunRow, stored: StoredJob | None, name: str
) -> str | None:
    """Return the answer of the job ``name`` for ``row``, a run of ``stored``; None without the job.

    If ``row`` follows a run of that job, return the answer of this run, or its error or reason if
    it has no answer. If retention has deleted that run, return a text that says so. Otherwise,
    return the answer of the job's last run that succeeded before ``row`` began, or an empty text if
    there is none.
    """
    until = row.started_at
    job = await store.named(session, stored.row.owner if stored else USER, name)
    if job is None:
        return None
    while row.retry_of and (earlier := await session.get(RunRow, row.retry_of)):
        row = earlier
    kind, _, ids = row.occurrence.partition(":")
    if kind == triggers.AFTER.name:
        ended = await session.get(RunRow, ids.rpartition(":")[2])
        if ended is not None and ended.job_id == job.id:
            return ended.output or ended.error or ended.reason
        if ended is None and stored is not None and store.runs_after(stored.job) == name:
            return "(the ledger no longer has this answer)"
    return await last_output(session, job.id, until=until)


# --- queries


@dataclass(frozen=True)
class SessionSummary:
    """A session, the name of its job if it belongs to one job, and its number of messages."""

    row: SessionRow
    job: str | None
    messages: int


async def recent(session: AsyncSession, limit: int) -> Sequence[SessionSummary]:
    """Return up to ``limit`` sessions, most recently used first."""
    return await _listed(session, limit=limit)


async def find(session: AsyncSession, ref: str) -> SessionSummary:
    """Return the session with this id, unique id prefix or key, or the session of this job.

    A key is a session id without its agent. Raise `NotFound` if none matches, and `Ambiguous` if
    several match.
    """
    scope = {references.SESSION: true(), references.JOB: store.in_scope()}
    found: dict[str, Match] = {}  # by the id of the session, or of an object of another kind
    noun = "session"
    for each in await references.matches(session, ref, scope):
        if each.noun is not references.JOB:
            found[each.id] = each
            continue
        job = await store.get(session, each.id)
        assert job is not None
        for of_job in await _of_job(session, job):
            found[of_job.row.id] = replace(each, noun=references.SESSION, id=Id(of_job.row.id))
        if not found and each.name == ref:
            noun = "session of"
    if not found:
        raise NotFound(noun, ref)
    match = references.only(ref, scope, list(found.values()))
    if match.noun is not references.SESSION:
        raise NotFound(noun, ref)
    return (await _listed(session, col(SessionRow.id) == match.id))[0]


async def _of_job(session: AsyncSession, stored: store.StoredJob) -> Sequence[SessionSummary]:
    """Return the session that the job's next run would continue, if it is stored.

    If each run has its own session, return the last used session.
    """
    if not job_kinds.asks_agent(stored.row.kind):
        return []
    parameters = stored.job.parameters()
    if parameters["session"] == "new":
        return await _listed(session, col(SessionRow.job_id) == stored.id, limit=1)
    current = session_id_of(parameters, job_id=stored.id, run_id="")
    return await _listed(session, col(SessionRow.id) == current)


async def _listed(session: AsyncSession, *where: Any, limit: int = 1) -> Sequence[SessionSummary]:
    count = (
        select(func.count())
        .where(col(MessageRow.session_id) == col(SessionRow.id))
        .scalar_subquery()
    )
    rows = (
        select(SessionRow, JobRow.name, count)
        .outerjoin(JobRow, col(JobRow.id) == col(SessionRow.job_id))
        .where(*where)
        .order_by(col(SessionRow.updated_at).desc(), col(SessionRow.id))
        .limit(limit)
    )
    return [SessionSummary(*each) for each in (await session.execute(rows)).all()]
