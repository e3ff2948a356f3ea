"""Kills while people write in chats: each message is answered once, whatever dies and when.

Workers, keepers and everything are killed at random moments with SIGKILL, and start again. In two
private chats and a group, four people write to an agent that repeats what they say, and notes it in
a file that no kill touches.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path

from prefect.client.orchestration import PrefectClient, get_client

from benchmarks.report import header, machine, progress, row
from chaos import chats, faults, verdict
from chaos.chats import Chats, Place
from chaos.cluster import Cluster
from chaos.faults import KILL_EVERYTHING, InjectedFault
from chaos.verdict import Verdict
from chaos.workload import Workload
from daybook import repository
from daybook.agents import documents
from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.engine import Ledger
from daybook.prefect import work_pool

PLACES = (Place(1), Place(2), Place(3, -5), Place(4, -5))
AGENT = "echo"
KINDS = {
    "kill a run": 2,
    "kill a worker": 4,
    "kill a worker and its processes": 4,
    "kill a keeper": 6,
    KILL_EVERYTHING: 3,
}
SECONDS_PER_KILL = 1.7
MESSAGES_PER_KILL = 2
WORKERS, KEEPERS = 2, 1


async def run(members: Cluster, options: argparse.Namespace, seed: int) -> Verdict:
    """Kill ``options.kills`` times beside people who write, and return what has happened."""
    count, seconds = options.kills, options.kills * SECONDS_PER_KILL
    noted = members.home.path / "noted"
    progress("starting")
    await members.start(WORKERS, KEEPERS, concurrency=options.concurrency)
    async with (
        chats.serve(random.Random(seed + 5), PLACES, echoes=True) as chat,
        Ledger(members.ledger) as ledger,
        get_client() as client,
        asyncio.TaskGroup() as group,
    ):
        await repository.load_entry_point("blocks/__init__.py").register(client)
        await work_pool.ensure(client)
        await documents.add(client, AGENT, "command", {"command": _agent(noted)})
        progress("connecting")
        await chat.connect(AGENT)
        await chat.bot.until(lambda: len(chat.bot.sent) == len(PLACES))
        progress(f"{count} kills in {seconds:g} s, seed {seed}")
        drawn = faults.draw_faults(random.Random(seed), seconds, count, 0.0, KINDS)
        writing = group.create_task(chat.write_many(MESSAGES_PER_KILL * count, seconds))
        injected = await faults.inject_all(members, drawn, SYSTEM_CLOCK.now().timestamp())
        await writing
        progress("the kills are over")
        found = await _judge(ledger, client, chat, injected, options.concurrency, noted)
        print(_table(found, chat, members, injected, seed))
    return found


def _agent(noted: Path) -> list[str]:
    """Return the command of an agent that answers with the last line, and notes it."""
    script = f'said=$(tail -n 1); echo "$said" >> \'{noted}\'; echo "$said"'
    return ["sh", "-c", script]


async def _judge(
    ledger: Ledger,
    client: PrefectClient,
    chat: Chats,
    injected: list[InjectedFault],
    slots: int,
    noted: Path,
) -> Verdict:
    end = SYSTEM_CLOCK.now() + timedelta(days=1)
    workload = Workload(end, chat_messages=chat.keys)
    seconds, standstill = await verdict.wait_until_finished(ledger, workload, slots)
    keys = {each.text: each.key for each in chat.written.values()}
    lines = noted.read_text().splitlines() if noted.exists() else []
    effects = Counter(keys[each.strip()] for each in lines)
    wrong = await verdict.wrong_messages(ledger, chat)
    found = await verdict.judge(ledger, client, workload, effects, injected)
    found.finished_after_seconds = seconds
    found.broken += wrong
    found.broken += [standstill] if standstill else []
    return found


def _table(
    found: Verdict, chat: Chats, members: Cluster, injected: list[InjectedFault], seed: int
) -> str:
    hits = Counter(each.fault.kind for each in injected if each.target)
    starts = ", ".join(f"{name} {member.starts}" for name, member in members.members.items())
    now = SYSTEM_CLOCK.now()
    lines = [
        f"Measured on: {machine()}, load {os.getloadavg()[0]:.1f}  ",
        f"Finished: {now:%Y-%m-%d %H:%M} UTC, ledger: {members.ledger.partition(':')[0]}, "
        f"seed: {seed}\n",
        header("what", "count"),
        row("kills that hit a live target", f"{hits.total()} of {len(injected)}"),
        *(row(f"… {kind}", str(count)) for kind, count in sorted(hits.items())),
        row("starts of each process", starts),
        row("messages in chats", str(len(chat.written))),
        *(row(f"… {status}", str(count)) for status, count in sorted(found.outcomes.items())),
        row("… answers that arrived twice", str(chat.repeated)),
        row("effects", str(found.effects)),
        row("finished after", f"{found.finished_after_seconds:.0f} s"),
        row("promises broken", str(len(found.broken))),
    ]
    return "\n".join(lines)
