"""Claim, begin, settle: the life of one occurrence in three transactions (`docs/promise.md` 1-6).

::

    claim ─► Granted(fence)   the caller may begin; it holds a lease
           ─► Waiting(until)   nothing may happen before; the row, if there is one, waits
           ─► Ended(status)    it has its outcome (skipped, missed, or what it ended as before)
           ─► Taken(holder)    another holds it
           ─► Compare(job)     not due by what the ledger knows: compare the job with Prefect and
                               claim again with ``compared=True``; still not due is Ended, no row

    begin  ─► written immediately before the effect
    settle ─► the outcome, the attempt's end and the job's fields

An occurrence's key is ``due:<job>:<instant>``, ``request:<job>:<id>`` or ``flow:<flow-run id>``; a
Retry of an ended flow run makes ``flow:<flow-run id>:<n>``. Every later write carries the fence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.errors import FenceRefused, IllegalTransition, NotFound
from daybook.ledger import jobs, leases, outcomes, sessions, states
from daybook.ledger.engine import Ledger
from daybook.ledger.jobs import StoredJob
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import HELD, LIVE, TERMINAL, Status
from daybook.ledger.tables import AttemptRow, MessageRow, RunRow
from daybook.spec import due as due_times
from daybook.spec import lateness, prompts
from daybook.spec.job import Job


def due_key(job_id: str, instant: datetime) -> str:
    """The key of a due time: whole seconds, in UTC."""
    return f"due:{job_id}:{instant.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}"


def request_key(job_id: str, request_id: str) -> str:
    """The key of a run that was asked for; the same id twice is one run."""
    return f"request:{job_id}:{request_id}"


def flow_key(flow_run_id: str) -> str:
    """The key of a quick or custom run, a direct call, a subflow."""
    return f"flow:{flow_run_id}"


@dataclass(frozen=True)
class Offer:
    """What a caller knows of the run it wants to carry out.

    ``due`` is the nominal due time in UTC; ``parameters`` are those that Prefect gave, in the
    normal form of `Job.parameters`. ``flow_starts`` is how often Prefect has started that flow run,
    this start included; ``flow_ended`` is how many starts there had been when Prefect last ended
    it, None if it never did: only a run that Prefect had ended is a Retry when it starts again.
    ``refused`` says what is wrong with the parameters; a due time acts with the job's own, any
    other run ends as failed.
    """

    occurrence: str
    kind: str
    trigger: str
    due: datetime
    holder: str
    parameters: dict[str, Any] = field(default_factory=dict)
    job_id: str | None = None
    flow_run_id: str | None = None
    flow_starts: int = 1
    flow_ended: int | None = None
    compared: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Granted:
    """The claim is the caller's until its lease ends. ``parameters`` are those to act with.

    ``session_id`` is the run's conversation, which is the caller's alone, and ``history`` the last
    messages of it, oldest first. ``last_output`` is the answer of the job's last succeeded run, if
    the prompt names it.
    """

    run_id: str
    fence: int
    parameters: dict[str, Any]
    occurrence: str
    due: datetime
    trigger: str
    job: StoredJob | None
    session_id: str = ""
    history: tuple[MessageRow, ...] = ()
    last_output: str = ""


@dataclass(frozen=True)
class Waiting:
    """Nothing may happen before ``until``."""

    until: datetime
    why: str
    run_id: str | None = None


@dataclass(frozen=True)
class Ended:
    """The occurrence has its outcome. ``run_id`` is None when no row was made (not due).

    ``flow_run_id`` is the Prefect run that carried it, if that is known.
    """

    status: Status
    reason: str
    run_id: str | None = None
    flow_run_id: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Taken:
    """Another holds the occurrence, in the Prefect run ``flow_run_id`` if that is known."""

    run_id: str
    holder: str
    flow_run_id: str | None = None


@dataclass(frozen=True)
class Compare:
    """Not what the ledger knows: compare this one job with Prefect and claim again."""

    job_id: str


Answer = Granted | Waiting | Ended | Taken | Compare


async def claim(ledger: Ledger, offer: Offer) -> Answer:
    """Decide, in one transaction under the claim lock, what becomes of an occurrence."""
    async with ledger.write() as session:
        return await _Claim(session, ledger.now(), offer).decide()


class _Claim:
    """One claim at work. The steps stand in the order in which they are asked."""

    def __init__(self, session: AsyncSession, now: datetime, offer: Offer) -> None:
        self.session, self.now, self.offer = session, now, offer

    async def decide(self) -> Answer:
        row = await self._row()
        if row is not None:
            await leases.look(self.session, row, self.now)
        if row is not None and row.state in TERMINAL:
            if not self._is_retry(row):
                reason = row.reason or f"already {row.status}"
                return Ended(row.state, reason, row.id, row.flow_run_id, row.error)
            return await self._retry(row)
        if row is not None and row.state in HELD:
            look = leases.next_look(row)
            if self._is_later_start(row) and look is not None:
                # The same Prefect run was started again: its earlier process may still be at work.
                return Waiting(look, f"{row.holder} may still be at work")
            return Taken(row.id, row.holder, row.flow_run_id)
        if row is None and self.offer.due > self.now:
            return Waiting(self.offer.due, "not due yet")
        if row is not None and row.until is not None and row.until > self.now:
            return Waiting(row.until, row.reason, row.id)
        return await self._judge(row)

    async def _row(self) -> RunRow | None:
        """The row of this flow run if there is one, else that of the occurrence."""
        by_key = col(RunRow.occurrence) == self.offer.occurrence
        if self.offer.flow_run_id is not None:
            by_key = by_key | (col(RunRow.flow_run_id) == self.offer.flow_run_id)
        found = (await self.session.execute(select(RunRow).where(by_key))).scalars().all()
        # A live row is the occurrence; among ended ones (retries of one flow run) the last start's.
        return max(
            found, key=lambda row: (row.state in LIVE, row.flow_starts, row.queued_at), default=None
        )

    def _is_later_start(self, row: RunRow) -> bool:
        same_run = row.flow_run_id is not None and row.flow_run_id == self.offer.flow_run_id
        return same_run and self.offer.flow_starts > row.flow_starts

    def _is_retry(self, row: RunRow) -> bool:
        """Whether Prefect had ended the start that carried ``row``, or a later one.

        Without that a further start is no one's wish: a machine's restart, or a run of ours that
        was set back. It must not repeat what has its outcome, above all not an `unknown`.
        """
        ended = self.offer.flow_ended
        return self._is_later_start(row) and ended is not None and ended >= row.flow_starts

    async def _retry(self, ended: RunRow) -> Answer:
        base = flow_key(str(self.offer.flow_run_id))
        count = select(func.count()).where(col(RunRow.occurrence).startswith(f"{base}:"))
        number = (await self.session.execute(count)).scalar_one() + 1
        stored = await jobs.get(self.session, ended.job_id) if ended.job_id else None
        row = self._new_row(f"{base}:{number}", "retry", stored)
        row.due, row.retry_of = self.now, ended.id
        row.parameters = ended.parameters or self.offer.parameters
        return await self._overlap(row, None, stored)

    async def _judge(self, row: RunRow | None) -> Answer:
        offer = self.offer
        old = None if row is None else row.state
        # Only a due time of a job needs the job to be enabled, and can be too late.
        timed = (offer.occurrence if row is None else row.occurrence).startswith("due:")
        job_id = offer.job_id if row is None else row.job_id
        stored = None
        if job_id is not None:
            # A custom run's due time may lie in the second before the job was made.
            asked = self.now if row is None else row.queued_at
            at = asked if not timed else offer.due if row is None else row.due
            stored = await jobs.in_force(self.session, job_id, at)
        if timed and row is None:
            if stored is None or not self._is_due(stored.job):
                return self._not_due(job_id)
            if not offer.compared and offer.parameters != stored.job.parameters():
                # Edited in Prefect, or queued before an edit here: the revision decides, but first
                # the ledger has to know all edits.
                return Compare(stored.id)
        if row is None:
            row = self._new_row(offer.occurrence, offer.trigger, stored)
            if timed and stored is not None:
                row.parameters = stored.job.parameters()
            elif offer.refused:
                row.error = offer.refused
                return await self._end(row, old, Status.FAILED, "parameters")
        if timed and stored is not None:
            newest = await jobs.get(self.session, stored.id)
            if newest is not None and not newest.job.enabled:
                why = newest.row.disabled_reason or "disabled"
                return await self._end(row, old, Status.SKIPPED, f"the job is off: {why}")
            late = lateness.judge(stored.job.schedule, row.due, self.now)
            if old is None and not late.runs:
                return await self._end(row, old, Status.MISSED, late.reason)
        return await self._overlap(row, old, stored)

    def _is_due(self, job: Job) -> bool:
        return job.enabled and due_times.is_due(job.schedule, self.offer.due)

    def _not_due(self, job_id: str | None) -> Answer:
        if self.offer.compared or job_id is None:
            return Ended(Status.SKIPPED, "not due")
        return Compare(job_id)

    async def _overlap(self, row: RunRow, old: Status | None, stored: StoredJob | None) -> Answer:
        """Requirement 22, `skip`: no run begins while another one of its job is at work.

        At work is also one between two attempts, for as long as somebody can be expected to come
        back for it; a run with attempts behind it is not skipped itself.
        """
        if stored is not None and stored.row.archived_at is not None:
            return await self._end(row, old, Status.SKIPPED, "the job was removed")
        if stored is not None:
            await leases.expire(self.session, stored.id, self.now)
            between = (
                (col(RunRow.status) == Status.WAITING)
                & (col(RunRow.attempts) > 0)
                & (col(RunRow.until) >= self.now - leases.LEASE)
            )
            others = select(RunRow).where(
                col(RunRow.job_id) == stored.id,
                col(RunRow.status).in_(HELD) | between,
                col(RunRow.id) != row.id,
            )
            other = (await self.session.execute(others.limit(1))).scalar_one_or_none()
            if other is not None and not row.attempts:
                why = f"overlap: run {other.id[:8]} of {_clock(other.due)} was still at work"
                return await self._end(row, old, Status.SKIPPED, why)
        return await self._turn(row, old, stored)

    async def _turn(self, row: RunRow, old: Status | None, stored: StoredJob | None) -> Answer:
        """`docs/promise.md` 17: two runs of one session take turns."""
        row.session_id = sessions.id_of(row.parameters, job_id=row.job_id, run_id=row.id)
        why = await sessions.busy(self.session, row, self.now)
        if not why:
            return await self._grant(row, old, stored)
        if old is not Status.WAITING:
            states.check(row.id, old, Status.WAITING)
        row.status = Status.WAITING
        row.until, row.reason = self.now + sessions.LOOK_AGAIN, why
        self._carried(row)
        return Waiting(row.until, why, row.id)

    async def _grant(self, row: RunRow, old: Status | None, stored: StoredJob | None) -> Granted:
        states.check(row.id, old, Status.CLAIMED)
        row.status = Status.CLAIMED
        row.reason, row.until = "", None
        row.fence += 1
        row.holder, row.lease_until = self.offer.holder, self.now + leases.LEASE
        row.suspected_at = None
        self._carried(row)
        names_last = prompts.names(str(row.parameters.get("prompt", "")), "last_output")
        return Granted(
            row.id,
            row.fence,
            row.parameters,
            row.occurrence,
            row.due,
            row.trigger,
            stored,
            session_id=str(row.session_id),
            history=await sessions.history(self.session, str(row.session_id)),
            last_output=await sessions.last_output(self.session, row.job_id) if names_last else "",
        )

    async def _end(self, row: RunRow, old: Status | None, status: Status, reason: str) -> Answer:
        states.check(row.id, old, status)
        row.status, row.reason = status, reason
        row.until, row.finished_at = None, self.now
        self._carried(row)
        await self.session.flush()
        await outcomes.note(self.session, row, self.now)
        return Ended(status, reason, row.id, row.flow_run_id, row.error)

    def _carried(self, row: RunRow) -> None:
        """The offering Prefect run carries ``row``, which is to be written."""
        row.flow_run_id = self.offer.flow_run_id or row.flow_run_id
        row.flow_starts = self.offer.flow_starts
        self.session.add(row)

    def _new_row(self, occurrence: str, trigger: str, stored: StoredJob | None) -> RunRow:
        offer = self.offer
        return RunRow(
            occurrence=occurrence,
            job_id=stored.id if stored else None,
            revision=stored.revision.number if stored else None,
            kind=offer.kind,
            trigger=trigger,
            due=offer.due,
            status="",
            parameters=offer.parameters,
            agent=_agent(offer.parameters),
            queued_at=self.now,
        )


def _agent(parameters: Mapping[str, object]) -> str | None:
    name = parameters.get("agent")
    return name if isinstance(name, str) else None


def _clock(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%d %H:%M:%S UTC")


async def begin(ledger: Ledger, run_id: str, fence: int) -> int:
    """Write `acting`, immediately before the effect; returns the attempt's number.

    Raises `FenceRefused` when the claim was lost: then nothing may happen.
    """
    async with ledger.write() as session:
        row = await _held(session, run_id, fence)
        now = ledger.now()
        states.check(row.id, row.state, Status.ACTING)
        row.status = Status.ACTING
        row.attempts += 1
        row.started_at = row.started_at or now
        row.lease_until, row.suspected_at = now + leases.LEASE, None
        session.add(row)
        session.add(AttemptRow(run_id=row.id, number=row.attempts, fence=fence, started_at=now))
        return row.attempts


async def settle(ledger: Ledger, run_id: str, fence: int, outcome: Outcome) -> Status:
    """Write the outcome; returns the status that the run has now.

    A writer that lost its claim is refused with `FenceRefused`, one whose run has another outcome
    with `IllegalTransition`; what it knew is kept with the run as evidence. Settling again after a
    commit whose answer was lost changes nothing.
    """
    refused: FenceRefused | IllegalTransition | None = None
    async with ledger.write() as session:
        row = await _row(session, run_id)
        if row.fence != fence:
            refused = FenceRefused(run_id, fence, row.fence)
        elif row.state in TERMINAL and row.state is outcome.status:
            return row.state
        elif row.state in TERMINAL - {Status.UNKNOWN}:
            refused = IllegalTransition(run_id, row.state, outcome.status)
        else:
            await outcomes.write(session, row, outcome, ledger.now())
            if outcome.status is Status.SUCCEEDED and outcome.prompt is not None:
                answer = outcome.output or ""
                await sessions.append(session, row, outcome.prompt, answer, ledger.now())
        if refused is not None:
            known = {"fence": fence, "status": str(outcome.status), "reason": outcome.reason}
            known |= {"error": outcome.error, "output": outcomes.shorten(outcome.output)}
            row.evidence = [*row.evidence, known | {"at": ledger.now().isoformat()}]
            session.add(row)
    if refused is not None:
        raise refused
    return outcome.status


async def postpone(ledger: Ledger, run_id: str, fence: int, until: datetime, why: str) -> None:
    """Give a claim back before its effect: the run waits until ``until``.

    Raises `FenceRefused` when the claim was lost, `IllegalTransition` when the run is acting: the
    effect may have been had.
    """
    async with ledger.write() as session:
        row = await _held(session, run_id, fence)
        if row.state is not Status.CLAIMED:
            raise IllegalTransition(row.id, row.state, Status.WAITING)
        leases.put_back(row, until, why)
        session.add(row)


async def retry(ledger: Ledger, run_id: str, fence: int, outcome: Outcome, until: datetime) -> None:
    """End the attempt with ``outcome`` and let the run wait until ``until`` for its next one.

    Raises `FenceRefused` when the claim was lost, `IllegalTransition` when the run is not acting.
    """
    async with ledger.write() as session:
        row = await _held(session, run_id, fence)
        if row.state is not Status.ACTING:
            raise IllegalTransition(row.id, row.state, Status.WAITING)
        await outcomes.close_attempt(session, row, outcome, ledger.now())
        why = f"attempt {row.attempts} {outcome.status}: {outcome.error or outcome.reason}"
        leases.put_back(row, until, why)
        session.add(row)


async def request(ledger: Ledger, stored: StoredJob, request_id: str, trigger: str) -> RunRow:
    """Write down that a run is asked for now; the same id again gives the same run."""
    key = request_key(stored.id, request_id)
    async with ledger.write() as session:
        same = select(RunRow).where(col(RunRow.occurrence) == key)
        found: RunRow | None = (await session.execute(same)).scalar_one_or_none()
        if found is not None:
            return found
        now = ledger.now()
        row = RunRow(
            occurrence=key,
            job_id=stored.id,
            revision=stored.revision.number,
            kind=stored.row.kind,
            trigger=trigger,
            due=now,
            status=Status.WAITING,
            reason="asked for",
            until=now,
            parameters=stored.job.parameters(),
            agent=_agent(stored.job.parameters()),
            queued_at=now,
        )
        session.add(row)
        return row


async def carried_by(ledger: Ledger, run_id: str, flow_run_id: str) -> None:
    """Write down which Prefect run carries a waiting run."""
    async with ledger.write() as session:
        row = await _row(session, run_id)
        if row.state is Status.WAITING:
            row.flow_run_id = flow_run_id
            row.prefect_runs += 1
            session.add(row)


async def _row(session: AsyncSession, run_id: str) -> RunRow:
    row = await session.get(RunRow, run_id)
    if row is None:
        raise NotFound("run", run_id)
    return row


async def _held(session: AsyncSession, run_id: str, fence: int) -> RunRow:
    row = await _row(session, run_id)
    if row.fence != fence or row.state not in HELD:
        raise FenceRefused(run_id, fence, row.fence)
    return row
