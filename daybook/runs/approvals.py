"""Approvals: a person decides whether a run makes a call that its job names in `approve`.

::

    a call to be approved ──► ask ──► open ──┬─► approved    a person said yes
                                             ├─► rejected    a person said no
                                             ├─► expired     no person decided before the deadline
                                             └─► withdrawn   the run ended, or asks otherwise

Until the decision or the deadline, the run waits (`waits.APPROVAL`) without process, slot or lease.
The run's attempt stays open, so the wait uses up no retry. The decision, or the deadline, makes the
run due. Then `claims.begin` continues the attempt, which replays its steps up to the call. If a
person approved the call, the attempt makes it; otherwise the model reads the refusal
(`daybook.execution.journal`). A call of a job without an agent waits in the same way. If a person
refuses that call, the refusal is the run's error.

If `approve` contains `answer`, the answer of a run waits in the same way, and the approval's row
stores the whole outcome. The continued attempt does not ask the agent again. It records the stored
outcome if a person approved the answer, and a failure otherwise.

An approval applies to one position of the run and one digest, which stands for one tool with the
same arguments. If the run's steps differ from the steps before the question (the run has diverged),
the attempt ignores the approval and asks again. Only the first decision counts: `decide` reads and
writes the approval in one transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.delivery import messages, outbox, pending
from daybook.errors import DaybookError, InvalidInput
from daybook.jobs.store import StoredJob
from daybook.json_text import JsonObject
from daybook.ledger import texts, triggers, waits
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import ApprovalRow, JobRow, RunRow
from daybook.names import validate_line
from daybook.policies.policy import ANSWER, EVERY_TOOL
from daybook.schedules.zones import local_text
from daybook.short_text import shorten

EVENT = "approval"
"""The event of the message that asks for an approval."""

MAX_REASON_LENGTH = 500
MAX_ANSWER_CHARACTERS = 8_000
"""Maximum length of the answer that a question shows, in characters."""


class ApprovalStatus(StrEnum):
    """The status of an approval: `open` until a decision, the deadline or the end of the run.

    After the deadline, the stored status stays `open` until `claims.begin` stores `expired`.
    """

    OPEN = "open"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Question:
    """A question to a person: may the run call ``tool``?

    ``input`` is the beginning of the tool's arguments, and ``within`` is the time that the person
    has to decide. ``position`` and ``digest`` identify the step of the call; ``after`` is the
    number of the last step before that step. ``outcome`` is the outcome to record if a person
    approves the answer; None for a question about a call.

    ``input`` contains the whole arguments, as `ledger.arguments.write` returns them. In a question
    about the answer, ``tool`` and ``position`` are `policy.ANSWER`, and ``input`` is the beginning
    of the answer.
    """

    position: str
    digest: str
    after: int
    tool: str
    input: str
    within: timedelta
    outcome: JsonObject | None = None

    @classmethod
    def of_answer(cls, outcome: Outcome, within: timedelta) -> Question:
        """Return the question about the answer of a succeeded attempt, with its ``outcome``."""
        text = outcome.output if outcome.output is not None else texts.to_json(outcome.result)
        digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()
        text = shorten(text, MAX_ANSWER_CHARACTERS)
        return cls(ANSWER, digest, 0, ANSWER, text, within, asdict(outcome))


class ApprovalNeeded(DaybookError):
    """The attempt cannot continue until a person has answered the ``question``."""

    code = "approval_needed"

    def __init__(self, question: Question) -> None:
        self.question = question
        super().__init__(f"a person has to approve the call of {question.tool}")


async def of_run(session: AsyncSession, run_id: str) -> list[ApprovalRow]:
    """Return the approvals of a run, oldest first."""
    query = select(ApprovalRow).where(col(ApprovalRow.run_id) == run_id)
    return list((await session.execute(query.order_by(col(ApprovalRow.number)))).scalars())


async def waiting(
    session: AsyncSession, now: datetime, owner: str | None = None
) -> Sequence[tuple[ApprovalRow, RunRow, JobRow | None]]:
    """Return the approvals that a person can decide at ``now``, the oldest first.

    With ``owner``, return only approvals for that owner's jobs.
    """
    query = (
        select(ApprovalRow, RunRow, JobRow)
        .join(RunRow, col(RunRow.id) == col(ApprovalRow.run_id))
        .outerjoin(JobRow, col(JobRow.id) == col(RunRow.job_id))
        .where(
            col(RunRow.status) == Status.WAITING,
            col(RunRow.waits_for) == waits.APPROVAL.name,
            col(ApprovalRow.status) == ApprovalStatus.OPEN,
            col(ApprovalRow.deadline) > now,
        )
        .order_by(col(ApprovalRow.asked_at), col(ApprovalRow.run_id))
    )
    if owner is not None:
        query = query.where(col(JobRow.owner) == owner)
    return (await session.execute(query)).tuples().all()


async def waiting_of_job(session: AsyncSession, job_id: str) -> Sequence[ApprovalRow]:
    """Return the open approvals of a job's runs, oldest first."""
    query = (
        select(ApprovalRow)
        .join(RunRow, col(RunRow.id) == col(ApprovalRow.run_id))
        .where(
            col(RunRow.job_id) == job_id,
            col(RunRow.waits_for) == waits.APPROVAL.name,
            col(ApprovalRow.status) == ApprovalStatus.OPEN,
        )
        .order_by(col(ApprovalRow.asked_at))
    )
    return (await session.execute(query)).scalars().all()


def answer(known: Sequence[ApprovalRow]) -> Outcome | None:
    """Return the attempt's outcome after a decision about its answer; None without a decision.

    An approved answer has the stored outcome. The outcome of a rejected or expired answer is a
    failure. ``known`` contains the approvals of the run, oldest first. Only the last approval
    counts; return None if it is about a call.
    """
    last = known[-1] if known else None
    if last is None or last.position != ANSWER or last.outcome is None:
        return None
    if last.status == ApprovalStatus.APPROVED:
        given = {**last.outcome, "warnings": tuple(last.outcome.get("warnings", ()))}
        return Outcome(**{**given, "status": Status(given["status"])})
    if last.status not in (ApprovalStatus.REJECTED, ApprovalStatus.EXPIRED):
        return None
    why = f": {last.reason}" if last.reason else ""
    error = f"the answer was rejected by {last.decided_by}{why}"
    if last.status == ApprovalStatus.EXPIRED:
        error = "the answer was not approved: no person decided before the deadline"
    facts: JsonObject = {name: last.outcome.get(name) for name in ("agent", "model", "usage")}
    return Outcome(Status.FAILED, error=error, **facts)


async def of_answer(session: AsyncSession, run: RunRow) -> ApprovalRow | None:
    """Return the run's last approval if it is about the run's answer, else None.

    Each question raises the fencing token, so a run with its first one has no approvals.
    """
    if run.fence <= 1 or not run.attempts or not run.asks_agent:
        return None
    known = await of_run(session, run.id)
    return known[-1] if known and known[-1].position == ANSWER else None


async def is_answer_decided(session: AsyncSession, run: RunRow, now: datetime) -> bool:
    """Return whether a person or the deadline has decided about the stored answer of the run.

    The attempt of such a run asks no agent and costs nothing.
    """
    row = await of_answer(session, run)
    if row is None or row.outcome is None or row.status == ApprovalStatus.WITHDRAWN:
        return False
    return row.status != ApprovalStatus.OPEN or row.deadline <= now


async def forget(session: AsyncSession, run: RunRow) -> None:
    """Clear the outcomes that the approvals of an ended run store.

    Each question raises the fencing token, so a run with its first one has no approvals.
    """
    if run.fence > 1 and run.attempts and run.asks_agent:
        table = ApprovalRow.__table__  # type: ignore[attr-defined]
        kept = (table.c.run_id == run.id) & table.c.outcome.is_not(None)
        await session.execute(update(table).where(kept).values(outcome=None))


def is_same(row: ApprovalRow, question: Question) -> bool:
    """Return whether the approval is about the same step, after the same previous step."""
    return (row.position, row.digest, row.after) == (
        question.position,
        question.digest,
        question.after,
    )


async def ask(
    session: AsyncSession, run: RunRow, stored: StoredJob | None, question: Question, now: datetime
) -> ApprovalRow:
    """Add an open approval, and queue the message about it; return the approval.

    If an open approval for the same step exists and its deadline has not passed, return it instead.
    Close any other open approval: as expired if its deadline has passed, otherwise as withdrawn.
    """
    known = await of_run(session, run.id)
    last = known[-1] if known else None
    if last is not None and last.status == ApprovalStatus.OPEN:
        if is_same(last, question) and last.deadline > now:
            return last
        is_late = last.deadline <= now
        await _settle(
            session, last, ApprovalStatus.EXPIRED if is_late else ApprovalStatus.WITHDRAWN, now
        )
    asked = ApprovalRow(
        run_id=run.id,
        number=len(known) + 1,
        position=question.position,
        digest=question.digest,
        after=question.after,
        tool=question.tool,
        input=question.input,
        status=ApprovalStatus.OPEN.value,
        asked_at=now,
        deadline=now + question.within,
        outcome=question.outcome,
    )
    session.add(asked)
    await _send(session, run, stored, asked, now)
    return asked


async def decide(
    session: AsyncSession,
    run: RunRow,
    number: int | None,
    *,
    approve: bool,
    by: str,
    reason: str,
    now: datetime,
) -> ApprovalRow:
    """Record a person's decision about the open approval of ``run``, and make the run due.

    ``number`` is the approval that the person has seen; None stands for the newest approval. Raise
    `InvalidInput`, and decide nothing, if the run does not have this approval, or if ``reason`` is
    too long or not one line. Raise it also if the approval is no longer open, because a person has
    decided, its deadline has passed or the run has ended, and if the run does not wait for it.
    """
    reason = validate_line(reason, "reason", MAX_REASON_LENGTH)
    known = await of_run(session, run.id)
    if not known:
        problem = f"{run.id[:8]} has not asked for an approval: {run.status}"
        raise InvalidInput("run", problem, "`daybook approve` lists the runs that have")
    last = next((each for each in known if each.number == number), None)
    if number is None:
        last = known[-1]
    if last is None:
        problem = f"{number} is no approval of {run.id[:8]}"
        raise InvalidInput("run", problem, f"its approvals are 1 to {len(known)}")
    if last.status == ApprovalStatus.OPEN and last.deadline <= now:
        # For the message of the error only: `claims.begin` stores it.
        await _settle(session, last, ApprovalStatus.EXPIRED, now)
    if last.status != ApprovalStatus.OPEN or not run.wait_reason.for_person:
        raise InvalidInput("run", f"{run.id[:8]}: {words(last)}", "nothing was changed")
    status = ApprovalStatus.APPROVED if approve else ApprovalStatus.REJECTED
    await _settle(session, last, status, now, by=by, reason=reason)
    run.until, run.waits_for, run.reason = now, waits.UNTIL.name, words(last)
    session.add(run)
    return last


async def expire(session: AsyncSession, run_id: str, now: datetime) -> None:
    """Close the run's last approval as expired if it is open and its deadline has passed."""
    known = await of_run(session, run_id)
    if known and known[-1].status == ApprovalStatus.OPEN and known[-1].deadline <= now:
        await _settle(session, known[-1], ApprovalStatus.EXPIRED, now)


async def withdraw(session: AsyncSession, run_id: str, now: datetime) -> None:
    """Mark the open approval of a run that ends as withdrawn."""
    known = await of_run(session, run_id)
    if known and known[-1].status == ApprovalStatus.OPEN:
        await _settle(session, known[-1], ApprovalStatus.WITHDRAWN, now)


def words(row: ApprovalRow, timezone: str = "UTC") -> str:
    """Return a line about the approval: the call or answer, and the decision with its reason.

    The deadline of an open approval is in ``timezone``.
    """
    match row.status:
        case ApprovalStatus.OPEN:
            what = "the answer" if row.position == ANSWER else row.tool
            until = local_text(row.deadline, timezone)
            return f"approval: waiting for a decision about {what} until {until}"
        case ApprovalStatus.EXPIRED:
            return f"approval: {row.tool} was refused, because no person decided in time"
        case ApprovalStatus.WITHDRAWN:
            return f"approval: the question about {row.tool} was withdrawn"
    why = f": {row.reason}" if row.reason else ""
    return f"approval: {row.tool} was {row.status} by {row.decided_by}{why}"


def refusal(row: ApprovalRow) -> str:
    """Return why a refused call was not made, as text for the model or as the run's error."""
    if row.status == ApprovalStatus.REJECTED:
        why = f" The reason: {row.reason}" if row.reason else ""
        return f"This call was not made: {row.decided_by} rejected it.{why}"
    return "This call was not made: it needs an approval, and no person decided in time."


async def _settle(
    session: AsyncSession,
    row: ApprovalRow,
    status: ApprovalStatus,
    now: datetime,
    *,
    by: str = "",
    reason: str = "",
) -> None:
    """Close an open approval. Withdraw its question if this still waits to be sent."""
    await pending.withdraw(session, message_key(row.run_id, row.number), now)
    session.add(row)
    row.status, row.decided_at = status.value, now
    row.decided_by, row.reason = by, reason


def message_key(run_id: str, number: int) -> str:
    """Return the key of the outbox row with the message that asks for an approval."""
    return f"approval:{run_id}:{number}"


async def _send(
    session: AsyncSession, run: RunRow, stored: StoredJob | None, asked: ApprovalRow, now: datetime
) -> None:
    """Queue the question for the job's channel, or for the operator's channel if the job has none.

    An agent may choose the channel of its jobs, but only the operator may decide about their calls.
    So questions about an agent's jobs go to the operator's channel. Questions about silent jobs go
    there too. So do questions about an answer, because they contain it, and the job's channel may
    not get it before a person has approved it. So do questions about a run that a reader of a chat
    has requested, who may not decide.
    """
    notify = outbox.notify_of(run.parameters, stored)
    is_own = bool(notify.channel) and not notify.silent and asked.position != ANSWER
    if stored is not None and owners.is_agent(stored.row.owner):
        is_own = False
    if run.started_by is triggers.SESSION and EVERY_TOOL in run.policy.approve:
        is_own = False
    subject, body = messages.approval(run, stored, asked)
    await outbox.enqueue_message(
        session,
        key=message_key(run.id, asked.number),
        purpose=outbox.MESSAGE if is_own else outbox.ALERT,
        event=EVENT,
        channel=notify.channel if is_own else outbox.operator_channel(),
        chat_id=notify.chat_id if is_own else "",
        subject=subject,
        body=body,
        run_id=run.id,
        job_id=run.job_id,
        now=now,
    )
