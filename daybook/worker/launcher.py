"""Run launcher, which starts the process of each run through a parent process.

The parent (`daybook.worker.parent`) dies before the worker only if something kills it. Its children
then continue, and the worker watches them by pid and start time; their exit codes are lost. The
launcher starts a new parent for the next task. It also starts a new parent if the old parent uses
more than ``max_memory`` bytes; the old parent ends after its children. A task that the parent did
not confirm has not run, because `child_setup.setup_child` makes a child exit if the parent dies
before it has reported the child.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

from daybook.processes import image, proc
from daybook.timing import TIMING
from daybook.worker import parent
from daybook.worker.messages import LaunchRequest
from daybook.worker.parent_connection import ParentConnection, ParentLost, open_connection
from daybook.worker.run_process import RunProcess

log = logging.getLogger(__name__)

DEFAULT_PROGRAM = "daybook.worker.child"


class Launcher:
    """Launcher of processes through one parent process; leaving the context ends all of them.

    With ``preload``, the parent imports Prefect and the flows once and forks each child. These
    imports must not start a thread, because a fork copies only one thread; `open_launcher` checks
    this condition. While the parent has more threads, each child is a fresh interpreter instead.
    Without ``preload``, the parent stays small and each child is a fresh interpreter, which is
    slower but works on every system.

    - ``folder``: folder for the output files; it is created if it is missing.
    - ``environment``: environment of the parent process, and of tasks without an environment of
      their own; the default is this process's environment.
    - ``program``: module that a child runs (`child_setup.Program`).
    - ``tick``: interval of messages to the parent, in seconds.
    - ``silence``: seconds without a message after which the parent ends the runs.
    - ``grace``: seconds from SIGTERM to SIGKILL for processes that the parent ends, or that still
      run when the context ends.
    - ``max_memory``: maximum of the parent's resident memory, in bytes; 0 for no limit.
    - ``lock``: descriptor of this worker's lock (`holders`), which all its processes inherit.
    - ``forked_from``: image from which the parent is forked, if any.
    """

    def __init__(
        self,
        folder: Path,
        *,
        preload: bool,
        environment: Mapping[str, str] | None = None,
        program: str = DEFAULT_PROGRAM,
        tick: float = TIMING.worker_signal.total_seconds(),
        silence: float = TIMING.run_lease.total_seconds(),
        grace: float = TIMING.stop_grace.total_seconds(),
        max_memory: int = 0,
        lock: int | None = None,
        forked_from: image.Image | None = None,
    ) -> None:
        self._folder, self._max_memory = folder, max_memory
        self.preload = preload
        self._environment = {**(os.environ if environment is None else environment)}
        self._config = parent.ParentConfig(program, preload, silence, grace, lock)
        self._tick, self._forked_from = tick, forked_from
        self._connection: ParentConnection | None = None
        self._tick_task: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._opening = asyncio.Lock()
        self._closed = False
        self._beginning: set[asyncio.Task[RunProcess]] = set()
        self._running: set[RunProcess] = set()
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def threads(self) -> int:
        """Return the number of threads of the parent when it became ready; 0 without a parent."""
        return self._connection.ready.result() if self._connection is not None else 0

    @property
    def pid(self) -> int | None:
        """Return the parent's pid; None if the parent is not running."""
        return (
            None
            if self._connection is None or self._connection.gone
            else self._connection.child.pid
        )

    async def __aenter__(self) -> Self:
        self._make_folder()
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        while self._beginning or self._running:
            if self._beginning:
                await asyncio.wait(self._beginning)
            await asyncio.gather(*(each.end(self._config.grace) for each in self._running))
        async with self._opening:
            await self._close()
        await asyncio.gather(*self._retiring)

    async def start(self, task: LaunchRequest) -> RunProcess:
        """Start a process for ``task``. If the caller is cancelled, end the process.

        Raise OSError if no process was started, and none will be.
        """
        starting = asyncio.create_task(self._begin(task))
        self._beginning.add(starting)
        starting.add_done_callback(self._beginning.discard)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._end_unwanted)
            raise

    async def _begin(self, task: LaunchRequest) -> RunProcess:
        self._make_folder()  # a clean-up of temporary files may have deleted the folder
        prefix = str(task.flow_run.get("id", task.mode))
        descriptor, name = tempfile.mkstemp(prefix=f"{prefix}-", suffix=".log", dir=self._folder)
        os.close(descriptor)
        try:
            try:
                process = await (await self._open()).begin(task, Path(name))
            except ParentLost:
                process = await (await self._open()).begin(task, Path(name))
        except BaseException:
            os.unlink(name)
            raise
        self._running.add(process)
        process.on_end(lambda: self._running.discard(process))
        return process

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _end_unwanted(self, starting: asyncio.Task[RunProcess]) -> None:
        """End the process of a start whose caller was cancelled."""
        if not starting.cancelled() and starting.exception() is None:
            ending = asyncio.create_task(starting.result().end(0.0))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _open(self) -> ParentConnection:
        async with self._opening:
            if self._closed:
                raise ParentLost("the launcher is closed")
            if self._connection is not None and self._connection.gone:
                log.warning(
                    "the parent process of the runs has exited; starting a new one\n%s",
                    self._connection.printed(),
                    extra={"action": "parent_again"},
                )
                await self._close()
            elif self._connection is not None and self._is_too_large(self._connection):
                self._retire(self._connection)
            if self._connection is None:
                self._connection = await open_connection(
                    self._config, self._folder, self._environment, self._forked_from
                )
                self._tick_task = asyncio.create_task(self._connection.tick(self._tick))
            return self._connection

    def _is_too_large(self, connection: ParentConnection) -> bool:
        used = proc.memory(connection.child.pid)
        if not 0 < self._max_memory < used:
            return False
        log.warning(
            "the parent process of the runs uses %d MB; starting a new one",
            used // 10**6,
            extra={"action": "parent_again"},
        )
        return True

    def _retire(self, connection: ParentConnection) -> None:
        """Start no more children in this parent, and end it when its last child has ended."""
        tick_task, self._connection, self._tick_task = self._tick_task, None, None

        async def end() -> None:
            await connection.wait_until_idle()
            if tick_task is not None:
                tick_task.cancel()
            await connection.close()

        ending = asyncio.create_task(end())
        self._retiring.add(ending)
        ending.add_done_callback(self._retiring.discard)

    async def _close(self) -> None:
        if self._tick_task is not None:
            self._tick_task.cancel()
            await asyncio.wait({self._tick_task})
        if self._connection is not None:
            await self._connection.close()
        self._connection = self._tick_task = None


@asynccontextmanager
async def open_launcher(
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    program: str = DEFAULT_PROGRAM,
    platform: str = sys.platform,
    max_memory: int = 0,
    lock: int | None = None,
    forked_from: image.Image | None = None,
) -> AsyncIterator[Launcher]:
    """Open the launcher for this machine; see `Launcher` for the arguments.

    Fork children only on Linux, and only if the parent has one thread after its imports. On other
    systems, system libraries may run threads that cannot be counted.
    """
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {
            "environment": environment,
            "program": program,
            "max_memory": max_memory,
            "lock": lock,
        }
        why, launcher = f"the platform is {platform}", None
        if platform == "linux":
            try:
                launcher = await stack.enter_async_context(
                    Launcher(folder, preload=True, forked_from=forked_from, **options)
                )
                why = f"{launcher.threads} threads run after the imports"
            except OSError as error:
                why = f"the parent process did not start: {error}"
        if launcher is not None and launcher.threads == 1:
            log.info("the worker forks its children", extra={"action": "children_forked"})
            yield launcher
            return
        await stack.aclose()
        log.warning("the worker spawns its children: %s", why, extra={"action": "children_spawned"})
        yield await stack.enter_async_context(Launcher(folder, preload=False, **options))
