"""Conversations with a real Prefect: what a worker, a keeper and a listener would do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.outgoing import dispatch_outgoing
from daybook.features.conversations.listening import ListeningState, listen
from daybook.ledger.states import Status
from daybook.prefect import scheduled_runs
from tests.waiting import becomes_true
from tests.world.prefect_world import PrefectWorld

KEEPS = 'had(); print("answer to", sys.stdin.read().strip().splitlines()[-1])'
"""The program of an agent that answers the last line of its prompt."""
NOTES = """
def note(text: str) -> str:
    "Note a text."
    with open({notes!r}, "a") as file:
        file.write(text + "\\n")
    return "noted"
"""
"""A tool, as Python with the path of its ``notes``."""


@dataclass
class Conversing:
    """The processes that a worker and a keeper would be."""

    world: PrefectWorld

    async def works_until(self, what: Callable[[], object]) -> None:
        async def is_true() -> object:
            await self.work()
            return what()

        assert await becomes_true(is_true, 60)

    async def work(self) -> None:
        """Run what waits and is due, and send what is to be sent."""
        world = self.world
        await scheduled_runs.ensure_all(world.ledger, world.client)
        for row in await world.runs.rows():
            if row.state is Status.WAITING and row.flow_run_id and not row.wait_reason.for_person:
                run = await world.client.read_flow_run(UUID(row.flow_run_id))
                at = run.state.state_details.scheduled_time if run.state else None
                if at is None or at <= SYSTEM_CLOCK.now():  # else the engine would wait
                    await world.executions.complete_here(run)
        await self.send()

    async def send(self) -> None:
        await dispatch_outgoing(self.world.ledger, self.world.client, "test:1", ui=None)


@asynccontextmanager
async def listening_to(world: PrefectWorld) -> AsyncIterator[None]:
    """Listen to all accounts, as the keeper does."""

    async def repeat() -> None:
        state = ListeningState()
        while True:
            await listen(world.ledger, state)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
