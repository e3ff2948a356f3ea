"""A real worker and the processes of its runs are killed after each of ten steps of an agent.

Five runs begin at once. Each sends five mails, which is six requests to a model and five calls of a
tool, and is killed after two of its steps (`KILLS`): the model or the tool gets the next one and
does not answer. Once the processes of all runs are killed first and then their worker, once the
other way round, so that after each step both are killed. The model and the tool are servers of the
test, so they count what the killed processes did.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import uvicorn
from fastmcp import FastMCP

from daybook.execution import journal
from daybook.jobs.store import StoredJob
from daybook.ledger.tables import RunRow
from daybook.runs import steps
from daybook.tools.server_blocks import STORE
from tests.at_prefect import add_document
from tests.calling import ModelAgent, calls
from tests.conftest import PrefectServer
from tests.providers import Answer, Hang, ModelRequest, provider
from tests.timings import SHORT
from tests.waiting import becomes_true
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import JUDGED, PREFECT_LEAVES_A_SOCKET

WITHIN = 2 * JUDGED
"""Seconds in which five processes have come to their steps, or a killed worker's runs ended."""

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    *PREFECT_LEAVES_A_SOCKET,
]

KILLS = {1: (1, 10), 2: (2, 3), 3: (4, 5), 4: (6, 7), 5: (8, 9)}
"""For each run, the steps after which its process and its worker are killed."""
MAILS = 5
STEPS = range(1, 2 * MAILS + 2)
"""The n-th request is step 2n - 1, and the n-th mail is step 2n."""


class Outside:
    """What the model and the tool were asked for: ``counts`` has each step of each run.

    In the first and second phase each run gets no answer to the step after the kill. ``held`` are
    the runs that wait for one.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.counts = Counter[tuple[int, int]]()
        self.held = set[int]()
        self.read_unknown = set[int]()
        self._phase = 0
        self._lock = threading.Lock()
        self._is_over = asyncio.Event()

    def next_phase(self) -> None:
        with self._lock:
            self._phase += 1
            self.held.clear()

    def _holds(self, run: int, step: int) -> bool:
        with self._lock:
            self.counts[run, step] += 1
            kills = KILLS[run]
            holds = self._phase < len(kills) and step == kills[self._phase] + 1
            if holds:
                self.held.add(run)
            return holds

    def model(self, request: ModelRequest) -> Answer | Hang:
        """Answer a request in a thread of the provider."""
        texts = str(request.body["messages"])
        found = re.search(r"as run (\d+)", texts)
        assert found is not None
        run, sent = int(found[1]), sum(each["role"] == "tool" for each in request.body["messages"])
        if journal.UNKNOWN in texts:
            self.read_unknown.add(run)
        if self._holds(run, 2 * sent + 1):
            return Hang()
        if sent == MAILS:
            return Answer("All sent.")
        return calls(f"{self.server}_send", run=run, number=sent + 1)

    async def send(self, run: int, number: int) -> str:
        """Send a mail."""
        if self._holds(run, 2 * number):
            await self._is_over.wait()
        return f"sent {number}"

    @asynccontextmanager
    async def serving(self, world: PrefectWorld) -> AsyncIterator[None]:
        """Serve the tool over HTTP, as a saved server of Daybook."""
        listener = socket.create_server(("127.0.0.1", 0))
        mails = FastMCP("mails")
        mails.tool(self.send)
        config = uvicorn.Config(
            mails.http_app(path="/mcp"), log_level="error", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        await add_document(STORE, world.client, self.server, {"url": address})
        try:
            yield
        finally:
            self._is_over.set()
            await STORE.remove(world.client, self.server)
            server.should_exit = True
            await task


async def all_are_held(world: PrefectWorld, outside: Outside) -> None:
    async def they_are() -> bool:
        return outside.held == {*KILLS}

    if not await becomes_true(they_are, WITHIN):
        raise AssertionError(f"only {outside.held} went on\n{world.workers.logs()}")


async def finished_steps(world: PrefectWorld, row: RunRow) -> list[str]:
    async with world.ledger.read() as session:
        made = await steps.of_run(session, row.id)
    return [each.position for each in made if each.status == "succeeded"]


def expected(run: int) -> dict[int, int]:
    """Return how often each step is asked for.

    A request without an answer is made again. A mail without one is not: the model reads that.
    """
    again = [each + 1 for each in KILLS[run] if (each + 1) % 2]
    return {step: 2 if step in again else 1 for step in STEPS}


@pytest.mark.parametrize("killed", [("runs", "worker"), ("worker", "runs")])
async def test_no_finished_step_of_a_killed_run_is_paid_or_made_twice(
    prefect_server: PrefectServer, tmp_path: Path, killed: tuple[str, str]
) -> None:
    outside = Outside(f"mails-{uuid4().hex[:8]}")
    with provider() as fake_provider:
        fake_provider.script = [outside.model]
        async with (
            at_prefect(tmp_path, prefect_server, timing=SHORT) as world,
            outside.serving(world),
        ):
            agent = await ModelAgent(world, fake_provider).given(f"{outside.server}.send")
            jobs = [await _added(world, run, agent.name) for run in KILLS]
            worker = await world.workers.begin(most=len(KILLS))
            for job in jobs:
                await world.prefect.custom_run(job)

            for each in killed:
                await all_are_held(world, outside)
                outside.next_phase()
                if each == "worker":
                    os.kill(worker.pid, signal.SIGKILL)
                    worker = await world.workers.begin(most=len(KILLS))
                    continue
                heads = worker.heads()
                assert len(heads) == len(KILLS)
                for head in heads:
                    os.kill(head.pid, signal.SIGKILL)

            ends = [world.wait_for_end(job, "succeeded", within=WITHIN) for job in jobs]
            rows = await asyncio.gather(*ends)
            for run, row in zip(KILLS, rows, strict=True):
                assert (row.attempts, row.output) == (3, "All sent."), run
                counts = {step: outside.counts[run, step] for step in STEPS}
                assert counts == expected(run), run
                # One mail of each run had no answer: the model read that, and the run says so.
                assert run in outside.read_unknown
                assert len(row.warnings) == 1, run
                finished = await finished_steps(world, row)
                assert len(finished) == len({*finished}) == len(STEPS) - 1, run

            # The next run of a job is another occurrence: it makes all of its steps.
            outside.counts.clear()
            again = await world.prefect.custom_run(jobs[0])
            await world.shows(str(again.id), "COMPLETED", within=WITHIN)
    assert outside.counts == Counter((1, step) for step in STEPS)


async def _added(world: PrefectWorld, run: int, agent: str) -> StoredJob:
    policy = {"on_lost": "rerun", "retries": 3, "retry_delay": "1s", "timeout": "3m"}
    prompt = f"Send {MAILS} mails as run {run}."
    return await world.deploy(agent=agent, prompt=prompt, policy=policy)
