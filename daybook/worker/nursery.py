"""The worker's side of the process that begins and watches its children (`daybook.worker.parent`).

Both adapters of `base.Launcher` are this; they differ in whether that process preloads and forks.

That process dies before the worker only by violence. Its children then go on under the eyes of the
worker, which looks for them by pid and start; their exit codes are lost. A new one is begun for the
next task. A task that was sent and not answered was not begun: `entry.become` sees to that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from daybook.timing import TIMING
from daybook.worker import parent
from daybook.worker.messages import Task
from daybook.worker.parent_connection import Line, Lost, open_line
from daybook.worker.run_process import Began

log = logging.getLogger(__name__)

PROGRAM = "daybook.worker.child"


class Nursery:
    """A `base.Launcher`.

    ``folder`` is for the output files (made if missing). ``environment`` is that of the parent
    process, and of tasks that bring none; by default this process's own. ``program`` is the module
    that says what a child does (`entry.Program`). The other arguments are seconds: between two
    messages to the parent, without one until it ends the runs, from SIGTERM to SIGKILL for what
    still runs when the launcher is left.
    """

    preload: ClassVar[bool]

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        program: str = PROGRAM,
        tick: float = TIMING.worker_signal.total_seconds(),
        silence: float = TIMING.run_lease.total_seconds(),
        grace: float = TIMING.stop_grace.total_seconds(),
    ) -> None:
        self._folder = folder
        self._environment = {**(os.environ if environment is None else environment)}
        self._config = parent.Config(program, self.preload, silence, grace)
        self._tick = tick
        self._line: Line | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._left = False
        self._beginning: set[asyncio.Task[Began]] = set()
        self._running: set[Began] = set()
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def threads(self) -> int:
        """How many threads the parent process had when it was ready."""
        return self._line.ready.result() if self._line is not None else 0

    @property
    def pid(self) -> int | None:
        """The parent process's, as long as it is known to live."""
        return None if self._line is None or self._line.gone else self._line.child.pid

    async def __aenter__(self) -> Self:
        self._make_folder()
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left = True
        while self._beginning or self._running:
            if self._beginning:
                await asyncio.wait(self._beginning)
            await asyncio.gather(*(each.end(self._config.grace) for each in self._running))
        async with self._opening:
            await self._close()

    async def start(self, task: Task) -> Began:
        beginning = asyncio.create_task(self._begin(task))
        self._beginning.add(beginning)
        beginning.add_done_callback(self._beginning.discard)
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(self._unwanted)
            raise

    async def _begin(self, task: Task) -> Began:
        self._make_folder()  # who tidies up may have deleted it
        about = str(task.flow_run.get("id", task.mode))
        descriptor, name = tempfile.mkstemp(prefix=f"{about}-", suffix=".log", dir=self._folder)
        os.close(descriptor)
        try:
            try:
                began = await (await self._open()).begin(task, Path(name))
            except Lost:
                began = await (await self._open()).begin(task, Path(name))
        except BaseException:
            os.unlink(name)
            raise
        self._running.add(began)
        began.then(lambda: self._running.discard(began))
        return began

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _unwanted(self, beginning: asyncio.Task[Began]) -> None:
        """Who asked for it is not there any more."""
        if not beginning.cancelled() and beginning.exception() is None:
            ending = asyncio.create_task(beginning.result().end(0.0))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _open(self) -> Line:
        async with self._opening:
            if self._left:
                raise Lost("the launcher was left")
            if self._line is not None and self._line.gone:
                log.warning(
                    "the process that begins runs is gone; a new one is started\n%s",
                    self._line.printed(),
                    extra={"action": "parent_again"},
                )
                await self._close()
            if self._line is None:
                self._line = await open_line(self._config, self._folder, self._environment)
                self._ticking = asyncio.create_task(self._line.tick(self._tick))
            return self._line

    async def _close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait({self._ticking})
        if self._line is not None:
            await self._line.close()
        self._line = self._ticking = None
