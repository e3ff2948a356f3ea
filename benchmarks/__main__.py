"""Entry point of `python -m benchmarks`: measures what the README claims and prints Markdown.

All parts without `--long` take almost half an hour. The exit code is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks import (
    capacity,
    chats,
    commands,
    full,
    hooks,
    idle,
    pages,
    report,
    scale,
    start,
    testbed,
)
from daybook import repository
from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home

PARTS = (
    "start",
    "commands",
    "full",
    "idle",
    "chats",
    "pages",
    "scale",
    "capacity",
    "hooks",
    "worker",
    "jobs",
    "backlog",
    "together",
    "observe",
    "outbox",
    "apply",
    "fetches",
    "worktrees",
)

WITHOUT_TESTBED = {
    *("start", "commands", "full", "pages", "scale", "capacity", "hooks", "idle", "chats"),
}
"""Parts that need no Prefect server of the benchmarks."""


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    print(f"Measured on: {report.machine()}  ")
    names = ("prefect", repository.DISTRIBUTION)
    print(f"Versions: {', '.join(f'{each} {version(each)}' for each in names)}  ")
    print(f"Started: {SYSTEM_CLOCK.now():%Y-%m-%d %H:%M} UTC, load {_load()}\n", flush=True)
    missed = list[str]()
    if "start" in options.only:
        print("## Start times of whole processes\n")
        starts = start.measure()
        print(start.table(starts), flush=True)
        missed += start.missed(starts)
    if "commands" in options.only:
        print("\n## Commands while `daybook up` runs\n")
        timed = commands.measure()
        print(commands.table(timed), flush=True)
        missed += commands.missed(timed)
    if "full" in options.only:
        print(f"\n## Commands with {full.JOB_COUNT:,} jobs and {full.RUN_COUNT:,} runs\n")
        both = full.measure()
        print(full.table(both), flush=True)
        missed += full.missed(both)
    if "pages" in options.only:
        print("\n## Pages with 1,000 jobs and 200,000 runs: server time\n")
        shown, watched = pages.measure()
        print(pages.table(shown), flush=True)
        if watched is not None:
            print("\n## Viewers of Today while nothing changes: CPU of the server\n")
            print(pages.viewers_table(watched), flush=True)
        missed += pages.missed(shown, watched)
    if sys.platform == "linux":
        missed += _measure_processes(options)
    if set(options.only) - WITHOUT_TESTBED:
        if sys.platform == "linux":
            with testbed.temporary_home() as home:
                try:
                    missed += asyncio.run(_measure_on_server(home, options))
                except asyncio.CancelledError:
                    missed.append("the benchmark was stopped before its end")
        else:
            print(
                "without /proc, only the parts start, commands, full and pages run", file=sys.stderr
            )
    print(f"\nFinished: {SYSTEM_CLOCK.now():%Y-%m-%d %H:%M} UTC, load {_load()}")
    for line in missed:
        print(f"target missed: {line}", file=sys.stderr)
    return 1 if missed else 0


def _measure_processes(options: argparse.Namespace) -> list[str]:
    """Measure processes by `/proc`. Return the targets that were missed."""
    missed = list[str]()
    if "hooks" in options.only:
        loads = asyncio.run(hooks.measure())
        print("\n## Requests to hooks\n")
        print(hooks.table(loads), flush=True)
        missed += hooks.missed(loads)
    if "idle" in options.only:
        print("\n## All of `daybook up`, idle\n")
        starts_of_up = idle.measure(3 * options.idle)
        print(idle.table(*starts_of_up), flush=True)
        missed += idle.missed(*starts_of_up)
    if "scale" in options.only:
        print("\n## Ledgers of three sizes on PostgreSQL\n")
        largest: int = options.scale
        sizes = asyncio.run(scale.measure((largest // 100, largest // 10, largest)))
        print(scale.table(sizes), flush=True)
        missed += scale.missed(sizes)
    if "capacity" in options.only:
        found = asyncio.run(capacity.measure(options.together, options.workers))
        print("\n## Capacity and overload\n")
        print(capacity.table(found), flush=True)
        missed += capacity.missed(found)
    if "chats" in options.only:
        print("\n## A chat\n")
        chatted = asyncio.run(chats.measure(2 * options.idle))
        print(chats.table(chatted), flush=True)
        missed += chats.missed(chatted)
    return missed


async def _measure_on_server(home: Home, options: argparse.Namespace) -> list[str]:
    """Measure the parts that need a Prefect server; return the missed targets."""
    # These modules import Prefect, which must not read its environment before now.
    from benchmarks import apply, fetches, observe, outbox, worker, worktrees

    missed, task = list[str](), asyncio.current_task()
    assert task is not None
    # Cancel like Ctrl-C, so that every started process is stopped.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with testbed.start(home) as bed:
        if "worker" in options.only:
            plan = worker.Plan(options.shipped, options.runs, options.burst, options.idle)
            compared = await worker.compare(bed, Path(home.path).parent, plan)
            print("\n## The worker compared with Prefect's process worker\n")
            print(worker.table(compared), flush=True)
            missed += worker.missed(compared)
        missed += await _measure_runs(bed, options)
        if "observe" in options.only:
            observed = await observe.measure(bed, observe.Plan())
            print("\n## Observing a thousand jobs\n")
            print(observe.table(observed), flush=True)
            missed += observe.missed(observed)
        if "outbox" in options.only:
            sent = await outbox.measure(bed.client, Path(home.path).parent, options.callbacks, 3)
            print("\n## Dispatching the outbox\n")
            print(outbox.table(sent), flush=True)
            missed += outbox.missed(sent)
        if "apply" in options.only:
            applied = await apply.measure(bed, options.applied)
            print("\n## Applying a file of jobs\n")
            print(apply.table(applied), flush=True)
            missed += apply.missed(applied)
        if "fetches" in options.only:
            fetched = await fetches.measure(bed, options.fetches)
            print("\n## A call of `web.fetch` in a run\n")
            print(fetches.table(fetched), flush=True)
        if "worktrees" in options.only:
            made = await worktrees.measure(bed, options.worktrees)
            print("\n## Worktrees of runs\n")
            print(worktrees.table(made), flush=True)
            missed += worktrees.missed(made)
    return missed


async def _measure_runs(bed: testbed.Testbed, options: argparse.Namespace) -> list[str]:
    """Measure the runs of jobs; return the missed targets."""
    from benchmarks import backlog, jobs, together

    missed = list[str]()
    if "jobs" in options.only:
        minutes = options.minutes if options.long else 0
        job_plan = jobs.Plan(options.by_hand, 2 * options.idle, minutes)
        measured = await jobs.measure(bed, job_plan)
        print("\n## Lateness of jobs\n")
        print(jobs.table(measured), flush=True)
        missed += jobs.missed(measured)
    if "backlog" in options.only:
        rates = await backlog.measure(bed, backlog.Plan(options.burst, options.backlog))
        print("\n## A backlog compared with a burst\n")
        print(backlog.table(rates), flush=True)
        missed += backlog.missed(rates)
    if "together" in options.only:
        counts = range(1, options.workers + 1)
        due_plan = together.Plan(options.together, counts, others=options.others)
        due_together = await together.measure(bed, due_plan)
        print("\n## Jobs that are due together\n")
        print(together.table(due_together), flush=True)
        missed += together.missed(due_together)
    return missed


def _load() -> str:
    return " ".join(f"{each:.2f}" for each in os.getloadavg())


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure what the README claims, and print Markdown.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def add(option: str, kind: type, default: float, text: str) -> None:
        parser.add_argument(option, type=kind, default=default, metavar="N", help=text)

    parser.add_argument(
        "--only",
        action="append",
        choices=PARTS,
        default=argparse.SUPPRESS,
        help="measure only this part; may be repeated",
    )
    add("--shipped", int, 15, "worker: runs of Prefect's worker as shipped")
    add("--runs", int, 25, "worker: runs of each other worker")
    add("--burst", int, 50, "worker, backlog: runs in a burst")
    add("--idle", float, 30.0, "seconds of idling; jobs: twice as many")
    add("--by-hand", int, 30, "jobs: runs requested by hand")
    parser.add_argument(
        "--long",
        action="store_true",
        default=argparse.SUPPRESS,
        help="jobs: also measure scheduled jobs",
    )
    add("--minutes", float, 5.0, "jobs: minutes of scheduled jobs with --long")
    add("--scale", int, 10_000, "scale: jobs of the largest ledger, each with 100 runs")
    add("--together", int, 200, "together, capacity: jobs due at the same instant")
    add("--workers", int, 1, "together, capacity: measure with 1 to N workers")
    add("--others", int, 0, "together: other runs that wait meanwhile, in a last measurement")
    add("--backlog", int, 200, "backlog: runs in the backlog")
    add("--callbacks", int, 10_000, "outbox: callbacks to send")
    add("--applied", int, 1000, "apply: jobs in the file")
    add("--fetches", int, 10, "fetches: runs of each kind")
    add("--worktrees", int, 7, "worktrees: pairs of worktrees, and runs of each kind")
    options = parser.parse_args(arguments)
    options.only = getattr(options, "only", list(PARTS))
    options.long = getattr(options, "long", False)
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
