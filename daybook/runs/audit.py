"""The audit of due times: each due time up to a job's watermark has a row (`docs/promise.md` 10).

::

    ────────────────┬──────────────────────────────────┬──────────► time
         audited_until ── due times without a row ── up_to
         claims make no rows             │
         before this watermark           ├─ by hand, disabled, maintenance ► skipped ┐ adjacent ones
                                         ├─ too late ──────────────────────► missed  ┘ are one row
                                         └─ may still run ─────────────────► waiting

The audit decides with the functions of the claim, by the revision in force at each due time. As in
the claim, the enabled flag, skips, snoozes and `max_runs` apply as they are now: a job that has had
all its runs skips its due times. The audit reads nothing from Prefect. One transaction writes the
rows and moves the watermark, so a crash cannot separate the two.

If a job catches up on all due times of the last day, their rows wait in order, each row behind the
row before it. If a job catches up only on the latest due time, the audit skips an earlier row that
still waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice, pairwise
from typing import Any, NamedTuple

import sqlalchemy
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import lateness, store, upcoming
from daybook.jobs.lateness import Following
from daybook.jobs.store import StoredJob
from daybook.ledger import states, triggers, waits
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import JobRow, RunRow, new_id
from daybook.runs import (
    claim_requests,
    claim_rules,
    eligibility,
    maintenance,
    missed_ranges,
    outcomes,
    restored,
    rows,
)
from daybook.runs.decision import Rule
from daybook.runs.maintenance import Windows
from daybook.runs.restored import Restore

MAX_DUE_TIMES = 2000
"""Maximum number of due times in one transaction; this number takes about a third of a second."""

NOT_RUN_REASON = "no worker ran it in time"
SUPERSEDED_REASON = "a later due time of the job runs instead"


@dataclass(frozen=True)
class AuditResult:
    """The new watermark ``until``, and the number of due times with each status.

    ``more`` is True if due times remain before the instant up to which the caller wanted to audit.
    ``following`` is the job's next due time after ``until`` by its newest ``revision``; None if no
    due time follows, or if the job is disabled or removed. If there was nothing to audit,
    ``revision`` is 0 and ``following`` is None. ``revision`` is 0 too if the newest revision comes
    into force after ``until``: an earlier one may have due times before that.
    """

    until: datetime
    revision: int = 0
    missed: int = 0
    waiting: int = 0
    skipped: int = 0
    more: bool = False
    following: datetime | None = None


class Watermark(NamedTuple):
    """The watermark ``until`` of one job in its newest ``revision``.

    ``archived_at`` is the time of the job's removal, None for a live job.
    """

    job_id: str
    until: datetime
    revision: int
    archived_at: datetime | None


_JOBS: Any = JobRow.__table__  # type: ignore[attr-defined]
_WATERMARKS = (
    sqlalchemy.select(_JOBS.c.id, _JOBS.c.audited_until, _JOBS.c.revision, _JOBS.c.archived_at)
    .where(_JOBS.c.archived_at.is_(None) | (_JOBS.c.audited_until < _JOBS.c.archived_at))
    .order_by(_JOBS.c.audited_until, _JOBS.c.id)
)


async def watermarks(session: AsyncSession) -> list[Watermark]:
    """Return the watermarks of all live jobs, the earliest watermark first.

    Include the removed jobs that the audit has not finished up to their removal.
    """
    return [Watermark._make(each) for each in await session.execute(_WATERMARKS)]


async def advance(
    ledger: Ledger, job_id: str, up_to: datetime, most: int = MAX_DUE_TIMES
) -> AuditResult | None:
    """Audit the job's due times up to ``up_to`` (UTC), at most ``most`` of them.

    Stop at the removal of the job, and one minute before now, because a process can still claim a
    later due time on time. Return None if the job does not exist.
    """
    async with ledger.write() as session:
        row = await session.get(JobRow, job_id)
        if row is None:
            return None
        now = ledger.now()
        up_to = min(up_to, now - lateness.ON_TIME_GRACE, row.archived_at or now)
        if up_to <= row.audited_until:
            return AuditResult(row.audited_until)
        revisions = await store.revisions_since(session, job_id, row.audited_until)
        times = _due_times(revisions, row.audited_until, up_to)
        chunk = list(islice(times, most))
        more = len(chunk) == most and next(times, None) is not None
        until = chunk[-1].due if more else up_to
        audit = _Audit(session, now, revisions[-1], row.audited_until)
        if chunk:
            await audit.run(chunk)
        row.audited_until = until
        session.add(row)
        newest, in_force = revisions[-1].job, revisions[-1].revision.effective_from <= until
        continues = newest.enabled and row.archived_at is None
        return AuditResult(
            until,
            revisions[-1].revision.number if in_force else 0,
            audit.counts[Status.MISSED],
            audit.counts[Status.WAITING],
            audit.counts[Status.SKIPPED],
            more,
            upcoming.next_due(newest.schedule, newest.policy, until) if continues else None,
        )


async def miss_until(session: AsyncSession, job_id: str, now: datetime) -> int:
    """Record as missed each due time of the job up to ``now`` that has no row; return the number.

    The restore of a ledger (`restored`) calls this function with its time, because none of these
    due times may run, not even a recent one. A waiting row of the audited due times that only
    waits for its due time (`waits.DUE`) is recorded as missed too. Stop at the removal of the job.
    Return 0 if the job does not exist. Raise `UnreadableJob`; then `advance` records them as missed
    later.
    """
    row = await session.get(JobRow, job_id)
    up_to = min(now, row.archived_at or now) if row is not None else now
    if row is None or up_to <= row.audited_until:
        return 0
    revisions = await store.revisions_since(session, job_id, row.audited_until)
    times, count = _due_times(revisions, row.audited_until, up_to), 0
    while chunk := list(islice(times, MAX_DUE_TIMES)):
        audit = _Audit(session, now, revisions[-1], row.audited_until)
        await audit.run(chunk)
        row.audited_until = chunk[-1].due
        count += audit.counts[Status.MISSED]
    row.audited_until = up_to
    session.add(row)
    return count


@dataclass(frozen=True)
class _DueTime:
    """A due time, the job in the revision in force then, and that revision's next due time."""

    stored: StoredJob
    due: datetime
    following: datetime | None


def _due_times(
    revisions: Sequence[StoredJob], after: datetime, up_to: datetime
) -> Iterator[_DueTime]:
    """Yield the due times in (``after``, ``up_to``], each by the revision in force at that time.

    A revision in which the job is disabled has no due times.
    """
    ends: Iterable[datetime | None] = [each.revision.effective_from for each in revisions[1:]]
    for stored, end in zip(revisions, chain(ends, [None]), strict=True):
        job, start = stored.job, stored.revision.effective_from
        if not job.enabled:
            continue
        times = upcoming.due_times(
            job.schedule, job.policy, after=max(after, start), inclusive=start > after
        )
        for due, following in pairwise(chain(times, [None])):
            if due is None or due > up_to or (end is not None and due >= end):
                break
            yield _DueTime(stored, due, following)


@dataclass
class _Range:
    """Adjacent due times with one revision and status; missed due times may differ in reason."""

    stored: StoredJob
    status: Status
    reason: str
    first: datetime
    last: datetime
    count: int = 1


@dataclass(frozen=True)
class _Verdict:
    """Status and reason of a due time; ``late`` is True if its run is a catch-up."""

    status: Status
    reason: str
    late: bool = False


@dataclass
class _Audit:
    """The audit of one batch of due times of the job ``newest``, in its newest revision.

    ``before`` is the job's watermark before the batch.
    """

    session: AsyncSession
    now: datetime
    newest: StoredJob
    before: datetime
    counts: dict[Status, int] = field(
        default_factory=lambda: dict.fromkeys((Status.MISSED, Status.WAITING, Status.SKIPPED), 0)
    )
    restore: Restore | None = None
    max_runs_reason: str = ""
    windows: Windows = field(default_factory=Windows)
    _open_range: _Range | None = None
    _templates: dict[int, dict[str, Any]] = field(default_factory=dict)
    _new_rows: list[dict[str, Any]] = field(default_factory=list)

    async def run(self, chunk: Sequence[_DueTime]) -> None:
        existing = await self._rows(chunk[-1].due)
        # A claim may have extended a range beyond the watermark.
        judged = await missed_ranges.range_covering(self.session, self.newest.id, chunk[0].due)
        self.max_runs_reason = await eligibility.max_runs_reason(
            self.session, self.newest, self.now
        )
        self.windows = await maintenance.read(self.session)
        self.restore = await restored.read(self.session)
        for each in chunk:
            row = existing.get(each.due)
            if row is not None and not row.wait_reason.is_reservation:
                judged = row
                await self._close_range()
                continue
            if row is None and judged is not None and each.due <= (judged.due_to or judged.due):
                continue
            verdict = self.judge(each)
            if verdict.status is Status.WAITING:
                await self._close_range()
                await self._add_waiting(each, row, verdict)
            elif row is not None:
                await self._close_range()
                rows.use_revision(row, each.stored)
                await self._write(row, verdict.status, verdict.reason)
            else:
                await self._add_to_range(each, verdict.status, verdict.reason)
            self.counts[verdict.status] += 1
        await self._close_range()
        await self._insert()

    async def _rows(self, up_to: datetime) -> dict[datetime, RunRow]:
        of_job = select(RunRow).where(
            col(RunRow.job_id) == self.newest.id,
            col(RunRow.due) > self.before,
            col(RunRow.due) <= up_to,
            claim_requests.HAS_DUE_KEY,
        )
        return {row.due: row for row in (await self.session.execute(of_job)).scalars()}

    def judge(self, each: _DueTime) -> _Verdict:
        """Decide about a due time that no process claimed: apply `_JUDGES` in the claim's order."""
        if self.restore is not None and each.due <= self.restore.at:
            return _Verdict(Status.MISSED, self.restore.reason)
        for rule in claim_rules.RULES:
            if rule in _JUDGES and (verdict := _JUDGES[rule](self, each)):
                return verdict
        return _Verdict(Status.WAITING, NOT_RUN_REASON)

    def skipped(self, each: _DueTime) -> _Verdict | None:
        why = eligibility.skip_reason(self.newest, each.due, self.max_runs_reason)
        return _Verdict(Status.SKIPPED, why) if why else None

    def maintenance(self, each: _DueTime) -> _Verdict | None:
        why = self.windows.skip_reason(each.stored, each.due)
        return _Verdict(Status.SKIPPED, why) if why else None

    def late(self, each: _DueTime) -> _Verdict | None:
        late = lateness.judge_at(each.stored, each.due, self.now, Following(each.following))
        if not late.runs:
            return _Verdict(Status.MISSED, f"{NOT_RUN_REASON}, and {late.why}")
        return _Verdict(Status.WAITING, late.reason, late=True) if late.reason else None

    async def _add_to_range(self, each: _DueTime, status: Status, reason: str) -> None:
        open_range = self._open_range
        if (
            open_range is not None
            and open_range.stored is each.stored
            and open_range.status is status
            and missed_ranges.may_share_a_row(status, open_range.reason, reason)
        ):
            open_range.last, open_range.reason = each.due, reason
            open_range.count += 1
        else:
            await self._close_range()
            self._open_range = _Range(each.stored, status, reason, each.due, each.due)

    async def _close_range(self) -> None:
        """Write the open range, or extend the row of the adjacent due times before it."""
        closed, self._open_range = self._open_range, None
        if closed is None:
            return
        last = await missed_ranges.range_before(
            self.session, closed.stored, closed.first, closed.status, closed.reason
        )
        if last is not None:
            await outcomes.extend_range(
                self.session, last, closed.last, self.now, count=closed.count, reason=closed.reason
            )
            return
        row = self._row(closed.stored, closed.first)
        if closed.count > 1:
            row.due_to, row.count = closed.last, closed.count
        await self._write(row, closed.status, closed.reason)

    async def _write(self, row: RunRow, status: Status, reason: str) -> None:
        """Write the outcome, and mark the row for the state mirror even if it has no Prefect run.

        The state mirror creates the missing Prefect run. For a removed job, mark only rows that
        have a Prefect run.
        """
        await outcomes.record(self.session, row, Outcome(status, reason), self.now)
        if self.newest.row.archived_at is None:
            row.unmirrored = True
            self.session.add(row)

    async def _add_waiting(self, each: _DueTime, row: RunRow | None, verdict: _Verdict) -> None:
        policy, late = each.stored.job.policy, verdict.late
        if late and policy.catch_up == "latest":
            await self._supersede(each.due)
        begins = max(self.now, each.due + upcoming.stagger_offset(self.newest.id, policy.stagger))
        reason = waits.OVERLAP if late and policy.catch_up == "all" else waits.UNTIL
        # During maintenance there may be no worker whose claim makes the run wait.
        if end := self.windows.end_at(begins):
            begins, reason = end, waits.MAINTENANCE if reason is waits.UNTIL else reason
        elif begins > self.now:
            reason = waits.STAGGER if reason is waits.UNTIL else reason
        columns: dict[str, Any] = {
            "until": begins,
            "queued_at": begins,
            "reason": verdict.reason,
            # Catch-up rows run in order, whichever of their Prefect runs starts first.
            "waits_for": reason.name,
            "trigger": (triggers.CATCH_UP if late else triggers.SCHEDULE).name,
        }
        if row is not None:
            rows.use_revision(row, each.stored)
            row.sqlmodel_update(columns)
            self.session.add(row)
            return
        states.check_transition(each.stored.id, None, Status.WAITING)
        columns |= {"id": new_id(), "status": Status.WAITING.value}
        columns |= {"occurrence": claim_requests.due_key(each.stored.id, each.due), "due": each.due}
        number = each.stored.revision.number  # all rows of a revision have the same other columns
        if number not in self._templates:
            self._templates[number] = self._row(each.stored, self.now).model_dump()
        self._new_rows.append(self._templates[number] | columns)

    async def _insert(self) -> None:
        """Insert the waiting rows at once: a job that catches up on a day may have thousands."""
        new_rows, self._new_rows = self._new_rows, []
        if new_rows:
            await self.session.execute(insert(RunRow), new_rows)

    async def _supersede(self, due: datetime) -> None:
        await self._insert()
        waiting = select(RunRow).where(
            col(RunRow.job_id) == self.newest.id,
            col(RunRow.status) == Status.WAITING,
            col(RunRow.trigger) == triggers.CATCH_UP.name,
            col(RunRow.attempts) == 0,
            col(RunRow.due) < due,
        )
        for row in (await self.session.execute(waiting)).scalars().all():
            await outcomes.record(
                self.session, row, Outcome(Status.SKIPPED, SUPERSEDED_REASON), self.now
            )

    def _row(self, stored: StoredJob, due: datetime) -> RunRow:
        key = claim_requests.due_key(stored.id, due)
        return rows.of_job(stored, key, "schedule", due, self.now)


_JUDGES: dict[Rule, Callable[[_Audit, _DueTime], _Verdict | None]] = {
    claim_rules.switched_off: _Audit.skipped,
    claim_rules.skipped_by_maintenance: _Audit.maintenance,
    claim_rules.too_late: _Audit.late,
}
"""Rules of the claim that the audit applies to a due time that no process claimed.

The audit applies them in the order of `claim_rules.RULES`. The other rules apply only when a
process wants to begin the run, so each claim of a waiting row applies them.
"""
