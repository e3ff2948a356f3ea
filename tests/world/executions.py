"""Executions of flow runs without a worker, as Prefect's process worker starts them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from inspect import isawaitable
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort
from prefect.flow_engine import run_flow
from prefect.flows import Flow, load_flow_from_entrypoint

from daybook.clock import SYSTEM_CLOCK
from tests.world.prefect import Prefect

REPOSITORY = Path(__file__).parents[2]


class Execution:
    """A process that executes one flow run, as Prefect's process worker starts it."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child

    async def sent(self, number: signal.Signals) -> None:
        """Send it a signal while its main thread sleeps.

        Prefect raises an exception where the signal interrupts the process. In a step of a task,
        asyncio stores it as that task's exception: then only a kill ends the process.
        """
        async with asyncio.timeout(60):
            before = ""
            while (now := self._woken()) != before:
                before = now
                await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(milliseconds=50))
        with suppress(ProcessLookupError):
            self.child.send_signal(number)

    def _woken(self) -> str:
        """Return its main thread's counts of context switches so far."""
        try:
            status = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return ""  # it has ended by itself
        return "".join(line for line in status.splitlines() if "ctxt_switches" in line)

    async def wait_for_exit(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and its output."""
        async with asyncio.timeout(90):
            output, _ = await self.child.communicate()
        return self.child.returncode or 0, output.decode()


class Executions:
    """The executions of one world, in a folder outside the repository."""

    def __init__(self, prefect: Prefect, folder: Path) -> None:
        self._prefect, self._folder = prefect, folder
        self._all = list[Execution]()

    async def begin(
        self, run: FlowRun, *, bare: bool = False, variables: Mapping[str, str] | None = None
    ) -> Execution:
        """Execute the flow run with the process worker's command.

        ``bare`` omits the supervisor: only the process in which the flow runs.
        """
        arguments = ["prefect.engine", str(run.id)] if bare else ["prefect", "flow-run", "execute"]
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            *([] if bare else [str(run.id)]),
            cwd=self._folder,
            env={**os.environ, **(variables or {})},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        execution = Execution(child)
        self._all.append(execution)
        return execution

    async def complete(self, run: FlowRun) -> State[Any]:
        """Execute the run to its end; return its final state in Prefect."""
        code, output = await (await self.begin(run, bare=True)).wait_for_exit()
        state = await self._prefect.state(run)
        assert code == 0 or not state.is_completed(), output
        return state

    async def complete_here(self, run: FlowRun) -> State[Any]:
        """Execute the run in this process, as `prefect.engine` does; return its final state."""
        deployment = await self._prefect.client.read_deployment(run.deployment_id or "")
        entrypoint = str(REPOSITORY / str(deployment.entrypoint))
        flow: Flow[Any, Any] = load_flow_from_entrypoint(entrypoint)
        with suppress(Abort):  # it has set its run back
            running = run_flow(flow, flow_run=run, return_type="state")
            assert isawaitable(running)
            await running
        return await self._prefect.state(run)

    async def close(self) -> None:
        """Kill those that still run."""
        for execution in self._all:
            if execution.child.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(execution.child.pid, signal.SIGKILL)
                await execution.child.communicate()
