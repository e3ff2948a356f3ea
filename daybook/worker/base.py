"""Port through which the worker starts processes and controls them.

Adapters: `zygote.ForkLauncher` (forks a process in which Prefect and Daybook's flows are imported)
and `spawn.SpawnLauncher` (a fresh interpreter for each; slower, and right where forking is not).
`launch.open_launcher` picks one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from daybook.processes.proc import Process
from daybook.worker.messages import LaunchRequest


class LaunchedProcess(Protocol):
    """A started process. It leads a session and a process group of its own."""

    @property
    def pid(self) -> int: ...

    @property
    def process(self) -> Process:
        """Return the pid and the start time."""
        ...

    @property
    def output(self) -> Path:
        """Return the file of its stdout and stderr, mode 0600. The caller deletes it."""
        ...

    def facts(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the JSON objects that it writes to its status pipe, one a line, to one reader.

        Ends when the process has ended and all its lines were read, or when every process that
        holds the pipe has closed it. A line that is not a JSON object is logged and left out.
        """
        ...

    async def ended(self) -> int | None:
        """Wait until the process and its descendants have ended. SIGKILL ends those left behind.

        Return the exit code, or minus the number of the signal that ended it, or None if the code
        is unknown because the launcher's own process was killed meanwhile.
        """
        ...

    async def end(self, grace: float) -> None:
        """End the process and all its descendants, in any group or session. Return when none lives.

        The group gets SIGTERM. After ``grace`` seconds, or as soon as the process has ended, the
        rest gets SIGKILL. If the process has ended already, this cleans up its descendants.
        """
        ...


class Launcher(Protocol):
    """Starter of processes; an async context manager that ends all of them when it is left."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def start(self, task: LaunchRequest) -> LaunchedProcess:
        """Start a process for ``task``. If it raises OSError, nothing was or will be started."""
        ...
