"""The `daybook task scheduler` commands.

The task scheduler wakes sessions and escalates tasks; it never claims a task itself.
"""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.options import Json, prepare_prefect
from daybook.errors import InvalidInput

_NO_LEADER = "No keeper leads, so nobody is woken; `daybook keeper` starts one."

Reason = Annotated[str, Parameter(help="Why; it is told to whoever asks for a task meanwhile.")]


async def status_(*, as_json: Json = False) -> int:
    """Show how the tasks are, and what the cycles of the scheduler did.

    Needs no Prefect. Times are by this machine's clock.

    Example: daybook task scheduler status
    """
    from daybook.api import task_scheduler

    status = await task_scheduler.status()
    if as_json:
        output.print_json(status)
    else:
        _print_status(status)
    return 0


async def pause_(*, reason: Reason = "", as_json: Json = False) -> int:
    """Wake nobody and let nothing be claimed, until `resume`. Leases go on, and so does the sweep.

    Example: daybook task scheduler pause --reason "the repository moves"
    """
    from daybook.api import task_scheduler

    return _print_switch(await task_scheduler.pause(reason), as_json)


async def resume_(*, as_json: Json = False) -> int:
    """Let sessions be woken, and claim, again.

    Example: daybook task scheduler resume
    """
    from daybook.api import task_scheduler

    return _print_switch(await task_scheduler.resume(), as_json)


async def drain_(
    *,
    timeout: Annotated[
        str | None,
        Parameter(help="The most that is waited: 10m. Then exit code 1. Default: for ever."),
    ] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> int:
    """Pause, and wait until no session holds a run. It stays paused until `resume`.

    Example: daybook task scheduler drain --timeout 10m
    """
    from daybook.api import task_scheduler

    result = await task_scheduler.drain(timeout, reason, told=_print_remaining)
    if as_json:
        output.print_json(result)
    elif result["drained"]:
        output.line("No session holds a run.")
        output.say("The scheduler stays paused: daybook task scheduler resume")
    else:
        output.line(
            f"Not drained after {formatting.duration(result['waited_seconds'])}:", style="yellow"
        )
        output.fields([(each["run_id"][:8], _holder(each)) for each in result["left"]])
        output.say("The scheduler stays paused: daybook task scheduler resume")
    return 0 if result["drained"] else 1


async def backlog_(
    *,
    limit: Annotated[int, Parameter(help="The most that are listed.", show_default=True)] = 50,
    as_json: Json = False,
) -> int:
    """Show what is queued, in the order in which it is claimed, and why nobody has it yet.

    Example: daybook task scheduler backlog
    """
    if limit < 1:
        raise InvalidInput("limit", f"{limit} is not legal", "legal: 1 or more")
    from daybook.api import task_scheduler

    backlog = await task_scheduler.backlog(limit)
    if as_json:
        output.print_json(backlog)
        return 0
    if not backlog["pending"]:
        output.say("Nothing is queued.")
        return 0
    output.table(
        ("RUN", "TITLE", "PRIORITY", "WAITS", "CYCLES", "WHY"),
        [
            (
                formatting.short_id(each["run_id"]),
                each["title"],
                each["priority"],
                formatting.duration(each["queued_seconds"]),
                str(each["starved_cycles"] or "-"),
                each["why"],
            )
            for each in backlog["runs"]
        ],
        whole=("RUN", "PRIORITY", "WAITS"),
        cut=True,
    )
    counts = ", ".join(
        f"{count:,} {name}" for name, count in backlog["by_priority"].items() if count
    )
    shown = (
        f"; {len(backlog['runs'])} are shown" if len(backlog["runs"]) < backlog["pending"] else ""
    )
    output.say(
        f"{backlog['pending']:,} queued ({counts}), the oldest for {_oldest_age(backlog)}{shown}."
    )
    if backlog["paused"]:
        output.say(_paused_line(backlog))
    return 0


async def cycle_(*, as_json: Json = False) -> int:
    """Carry out one cycle now: take back what leases ran out of, wake, escalate.

    The keeper does one each 15 s. Without Prefect no worker is asked for and no event is sent.

    Example: daybook task scheduler cycle
    """
    prepare_prefect()
    from daybook.api import task_scheduler

    report = await task_scheduler.cycle()
    if as_json:
        output.print_json(report)
    else:
        output.fields(_counter_fields(report))
        for each in report.get("errors", ()):
            output.say(f"! {each}")
    return 0


async def rebuild_(*, as_json: Json = False) -> int:
    """Forget which wakes were sent lately, so that all may be sent anew; starving still counts.

    Example: daybook task scheduler rebuild
    """
    from daybook.api import task_scheduler

    result = await task_scheduler.rebuild()
    if as_json:
        output.print_json(result)
    else:
        output.line("Forgot which wakes were sent lately; the next cycle wakes anew.")
    return 0


def _print_switch(switch: dict[str, Any], as_json: bool) -> int:
    if as_json:
        output.print_json(switch)
    elif switch["paused"]:
        output.line(_paused_line(switch))
    else:
        output.line("The scheduler goes on.")
    return 0


def _print_remaining(runs: list[dict[str, Any]]) -> None:
    """Print the runs that sessions still hold during a drain."""
    output.say("waits for " + "; ".join(f"{each['title']} ({_holder(each)})" for each in runs))


def _holder(run: dict[str, Any]) -> str:
    return f"{run['session']}, until {formatting.local_time(run['lease_until'])}"


def _oldest_age(queue: dict[str, Any]) -> str:
    return formatting.duration(queue["oldest_seconds"])


def _paused_line(switch: dict[str, Any]) -> str:
    why = f": {switch['reason']}" if switch["reason"] else ""
    since = (
        f" since {formatting.local_time(switch['at'])}, by {switch['actor']}"
        if switch["at"]
        else ""
    )
    return f"The scheduler is paused{since}{why}"


def _print_status(status: dict[str, Any]) -> None:
    switch, queue, statistics = status["switch"], status["tasks"], status["statistics"]
    if switch["paused"]:
        output.line(_paused_line(switch), style="bold red")
    else:
        output.line("The scheduler goes on." if status["runs"] else _NO_LEADER)
    oldest = f", the oldest for {_oldest_age(queue)}" if queue["queued"] else ""
    starving = f", {queue['starving']} starving" if queue["starving"] else ""
    output.fields(
        [
            ("queued", f"{queue['queued']}{oldest}{starving}"),
            ("claimed", str(queue["claimed"])),
            ("to look at", str(queue["attention"])),
            ("sessions", f"{queue['free']} free, {queue['busy']} busy"),
            ("cycles", f"{statistics['cycles']:,} that had something to do"),
            ("in all", _totals(statistics["totals"])),
            ("rebuilds", f"{statistics['rebuilds']:,}" + _last_at(statistics["last_rebuild_at"])),
            ("sweep errors", f"{statistics['recovery_errors']:,}"),
        ]
    )
    if last := statistics["last_cycle"]:
        output.line()
        output.line(f"The last of them, at {formatting.local_time(last['at'])}", style="bold")
        output.fields(_counter_fields(last))
    if statistics["errors"]:
        output.line()
        output.line("What failed last, and when", style="bold")
        output.fields(
            [(formatting.local_time(each["at"]), each["error"]) for each in statistics["errors"]]
        )
    for problem in status["problems"]:
        output.line(f"! {problem}", style="yellow")


def _last_at(instant: str | None) -> str:
    return f", the last at {formatting.local_time(instant)}" if instant else ""


def _totals(totals: dict[str, int]) -> str:
    parts = [f"{count:,} {name.replace('_', ' ')}" for name, count in totals.items() if count]
    return ", ".join(parts) or "nothing was done yet"


def _counter_fields(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the counters of a cycle, each with the ids of its runs."""
    about = report.get("runs", {})
    return [
        (name.replace("_", " "), _with_ids(count, about.get(name, [])))
        for name, count in report.items()
        if isinstance(count, int) and not isinstance(count, bool)
    ]


def _with_ids(count: int, ids: list[str]) -> str:
    if not ids:
        return str(count)
    more = " …" if len(ids) > 5 else ""
    return f"{count:<4} {' '.join(each[:8] for each in ids[:5])}{more}"
