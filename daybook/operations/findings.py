"""Findings: what is wrong with this Daybook, each with its fix.

`doctor`, `status` and `/health` print findings. A diagnosis that several of them report is a
function here, so they never disagree. Each gets facts that the caller has read, and reads nothing
of the ledger or Prefect::

    diagnosis       doctor  status  /health
    sync, jobs        x       x              not in Prefect, changed on both sides; failed last
    leases            x       x              a run whose process stopped renewing its lease
    clock             x       x              Prefect's clock, and the ledger's
    pool, worker      x       x              paused, of another Daybook; no worker
    ledger            x       x        x     it cannot be written
    keeper            x       x        x     none leads; /health reports that without delay
    outbox            x       x              `outbox_status.OutboxStatus.findings`
    tasks             x       x              paused scheduler, tasks that need attention
    late              x       x        x     overdue runs (`runs.overdue`, as the keeper's alerts)

Checks that only `doctor` makes, and that of the settings, are in `checks`. The metrics are counts
of the same facts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from daybook.api import overdue, task_scheduler, views
from daybook.api.overdue import DelayFacts
from daybook.home import current_home
from daybook.jobs.store import StoredJob
from daybook.keeper.leader_lease import Leader
from daybook.ledger.tables import RunRow
from daybook.runs import leases
from daybook.schedules.descriptions import duration_in_words
from daybook.tasks.counts import TaskCounts
from daybook.tasks.pause import UNREADABLE

if TYPE_CHECKING:
    from daybook.prefect.work_pool import WorkPool

MAX_LISTED = 5
"""Maximum number of jobs that a finding names, and of overdue runs that are described."""
SET_CLOCK = "on both machines: sudo timedatectl set-ntp true"


class Severity(StrEnum):
    """Severity of a finding. A warning does not make the installation unsound."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """Result of a check. ``fix`` is a command, or what to do and the command for it.

    A warning may have no ``fix``. A skipped check has the reason as its ``message``.
    """

    check: str
    severity: Severity
    message: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return "; fix: ".join(filter(None, (self.message, self.fix)))


def problem(check: str, message: str, fix: str) -> Finding:
    return Finding(check, Severity.PROBLEM, message, fix)


def warning(check: str, message: str, fix: str = "") -> Finding:
    return Finding(check, Severity.WARNING, message, fix)


def sync(stored: Iterable[StoredJob]) -> list[Finding]:
    """Report jobs that Prefect does not have as the ledger has them."""
    stored, found = list(stored), []
    if waiting := [each.row.name for each in stored if each.row.sync_pending]:
        found.append(problem("sync", f"not in Prefect yet: {join(waiting)}", "daybook sync"))
    conflicts = [
        f"{each.row.name} ({', '.join(each.row.conflict['fields'])})"
        for each in stored
        if each.row.conflict
    ]
    if conflicts:
        fix = "daybook conflicts, then daybook sync --prefer ledger (or prefect)"
        message = f"changed in both the ledger and Prefect: {join(conflicts)}"
        found.append(problem("sync", message, fix))
    return found


def failing_jobs(stored: Iterable[StoredJob]) -> list[Finding]:
    """Report jobs whose last run failed: their owner's concern, so only a warning."""
    found = []
    for each in stored:
        if count := each.row.consecutive_failures:
            times = "once" if count == 1 else f"{count} times in a row"
            error = (each.row.last_error or "").strip().partition("\n")[0]
            message = f"{each.row.name} failed {times}" + (f": {error}" if error else "")
            found.append(warning("jobs", message))
    return found


def expired_leases(live: Iterable[RunRow], now: datetime) -> list[Finding]:
    """Report live runs whose process no longer renews their lease."""
    return [
        warning(
            "leases",
            f"run {row.id[:8]}: {row.holder} has not renewed its lease since "
            f"{views.utc_text(row.lease_until)}",
        )
        for row in live
        if leases.is_expired(row, now)
    ]


def clock(check: str, whose: str, ahead: timedelta) -> list[Finding]:
    """Report a clock that is more than a second off this machine's (promise 16)."""
    message = overdue.clock_skew(whose, ahead)
    return [problem(check, message, SET_CLOCK)] if message else []


def pool(state: WorkPool, api_url: str, *, has_jobs: bool) -> list[Finding]:
    """Report a work pool with the jobs of another Daybook only, and what is paused in Prefect."""
    found = []
    if has_jobs and state.foreign:
        fix = "daybook sync"
        if current_home().running() is None:
            fix = f"{unset_command()}; or, if it is the right Prefect, {fix}"
        found.append(problem("pool", f"{state.foreign}: {api_url} is its Prefect", fix))
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
    message = f"the ledger cannot be written: {why}"
    return problem("ledger", message, overdue.ledger_write_fix(why))


def keeper(known: DelayFacts) -> list[Finding]:
    """Report that no keeper leads or none has observed Prefect lately, while a worker is online.

    If there never was a leader, the first worker has just started.
    """
    if known.leader is None or known.pool is None or known.pool.idle:
        return []
    message = overdue.keeper_problem(known)
    if message == overdue.NO_KEEPER:
        return [no_keeper(known.leader, known.now)]
    return [problem("keeper", message, "daybook keeper")] if message else []


def no_keeper(leader: Leader | None, now: datetime) -> Finding:
    """Report that no keeper leads; ``leader`` is the last one."""
    message = overdue.NO_KEEPER
    if leader is not None:
        message += f"; the last lease expired {duration_in_words(now - leader.until)} ago"
    return problem("keeper", message, "daybook keeper")


def tasks(state: TaskCounts, now: datetime) -> list[Finding]:
    """Report a paused task scheduler, and tasks that starve or need attention."""
    return [
        Finding(
            "tasks",
            Severity.PROBLEM if UNREADABLE in each.what else Severity.WARNING,
            each.what,
            each.command,
        )
        for each in task_scheduler.problems(state, now)
    ]


def late(listed: Sequence[dict[str, Any]], most: int = MAX_LISTED) -> list[Finding]:
    """Report overdue runs, given as `overdue.overdue_views`; describe at most ``most`` of them."""
    found = [problem("late", overdue.as_sentence(each), "") for each in listed[:most]]
    if more := len(listed) - len(found):
        runs = "run is" if more == 1 else "runs are"
        found.append(problem("late", f"{more:,} more {runs} overdue", "daybook status"))
    return found


def unset_command() -> str:
    """Return the command that unsets the user's own setting of a server."""
    if os.environ.get("PREFECT_API_URL"):
        return "unset PREFECT_API_URL"
    return "prefect config unset PREFECT_API_URL"


def join(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
