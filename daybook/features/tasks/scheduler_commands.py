"""The `daybook task scheduler` commands.

The task scheduler queues runs again whose leases have expired, wakes sessions, and escalates tasks.
It never claims a task itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import Limit, check_limit
from daybook.features import tasks

if TYPE_CHECKING:
    from daybook.features.tasks.pause import PauseState
    from daybook.features.tasks.statistics import CycleSummary
    from daybook.features.tasks.views import Backlog, HeldTaskRun, SchedulerStatus, TaskTotals

_NO_LEADER = "No keeper is the leader, so no session is woken. Start one with `daybook keeper`."

_STAYS_PAUSED = "The scheduler stays paused. To resume it, run: daybook task scheduler resume"

Reason = Annotated[str, Parameter(help="Reason, shown to sessions that ask for a task.")]


@command()
async def status_() -> Answer:
    """Show task counts and the results of the scheduler's cycles.

    Times are in this machine's time zone.

    Example: daybook task scheduler status
    """
    status = await tasks.scheduler_operations.status()
    yield status
    _print_status(status)


@command()
async def pause_(*, reason: Reason = "") -> Answer:
    """Stop wakes and claims until `resume`. Leases still expire.

    Example: daybook task scheduler pause --reason "the repository moves"
    """
    yield (answer := await tasks.scheduler_operations.pause(reason))
    _print_switch(answer)


@command()
async def resume_() -> Answer:
    """Allow wakes and claims again.

    Example: daybook task scheduler resume
    """
    yield (answer := await tasks.scheduler_operations.resume())
    _print_switch(answer)


@command()
async def drain_(
    *,
    timeout: Annotated[
        str | None,
        Parameter(help="Maximum wait, such as 10m; then exit with code 1. [default: no limit]"),
    ] = None,
    reason: Reason = "",
) -> Answer:
    """Pause the scheduler until `resume`, and wait until no session holds a run.

    Example: daybook task scheduler drain --timeout 10m
    """
    result = await tasks.scheduler_operations.drain(timeout, reason, on_change=_print_remaining)
    yield result, 0 if result.drained else 1
    if result.drained:
        output.line("No session holds a run.")
        output.say(_STAYS_PAUSED)
    else:
        output.line(
            f"Still not drained after {formatting.duration(result.waited_seconds)}; runs held:",
            style="yellow",
        )
        output.fields([(each.run_id[:8], _holder(each)) for each in result.left])
        output.say(_STAYS_PAUSED)


@command()
async def backlog_(
    *,
    limit: Limit = 50,
) -> Answer:
    """List queued runs in claim order, with the reason why no session has claimed each.

    Example: daybook task scheduler backlog
    """
    check_limit(limit)

    backlog = await tasks.scheduler_operations.backlog(limit)
    yield backlog
    if not backlog.pending:
        output.say("No run is queued.")
        return
    output.table(
        ("RUN", "TITLE", "PRIORITY", "WAITING", "CYCLES", "REASON"),
        [
            (
                formatting.short_id(each.run_id),
                each.title,
                each.priority,
                formatting.duration(each.queued_seconds),
                str(each.starved_cycles or "-"),
                each.why,
            )
            for each in backlog.runs
        ],
        whole=("RUN", "PRIORITY", "WAITING"),
        cut=True,
    )
    counts = ", ".join(f"{count:,} {name}" for name, count in backlog.by_priority.items() if count)
    shown = (
        f"; the first {len(backlog.runs)} are listed" if len(backlog.runs) < backlog.pending else ""
    )
    output.say(
        f"{backlog.pending:,} queued ({counts}), the oldest for {_oldest_age(backlog)}{shown}."
    )
    if backlog.paused:
        output.say(_paused_line(backlog))


@command(uses_prefect=True)
async def cycle_() -> Answer:
    """Run one cycle now: requeue runs with expired leases, wake sessions, escalate tasks.

    The keeper runs one every 15 s, or as `interval` in `[tasks]` says. Without Prefect, a cycle
    requests no worker and sends no event.

    Example: daybook task scheduler cycle
    """
    report = await tasks.scheduler_operations.cycle()
    yield report
    output.fields(_counter_fields(report))
    for each in report.errors:
        output.say(f"! {each}")


@command()
async def rebuild_() -> Answer:
    """Clear the record of recent wakes, so that all sessions can be woken again.

    Counts of starving cycles are kept.

    Example: daybook task scheduler rebuild
    """
    result = await tasks.scheduler_operations.rebuild()
    yield result
    cleared = formatting.counted(result.cleared, "recent wake")
    output.line(f"Forgot {cleared}. The next cycle may wake every session.")
    output.fields(
        [
            ("queued", str(result.pending)),
            ("claimed", str(result.active)),
            ("sessions", str(result.sessions)),
        ]
    )


def _print_switch(switch: PauseState) -> None:
    if switch.paused:
        output.line(_paused_line(switch))
    else:
        output.line("The scheduler is not paused.")


def _print_remaining(runs: Sequence[HeldTaskRun]) -> None:
    """Print the runs that sessions still hold during a drain."""
    output.say("Waiting for " + "; ".join(f"{each.title} ({_holder(each)})" for each in runs))


def _holder(run: HeldTaskRun) -> str:
    return f"{run.session}, until {formatting.local_time(run.lease_until)}"


def _oldest_age(queue: Backlog | TaskTotals) -> str:
    return formatting.duration(queue.oldest_seconds or 0.0)


def _paused_line(switch: PauseState | Backlog) -> str:
    why = f": {switch.reason}" if switch.reason else ""
    since = f" since {formatting.local_time(switch.at)}, by {switch.actor}" if switch.at else ""
    return f"The scheduler is paused{since}{why}"


def _print_status(status: SchedulerStatus) -> None:
    switch, queue, statistics = status.switch, status.tasks, status.statistics
    if switch.paused:
        output.line(_paused_line(switch), style="bold red")
    else:
        output.line("The scheduler is running." if status.runs else _NO_LEADER)
    oldest = f", the oldest for {_oldest_age(queue)}" if queue.queued else ""
    starving = f", {queue.starving} starving" if queue.starving else ""
    totals = [f"{n:,} {name.replace('_', ' ')}" for name, n in statistics.totals.items() if n]
    rebuilt_at = statistics.last_rebuild_at
    last_rebuild = f", last at {formatting.local_time(rebuilt_at)}" if rebuilt_at else ""
    output.fields(
        [
            ("queued", f"{queue.queued}{oldest}{starving}"),
            ("claimed", str(queue.claimed)),
            ("need attention", str(queue.attention)),
            ("sessions", f"{queue.free} free, {queue.busy} busy"),
            ("cycles", f"{statistics.cycles:,} with work"),
            ("totals", ", ".join(totals) or "none yet"),
            ("rebuilds", f"{statistics.rebuilds:,}{last_rebuild}"),
            ("lease errors", f"{statistics.recovery_errors:,}"),
        ]
    )
    if last := statistics.last_cycle:
        output.line()
        output.line(f"Last cycle with work, at {formatting.local_time(last.at)}", style="bold")
        output.fields(_counter_fields(last))
    if statistics.errors:
        output.line()
        output.line("Last errors", style="bold")
        output.fields([(formatting.local_time(each.at), each.error) for each in statistics.errors])
    for problem in status.problems:
        output.line(f"! {problem}", style="yellow")


def _counter_fields(report: CycleSummary) -> list[tuple[str, str]]:
    """Return the counters of a cycle, each with the ids of up to five of its runs."""
    return [
        (name.replace("_", " "), _with_ids(count, report.runs.get(name, [])))
        for name, count in report
        if isinstance(count, int)
    ]


def _with_ids(count: int, ids: list[str]) -> str:
    if not ids:
        return str(count)
    more = " …" if len(ids) > 5 else ""
    return f"{count:<4} {' '.join(each[:8] for each in ids[:5])}{more}"
