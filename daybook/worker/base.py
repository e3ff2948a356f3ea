"""The port through which the worker starts processes, and what it holds of each.

Adapters: `zygote.Zygote` (forks a process in which Prefect and our flows are imported) and
`spawn.Spawner` (a fresh interpreter each; slower, and right where forking is not). `launch.best`
picks one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from daybook.processes.proc import Process
from daybook.worker.messages import Task


class Running(Protocol):
    """A process that was started; it leads a session and a process group of its own."""

    @property
    def pid(self) -> int: ...

    @property
    def process(self) -> Process:
        """Its pid and the moment it started."""
        ...

    @property
    def output(self) -> Path:
        """The file of its stdout and stderr, mode 0600. The caller deletes it."""
        ...

    def facts(self) -> AsyncIterator[dict[str, Any]]:
        """The JSON objects that it writes to its status pipe, a line each; for one reader.

        Ends when the process has ended and all that it wrote was read, or when it and all that
        hold the pipe closed it. A line that is no JSON object is left out, and logged.
        """
        ...

    async def ended(self) -> int | None:
        """Wait until it and what it began have ended; what it left behind is ended with SIGKILL.

        Its exit code, or minus the number of the signal that ended it. None if that cannot be
        known, because the launcher's own process was killed meanwhile.
        """
        ...

    async def end(self, grace: float) -> None:
        """End it and all that it began, in whatever group or session; returns when none lives.

        SIGTERM to the group; after ``grace`` seconds, or when the process has ended, SIGKILL to
        whatever is left. To one that has ended already it is the clean-up of what it left behind.
        """
        ...


class Launcher(Protocol):
    """Starts processes; an async context manager. On leaving it all that it started is ended."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def start(self, task: Task) -> Running:
        """Start the process of ``task``. OSError: nothing was started, and nothing will be."""
        ...
