"""Process of a real worker."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass

from daybook.processes import proc
from daybook.processes.children import Child
from daybook.processes.proc import Process
from tests.waiting import becomes_true
from tests.world.processes import pending


@dataclass(eq=False)
class Worker:
    """A worker's process."""

    child: Child

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def parent(self) -> Process:
        """Return the process that starts its runs."""
        (found,) = [each for each in proc.living_processes().values() if each.parent == self.pid]
        return found

    def heads(self) -> list[Process]:
        """Return the first process of each current run."""
        parent = self.parent.pid
        return [each for each in proc.living_processes().values() if each.parent == parent]

    async def send_signal(self, number: signal.Signals) -> None:
        """Send a signal and wait until it is delivered, so that the next one counts separately."""
        os.kill(self.pid, number)
        mask = 1 << (number - 1)

        async def delivered() -> bool:
            return not any(each & mask for each in pending(self.pid))

        assert await becomes_true(delivered, 10.0)

    async def wait_for_exit(self, within: float) -> int:
        """Wait for its end; return its exit code."""
        try:
            async with asyncio.timeout(within):
                return await self.child.wait()
        except TimeoutError:
            raise AssertionError(
                f"the worker did not end in {within} s\n{self.child.tail()}"
            ) from None
