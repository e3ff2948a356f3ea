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
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from prefect.client.orchestration import get_client

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
    "kill a run": 3,
    "kill a worker": 5,
    "kill a worker and its processes": 5,
    "kill a keeper": 7,
    KILL_EVERYTHING: 2,
}
"""Kinds of kills, with the weight of each in the draw."""
MESSAGES_PER_KILL = 2
MAX_SECONDS_TO_ANSWER = 8.0
"""Maximum time from a kill to the next one, if no message is answered in between."""
MAX_SECONDS_TO_KILL = 1.0
"""Maximum time from an answer to the next kill."""
WORKERS, KEEPERS = 2, 1


async def run(members: Cluster, options: argparse.Namespace, seed: int) -> Verdict:
    """Kill ``options.kills`` times beside people who write, and return what has happened."""
    noted = members.home.path / "noted"
    noted.touch()
    progress("starting")
    await members.start(WORKERS, KEEPERS, concurrency=options.concurrency)
    async with (
        chats.serve(random.Random(seed + 5), PLACES, echoes=True) as chat,
        Ledger(members.ledger) as ledger,
        get_client() as client,
    ):
        await repository.load_entry_point("blocks/__init__.py").register(client)
        await work_pool.ensure(client)
        await documents.add(client, AGENT, "command", {"command": _agent(noted)})
        progress("connecting")
        await chat.connect(AGENT)
        await chat.bot.until(lambda: len(chat.bot.sent) == len(PLACES))
        progress(f"{options.kills} kills, seed {seed}")
        injected = await _kill(members, chat, options.kills, random.Random(seed))
        progress("the kills are over")
        workload = Workload(SYSTEM_CLOCK.now(), chat_messages=chat.keys)
        waited, standstill = await verdict.wait_until_finished(
            ledger, workload, options.concurrency
        )
        wrong = await verdict.wrong_messages(ledger, chat)
        found = await verdict.judge(ledger, client, workload, _effects(noted, chat), injected)
        found.finished_after_seconds = waited
        found.broken += [*wrong, *filter(None, [standstill])]
        print(_table(found, chat, members, injected, seed))
    return found


async def _kill(
    members: Cluster, chat: Chats, count: int, dice: random.Random
) -> list[InjectedFault]:
    """Kill ``count`` times, each at a random moment soon after an answer; people write meanwhile.

    So the number of kills while a message is handled does not depend on the machine's speed.
    """
    injected = list[InjectedFault]()
    for drawn in faults.draw_faults(dice, count, count, 0.0, KINDS):
        moments = [dice.uniform(0, MAX_SECONDS_TO_KILL) for _ in range(MESSAGES_PER_KILL)]
        writing = asyncio.create_task(chat.write_at(moments))
        await _next_answer(chat)
        await asyncio.sleep(dice.uniform(0, MAX_SECONDS_TO_KILL))
        now = SYSTEM_CLOCK.now().timestamp()
        injected += await faults.inject_all(members, [replace(drawn, at=0.0)], now)
        await writing
    return injected


async def _next_answer(chat: Chats) -> None:
    count = len(chat.bot.sent)
    with suppress(AssertionError):
        await chat.bot.until(lambda: len(chat.bot.sent) > count, MAX_SECONDS_TO_ANSWER)


def _agent(noted: Path) -> list[str]:
    """Return the command of an agent that answers with the last line, and notes it."""
    script = f'said=$(tail -n 1); echo "$said" >> \'{noted}\'; echo "$said"'
    return ["sh", "-c", script]


def _effects(noted: Path, chat: Chats) -> Counter[str]:
    """Return how often the agent was asked, by the key of the run."""
    keys = {each.text: each.key for each in chat.written.values()}
    return Counter(keys[each.strip()] for each in noted.read_text().splitlines())


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
