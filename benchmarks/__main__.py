"""Entry point of `python -m benchmarks`: measures what the README claims and prints Markdown.

Everything except the schedules takes almost half an hour. `--only` selects one part, `--long` adds
the schedules. The exit code is 1 if a figure misses its target.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks import machine, place, start
from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home

PARTS = ("start", "worker", "jobs", "backlog", "observe", "outbox")


def main(arguments: list[str]) -> int:
    given = _read(arguments)
    print(f"Measured on: {machine.describe()}  ")
    print(f"Versions: {', '.join(f'{each} {version(each)}' for each in ('prefect', 'daybook'))}  ")
    print(f"Begun: {SYSTEM_CLOCK.now():%Y-%m-%d %H:%M} UTC, load {_load()}\n", flush=True)
    worse = list[str]()
    if "start" in given.only:
        print("## Start times of whole processes\n")
        starts = start.measure()
        print(start.table(starts), flush=True)
        worse += [f"slower than wanted: {command}" for command in start.missed(starts)]
    if given.only != ["start"]:
        if sys.platform == "linux":
            with place.home() as home:
                try:
                    worse += asyncio.run(_workers(home, given))
                except asyncio.CancelledError:
                    worse.append("it was ended before its end")
        else:
            print("workers are measured on Linux only: it is /proc that tells", file=sys.stderr)
    print(f"\nEnded: {SYSTEM_CLOCK.now():%Y-%m-%d %H:%M} UTC, load {_load()}")
    for line in worse:
        print(f"worse than wanted: {line}", file=sys.stderr)
    return 1 if worse else 0


async def _workers(home: Home, given: argparse.Namespace) -> list[str]:
    # These modules import Prefect, which must not read its environment before now.
    from benchmarks import backlog, jobs, observe, outbox, worker

    worse, itself = list[str](), asyncio.current_task()
    assert itself is not None
    # Cancel like Ctrl-C, so that every started process is stopped.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, itself.cancel)
    async with place.opened(home) as at:
        if "worker" in given.only:
            of = worker.Plan(given.shipped, given.runs, given.burst, given.idle)
            compared = await worker.compare(at, Path(home.path).parent, of)
            print("\n## The worker beside Prefect's process worker\n")
            print(worker.table(compared), flush=True)
            worse += worker.missed(compared)
        if "jobs" in given.only:
            asked = jobs.Plan(given.by_hand, 2 * given.idle, given.minutes if given.long else 0)
            measured = await jobs.measure(at, asked)
            print("\n## Jobs, with the ledger in it\n")
            print(jobs.table(measured), flush=True)
            worse += jobs.missed(measured)
        if "backlog" in given.only:
            drained = await backlog.measure(at, backlog.Plan(given.burst, given.backlog))
            print("\n## A backlog beside a burst\n")
            print(backlog.table(drained), flush=True)
            worse += backlog.missed(drained)
        if "observe" in given.only:
            looked = await observe.measure(at, observe.Plan())
            print("\n## A look at a thousand jobs\n")
            print(observe.table(looked), flush=True)
            worse += observe.missed(looked)
        if "outbox" in given.only:
            sent = await outbox.measure(at.client, Path(home.path).parent, given.callbacks, 3)
            print("\n## Draining the outbox\n")
            print(outbox.table(sent), flush=True)
            worse += outbox.missed(sent)
    return worse


def _load() -> str:
    return " ".join(f"{each:.2f}" for each in os.getloadavg())


def _read(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; may be repeated")
    parser.add_argument("--shipped", type=int, default=15, help="runs of the worker as shipped")
    parser.add_argument("--runs", type=int, default=25, help="runs of the other workers")
    parser.add_argument("--burst", type=int, default=50, help="runs of a burst")
    parser.add_argument("--backlog", type=int, default=200, help="runs of a backlog")
    parser.add_argument("--by-hand", type=int, default=30, help="runs of a job by hand")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds; jobs: twice as many")
    parser.add_argument("--callbacks", type=int, default=10_000, help="that wait in the outbox")
    parser.add_argument("--long", action="store_true", help="also jobs on schedule, for minutes")
    parser.add_argument("--minutes", type=float, default=5.0, help="of --long")
    given = parser.parse_args(arguments)
    given.only = given.only or list(PARTS)
    return given


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
