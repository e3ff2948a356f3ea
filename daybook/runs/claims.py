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
    died   ─► in its place: the process is gone and settled nothing

How a claim is decided stands in `daybook.runs.decision`, its words in `daybook.runs.claim_requests`.
Every later write carries the fence, and is one transaction: who is killed between two of them
leaves a held row, whose lease runs out.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.errors import FenceRefused, IllegalTransition, InvalidInput
from daybook.jobs.store import StoredJob
from daybook.ledger import states
from daybook.ledger.engine import Ledger
from daybook.ledger.states import TERMINAL, Outcome, Status
from daybook.ledger.tables import AttemptRow, RunRow
from daybook.runs import claim_requests, decision, leases, outcomes, overlap, rows, sessions, slots
from daybook.runs.claim_requests import Answer, Granted, Offer
from daybook.timing import TIMING

LONGEST_ID = 200
"""Characters that a request's id may have: a database's index takes no key of any length."""


async def claim(ledger: Ledger, offer: Offer) -> Answer:
    """Decide, in one transaction under the claim lock, what becomes of an occurrence."""
    async with ledger.write() as session:
        return await decision.Decision(session, ledger.now(), offer).made()


async def granted(ledger: Ledger, run_id: str, fence: int) -> Granted:
    """Read once more what was granted by this fence, and not begun: for who did not claim itself.

    Raises `FenceRefused` when the claim was lost or has begun, `NotFound`.
    """
    async with ledger.read() as session:
        row = await rows.held(session, run_id, fence)
        if row.state is not Status.CLAIMED:
            raise FenceRefused(run_id, fence, row.fence)
        return await decision.grant_of(session, row, await rows.job_of(session, row))


async def begin(
    ledger: Ledger, run_id: str, fence: int, *, usage: dict[str, Any] | None = None
) -> int:
    """Write `running`, immediately before the effect; returns the attempt's number.

    ``usage`` is what the run has taken since its claim, by the gate that let it through.
    Raises `FenceRefused` when the claim was lost: then nothing may happen.
    """
    async with ledger.write() as session:
        row = await rows.held(session, run_id, fence)
        now = ledger.now()
        states.check(row.id, row.state, Status.RUNNING)
        row.status = Status.RUNNING
        row.attempts += 1
        row.started_at = row.started_at or now
        row.lease_until, row.suspected_at = now + TIMING.run_lease, None
        session.add(row)
        session.add(
            AttemptRow(run_id=row.id, number=row.attempts, fence=fence, started_at=now, usage=usage)
        )
        return row.attempts


async def settle(ledger: Ledger, run_id: str, fence: int, outcome: Outcome) -> Status:
    """Write the outcome; returns the status that the run has now.

    A writer that lost its claim is refused with `FenceRefused`, one whose run has another outcome
    with `IllegalTransition`; what it knew is kept with the run as evidence. Settling again after a
    commit whose answer was lost changes nothing.
    """
    async with ledger.write() as session:
        row = await rows.get(session, run_id)
        if row.fence == fence and row.state in TERMINAL and row.state is outcome.status:
            return row.state
        refused = _refused(row, fence, outcome.status)
        if refused is not None:
            _keep_evidence(session, row, fence, outcome, ledger.now())
        else:
            await overlap.end_in_doubt(session, row, ledger.now())
            await outcomes.write(session, row, outcome, ledger.now())
            if outcome.status is Status.SUCCEEDED and outcome.prompt is not None:
                answer = outcome.output or ""
                await sessions.append(session, row, outcome.prompt, answer, ledger.now())
    if refused is not None:
        raise refused
    return outcome.status


def _refused(row: RunRow, fence: int, new: Status) -> FenceRefused | IllegalTransition | None:
    """Why a writer with that fence has nothing to say any more of how ``row`` ended."""
    if row.fence != fence:
        return FenceRefused(row.id, fence, row.fence)
    if row.state in TERMINAL - {Status.UNKNOWN}:
        return IllegalTransition(row.id, row.state, new)
    return None


async def died(
    ledger: Ledger,
    run_id: str,
    fence: int,
    why: str,
    error: str | None = None,
    *,
    usage: dict[str, Any] | None = None,
) -> Status:
    """Write that the holder's process group is gone; returns the status that the run has now.

    A run that was not begun waits again; one that was is `unknown`, or waits where its job says
    `on_lost: rerun` and has attempts left. ``error`` is what is known of the end, such as the last
    of the output, ``usage`` what it took until then. A run that has its outcome keeps it. Raises
    `FenceRefused` when the claim was lost; what the caller knew is kept with the run as evidence.
    """
    async with ledger.write() as session:
        row = await rows.get(session, run_id)
        if row.state in TERMINAL:
            return row.state
        held = row.state in states.HELD and row.fence == fence
        if held:
            await leases.lost(session, row, ledger.now(), why, error=error, usage=usage)
        else:
            known = Outcome(Status.UNKNOWN, why, error=error, usage=usage)
            _keep_evidence(session, row, fence, known, ledger.now())
    if not held:
        raise FenceRefused(run_id, fence, row.fence)
    return row.state


def _keep_evidence(
    session: AsyncSession, row: RunRow, fence: int, outcome: Outcome, now: datetime
) -> None:
    known = {"fence": fence, "status": str(outcome.status), "reason": outcome.reason}
    known |= {"error": outcome.error, "output": outcomes.shorten(outcome.output)}
    if outcome.usage:
        known["usage"] = outcome.usage
    row.evidence = [*row.evidence, known | {"at": now.isoformat()}]
    session.add(row)


async def postpone(ledger: Ledger, run_id: str, fence: int, until: datetime, why: str) -> None:
    """Give a claim back before its effect: the run waits until ``until``.

    Raises `FenceRefused` when the claim was lost, `IllegalTransition` when the run is running: the
    effect may have been had.
    """
    async with ledger.write() as session:
        row = await rows.held(session, run_id, fence)
        if row.state is not Status.CLAIMED:
            raise IllegalTransition(row.id, row.state, Status.WAITING)
        leases.put_back(row, until, why)
        session.add(row)


async def retry(
    ledger: Ledger, run_id: str, fence: int, outcome: Outcome, until: datetime
) -> Status:
    """End the attempt with ``outcome`` and let the run wait until ``until`` for its next one.

    Returns the status that the run has now. One that was judged `unknown` meanwhile is not tried
    again: ``outcome`` is its own then. Refuses as `settle` does, with evidence, and with
    `IllegalTransition` if the run is not running. The same call again, after a commit whose answer
    was lost, changes nothing, whatever became of the run since.
    """
    async with ledger.write() as session:
        row, now = await rows.get(session, run_id), ledger.now()
        if await _is_ended(session, row, fence, outcome):
            return row.state
        refused = _refused(row, fence, Status.WAITING)
        if refused is None and row.state not in (Status.RUNNING, Status.UNKNOWN):
            refused = IllegalTransition(row.id, row.state, Status.WAITING)
        if refused is not None:
            _keep_evidence(session, row, fence, outcome, now)
        elif row.state is Status.UNKNOWN:
            await outcomes.write(session, row, outcome, now)
        else:
            await outcomes.close_attempt(session, row, outcome, now)
            why = f"attempt {row.attempts} {outcome.status}: {outcome.error or outcome.reason}"
            leases.put_back(row, until, why)
            session.add(row)
    if refused is not None:
        raise refused
    return row.state


async def _is_ended(session: AsyncSession, row: RunRow, fence: int, outcome: Outcome) -> bool:
    """Whether the attempt that was begun with ``fence`` is written as ended with ``outcome``."""
    begun = select(AttemptRow).where(
        col(AttemptRow.run_id) == row.id, col(AttemptRow.fence) == fence
    )
    attempt: AttemptRow | None = (await session.execute(begun)).scalar_one_or_none()
    if attempt is None:
        return False
    return (attempt.status, attempt.error) == (outcome.status, outcome.error)


async def cancel(ledger: Ledger, run_id: str, why: str = "cancelled") -> RunRow:
    """Cancel a waiting run; one that is held or has ended comes back unchanged.

    Of a held one its holder has to be asked: only it can end the process. Raises `NotFound`.
    """
    async with ledger.write() as session:
        row = await rows.get(session, run_id)
        if row.state is Status.WAITING:
            await outcomes.write(session, row, Outcome(Status.CANCELLED, why), ledger.now())
        return row


async def request(ledger: Ledger, stored: StoredJob, request_id: str, trigger: str) -> RunRow:
    """Write down that a run is asked for now; the same id again gives the same run.

    Raises `InvalidInput` for an id that is too long to be a key.
    """
    if len(request_id) > LONGEST_ID:
        legal = f"legal: at most {LONGEST_ID}"
        raise InvalidInput("request-id", f"has {len(request_id):,} characters", legal)
    key = claim_requests.request_key(stored.id, request_id)
    async with ledger.write() as session:
        same = select(RunRow).where(col(RunRow.occurrence) == key)
        found: RunRow | None = (await session.execute(same)).scalar_one_or_none()
        if found is not None:
            return found
        now = ledger.now()
        row = asked_for(stored, key, trigger, now, now)
        session.add(row)
        return row


def asked_for(
    stored: StoredJob, occurrence: str, trigger: str, due: datetime, now: datetime
) -> RunRow:
    """The row, not stored yet, of a run that is asked for now, with the job as it is."""
    parameters = stored.job.parameters()
    return RunRow(
        occurrence=occurrence,
        job_id=stored.id,
        revision=stored.revision.number,
        kind=stored.row.kind,
        trigger=trigger,
        due=due,
        status=Status.WAITING,
        reason="asked for",
        until=now,
        parameters=parameters,
        agent=claim_requests.agent_of(parameters),
        queued_at=now,
    )


async def carried_by(ledger: Ledger, seen: RunRow, flow_run_id: str) -> bool:
    """Write down which Prefect run carries a waiting run; False, and nothing written, when another
    has done so since the row was ``seen``, or it does not wait any more.

    Two that make a Prefect run for it at once are given the same one, by its key: it counts once,
    and who is late does not put an earlier one in the place of a later one.
    """
    async with ledger.write() as session:
        row = await rows.get(session, seen.id)
        if row.state is not Status.WAITING or row.prefect_runs != seen.prefect_runs:
            return False
        row.flow_run_id = flow_run_id
        row.prefect_runs += 1
        session.add(row)
        return True


async def next_for_slot(
    session: AsyncSession,
    now: datetime,
    most: int,
    classes: Mapping[str, int] = MappingProxyType({}),
) -> list[RunRow]:
    """The runs waiting for a slot that the free ones of ``most`` can take now, by due time."""
    return await slots.next_up(session, now, most, classes)
