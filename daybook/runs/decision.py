"""The decision about one claim; its result is a `ClaimResult`.

`daybook.runs.claims.claim` opens the decision's transaction, which has the claim lock (promise 1:
the claim decides everything). No other code grants claims. `Decision.decide` finds or creates the
occurrence's row, then applies the rules of `daybook.runs.claim_rules` in their order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import prompts, store, upcoming
from daybook.jobs.actions import ACTIONS
from daybook.jobs.lateness import Lateness
from daybook.jobs.store import StoredJob
from daybook.ledger import states, triggers, waits
from daybook.ledger.states import HELD, TERMINAL, Outcome, Status
from daybook.ledger.tables import Fact, RunRow
from daybook.ledger.waits import WaitReason
from daybook.runs import (
    approvals,
    claim_limits,
    claim_requests,
    eligibility,
    leases,
    maintenance,
    missed_ranges,
    outcomes,
    restored,
    rows,
    sessions,
    watched,
    workers,
)
from daybook.runs.claim_requests import (
    ClaimRequest,
    ClaimResult,
    Finished,
    Granted,
    HeldElsewhere,
    NeedsReconcile,
    Waiting,
)
from daybook.runs.maintenance import Windows
from daybook.runs.restored import Restore
from daybook.schedules import due
from daybook.timing import TIMING


async def build_grant(
    session: AsyncSession, row: RunRow, stored: StoredJob | None, now: datetime
) -> Granted:
    """Return the grant for a claimed ``row``; ``stored`` is the revision that the run uses.

    A run that has begun gets the answers of other runs and the messages of its session as they were
    at its begin, so that all its attempts send the same prompt.
    """
    check = row.policy.check
    prompt_texts = (str(row.parameters.get("prompt", "")), check.prompt)
    names_last = ACTIONS[row.kind].reads_prompt or any(
        prompts.uses_variable(p, "last_output") for p in prompt_texts
    )
    return Granted(
        row.id,
        row.fence,
        row.parameters,
        row.occurrence,
        row.due,
        row.trigger,
        stored,
        kind=row.kind,
        session_id=row.session_id or "",
        history=await sessions.history(session, row.session_id, until=row.started_at)
        if row.session_id
        else (),
        last_output=await sessions.last_output(session, row.job_id, until=row.started_at)
        if names_last
        else "",
        outputs={
            name: await sessions.output_of(session, row, stored, name)
            for name in prompts.outputs(prompt_texts[0])
        },
        found=row.found or {},
        seen=await watched.last_seen(session, row.job_id, check) if row.job_id else None,
        attempts=row.attempts,
        tokens=row.tokens,
        is_answer_decided=await approvals.is_answer_decided(session, row, now),
        queued_at=row.queued_at,
    )


class Decision:
    """One claim: its run, and the actions that the rules use to decide about the run.

    ``row`` is the run and ``stored`` its job in the revision that it uses, None for a run without a
    job. ``is_new`` is True if this claim created the row, ``is_timed`` if the run is a due time of
    the job.
    """

    row: RunRow
    stored: StoredJob | None
    is_new: bool

    def __init__(self, session: AsyncSession, now: datetime, request: ClaimRequest) -> None:
        self.session, self.now, self.request = session, now, request
        self._newest: StoredJob | None = None
        self._facts: dict[str, str] | None = None

    @property
    def is_timed(self) -> bool:
        return self.stored is not None and claim_requests.is_due_key(self.row.occurrence)

    @property
    def is_automatic(self) -> bool:
        """Return True if a due time, a chain or a hook started the run, and no person."""
        return self.is_timed or self.row.started_by.by_event

    async def is_answer_decided(self) -> bool:
        """Return whether the run only has to record an outcome, as in `Granted`."""
        return await approvals.is_answer_decided(self.session, self.row, self.now)

    async def newest(self) -> StoredJob | None:
        """Return the job in its newest revision; None for a run without a job."""
        if self._newest is None and self.stored is not None:
            self._newest = await store.get(self.session, self.stored.id)
        return self._newest

    async def restore(self) -> Restore | None:
        """Return the last restore of the ledger; None if there was none."""
        return restored.parse(await self._fact(restored.FACT_KEY))

    async def windows(self) -> Windows:
        """Return the maintenance windows."""
        return maintenance.parse(await self._fact(maintenance.FACT_KEY))

    async def is_draining(self) -> bool:
        """Return whether the claiming worker drains."""
        return await self._fact(workers.drain_key(self.request.worker)) is not None

    async def _fact(self, key: str) -> str | None:
        """Return the value of a fact of the ledger, None without it; read all facts at once."""
        if self._facts is None:
            drain = workers.drain_key(self.request.worker)
            keys = (restored.FACT_KEY, maintenance.FACT_KEY, drain)
            facts = select(Fact.key, Fact.value).where(col(Fact.key).in_(keys))
            self._facts = {key: value for key, value in await self.session.execute(facts)}
        return self._facts.get(key)

    async def decide(self, rules: Sequence[Rule]) -> ClaimResult:
        """Apply ``rules`` until one returns a result, or grant the run; write the decision.

        A run that a process holds, a run that has ended (without a Retry), and an occurrence that
        gets no row have a result before any rule is applied.
        """
        row = await rows.find(self.session, self.request.flow_run_id, self.request.occurrence)
        if row is not None:
            await leases.check_lease(self.session, row, self.now)
        if row is not None and row.state in HELD:
            check_at = leases.next_check_at(row)
            if self._is_later_start(row) and check_at is not None:
                # The same Prefect run was started again: its earlier process may still be alive.
                return Waiting(check_at, f"{row.holder} may still be running")
            return HeldElsewhere(row.id, row.holder, row.flow_run_id)
        if row is not None and row.state in TERMINAL:
            if not await self._is_retry(row):
                is_new = self._link(row)
                reason = row.reason or f"already {row.status}"
                return Finished(row.state, reason, row.id, row.flow_run_id, row.error, is_new)
            await self._retry(row)
        elif row is not None:
            await self._continue_waiting(row)
        elif result := await self._start_new():
            return result
        for rule in rules:
            if result := await rule(self):
                return result
        return await self._grant()

    # --- the row

    async def _continue_waiting(self, row: RunRow) -> None:
        """Continue with a waiting row, in the revision that applies to it now.

        A due time that has not started uses all edits that are in force at the due time. This
        includes edits that were made, or became known, after the creation of its row.
        """
        stored = await rows.job_of(self.session, row)
        if stored is not None and claim_requests.is_due_key(row.occurrence) and not row.attempts:
            rows.use_revision(row, stored)
            if row.wait_reason.is_reservation:
                row.queued_at = row.due + upcoming.stagger_offset(
                    stored.id, stored.job.policy.stagger
                )
            self.session.add(row)
        self.row, self.stored, self.is_new = row, stored, False

    async def _start_new(self) -> ClaimResult | None:
        """Create the row of an occurrence without a row; if it gets none, return the result.

        Return None if the row was created.
        """
        request = self.request
        if request.due > self.now:
            return Waiting(request.due, "not due yet")
        # The job has to be enabled only for a due time, and only a due time can be too late.
        timed, stored = claim_requests.is_due_key(request.occurrence), None
        if request.job_id is not None:
            # A custom run's due time may lie in the second before the job was created.
            at = request.due if timed else self.now
            stored = await store.in_force(self.session, request.job_id, at)
        if timed and (result := self._without_row(stored)):
            return result
        self.row = rows.of_request(request, request.occurrence, request.trigger, stored, self.now)
        self.stored, self.is_new = stored, True
        if timed and stored is not None:
            self.row.parameters = stored.job.parameters()
        elif request.refused:
            self.row.error = request.refused
        return None

    async def _retry(self, ended: RunRow) -> None:
        """Create the row for a Retry of the flow run that carried ``ended``."""
        base, number = (
            claim_requests.flow_key(str(self.request.flow_run_id)),
            len(self.request.retries),
        )
        stored = await store.get(self.session, ended.job_id) if ended.job_id else None
        row = rows.of_request(
            self.request, f"{base}:{number}", triggers.RETRY.name, stored, self.now
        )
        row.due, row.retry_of = self.now, ended.id
        row.parameters = ended.parameters or self.request.parameters
        row.found = rows.payload_of(ended)
        if stored is None:  # the agent has to answer in the same session
            row.session_id = ended.session_id
        if self._carries(ended):
            ended.unmirrored = False  # from here on the flow run's state belongs to the new row
            self.session.add(ended)
        self.row, self.stored, self.is_new = row, stored, True

    def _is_later_start(self, row: RunRow) -> bool:
        return self._carries(row) and self.request.flow_starts > row.flow_starts

    def _carries(self, row: RunRow) -> bool:
        return row.flow_run_id is not None and row.flow_run_id == self.request.flow_run_id

    async def _is_retry(self, row: RunRow) -> bool:
        """Return whether a user requested a Retry after the start that carried ``row``.

        No other start may repeat an ended run, least of all an `unknown` one. Other starts happen
        if a machine restarted, the run was set back, or another worker has claimed the same Retry.
        """
        retries = self.request.retries
        if not retries:
            return False
        # The Prefect run of another due time of a range has never started, so any start is later.
        is_other_of_range = row.due_to is not None and not self._carries(row)
        if not is_other_of_range and (
            not self._is_later_start(row) or retries[-1] < row.flow_starts
        ):
            return False
        base = claim_requests.flow_key(str(self.request.flow_run_id))
        known = select(RunRow.occurrence).where(col(RunRow.occurrence).startswith(f"{base}:"))
        claimed = (await self.session.execute(known)).scalars()
        return all(int(each.rpartition(":")[2]) < len(retries) for each in claimed)

    def _agrees(self, stored: StoredJob) -> bool:
        """Return whether the request has the job's parameters, or the job was just reconciled."""
        return self.request.compared or self.request.parameters == stored.job.parameters()

    def _without_row(self, stored: StoredJob | None) -> ClaimResult | None:
        """Return the result for an instant that gets no row; None if it gets a row."""
        if stored is None or not eligibility.is_due(stored.job, self.request.due):
            return self._not_due(stored)
        if not self._agrees(stored):
            # The job was edited in Prefect, or the run was queued before an edit in Daybook. The
            # revision decides, but the ledger must contain all edits first.
            return NeedsReconcile(stored.id)
        if self.request.due <= stored.row.audited_until:
            return Finished(Status.SKIPPED, "already recorded")
        return None

    def _not_due(self, stored: StoredJob | None) -> ClaimResult:
        request = self.request
        if stored is not None and stored.job.enabled and self._agrees(stored):
            job = stored.job
            why = upcoming.exclusion_reason(job.schedule, job.policy, request.due)
            if why and due.is_due(job.schedule, request.due):
                return Finished(Status.SKIPPED, f"not due: {why}")
        if self.request.compared or self.request.job_id is None:
            return Finished(Status.SKIPPED, "not due")
        return NeedsReconcile(self.request.job_id)

    # --- actions of the rules

    async def refuse(self, why: str) -> Finished:
        """End a run that exceeds a limit: as skipped, or as failed if it has had an attempt."""
        row = self.row
        if self.stored is not None:
            claim_limits.log_refusal(row, self.stored, why)
        if not row.attempts:
            return await self.end(Status.SKIPPED, why)
        # `waiting → failed` is not a legal transition, so claim the run first and fail it at once.
        states.check_transition(row.id, row.state, Status.CLAIMED)
        row.status, row.error = Status.CLAIMED, why
        return await self.end(Status.FAILED, "")

    def wait(self, until: datetime, why: str, reason: WaitReason = waits.UNTIL) -> Waiting:
        """Make the run wait for ``reason``; ``why`` is the text."""
        row = rows.wait(self.row, until, why, reason)
        self._link_request(row)
        self.session.add(row)
        return Waiting(until, why, row.id, fence=row.fence, for_slot=reason.for_slot)

    async def _grant(self) -> Granted:
        row = self.row
        states.check_transition(row.id, row.state if row.status else None, Status.CLAIMED)
        if row.started_by.is_backfill and not row.attempts:
            row.queued_at = self.now  # its deadline counts from here
        row.status = Status.CLAIMED
        row.reason, row.until, row.waits_for = "", None, waits.UNTIL.name
        row.fence += 1
        row.holder, row.lease_until = self.request.holder, self.now + TIMING.run_lease
        row.suspected_at = None
        self._link_request(row)
        row.flow_starts = self.request.flow_starts
        self.session.add(row)
        return await build_grant(self.session, row, self.stored, self.now)

    async def miss(self, stored: StoredJob, late: Lateness) -> Finished:
        """End a due time as missed; if possible, extend the row of the preceding due times."""
        row, missed_range = self.row, None
        late = replace(late, reason=self._with_wait(late.reason), why=self._with_wait(late.why))
        if not row.status:  # this due time has no row of its own yet
            missed = Status.MISSED
            missed_range = await missed_ranges.range_before(
                self.session, stored, row.due, missed, late.reason
            )
        if missed_range is None:
            return await self._end(Status.MISSED, late.reason)
        why = f"late, and {late.why}"
        await outcomes.extend_range(
            self.session, missed_range, row.due, self.now, count=1, reason=why
        )
        self._link(missed_range)
        carrier = missed_range.flow_run_id
        return Finished(Status.MISSED, late.reason, missed_range.id, carrier, is_new=True)

    def _link(self, row: RunRow) -> bool:
        """Link the requesting Prefect run to ``row`` if the audit decided without a Prefect run.

        Return whether it did.
        """
        judged_by_audit = row.unmirrored and row.flow_run_id is None
        links = judged_by_audit and claim_requests.is_due_key(self.request.occurrence)
        if links:
            self._link_request(row)
            self.session.add(row)
        return links

    async def end(self, status: Status, reason: str) -> Finished:
        """Record this outcome instead of granting the claim."""
        if status is Status.SKIPPED:
            reason = self._with_wait(reason)
        return await self._end(status, reason)

    def _with_wait(self, reason: str) -> str:
        """Add the cause of a wait before the run had a row, such as a full disk."""
        waited = self.request.waited if self.is_new else ""
        return f"{reason}; before, it waited: {waited}" if waited else reason

    async def _end(self, status: Status, reason: str) -> Finished:
        row = self.row
        self._link_request(row)
        await outcomes.record(self.session, row, Outcome(status, reason, error=row.error), self.now)
        return Finished(status, reason, row.id, row.flow_run_id, row.error, is_new=True)

    def _link_request(self, row: RunRow) -> None:
        """Record that the requesting Prefect run carries ``row``.

        If a worker claims before Prefect has started the run, do not count this start yet.
        """
        row.flow_run_id = self.request.flow_run_id or row.flow_run_id
        row.flow_starts = self.request.flow_starts - (not self.request.started)


Rule = Callable[[Decision], Awaitable[ClaimResult | None]]
"""A rule of the claim: a result ends the claim; after None, the next rule is applied."""
