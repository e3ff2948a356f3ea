"""Entry point of ``python -m chaos``; the exit code is 1 if a promise is broken."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import time
from asyncio import Task
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from benchmarks.report import header, machine, row
from benchmarks.testbed import temporary_home
from chaos import hosts, standby
from chaos.hosts import Network
from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home
from daybook.operations import server

if TYPE_CHECKING:
    from chaos.callbacks import Receiver
    from chaos.chats import Chats
    from chaos.cluster import Cluster
    from chaos.edits import EditWalk
    from chaos.faults import InjectedFault
    from chaos.restarts import Restart
    from chaos.steps import CountedSteps
    from chaos.verdict import Verdict
    from chaos.workload import Plan, Workload

    AddJobs = Callable[[Plan], Awaitable[Workload]]

LEAD_SECONDS = 5.0
POSTGRESQL_URL = "postgresql://root@127.0.0.1:5432/test"
"""Server on which to create the ledger's database if `TEST_POSTGRESQL_URL` is not set."""
FULL_RATE = 0.5
"""Due times per second below which people also write less often, for a slow machine."""
ADD_JOB_SECONDS = 5.0
"""Time allowed for adding one job: the last due time is fixed before the first job is added.

Beside the members of the cluster, and the runs of the jobs before it, a slow machine needs 2.4 s.
"""


class Injected(NamedTuple):
    """The jobs and the injected faults; ``restart`` is set if everything was killed at once."""

    workload: Workload
    faults: list[InjectedFault]
    restart: Restart | None = None
    healthy_at: datetime | None = None


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    with temporary_home() as home:
        address = os.environ.get("TEST_POSTGRESQL_URL", POSTGRESQL_URL)
        address = address if options.ledger == "postgresql" else ""
        if options.kills:
            return _kill_beside_chats(home, options, seed, address)
        if not options.hosts:
            return asyncio.run(_run(home, options, seed, address))
        with hosts.network() as network:
            os.environ["PREFECT_API_URL"] = (
                f"http://{network.server.address}:{hosts.PREFECT_PORT}/api"
            )
            return asyncio.run(_run(home, options, seed, address, network))


def _kill_beside_chats(home: Home, options: argparse.Namespace, seed: int, address: str) -> int:
    from daybook.operations import preload

    # Before there is an event loop, or a thread.
    forked_from = preload.fork_image()

    async def run() -> Verdict:
        from chaos import cluster, conversations

        async with cluster.database(home, address) as ledger_url:
            os.environ["DAYBOOK_LEDGER_URL"] = ledger_url
            members = cluster.Cluster(home, _port(), ledger_url, options.replicas, forked_from)
            try:
                return await conversations.run(members, options, seed)
            finally:
                await members.close()

    return _report(asyncio.run(run()), home, options)


async def _run(
    home: Home,
    options: argparse.Namespace,
    seed: int,
    address: str,
    network: Network | None = None,
) -> int:
    # These modules import Prefect, which must not read its environment before now.
    from prefect.client.orchestration import get_client

    from chaos import (
        callbacks,
        chats,
        cluster,
        edits,
        effects,
        leaders,
        messages,
        restarts,
        verdict,
        workload,
    )
    from daybook import repository
    from daybook.ledger.engine import Ledger
    from daybook.prefect import work_pool

    # A separate stream: the duration of the edits must not change the faults that the seed draws.
    walk = edits.EditWalk(random.Random(seed + 1), options.edits)
    slower = max(1.0, FULL_RATE / options.rate)
    outside = network.outside if network else hosts.THIS_MACHINE.address
    longest = (restarts if options.restart_after else effects).MAX_EFFECT_SECONDS
    async with (
        _ledger(home, address, network) as ledger_url,
        effects.serve(home.path, random.Random(seed + 2), longest, outside) as counted,
        callbacks.serve(random.Random(seed + 3), outside) as receiver,
        chats.serve(random.Random(seed + 5), host=outside) as chat,
    ):
        os.environ["DAYBOOK_LEDGER_URL"] = ledger_url
        os.environ["DAYBOOK_WEBHOOK_SECRET"] = receiver.secret
        members = cluster.Cluster(home, _port(), ledger_url, options.replicas, network=network)
        try:
            await members.start(options.workers, options.keepers, concurrency=options.concurrency)
            async with (
                Ledger(ledger_url) as ledger,
                get_client() as client,
                asyncio.TaskGroup() as group,
            ):
                await repository.load_entry_point("blocks/__init__.py").register(client)
                await work_pool.ensure(client)
                await chat.connect()

                changes = list[leaders.Change]()
                recording = group.create_task(leaders.record(ledger, changes))
                sent, sending = messages.Messages(random.Random(seed + 4)), list[Task[None]]()

                async def add_jobs(plan: Plan) -> Workload:
                    added = await workload.add(client, counted, receiver, home.path, plan)
                    added.messages, added.chat_messages = sent.keys, chat.keys
                    sending.append(group.create_task(sent.send(ledger, plan.end, slower)))
                    sending.append(group.create_task(chat.write(plan.end, slower)))
                    return added

                inject = _kill_everything if options.restart_after else _inject_faults
                injected = await inject(options, seed, members, walk, add_jobs)
                jobs, faults, restart, healthy_at = injected
                await SYSTEM_CLOCK.wait_until(jobs.end)
                receiver.accept_all()
                await asyncio.gather(*sending)
                _progress("the faults are over")
                seconds, standstill = await verdict.wait_until_finished(
                    ledger, jobs, options.concurrency
                )
                found = await verdict.judge(ledger, client, jobs, counted.counts(), faults)
                found.finished_after_seconds = seconds
                if restart is not None and healthy_at is not None:
                    found.broken += await verdict.wrong_catch_ups(ledger, jobs, restart, healthy_at)
                found.broken += await verdict.wrong_callbacks(ledger, receiver)
                found.broken += await verdict.wrong_steps(ledger, counted.steps)
                found.broken += await verdict.wrong_messages(ledger, chat)
                found.broken += [standstill] if standstill else []
                found.broken += await edits.differences(ledger, client)
                recording.cancel()
                found.takeovers = leaders.takeovers(changes, faults)
                print(
                    _table(
                        options,
                        seed,
                        found,
                        faults=faults,
                        steps=walk.steps,
                        receiver=receiver,
                        counted=counted.steps,
                        cluster=members,
                        messages=len(sent.keys),
                        chat=chat,
                    )
                )
        finally:
            await members.close()
    return _report(found, home, options)


def _ledger(home: Home, address: str, network: Network | None) -> AbstractAsyncContextManager[str]:
    from chaos import cluster

    return nullcontext(cluster.on_hosts(network)) if network else cluster.database(home, address)


def _report(found: Verdict, home: Home, options: argparse.Namespace) -> int:
    """Print what failed, and what is broken. Return the exit code."""
    for line in found.failures:
        print(line, file=sys.stderr)
    for line in found.broken:
        print(f"broken: {line}", file=sys.stderr)
    if found.broken and options.keep:
        shutil.copytree(home.path, options.keep, dirs_exist_ok=True)
        _progress(f"kept the home in {options.keep}")
    return 1 if found.broken else 0


async def _inject_faults(
    options: argparse.Namespace, seed: int, cluster: Cluster, walk: EditWalk, add_jobs: AddJobs
) -> Injected:
    """Inject the faults drawn from the seed, and do the edits meanwhile."""
    from chaos import faults, workload

    drawn = faults.draw_faults(
        random.Random(seed),
        options.seconds,
        options.faults,
        options.longest_stop,
        _kinds(options),
    )
    count = max(1, round(options.rate * workload.INTERVAL_SECONDS))
    edited, chained = 4 if options.edits else 0, 3
    adding = (count + edited + chained) * ADD_JOB_SECONDS
    duration = adding + options.seconds + options.lead
    end = SYSTEM_CLOCK.now().replace(microsecond=0) + timedelta(seconds=duration)
    jobs = await add_jobs(workload.Plan(end, count, edited, chained))
    start = SYSTEM_CLOCK.now().timestamp()
    _progress(f"{count} jobs until {end:%H:%M:%S} UTC, {len(drawn)} faults, seed {seed}")
    edits = asyncio.create_task(walk.run(cluster, jobs, start, options.seconds))
    injected = await faults.inject_all(cluster, drawn, start)
    await edits
    return Injected(jobs, injected)


def _kinds(options: argparse.Namespace) -> Mapping[str, int]:
    from chaos import faults

    if options.hosts:
        return faults.KINDS_ON_HOSTS
    return faults.KINDS_WITH_REPLICAS if options.replicas else faults.KINDS


async def _kill_everything(
    options: argparse.Namespace, seed: int, cluster: Cluster, _: EditWalk, add_jobs: AddJobs
) -> Injected:
    """Kill everything at once and start it again `--restart-after` seconds later."""
    from chaos import restarts, workload

    count = options.concurrency  # so that no run waits for a slot
    start = SYSTEM_CLOCK.now() + timedelta(seconds=count * ADD_JOB_SECONDS)
    restart = restarts.draw_restart(random.Random(seed), count, options.restart_after, start)
    jobs = await add_jobs(
        workload.Plan(restart.end, count, 0, 0, restarts.AGENT_SECONDS, restart.schedules)
    )
    _progress(f"{count} jobs until {restart.end:%H:%M:%S} UTC, seed {seed}")
    _progress(f"killing everything at {restart.at:%H:%M:%S} UTC")
    fault, healthy_at = await restarts.kill_and_restart(cluster, restart)
    _progress("the server answers again")
    return Injected(jobs, [fault], restart, healthy_at)


def _table(
    options: argparse.Namespace,
    seed: int,
    found: Verdict,
    *,
    faults: list[InjectedFault],
    steps: Counter[str],
    receiver: Receiver,
    counted: CountedSteps,
    cluster: Cluster,
    messages: int,
    chat: Chats,
) -> str:
    hits = [each for each in faults if each.target]
    kinds = Counter(each.fault.kind for each in hits)
    behaviours = Counter(each.behaviour for each in receiver.callbacks)
    starts = ", ".join(f"{name} {member.starts}" for name, member in cluster.members.items())
    now, ledger = SYSTEM_CLOCK.now(), cluster.ledger.partition(":")[0]
    lines = [
        f"Measured on: {machine()}  ",
        f"Finished: {now:%Y-%m-%d %H:%M} UTC, ledger: {ledger}, seed: {seed}\n",
        header("what", "count"),
        row("seconds", f"{options.seconds:g}"),
        row("faults that hit a live target", f"{len(hits)} of {len(faults)}"),
        *(row(f"… {kind}", str(count)) for kind, count in sorted(kinds.items())),
        row("starts of each process", starts),
        row("messages to sessions", str(messages)),
        row("messages in chats", str(len(chat.written))),
        row("… answers that arrived twice", str(chat.repeated)),
        row("edits", str(sum(steps.values()))),
        *(row(f"… {kind}", str(count)) for kind, count in sorted(steps.items())),
        row("due times", str(found.due)),
        *(row(f"… {status}", str(count)) for status, count in sorted(found.outcomes.items())),
        row("effects", str(found.effects)),
        row("requests to a model", str(counted.requests.total())),
        row("calls of its tool", str(counted.calls.total())),
        row("callbacks", str(len({each.id for each in receiver.callbacks}))),
        *(row(f"… the receiver {name}", str(count)) for name, count in sorted(behaviours.items())),
        row("finished after", f"{found.finished_after_seconds:.0f} s"),
        row("another keeper was the leader after", _seconds(found.takeovers)),
        row("runs started after a failover after", _seconds(found.failovers)),
        row("promises broken", str(len(found.broken))),
    ]
    return "\n".join(lines)


def _seconds(times: list[float]) -> str:
    return f"{', '.join(f'{each:.1f}' for each in sorted(times))} s" if times else "—"


def _port() -> int:
    return urlsplit(os.environ["PREFECT_API_URL"]).port or server.free_port(0)


def _progress(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        description="Inject random faults while jobs are due, then check the ledger.",
    )

    def add(option: str, default: float, text: str) -> None:
        parser.add_argument(
            option,
            type=type(default),
            default=default,
            metavar="N",
            help=f"{text} [default: {default:g}]",
        )

    add("--seconds", 600.0, "seconds in which faults are injected")
    add("--faults", 66, "number of faults")
    add("--edits", 0, "number of edits in Daybook and Prefect")
    add("--rate", 2.0, "due times per second")
    add("--workers", 2, "number of workers")
    add("--keepers", 1, "number of keepers besides those of the workers")
    add("--concurrency", 8, "limit of concurrent runs")
    add("--longest-stop", 90.0, "longest SIGSTOP in seconds")
    add("--lead", LEAD_SECONDS, "seconds with due times after the faults")
    parser.add_argument(
        "--restart-after",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="kill everything at once, restart it after this time, and check the catch-ups",
    )
    parser.add_argument(
        "--kills",
        type=int,
        default=0,
        metavar="N",
        help="instead of jobs: kill N times while people write in chats, and check the answers",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="seed of the faults and edits [default: random]"
    )
    parser.add_argument(
        "--ledger",
        choices=("sqlite", "postgresql"),
        default="sqlite",
        help="database of the ledger [default: sqlite]",
    )
    parser.add_argument(
        "--replicas",
        action="store_true",
        help="Prefect is two API replicas and its services, with PostgreSQL, Redis and HAProxy",
    )
    parser.add_argument(
        "--hosts",
        action="store_true",
        help="as --replicas, on three hosts in network namespaces, with partitions and failovers",
    )
    parser.add_argument(
        "--keep",
        default="",
        metavar="FOLDER",
        help="if a promise is broken, copy the ledger and the logs to this folder",
    )
    options = parser.parse_args(arguments)
    options.replicas |= options.hosts
    if options.replicas:
        from chaos import replicas

        option = "--hosts" if options.hosts else "--replicas"
        if options.ledger != "postgresql":
            parser.error(f"{option} needs --ledger postgresql")
        absent = replicas.missing()
        if options.hosts:
            absent = absent or hosts.missing() or standby.missing()
        if absent:
            parser.error(f"{option} needs {absent}")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
