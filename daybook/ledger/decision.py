"""The one decision that all else hangs on: what becomes of an occurrence (`docs/promise.md` 1).

It is made in one transaction under the claim lock; `daybook.ledger.claims.claim` opens it. No other
code grants. The steps stand in the order in which they are asked::

    has its row an outcome? ─► is it held? ─► is it too early, or past its deadline? ─► is it due,
    not judged by the audit, enabled, not too late? ─► is it not too soon after another, where an
    agent owns it? ─► does it overlap with one of its job? ─► is it within its owner's limits? ─►
    are tokens left? ─► is its session free? ─► is a slot free? ─► granted
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger import (
    budget,
    corrections,
    jobs,
    leases,
    limited,
    offers,
    outcomes,
    overlap,
    ranges,
    rows,
    sessions,
    slots,
    states,
    waits,
    wanted,
)
from daybook.ledger.jobs import StoredJob
from daybook.ledger.offers import Answer, Compare, Ended, Granted, Offer, Taken, Waiting
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import HELD, TERMINAL, Status
from daybook.ledger.tables import RunRow
from daybook.spec import due, durations, lateness, policy, prompts, upcoming
from daybook.spec.actions import TALKING
from daybook.spec.job import Job
from daybook.spec.lateness import Lateness
from daybook.timing import TIMING

STANDSTILL = timedelta(minutes=5)
"""How long after `until` a run that waits to know whether a holder is alive is left undecided."""


def is_due(job: Job, instant: datetime) -> bool:
    """Whether ``instant`` is a due time of ``job``: never of one that is off."""
    return job.enabled and upcoming.is_due(job.schedule, job.policy, instant)


async def grant_of(session: AsyncSession, row: RunRow, stored: StoredJob | None) -> Granted:
    """What the holder of a claimed ``row`` is given; ``stored`` is the revision it acts with."""
    asked = (str(row.parameters.get("prompt", "")), policy.of_run(row.parameters).check.prompt)
    # What a heartbeat's file names is not known here.
    names_last = row.kind == "heartbeat" or any(prompts.names(p, "last_output") for p in asked)
    return Granted(
        row.id,
        row.fence,
        row.parameters,
        row.occurrence,
        row.due,
        row.trigger,
        stored,
        session_id=row.session_id or "",
        history=await sessions.history(session, row.session_id) if row.session_id else (),
        last_output=await sessions.last_output(session, row.job_id) if names_last else "",
        attempts=row.attempts,
        tokens=row.tokens,
        queued_at=row.queued_at,
    )


class Decision:
    """One claim at work."""

    def __init__(self, session: AsyncSession, now: datetime, offer: Offer) -> None:
        self.session, self.now, self.offer = session, now, offer

    async def made(self) -> Answer:
        """Decide, and write what was decided."""
        row = await rows.of(self.session, self.offer.flow_run_id, self.offer.occurrence)
        if row is not None:
            await leases.look(self.session, row, self.now)
        if row is not None and row.state in TERMINAL:
            if not await self._is_retry(row):
                self._link(row)
                reason = row.reason or f"already {row.status}"
                return Ended(row.state, reason, row.id, row.flow_run_id, row.error)
            return await self._retry(row)
        if row is not None and row.state in HELD:
            look = leases.next_look(row)
            if self._is_later_start(row) and look is not None:
                # The same Prefect run was started again: its earlier process may still be at work.
                return Waiting(look, f"{row.holder} may still be at work")
            return Taken(row.id, row.holder, row.flow_run_id)
        if row is None:
            if self.offer.due > self.now:
                return Waiting(self.offer.due, "not due yet")
            return await self._judge(None, None)
        stored = await self._job_of(row)
        if why := waits.overdue(row, self.now):
            return await self._end(row, Status.TIMED_OUT, why)
        # Who waits for a slot or a turn may look at any time: what became free is why it was woken.
        turned = row.waits_for in slots.TURNS
        if row.until is not None and row.until > self.now and not turned:
            return Waiting(row.until, row.reason, row.id, fence=row.fence)
        return await self._judge(row, stored)

    async def _job_of(self, row: RunRow) -> StoredJob | None:
        """The job by the revision that ``row`` acts with.

        A due time that has not begun follows the edits of before it, also those that were made, or
        became known, after its row was.
        """
        stored = await rows.job_of(self.session, row)
        if stored is not None and offers.is_due_key(row.occurrence) and not row.attempts:
            rows.act_with(row, stored)
            if row.waits_for == corrections.DUE:
                row.queued_at = row.due + upcoming.offset(stored.id, stored.job.policy.stagger)
            self.session.add(row)
        return stored

    def _is_later_start(self, row: RunRow) -> bool:
        return self._carries(row) and self.offer.flow_starts > row.flow_starts

    def _carries(self, row: RunRow) -> bool:
        return row.flow_run_id is not None and row.flow_run_id == self.offer.flow_run_id

    async def _is_retry(self, row: RunRow) -> bool:
        """Return whether somebody asked for another run after the start that carried ``row``.

        Any other start of an ended run must not repeat it, above all not an `unknown`: a machine
        was restarted, the run was set back, or another worker has already claimed the same Retry.
        """
        retries = self.offer.retries
        if not retries:
            return False
        # The Prefect run of another due time of a range never started: any start of it is later.
        of_a_range = row.due_to is not None and not self._carries(row)
        if not of_a_range and (not self._is_later_start(row) or retries[-1] < row.flow_starts):
            return False
        base = offers.flow_key(str(self.offer.flow_run_id))
        known = select(RunRow.occurrence).where(col(RunRow.occurrence).startswith(f"{base}:"))
        claimed = (await self.session.execute(known)).scalars()
        return all(int(each.rpartition(":")[2]) < len(retries) for each in claimed)

    async def _retry(self, ended: RunRow) -> Answer:
        base, number = offers.flow_key(str(self.offer.flow_run_id)), len(self.offer.retries)
        stored = await jobs.get(self.session, ended.job_id) if ended.job_id else None
        row = rows.new(self.offer, f"{base}:{number}", "retry", stored, self.now)
        row.due, row.retry_of = self.now, ended.id
        row.parameters = ended.parameters or self.offer.parameters
        if self._carries(ended):
            ended.unmirrored = False  # Prefect's state of this flow run is the new row's from here
            self.session.add(ended)
        return await self._overlap(row, stored)

    async def _judge(self, row: RunRow | None, stored: StoredJob | None) -> Answer:
        offer = self.offer
        # Only a due time of a job needs the job to be enabled, and can be too late.
        timed = offers.is_due_key(offer.occurrence if row is None else row.occurrence)
        if row is None and offer.job_id is not None:
            # A custom run's due time may lie in the second before the job was made.
            at = offer.due if timed else self.now
            stored = await jobs.in_force(self.session, offer.job_id, at)
        if timed and row is None and (answer := self._no_due_time(stored)):
            return answer
        fresh = row is None or row.waits_for == corrections.DUE or self._was_left(row)
        if row is None:
            row = rows.new(offer, offer.occurrence, offer.trigger, stored, self.now)
            if timed and stored is not None:
                row.parameters = stored.job.parameters()
            elif offer.refused:
                row.error = offer.refused
                return await self._end(row, Status.FAILED, "parameters")
        if timed and stored is not None:
            return await self._timed(row, stored, fresh=fresh)
        if row.trigger == slots.BACKFILL and stored is not None:
            newest = await jobs.get(self.session, stored.id)
            if newest is not None and (why := wanted.off(newest)):
                return await self._end(row, Status.SKIPPED, why)
        return await self._overlap(row, stored)

    def _was_left(self, row: RunRow) -> bool:
        """Whether ``row`` waited to know whether a holder is alive, and nothing came to ask again.

        It was not decided that it runs, so it may be too late by now.
        """
        if row.waits_for != slots.HOLDER or row.until is None:
            return False
        return row.until + STANDSTILL < self.now

    async def _timed(self, row: RunRow, stored: StoredJob, *, fresh: bool) -> Answer:
        job = stored.job
        newest = await jobs.get(self.session, stored.id)
        if newest is not None:
            why = await wanted.why_not(self.session, row, newest, self.now)
            if why:
                return await self._end(row, Status.SKIPPED, why)
        if not row.attempts and not is_due(job, row.due):
            # Edited in Prefect before it was due, which the ledger knows only now.
            return await self._end(row, Status.SKIPPED, corrections.NOT_ANY_MORE)
        if not fresh:  # a waiting row never becomes late
            return await self._of_max(row, stored, newest)
        later = upcoming.offset(stored.id, job.policy.stagger)
        late = lateness.judge(job.schedule, row.due, self.now - later, job.policy)
        if not late.runs:
            return await self._missed(row, stored, late)
        if late.verdict == "run":
            row.trigger = overlap.CATCH_UP
        if row.due + later > self.now:
            row.queued_at = row.due + later  # it waits for nothing else before
            return self._wait(row, row.queued_at, f"staggered by {durations.to_text(later)}")
        return await self._of_max(row, stored, newest)

    async def _of_max(self, row: RunRow, stored: StoredJob, newest: StoredJob | None) -> Answer:
        """Let ``row`` wait while it is not known whether another run is the last of `max_runs`."""
        if newest is not None:
            last = await wanted.in_doubt(self.session, row, newest, self.now)
            if last is not None:
                why = f"max runs: it is not known yet whether run {last.id[:8]} is the last"
                until = leases.next_word(last, self.now)
                return self._wait(row, until, why, waits_for=slots.HOLDER)
        return await self._overlap(row, stored)

    def _same(self, stored: StoredJob) -> bool:
        """Whether Prefect holds of the job what the ledger does, as far as the offer tells."""
        return self.offer.compared or self.offer.parameters == stored.job.parameters()

    def _no_due_time(self, stored: StoredJob | None) -> Answer | None:
        """What is answered of an instant of which no row is made; None of a due time."""
        if stored is None or not is_due(stored.job, self.offer.due):
            return self._not_due(stored)
        if not self._same(stored):
            # Edited in Prefect, or queued before an edit here: the revision decides, but first the
            # ledger has to know all edits.
            return Compare(stored.id)
        if self.offer.due <= stored.row.audited_until:
            return Ended(Status.SKIPPED, "already judged")
        return None

    def _not_due(self, stored: StoredJob | None) -> Answer:
        offer = self.offer
        if stored is not None and stored.job.enabled and self._same(stored):
            job = stored.job
            why = upcoming.why_not(job.schedule, job.policy, offer.due)
            if why and due.is_due(job.schedule, offer.due):
                return Ended(Status.SKIPPED, f"not due: {why}")
        if self.offer.compared or self.offer.job_id is None:
            return Ended(Status.SKIPPED, "not due")
        return Compare(self.offer.job_id)

    async def _overlap(self, row: RunRow, stored: StoredJob | None) -> Answer:
        if stored is not None and stored.row.archived_at is not None:
            return await self._end(row, Status.SKIPPED, "the job was removed")
        if stored is not None and (why := limited.switched_off(row, stored, self.offer.rules)):
            return await self._end(row, Status.SKIPPED, why)
        if stored is not None:
            soon = await limited.too_soon(self.session, row, stored, self.offer, self.now)
            if soon:
                return await self._refuse(row, stored, soon)
            behind = await overlap.behind(self.session, row, stored.id, self.now, self.offer.holder)
            if behind is not None and behind.skipped:
                return await self._end(row, Status.SKIPPED, behind.why)
            if behind is not None and behind.known_at is not None:
                return self._wait(row, behind.known_at, behind.why, waits_for=slots.HOLDER)
            if behind is not None:
                until = self.now + overlap.LOOK_AGAIN
                waiting = self._wait(row, until, behind.why, waits_for=slots.OVERLAP)
                return replace(waiting, cancel=behind.cancel)
        return await self._allowed(row, stored)

    async def _allowed(self, row: RunRow, stored: StoredJob | None) -> Answer:
        """What an agent owns keeps within its owner's limits, every run within its tokens."""
        rules = self.offer.rules
        if stored is not None:
            why = limited.why_not(row, stored, self.offer, self.now)
            if why:
                return await self._refuse(row, stored, why)
        left = await budget.of(self.session, row, stored, rules, self.now)
        if left.spent:
            return await self._refuse(row, stored, left.spent)
        if left.held:
            return self._wait(row, self.now + budget.LOOK_AGAIN, left.held)
        row.tokens = left.tokens
        return await self._turn(row, stored)

    async def _refuse(self, row: RunRow, stored: StoredJob | None, why: str) -> Ended:
        """End what would go beyond a limit: as failed where an attempt was begun."""
        if stored is not None:
            limited.tell(row, stored, why)
        if not row.attempts:
            return await self._end(row, Status.SKIPPED, why)
        # A step from waiting to failed there is not: it is claimed, and not let go on.
        states.check(row.id, row.state, Status.CLAIMED)
        row.status, row.error = Status.CLAIMED, why
        return await self._end(row, Status.FAILED, "")

    async def _turn(self, row: RunRow, stored: StoredJob | None) -> Answer:
        """`docs/promise.md` 17 and 12: runs of one session take turns, and so do all for slots."""
        if row.kind in TALKING:
            row.session_id = sessions.id_of(
                row.parameters, job_id=row.job_id, run_id=row.id, stored=stored
            )
        if why := await sessions.busy(self.session, row, self.now):
            return self._wait(row, self.now + sessions.LOOK_AGAIN, why)
        if wait := await slots.wait(self.session, row, self.offer, self.now):
            waiting = self._wait(row, wait.until, wait.why, wait.waits_for)
            return replace(waiting, free=wait.free)
        return await self._grant(row, stored)

    def _wait(self, row: RunRow, until: datetime, why: str, waits_for: str = "") -> Waiting:
        if row.status != Status.WAITING:
            states.check(row.id, None, Status.WAITING)
        row.status, row.waits_for = Status.WAITING, waits_for
        row.until, row.reason = until, why
        self._carried(row)
        self.session.add(row)
        return Waiting(until, why, row.id, fence=row.fence)

    async def _grant(self, row: RunRow, stored: StoredJob | None) -> Granted:
        states.check(row.id, row.state if row.status else None, Status.CLAIMED)
        if row.trigger == slots.BACKFILL and not row.attempts:
            row.queued_at = self.now  # its deadline counts from here
        row.status = Status.CLAIMED
        row.reason, row.until, row.waits_for = "", None, ""
        row.fence += 1
        row.holder, row.lease_until = self.offer.holder, self.now + TIMING.run_lease
        row.suspected_at = None
        self._carried(row)
        row.flow_starts = self.offer.flow_starts
        self.session.add(row)
        return await grant_of(self.session, row, stored)

    async def _missed(self, row: RunRow, stored: StoredJob, late: Lateness) -> Ended:
        """End a due time as missed; the row of the due times before it includes it, if it can."""
        range_ = None
        if not row.status:  # it has no row of its own yet
            missed = Status.MISSED
            range_ = await ranges.before(self.session, stored, row.due, missed, late.reason)
        if range_ is None:
            return await self._end(row, Status.MISSED, late.reason)
        why = f"late, and {late.why}"
        await outcomes.extend(self.session, range_, row.due, self.now, count=1, reason=why)
        self._link(range_)
        return Ended(Status.MISSED, late.reason, range_.id, range_.flow_run_id)

    def _link(self, row: RunRow) -> None:
        """Let the offering Prefect run show a due time that the audit judged without a run."""
        of_audit = row.unmirrored and row.flow_run_id is None
        if of_audit and offers.is_due_key(self.offer.occurrence):
            self._carried(row)
            self.session.add(row)

    async def _end(self, row: RunRow, status: Status, reason: str) -> Ended:
        self._carried(row)
        await outcomes.write(self.session, row, Outcome(status, reason, error=row.error), self.now)
        return Ended(status, reason, row.id, row.flow_run_id, row.error)

    def _carried(self, row: RunRow) -> None:
        """The offering Prefect run carries ``row``; only what is granted will be started."""
        row.flow_run_id = self.offer.flow_run_id or row.flow_run_id
        row.flow_starts = self.offer.flow_starts - (not self.offer.started)
