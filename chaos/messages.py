"""Messages to sessions in the chaos test: each has exactly one run, and one answer in its session.

Every second message is only written into the ledger, as by a process that is killed before it
requests the run in Prefect. A request that fails is repeated with the same id.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlmodel import select

from chaos.workload import STEPPING_AGENT
from daybook.api import runs
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import DaybookError
from daybook.jobs.model import normal_parameters
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import MessageRow, RunRow
from daybook.runs import claims
from daybook.runs.claim_requests import session_request_key

INTERVAL = timedelta(seconds=4)
SESSIONS = 2
RETRY_SECONDS = 1.0
_POLICY = {"retries": 2, "on_lost": "rerun"}


class Messages:
    """The messages, by the keys of their runs; ``keys`` are those that the ledger has taken."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.keys = set[str]()

    async def send(self, ledger: Ledger, end: datetime, slower: float = 1.0) -> None:
        """Send messages until ``end``, one after the other, one each ``slower * INTERVAL``."""
        number = 0
        while SYSTEM_CLOCK.now() < end:
            await self._send(ledger, f"message-{number}")
            number += 1
            await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + slower * INTERVAL)

    async def _send(self, ledger: Ledger, request_id: str) -> None:
        parameters = {"prompt": request_id, "agent": STEPPING_AGENT, "policy": _POLICY}
        given = {
            "session_id": f"{STEPPING_AGENT}:chaos-{self._dice.randrange(SESSIONS)}",
            "request_id": request_id,
        }
        while True:
            try:
                if self._dice.random() < 0.5:
                    normal = dict(normal_parameters("agent-prompt", parameters))
                    await claims.request_answer(ledger, parameters=normal, **given)
                else:
                    await runs.request_answer(parameters, **given)
            except DaybookError:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.keys.add(session_request_key(request_id))
                return


async def violations(ledger: Ledger, rows: Sequence[RunRow]) -> list[str]:
    """Return what is wrong with the messages that the runs have stored in their sessions."""
    async with ledger.read() as session:
        stored = (await session.execute(select(MessageRow))).scalars().all()
    count = Counter(each.run_id for each in stored)
    answered = [each for each in rows if each.job_id is None]
    wrong = [
        f"{count[row.id]} messages: {row.occurrence} {row.status}"
        for row in answered
        if count[row.id] != (2 if row.status == "succeeded" else 0)
    ]
    for row in answered:
        numbers = sorted(each.number for each in stored if each.run_id == row.id)
        if len(numbers) == 2 and numbers[1] != numbers[0] + 1:
            wrong.append(f"the messages of another run are between its own: {row.occurrence}")
    return wrong
