"""Diagnoses: functions that return the findings (`daybook.finding`) for given facts.

`doctor`, `status` and `/health` print findings. The page Today shows those of `status` that need a
person, and some more (`attention`). If several reports contain a diagnosis, all of them call the
same function, so that they never disagree. The function is in this module, unless the
table names another place. The caller passes the facts, because the function reads neither the
ledger nor Prefect::

    diagnosis       doctor  status  /health
    sync, jobs        x       x              changes that Prefect lacks, conflicts; failed last
                                             runs; empty answers; missing jobs; changes outside the
                                             jobs file
    leases            x       x              a run whose process stopped renewing its lease
    clock             x       x              the clocks of Prefect and of the ledger
    pool, worker      x       x              a paused pool, a pool of another Daybook; no worker
    ledger            x       x        x     the ledger cannot be written
    disk              x       x        x     one of Daybook's folders is on a full disk
    prefect database  x       x              the size of Prefect's database (`checks.home`)
    keeper            x       x        x     no keeper leads; /health reports this without delay
    outbox            x       x              `outbox_status.OutboxStatus.findings`
    approvals                 x              calls that wait for a person
    maintenance       x                      the current or the next maintenance window
    processes         x       x              restarts by `up` in the last hour (`checks.home`)
    leftovers         x       x              processes of a killed `up`, an interrupted
                                             `ledger move` (`checks.home`)
    one prefect       x       x              `prefect.instances.conflict`
    prefect           x       x        x     Prefect does not answer (`checks.prefect`: the reason)
    late              x       x        x     overdue runs (`runs.overdue`, as the keeper's alerts)
    waiting           x       x              many runs that wait for a slot or a worker

Checks that only `doctor` makes, and the check of the settings, are in `checks`. The metrics count
the same facts. Features add findings to `doctor` (`ledger_checks`) and to `status` (`status`).

To add a finding, write a check in a module of `checks` and list it in one of the tables of
`doctor`, or in the `ledger_checks` of a feature. If `status` or `/health` should report it too,
write its diagnosis here as a function, add a row above, and call the function in the check and in
`status.status` (with its name in `settings.STATUS_FINDINGS`) or `health.findings_of`.
`tests/unit/diagnosis/test_doctor.py` lists the checks that need no Prefect.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from daybook import settings
from daybook.api import overdue
from daybook.api.overdue import DelayFacts, OverdueRun
from daybook.duration_text import duration_in_words
from daybook.errors import FREE_SPACE, UnreadableJob
from daybook.files import plan
from daybook.finding import Finding, FindingAction, Severity, passed, problem, warning
from daybook.home import current_home
from daybook.jobs.lateness import BUSY_AFTER
from daybook.jobs.store import StoredJob
from daybook.jobs.summaries import JobSummary
from daybook.keeper.leader_lease import Leader
from daybook.ledger import arguments
from daybook.ledger.references import command_word
from daybook.ledger.tables import ApprovalRow, JobRow, RunRow
from daybook.owners import namespace
from daybook.policies.policy import ANSWER
from daybook.runs import budget, history, leases
from daybook.schedules.zones import time_with_zone
from daybook.short_text import first_names, one_line

if TYPE_CHECKING:
    from daybook.api.maintenance import MaintenanceWindow
    from daybook.prefect.work_pool import WorkPool

MAX_OF_A_KIND = 12
"""Maximum number of findings of one kind in a report."""
MAX_WHY = 240
"""Maximum number of characters of an error."""
MAX_LISTED = 5
"""Maximum number of jobs that a finding names, and of overdue runs that it describes."""
SET_CLOCK = "on both machines: sudo timedatectl set-ntp true"


CHANGED_ON_BOTH_SIDES = "changed in both the ledger and Prefect"


def sync(jobs: Iterable[JobRow | JobSummary]) -> list[Finding]:
    """Report jobs with a change that is not in Prefect yet, or with changes on both sides."""
    jobs = list(jobs)
    found = few(_conflict(each) for each in jobs if each.conflict)
    if waiting := [each.name for each in jobs if each.sync_pending]:
        count = "A job has a change" if len(waiting) == 1 else f"{len(waiting):,} jobs have changes"
        found.append(
            Finding(
                check="sync",
                severity=Severity.PROBLEM,
                title=f"{count} that Prefect does not have yet",
                why=first_names(waiting),
                fix="daybook sync",
                kind="pending",
                action=FindingAction.SYNC,
            )
        )
    return found


def _conflict(job: JobRow | JobSummary) -> Finding:
    cause, fields = describe_conflict(job.conflict or {})
    return Finding(
        check="sync",
        severity=Severity.PROBLEM,
        title=f"{job.name} {'was ' * (cause == CHANGED_ON_BOTH_SIDES)}{cause}",
        why=fields,
        fix=f"daybook sync {command_word(job)} --prefer ledger (or prefect)",
        kind="conflict",
        job_id=job.id,
        action=FindingAction.COMPARE,
    )


def describe_conflict(conflict: Mapping[str, Any]) -> tuple[str, str]:
    """Return the cause of a job's conflict, and its fields with what makes Prefect's value invalid.

    ``conflict`` is what `links.record_conflict` has stored with the job.
    """
    fields, reasons = conflict["fields"], conflict.get("invalid", {})
    named = [f"{name}, {reasons[name]}" if name in reasons else name for name in sorted(fields)]
    only_invalid = reasons.keys() >= fields.keys()
    cause = "has an invalid value in Prefect" if only_invalid else CHANGED_ON_BOTH_SIDES
    return cause, "; ".join(named)


def drift(stored: Iterable[StoredJob]) -> list[Finding]:
    """Report jobs that were changed outside their jobs file after Daybook applied the file."""
    drifted = [
        f"{each.row.name} ({', '.join(change.field for change in changes)})"
        for each in stored
        if (changes := plan.drift(each))
    ]
    if not drifted:
        return []
    fix = "daybook diff, then change the file, or daybook apply"
    return [warning("jobs", f"changed outside their jobs file: {first_names(drifted)}", fix)]


def failing_jobs(
    jobs: Iterable[JobSummary],
    now: datetime,
    last_failures: Mapping[str | None, tuple[str, str]] = MappingProxyType({}),
) -> list[Finding]:
    """Warn about jobs that have failed since their last success. Only their owners can fix them.

    ``last_failures`` are the ids and statuses of their last failed runs, by job id.
    """
    return [
        Finding(
            check="jobs",
            severity=Severity.WARNING,
            title=f"{each.name} failed " + ("once" if count == 1 else f"{count} times in a row"),
            why=one_line(each.last_error or "", MAX_WHY),
            fix=f"daybook show {command_word(each)}",
            kind="failing",
            job_id=each.id,
            run_id=last_failures.get(each.id, (None, ""))[0],
            action=FindingAction.RUN,
        )
        for each in sorted(jobs, key=lambda job: -job.consecutive_failures)
        if (count := each.consecutive_failures) and not budget.is_of_ended_day(each.last_error, now)
    ]


def unreadable_jobs(errors: Iterable[UnreadableJob]) -> list[Finding]:
    """Report jobs whose stored fields are not valid, so that they do not run."""
    return [
        problem(
            "jobs",
            f"{each.field}: {each.problem}",
            each.hint,
            kind="unreadable",
            job_id=each.job_id,
        )
        for each in errors
    ]


def without_answers(jobs: Iterable[tuple[str, str, str]]) -> list[Finding]:
    """Warn about jobs with empty answers (`history.without_answers`)."""
    return [
        Finding(
            check="jobs",
            severity=Severity.WARNING,
            title=f"The last {history.MAX_EMPTY_ANSWERS} answers of {name} are empty",
            fix=f"daybook show {run_id[:12]}",
            kind="empty",
            job_id=job_id,
            run_id=run_id,
            action=FindingAction.RUN,
        )
        for job_id, name, run_id in jobs
    ]


def broken_chains(
    jobs: Sequence[JobSummary], outputs: Mapping[str, Sequence[str]]
) -> list[Finding]:
    """Warn about each enabled job that depends on a job that does not exist.

    Such a job runs after the missing job, or uses the missing job's answer. ``outputs`` has, by job
    id, the names of the jobs whose answers the job uses (`store.used_outputs`).
    """
    names = {(namespace(each.owner), each.name) for each in jobs}
    found = []
    for each in jobs:
        others = [("--after <job>", "runs after", each.runs_after)]
        others += [
            ("--prompt <text>", "uses the answer of", name) for name in outputs.get(each.id, ())
        ]
        for option, relation, other in others:
            if each.enabled and other and (namespace(each.owner), other) not in names:
                found.append(
                    Finding(
                        check="jobs",
                        severity=Severity.WARNING,
                        title=f"{each.name} {relation} {other}, which does not exist",
                        fix=f"daybook edit {command_word(each)} {option}",
                        kind="chain",
                        job_id=each.id,
                        action=FindingAction.EDIT,
                    )
                )
    return found


def approvals(
    asked: Iterable[tuple[ApprovalRow, RunRow, JobRow | None]], *, quotes: bool = False
) -> list[Finding]:
    """Warn about calls and answers that wait for a person (`runs.approvals.waiting`).

    ``quotes``, only for a reader who may see an answer without an approval, adds the beginning of
    the answer or of unreadable arguments.
    """
    return [_approval(*each, quotes) for each in asked]


def _approval(row: ApprovalRow, run: RunRow, job: JobRow | None, quotes: bool) -> Finding:
    name = job.name if job else "A direct call"
    ref = f"{run.id[:12]}.{row.number}"
    given = None if row.position == ANSWER else arguments.read(row.input)
    if given is None:
        asked = one_line(row.input, MAX_WHY) if quotes else ""
    else:
        asked = f"with {arguments.names(given)}" if given else "without arguments"
    until = f"until {time_with_zone(row.deadline, settings.load().timezone)}"
    return Finding(
        check="approvals",
        severity=Severity.WARNING,
        title=f"{name} has an answer"
        if row.position == ANSWER
        else f"{name} wants to call {row.tool}",
        why=f"{asked} ({until})" if asked else until,
        fix=f"daybook approve {ref}, or daybook reject {ref}",
        kind="approval",
        job_id=run.job_id,
        run_id=run.id,
        action=FindingAction.DECIDE,
    )


def prefect_silent(seconds: float) -> Finding:
    """Report that Prefect has not answered for ``seconds``. `doctor` can find the cause."""
    message = f"Prefect has not answered for {seconds:.0f} s, so no run can start"
    return problem("prefect", message, "daybook doctor")


def expired_leases(live: Iterable[RunRow], now: datetime) -> list[Finding]:
    """Report live runs whose process has stopped renewing their lease."""
    return [
        warning(
            "leases",
            f"run {row.id[:8]}: {row.holder} has not renewed its lease since "
            f"{time_with_zone(row.lease_until, settings.load().timezone, now)}",
        )
        for row in live
        if row.lease_until and leases.is_expired(row, now)
    ]


def clock(check: str, whose: str, ahead: timedelta) -> list[Finding]:
    """Report a clock that differs from this machine's clock by more than a second."""
    message = overdue.clock_skew(whose, ahead)
    return [problem(check, message, SET_CLOCK)] if message else []


def pool(state: WorkPool, api_url: str, *, has_jobs: bool) -> list[Finding]:
    """Report a pool that has only another Daybook's jobs, and a paused pool or paused queues."""
    found = []
    if has_jobs and state.foreign:
        fix = "daybook sync"
        if current_home().running() is None:
            fix = f"{unset_command()}; or, if it is the right Prefect server, {fix}"
        found.append(
            problem("pool", f"{state.foreign}, so {api_url} may be the wrong Prefect server", fix)
        )
    found += [
        warning("pool", f"{each} is paused in Prefect", "resume it in Prefect's UI")
        for each in state.paused
    ]
    return found


def worker(state: WorkPool) -> list[Finding]:
    """Report that no worker of this ledger is online."""
    if not state.idle:
        return []
    fix = "daybook up"
    if current_home().running() is not None:
        fix = f"read {current_home().logs / 'worker.log'}; daybook down, then daybook up"
    return [problem("worker", state.idle, fix)]


def unwritable(why: str) -> Finding:
    """Report a ledger that cannot be written, so that no keeper can lead."""
    message = f"the ledger is not writable: {why}"
    return problem("ledger", message, overdue.ledger_write_fix(why))


def full_disk(folder: Path | None) -> list[Finding]:
    """Report the ``folder`` whose disk is full, so that the worker starts no run; [] for None."""
    if folder is None:
        return []
    return [problem("disk", f"the disk of {folder} is full, so no job starts", FREE_SPACE)]


def keeper(known: DelayFacts) -> list[Finding]:
    """Report that no keeper leads, or that the leader has not observed Prefect recently.

    Report nothing if the work pool is unknown, or if no worker is online. Also report nothing if
    there never was a leader, because the first worker has just started.
    """
    if known.leader is None or known.pool is None or known.pool.idle:
        return []
    message = overdue.keeper_problem(known)
    if message == overdue.NO_KEEPER:
        return [no_keeper(known.leader, known.now)]
    return [problem("keeper", message, "daybook keeper")] if message else []


def no_keeper(leader: Leader | None, now: datetime) -> Finding:
    """Report that no keeper leads. ``leader`` is the last leader, or None if there was none."""
    message = overdue.NO_KEEPER
    if leader is not None:
        message += f"; the last lease expired {duration_in_words(now - leader.until)} ago"
    return problem("keeper", message, "daybook keeper")


def maintenance(windows: Sequence[MaintenanceWindow]) -> list[Finding]:
    """Warn about a current maintenance window. Report a planned window as a passed check."""
    if not windows:
        return []
    first, note = windows[0], f": {windows[0].note}" if windows[0].note else ""
    tz = settings.load().timezone
    end = time_with_zone(first.end, tz)
    if first.active:
        message = f"no job starts until {end}{note}"
        return [warning("maintenance", message, f"daybook maintenance remove {first.id[:8]}")]
    message = f"no job starts from {time_with_zone(first.begin, tz)} until {end}{note}"
    return [passed("maintenance", message)]


def late(listed: Sequence[OverdueRun], count: int | None = None) -> list[Finding]:
    """Report overdue runs: describe the first `MAX_LISTED` of ``listed``, and count the others.

    ``count`` is the number of all overdue runs; the default is the length of ``listed``.
    """
    found = [problem("late", each.as_sentence(), "") for each in listed[:MAX_LISTED]]
    if more := (len(listed) if count is None else count) - len(found):
        runs = "run is" if more == 1 else "runs are"
        found.append(problem("late", f"{more:,} more {runs} overdue", "daybook status"))
    return found


def waiting(live: Iterable[RunRow], now: datetime, state: WorkPool | None) -> list[Finding]:
    """Warn if runs have waited longer than `BUSY_AFTER` and wait for a slot or a worker's room.

    Also warn if runs are due that the workers have had no time for. Without a worker that may start
    them, another finding has the cause. A backfill waits until nothing else does, and the
    beginning of the wait for a further attempt is unknown, so these do not count, and neither does
    a run that was called to claim now.
    """
    if state is None or state.idle or state.paused:
        return []
    found = list[Finding]()
    if state.unclaimed:
        fix = "add a worker, or let jobs be due at other times"
        found.append(warning("waiting", overdue.unclaimed(state.unclaimed), fix))
    waits_for_slot = [
        each
        for each in live
        if each.wait_reason.for_slot
        and each.until is not None
        and each.until > now
        and not each.attempts
        and not each.started_by.is_backfill
    ]
    first = min(waits_for_slot, key=lambda each: each.queued_at, default=None)
    if first is None or now - first.queued_at <= BUSY_AFTER:
        return found
    count = len(waits_for_slot)
    message = (
        f"{'A run waits' if count == 1 else f'{count:,} runs wait'} for a slot ({first.reason}); "
        f"the first one began to wait {duration_in_words(now - first.queued_at)} ago"
    )
    if all(each.wait_reason.of_worker for each in waits_for_slot):
        fix = "add a worker, or raise `worker_limit`"
    else:
        fix = "raise `max_concurrent` or the limit of the class if the machines have room"
    return [warning("waiting", message, f"{fix}; or let jobs be due at other times"), *found]


def unset_command() -> str:
    """Return the command that removes the user's own setting of the Prefect server."""
    if os.environ.get("PREFECT_API_URL"):
        return "unset PREFECT_API_URL"
    return "prefect config unset PREFECT_API_URL"


def few(found: Iterable[Finding]) -> list[Finding]:
    """Return at most `MAX_OF_A_KIND` findings of each kind; a last one counts the others."""
    found = list(found)
    count = Counter(_kind(each) for each in found)
    kept, seen = list[Finding](), Counter[tuple[str, str]]()
    for each in found:
        kind = _kind(each)
        seen[kind] += 1
        if count[kind] <= MAX_OF_A_KIND or seen[kind] < MAX_OF_A_KIND:
            kept.append(each)
        elif seen[kind] == MAX_OF_A_KIND:
            kept.append(
                Finding(
                    check=each.check,
                    severity=each.severity,
                    title=f"{count[kind] - MAX_OF_A_KIND + 1:,} more like this",
                    kind=each.kind,
                )
            )
    return kept


def _kind(found: Finding) -> tuple[str, str]:
    return found.check, found.kind


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
