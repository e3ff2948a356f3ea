"""How many runs a Daybook can do in a minute, which process is the limit, and what overload does.

Each setup has Prefect's processes and one or more workers on this machine:

==========  ==========  ==================================================================
setup       ledger      Prefect
==========  ==========  ==================================================================
sqlite      SQLite      the server of `daybook up`, with SQLite
postgresql  PostgreSQL  the same, with PostgreSQL
replicas    PostgreSQL  two API replicas, services, HAProxy, Redis (`deployments/fleet`)
==========  ==========  ==================================================================

Jobs that are due at one instant give the **burst rate** and what a run costs. Then, with one worker
and with two, jobs are due each minute that would need **twice** the burst rate, for
`OVERLOAD_MINUTES`. Meanwhile runs have to succeed at the burst rate, and `daybook status` must say
that runs wait. After the last due time, every due time has to get its outcome.

`predict` returns the rate that the costs of a run allow on other machines: the busiest resource is
the limit (the bottleneck law of queueing networks). The table compares it with further bursts.

A process for each setup and number of workers (``python -m benchmarks.capacity SETUP WORKERS
JOBS``) prints a `Result` as JSON, because each needs a home and a Prefect of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from benchmarks import testbed, usage
from benchmarks.report import header, progress, row, short
from chaos import replicas
from chaos.cluster import Cluster, database, of_prefect
from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home

Setup = Literal["sqlite", "postgresql", "replicas"]
URL = os.environ.get("TEST_POSTGRESQL_URL", "postgresql://root@127.0.0.1:5432/test")
CONCURRENCY = 8
"""Concurrent runs of all workers together."""
OVERLOAD_MINUTES = 3
MAX_WORKERS_OVERLOADED = 2
"""More workers share the same cores, so they would not change the result."""
STATUS_INTERVAL_SECONDS = 5.0
STANDSTILL_SECONDS = 30.0
"""The overload is over when no run waited, and none was recorded, for so long."""
MIN_SHARE = 0.8
"""Target: the rate under overload as a share of the burst rate."""
MAX_NOTICE_SECONDS = 60.0
"""Target: time from the first due time until `daybook status` says that runs wait."""
FLEET = (10, 100_000)
"""Workers, each on a machine like this one, and jobs of the fleet that the table predicts."""
ONE_PROCESS = ("server",)
"""Kinds of processes of which only one runs, so that it uses at most one core."""


@dataclass(frozen=True)
class Burst:
    """``jobs`` runs, all of which ended ``seconds`` after their due time.

    ``cpu`` has the CPU seconds of a run by kind of process, ``others`` those of everything else on
    the machine, ``cores`` the cores in use. ``growth`` are the bytes of a run in the ledger and in
    Prefect's database.
    """

    jobs: int
    seconds: float
    cpu: Mapping[str, float]
    cores: float
    growth: Sequence[float]

    @property
    def rate(self) -> float:
        return self.jobs / self.seconds


@dataclass(frozen=True)
class Overload:
    """``due`` due times in ``seconds``, of which ``succeeded`` succeeded meanwhile.

    ``noticed`` is the time until `status` said that runs wait; None if it never did. ``recovered``
    is the time from the last due time to the last end of a run. ``outcomes`` counts the due times.
    """

    due: int
    seconds: float
    succeeded: int
    noticed: float | None
    recovered: float
    outcomes: Mapping[str, int]

    @property
    def rate(self) -> float:
        return self.succeeded / self.seconds


@dataclass(frozen=True)
class Result:
    setup: Setup
    workers: int
    burst: Burst
    overload: Overload | None = None


async def measure(jobs: int, workers: int) -> list[Result]:
    """Measure each setup with one worker, and with each number of workers up to ``workers``."""
    found = []
    for setup in get_args(Setup):
        if setup == "replicas" and (program := replicas.missing()):
            progress(f"capacity: no replicas without {program}")
            continue
        for count in range(1, workers + 1):
            progress(f"capacity: {setup}, {count} workers")
            words = (setup, str(count), str(jobs))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.capacity", *words),
                stdout=asyncio.subprocess.PIPE,
                cwd=Path(__file__).parents[1],
            )
            output, _ = await process.communicate()
            if process.returncode:
                raise RuntimeError(f"the measurement of {setup} ended with {process.returncode}")
            found.append(_parsed(output))
    return found


def _parsed(output: bytes) -> Result:
    found = json.loads(output.splitlines()[-1])
    overload = Overload(**found["overload"]) if found["overload"] else None
    return Result(found["setup"], found["workers"], Burst(**found["burst"]), overload)


def main(words: Sequence[str]) -> None:
    setup, workers, jobs = words
    with testbed.temporary_home() as home:
        result = asyncio.run(_measure(home, setup, int(workers), int(jobs)))  # type: ignore[arg-type]
    print(json.dumps(asdict(result)), flush=True)


async def _measure(home: Home, setup: Setup, workers: int, jobs: int) -> Result:
    async with _started(home, setup, workers) as cluster:
        burst, seconds_per_job = await _burst(cluster, setup, home, jobs)
        overload = None
        if workers <= MAX_WORKERS_OVERLOADED:
            overload = await _overload(2 * burst.rate, 1.5 * seconds_per_job)
    return Result(setup, workers, burst, overload)


@asynccontextmanager
async def _started(home: Home, setup: Setup, workers: int) -> AsyncIterator[Cluster]:
    from prefect.client.orchestration import get_client

    from daybook.api import jobs, runs

    port = urlsplit(os.environ["PREFECT_API_URL"]).port
    assert port is not None
    async with database(home, "" if setup == "sqlite" else URL) as ledger:
        settings = {"DAYBOOK_LEDGER_URL": ledger, "DAYBOOK_MAX_CONCURRENT": str(CONCURRENCY)}
        if setup == "postgresql":
            settings["PREFECT_API_DATABASE_CONNECTION_URL"] = of_prefect(ledger)
        os.environ |= settings
        cluster = Cluster(home, port, ledger, with_replicas=setup == "replicas")
        try:
            await cluster.start(workers, 0, concurrency=CONCURRENCY)
            async with get_client() as client:
                await testbed.prepare(client)
            await jobs.add({"name": "first", "prompt": "Hello", "on_demand": True})
            await runs.run("first", wait=True)  # do the imports of the first run now
            yield cluster
        finally:
            await cluster.close()


async def _burst(cluster: Cluster, setup: Setup, home: Home, count: int) -> tuple[Burst, float]:
    """Return the burst, and the time to add one of its jobs."""
    from sqlmodel import col

    from benchmarks import together
    from benchmarks.backlog import wait_for_runs
    from daybook.ledger.tables import RunRow

    start = SYSTEM_CLOCK.now()
    due = await together.add(count, "burst")
    adding = (SYSTEM_CLOCK.now() - start).total_seconds()
    await SYSTEM_CLOCK.wait_until(due - timedelta(seconds=1))
    sizes, cpu, machine = await _sizes(cluster, setup, home), _cpu(cluster), usage.machine_cpu()
    rows = await wait_for_runs(col(RunRow.due) == due, count)
    seconds = (SYSTEM_CLOCK.now() - due).total_seconds() + 1.0
    machine = usage.machine_cpu() - machine
    used = {kind: (after - cpu[kind]) / count for kind, after in _cpu(cluster).items()}
    used["others"] = machine / count - sum(used.values())
    grown = [
        (after - before) / count
        for after, before in zip(await _sizes(cluster, setup, home), sizes, strict=True)
    ]
    last = max(each.finished_at for each in rows if each.finished_at)
    burst = Burst(count, (last - due).total_seconds(), used, machine / seconds, grown)
    return burst, adding / count


async def _overload(rate: float, seconds_per_job: float) -> Overload:
    from sqlmodel import col, func, select

    from benchmarks import together
    from daybook.ledger.engine import open_ledger
    from daybook.ledger.states import TERMINAL, Status
    from daybook.ledger.tables import RunRow

    jobs = round(60 * rate)
    first = await together.add(jobs, "overload", OVERLOAD_MINUTES, seconds_per_job)
    last, end = (first + timedelta(minutes=n) for n in (OVERLOAD_MINUTES - 1, OVERLOAD_MINUTES))
    await SYSTEM_CLOCK.wait_until(first)
    progress(f"{jobs} jobs are due each minute")
    noticed = await _until_noticed(first, end)
    await SYSTEM_CLOCK.wait_until(end)
    of_load, seen, since = col(RunRow.due).between(first, last), 0, SYSTEM_CLOCK.now()
    async with open_ledger() as ledger:
        while SYSTEM_CLOCK.now() - since < timedelta(seconds=STANDSTILL_SECONDS):
            await asyncio.sleep(1.0)
            async with ledger.read() as session:
                counted = select(RunRow.status, func.count()).where(of_load).group_by(RunRow.status)
                found = Counter({Status(s): n for s, n in await session.execute(counted)})
            live = sum(n for state, n in found.items() if state not in TERMINAL)
            if live or found.total() != seen:
                seen, since = found.total(), SYSTEM_CLOCK.now()
        async with ledger.read() as session:
            rows = list((await session.execute(select(RunRow).where(of_load))).scalars())
    ends = [each.finished_at for each in rows if each.finished_at]
    outcomes = Counter(str(each.state) for each in rows)
    if without := jobs * OVERLOAD_MINUTES - len(rows):
        outcomes["in a row for several due times"] = without
    in_time = [each for each in rows if each.state is Status.SUCCEEDED and each.finished_at]
    return Overload(
        jobs * OVERLOAD_MINUTES,
        (end - first).total_seconds(),
        sum(each.finished_at <= end for each in in_time if each.finished_at),
        noticed,
        (max(ends, default=end) - last).total_seconds(),
        dict(outcomes),
    )


async def _until_noticed(first: datetime, end: datetime) -> float | None:
    from daybook.diagnosis.status import status

    while (now := SYSTEM_CLOCK.now()) < end:
        if any(each.check == "waiting" for each in (await status()).problems):
            return (SYSTEM_CLOCK.now() - first).total_seconds()
        await SYSTEM_CLOCK.wait_until(now + timedelta(seconds=STATUS_INTERVAL_SECONDS))
    return None


def _cpu(cluster: Cluster) -> dict[str, float]:
    """Return the CPU seconds so far, by kind of process."""
    found = defaultdict[str, float](float)
    for name, member in cluster.members.items():
        assert member.child is not None
        found[name.rstrip("-0123456789")] += usage.cpu(member.child.pid)
    if cluster.ledger.startswith("postgresql"):
        found["PostgreSQL"] = usage.cpu(_postmaster())
    return dict(found)


def _postmaster() -> int:
    """Return the process of this machine's PostgreSQL server."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"/postgres") and b"-D" in words:
                return int(entry.name)
    raise RuntimeError("no PostgreSQL server runs on this machine")


async def _sizes(cluster: Cluster, setup: Setup, home: Home) -> tuple[float, float]:
    """Return the bytes of the ledger and of Prefect's database."""
    if setup == "sqlite":
        return _file_size(home.path / "ledger.db"), _file_size(home.prefect / "prefect.db")
    import asyncpg  # type: ignore[import-untyped]

    name = cluster.ledger.rpartition("/")[2]
    connection = await asyncpg.connect(URL)
    try:
        query = "SELECT pg_database_size($1)"
        found = [await connection.fetchval(query, each) for each in (name, of_prefect(name))]
    finally:
        await connection.close()
    return float(found[0]), float(found[1])


def _file_size(path: Path) -> float:
    return float(path.stat().st_size)


def predict(cpu: Mapping[str, float], cores: int, machines: int = 1) -> tuple[float, str]:
    """Return runs per second with CPU seconds ``cpu`` of a run by kind of process, and the limit.

    With one machine, everything shares its ``cores``. With more, each further one has workers only.
    """
    of_workers = cpu.get("worker", 0.0)
    central = sum(cpu.values()) - of_workers
    limits = {f"the core of the {kind}": 1 / cpu[kind] for kind in ONE_PROCESS if cpu.get(kind)}
    if machines == 1:
        limits["the cores of the machine"] = cores / (central + of_workers)
    else:
        limits["the cores of Prefect's machine"] = cores / central
        limits["the cores of the workers"] = (machines - 1) * cores / of_workers
    name = min(limits, key=limits.__getitem__)
    return limits[name], name


def table(results: Sequence[Result]) -> str:
    cores = os.cpu_count() or 1
    lines = [
        header(
            *("setup, workers", "runs per second", "predicted", "cores in use"),
            *("CPU of a run", "growth per 100,000 runs: ledger, Prefect"),
        )
    ]
    first = {each.setup: each.burst for each in results if each.workers == 1}
    for each in results:
        expected, _ = predict(first[each.setup].cpu, cores)
        shares = ", ".join(
            f"{kind} {short(seconds)} s"
            for kind, seconds in sorted(each.burst.cpu.items(), key=lambda it: -it[1])
            if seconds >= 0.001
        )
        grown = ", ".join(f"{value * 100_000 / 2**20:,.0f} MiB" for value in each.burst.growth)
        lines.append(
            row(
                f"{each.setup}, {each.workers}",
                *(short(each.burst.rate), short(expected), short(each.burst.cores)),
                *(shares, grown),
            )
        )
    workers, jobs = FLEET
    lines += ["", header(f"{workers} workers on machines of their own", "predicted", "limit")]
    for setup, burst in first.items():
        rate, limit = predict(burst.cpu, cores, 1 + workers)
        each_job = f"each of {jobs:,} jobs every {jobs / rate / 60:.0f} minutes"
        lines.append(row(setup, f"{short(rate)} runs a second, {each_job}", limit))
    lines += ["", _overload_table(results)]
    return "\n".join(lines)


def _overload_table(results: Sequence[Result]) -> str:
    titles = ("due per second", "succeeded per second", "of the burst rate", "noticed after")
    lines = [header("twice the burst rate", *titles, "recovered after", "outcomes")]
    for each in results:
        if (load := each.overload) is not None:
            noticed = "never" if load.noticed is None else f"{load.noticed:.0f} s"
            counted = ", ".join(f"{n} {state}" for state, n in sorted(load.outcomes.items()))
            rates = (short(load.due / load.seconds), short(load.rate))
            share = f"{100 * load.rate / each.burst.rate:.0f} %"
            setup = f"{each.setup}, {each.workers}"
            lines.append(row(setup, *rates, share, noticed, f"{load.recovered:.0f} s", counted))
    return "\n".join(lines)


def missed(results: Sequence[Result]) -> list[str]:
    """Return the missed targets."""
    found = list[str]()
    for each in results:
        if (load := each.overload) is None:
            continue
        setup = f"{each.setup} with {each.workers} workers"
        if (share := load.rate / each.burst.rate) < MIN_SHARE:
            found.append(f"capacity: {setup} overloaded: {share:.2f} of the burst rate")
        if load.noticed is None or load.noticed > MAX_NOTICE_SECONDS:
            found.append(f"capacity: the overload of {setup} was noticed late")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
