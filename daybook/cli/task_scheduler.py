"""`daybook task scheduler`: what wakes sessions and escalates; it never claims by itself."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.options import Json
from daybook.cli.prefect_first import prefect_first
from daybook.errors import InvalidInput

_NOBODY = "No keeper leads, so nobody is woken; `daybook keeper` starts one."

Reason = Annotated[str, Parameter(help="Why; it is told to whoever asks for a task meanwhile.")]


async def status_(*, as_json: Json = False) -> int:
    """Show how the tasks are, and what the cycles of the scheduler did.

    Needs no Prefect. Times are by this machine's clock.

    Example: daybook task scheduler status
    """
    from daybook.api import task_scheduler

    found = await task_scheduler.status()
    if as_json:
        output.data(found)
    else:
        _status(found)
    return 0


async def pause_(*, reason: Reason = "", as_json: Json = False) -> int:
    """Wake nobody and let nothing be claimed, until `resume`. Leases go on, and so does the sweep.

    Example: daybook task scheduler pause --reason "the repository moves"
    """
    from daybook.api import task_scheduler

    return _switched(await task_scheduler.pause(reason), as_json)


async def resume_(*, as_json: Json = False) -> int:
    """Let sessions be woken, and claim, again.

    Example: daybook task scheduler resume
    """
    from daybook.api import task_scheduler

    return _switched(await task_scheduler.resume(), as_json)


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

    found = await task_scheduler.drain(timeout, reason, told=_left)
    if as_json:
        output.data(found)
    elif found["drained"]:
        output.line("No session holds a run.")
        output.say("The scheduler stays paused: daybook task scheduler resume")
    else:
        output.line(
            f"Not drained after {formatting.lasted(found['waited_seconds'])}:", style="yellow"
        )
        output.facts([(each["run_id"][:8], _held(each)) for each in found["left"]])
        output.say("The scheduler stays paused: daybook task scheduler resume")
    return 0 if found["drained"] else 1


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

    found = await task_scheduler.backlog(limit)
    if as_json:
        output.data(found)
        return 0
    if not found["pending"]:
        output.say("Nothing is queued.")
        return 0
    output.table(
        ("RUN", "TITLE", "PRIORITY", "WAITS", "CYCLES", "WHY"),
        [
            (
                formatting.short_id(each["run_id"]),
                each["title"],
                each["priority"],
                formatting.lasted(each["queued_seconds"]),
                str(each["starved_cycles"] or "-"),
                each["why"],
            )
            for each in found["runs"]
        ],
        whole=("RUN", "PRIORITY", "WAITS"),
        cut=True,
    )
    by = ", ".join(f"{count:,} {name}" for name, count in found["by_priority"].items() if count)
    more = f"; {len(found['runs'])} are shown" if len(found["runs"]) < found["pending"] else ""
    output.say(f"{found['pending']:,} queued ({by}), the oldest for {_oldest(found)}{more}.")
    if found["paused"]:
        output.say(_paused(found))
    return 0


async def cycle_(*, as_json: Json = False) -> int:
    """Carry out one cycle now: take back what leases ran out of, wake, escalate.

    The keeper does one each 15 s. Without Prefect no worker is asked for and no event is sent.

    Example: daybook task scheduler cycle
    """
    prefect_first()
    from daybook.api import task_scheduler

    report = await task_scheduler.cycle()
    if as_json:
        output.data(report)
    else:
        output.facts(_counters(report))
        for each in report.get("errors", ()):
            output.say(f"! {each}")
    return 0


async def rebuild_(*, as_json: Json = False) -> int:
    """Forget which wakes were sent lately, so that all may be sent anew; starving still counts.

    Example: daybook task scheduler rebuild
    """
    from daybook.api import task_scheduler

    found = await task_scheduler.rebuild()
    if as_json:
        output.data(found)
    else:
        output.line("Forgot which wakes were sent lately; the next cycle wakes anew.")
    return 0


def _switched(found: dict[str, Any], as_json: bool) -> int:
    if as_json:
        output.data(found)
    elif found["paused"]:
        output.line(_paused(found))
    else:
        output.line("The scheduler goes on.")
    return 0


def _left(runs: list[dict[str, Any]]) -> None:
    """While it drains: what is still held."""
    output.say("waits for " + "; ".join(f"{each['title']} ({_held(each)})" for each in runs))


def _held(run: dict[str, Any]) -> str:
    return f"{run['session']}, until {formatting.local(run['lease_until'])}"


def _oldest(found: dict[str, Any]) -> str:
    return formatting.lasted(found["oldest_seconds"])


def _paused(found: dict[str, Any]) -> str:
    why = f": {found['reason']}" if found["reason"] else ""
    since = f" since {formatting.local(found['at'])}, by {found['actor']}" if found["at"] else ""
    return f"The scheduler is paused{since}{why}"


def _status(found: dict[str, Any]) -> None:
    switch, queue, told = found["switch"], found["tasks"], found["statistics"]
    if switch["paused"]:
        output.line(_paused(switch), style="bold red")
    else:
        output.line("The scheduler goes on." if found["runs"] else _NOBODY)
    waits = f", the oldest for {_oldest(queue)}" if queue["queued"] else ""
    starving = f", {queue['starving']} starving" if queue["starving"] else ""
    output.facts(
        [
            ("queued", f"{queue['queued']}{waits}{starving}"),
            ("claimed", str(queue["claimed"])),
            ("to look at", str(queue["attention"])),
            ("sessions", f"{queue['free']} free, {queue['busy']} busy"),
            ("cycles", f"{told['cycles']:,} that had something to do"),
            ("in all", _totals(told["totals"])),
            ("rebuilds", f"{told['rebuilds']:,}" + _at(told["last_rebuild_at"])),
            ("sweep errors", f"{told['recovery_errors']:,}"),
        ]
    )
    if last := told["last_cycle"]:
        output.line()
        output.line(f"The last of them, at {formatting.local(last['at'])}", style="bold")
        output.facts(_counters(last))
    if told["errors"]:
        output.line()
        output.line("What failed last, and when", style="bold")
        output.facts([(formatting.local(each["at"]), each["error"]) for each in told["errors"]])
    for problem in found["problems"]:
        output.line(f"! {problem}", style="yellow")


def _at(instant: str | None) -> str:
    return f", the last at {formatting.local(instant)}" if instant else ""


def _totals(totals: dict[str, int]) -> str:
    told = [f"{count:,} {name.replace('_', ' ')}" for name, count in totals.items() if count]
    return ", ".join(told) or "nothing was done yet"


def _counters(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The counters of one cycle, with the runs that they are about."""
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
