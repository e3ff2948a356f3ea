"""Entry point of ``python -m chaos``; the exit code is 1 if a promise is broken."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import machine
from benchmarks.figures import head, row
from benchmarks.place import home as temporary
from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home
from daybook.operations import server

if TYPE_CHECKING:
    from chaos.callbacks import Callbacks
    from chaos.edits import Walk
    from chaos.faults import Struck
    from chaos.place import Place
    from chaos.restarts import Restart
    from chaos.verdict import Verdict
    from chaos.work import Wanted, Work

    Add = Callable[[Wanted], Awaitable[Work]]

DUE_EVERY = 10
"""Seconds between two due times of one job."""
LEAD = 5.0
POSTGRESQL = "postgresql://root@127.0.0.1:5432/test"
"""Server on which to create the ledger's database if `TEST_POSTGRESQL_URL` is not set."""
ADDED_WITHIN = 1.0
"""Seconds allowed for adding one job: the last due time is fixed before the first job is added."""


class Storm(NamedTuple):
    """The jobs and the faults they met; ``restart`` is set if everything was killed at once."""

    jobs: Work
    struck: list[Struck]
    restart: Restart | None = None
    healthy_at: datetime | None = None


class Met(NamedTuple):
    """What the jobs met: the faults that happened, the edits by kind, and the callbacks."""

    struck: list[Struck]
    steps: Counter[str]
    called: Callbacks


def main(arguments: list[str]) -> int:
    given = _read(arguments)
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    with temporary() as here:
        address = os.environ.get("TEST_POSTGRESQL_URL", POSTGRESQL)
        return asyncio.run(
            _storm(here, given, seed, address if given.ledger == "postgresql" else "")
        )


async def _storm(home: Home, given: argparse.Namespace, seed: int, address: str) -> int:
    # These modules import Prefect, which must not read its environment before now.
    from prefect.client.orchestration import get_client

    from chaos import callbacks, edits, effects, place, restarts, verdict, work
    from daybook import repository
    from daybook.ledger.engine import Ledger
    from daybook.operations import worker

    # A separate stream: the duration of the edits must not change the faults that the seed draws.
    walk = edits.Walk(random.Random(seed + 1), given.edits)
    longest = restarts.LONGEST if given.restart_after else effects.LONGEST
    async with (
        place.database(home, address) as ledger_address,
        effects.had(home.path, random.Random(seed + 2), longest) as had,
        callbacks.had(random.Random(seed + 3)) as called,
    ):
        os.environ["DAYBOOK_LEDGER_URL"] = ledger_address
        os.environ["DAYBOOK_WEBHOOK_SECRET"] = called.secret
        at = place.Place(home, _port(), ledger_address)
        try:
            await at.hire(given.workers, given.keepers, most=given.concurrency)
            async with Ledger(ledger_address) as ledger, get_client() as client:
                await repository.load_entry_point("blocks/__init__.py").register(client)
                await worker.ensure_pool(client)

                async def add(wanted: Wanted) -> Work:
                    return await work.add(client, had, called, home.path, wanted)

                had_of_them = _killed_at_once if given.restart_after else _struck
                storm = await had_of_them(given, seed, at, walk, add)
                jobs, struck = storm.jobs, storm.struck
                await SYSTEM_CLOCK.wait_until(jobs.end)
                called.be_well()
                _say("the faults are over")
                settled, stood_still = await verdict.settled(ledger, jobs, given.concurrency)
                found = await verdict.judge(ledger, client, jobs, had.counted(), struck)
                if storm.restart is not None and storm.healthy_at is not None:
                    found.wrong += await verdict.catch_ups_of(
                        ledger, jobs, storm.restart, storm.healthy_at
                    )
                found.wrong += await verdict.callbacks_of(ledger, called)
                found.settled_after = settled
                found.wrong += [stood_still] if stood_still else []
                found.wrong += await walk.disagree(ledger, client)
                met = Met(struck, walk.steps, called)
                print(_table(given, seed, met, found, at))
        finally:
            await at.close()
    for line in found.ends:
        print(line, file=sys.stderr)
    for line in found.wrong:
        print(f"broken: {line}", file=sys.stderr)
    if found.wrong and given.keep:
        _say(f"what is left lies in {given.keep}")
        import shutil

        shutil.copytree(home.path, given.keep, dirs_exist_ok=True)
    return 1 if found.wrong else 0


async def _struck(given: argparse.Namespace, seed: int, at: Place, walk: Walk, add: Add) -> Storm:
    """Inject the faults drawn from the seed, one after the other."""
    from chaos import faults, work

    plan = faults.drawn(random.Random(seed), given.seconds, given.faults, given.longest_stop)
    many = max(1, round(given.rate * DUE_EVERY))
    lasts = many * ADDED_WITHIN + given.seconds + given.lead
    end = SYSTEM_CLOCK.now().replace(microsecond=0) + timedelta(seconds=lasts)
    jobs = await add(work.Wanted(end, many, edited=4 if given.edits else 0))
    began = SYSTEM_CLOCK.now().timestamp()
    _say(f"{many} jobs until {end:%H:%M:%S} UTC, {len(plan)} faults, seed {seed}")
    walking = asyncio.create_task(walk.go(at, jobs, began, given.seconds))
    struck = await faults.strike(at, plan, began)
    await walking
    return Storm(jobs, struck)


async def _killed_at_once(
    given: argparse.Namespace, seed: int, at: Place, _: Walk, add: Add
) -> Storm:
    """Kill everything at once and start it again `--restart-after` seconds later."""
    from chaos import restarts, work

    many = given.concurrency  # so that no run waits for a slot
    start = SYSTEM_CLOCK.now() + timedelta(seconds=many * ADDED_WITHIN)
    restart = restarts.drawn(random.Random(seed), many, given.restart_after, start)
    jobs = await add(work.Wanted(restart.end, many, 0, restarts.NAPS, restart.schedules))
    _say(f"{many} jobs until {restart.end:%H:%M:%S} UTC, seed {seed}")
    _say(f"everything is killed at {restart.at:%H:%M:%S} UTC")
    restarted = await restarts.strike(at, restart)
    _say("the server answers again")
    return Storm(jobs, [restarted.struck], restart, restarted.healthy_at)


def _table(given: argparse.Namespace, seed: int, met: Met, found: Verdict, at: Place) -> str:
    had = [each for each in met.struck if each.whom]
    kinds = Counter(each.fault.kind for each in had)
    how = Counter(each.how for each in met.called.calls)
    lives = ", ".join(f"{name} {member.began}" for name, member in at.members.items())
    lines = [
        f"Measured on: {machine.describe()}  ",
        f"Ended: {SYSTEM_CLOCK.now():%Y-%m-%d %H:%M} UTC, ledger: {at.ledger.partition(':')[0]}, "
        f"seed: {seed}\n",
        head("what", "how many"),
        row("seconds", f"{given.seconds:g}"),
        row("faults", f"{len(had)} of {len(met.struck)} met somebody"),
        *(row(f"… {kind}", str(count)) for kind, count in sorted(kinds.items())),
        row("lives", lives),
        row("edits", str(sum(met.steps.values()))),
        *(row(f"… {kind}", str(count)) for kind, count in sorted(met.steps.items())),
        row("due times", str(found.due)),
        *(row(f"… {status}", str(count)) for status, count in sorted(found.outcomes.items())),
        row("effects counted outside", str(found.effects)),
        row("callbacks", str(len({each.id for each in met.called.calls}))),
        *(row(f"… the receiver {mood}", str(count)) for mood, count in sorted(how.items())),
        row("quiet after", f"{found.settled_after:.0f} s"),
        row("promises broken", str(len(found.wrong))),
    ]
    return "\n".join(lines)


def _port() -> int:
    from urllib.parse import urlsplit

    port = urlsplit(os.environ["PREFECT_API_URL"]).port
    return port or server.free_port(0)


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _read(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long it rages")
    parser.add_argument("--faults", type=int, default=66)
    parser.add_argument("--edits", type=int, default=0, help="steps of the walk of edits")
    parser.add_argument("--rate", type=float, default=2.0, help="due times a second")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keepers", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--longest-stop", type=float, default=90.0, help="seconds of a SIGSTOP")
    parser.add_argument("--lead", type=float, default=LEAD, help="seconds of quiet at the end")
    parser.add_argument(
        "--restart-after",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="kill everything at once, start it again after so long, and check the catch-ups",
    )
    parser.add_argument("--seed", type=int, help="of the faults and edits; else drawn and printed")
    parser.add_argument("--ledger", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--keep", default="", help="a folder for the books and logs of a failure")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
