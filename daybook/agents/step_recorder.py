"""Recorder of the steps that a running program prints.

::

    program ──► pipe ──► `StepLines` ──► waiting events ──► journal
                 ▲                            │
                 └── paused while too many ◄──┘     the ledger is slow or unreachable

The program does not wait for the journal. So the journal records a step shortly after the step has
started, and cannot prevent its effect.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from daybook.agents.base import AgentRequest
from daybook.agents.journal import PlannedStep, StepReply
from daybook.agents.showing import showing
from daybook.agents.step_lines import StepEvent, StepLines
from daybook.processes.pipes import LinePipe

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_LINE_BYTES = 8 * 1024 * 1024
"""Maximum length of a line in bytes. A longer line is dropped."""

MAX_WAITING_EVENTS = 1_000
"""Maximum number of waiting events.

If there are more, the program's output is not read until all of them are recorded.
"""

MAX_TEXT_CHARACTERS = 10_000
"""Maximum number of characters of a text in a waiting event. The journal stores fewer."""

MAX_WRITE_SECONDS = 30.0
MIN_WRITE_SECONDS = 2.0
"""Bounds of the time that a run waits for the ledger after the end of the program."""


class StepRecorder:
    """Recorder of the steps of one answer.

    ``pipe`` receives the program's output. ``hide`` removes secrets from the recorded texts; with
    ``is_cut``, also the start of a secret at the end of a text.
    """

    def __init__(self, lines: StepLines, request: AgentRequest, hide: Callable[..., str]) -> None:
        self.lines = lines
        self.pipe = LinePipe(self._read, MAX_LINE_BYTES)
        self._request, self._hide = request, hide
        self._waiting: deque[StepEvent] = deque()
        self._changed = asyncio.Event()
        self._is_closed = False
        self._reported: Mapping[str, Any] | None = None
        self._recorded_session = lines.session

    def _read(self, line: bytes) -> None:
        self._add(self.lines.read(line))

    def _add(self, events: list[StepEvent]) -> None:
        used = self.lines.usage
        if self._request.took is not None and used is not None and used is not self._reported:
            self._reported = used
            self._request.took(used)
        if self._request.journal is not None:
            self._waiting += map(self._safe, events)
            if len(self._waiting) > MAX_WAITING_EVENTS:
                self.pipe.pause()
        self._changed.set()

    def _safe(self, event: StepEvent) -> StepEvent:
        """Return the event without secrets, and with its texts shortened."""
        name, text = self._hide(event.step.name), self._cut(event.step.input)
        step = replace(event.step, name=name, input=text)
        reply = event.reply
        if reply is not None:
            output, error = self._cut(reply.output), self._cut(reply.error)
            reply = StepReply(output, error, reply.usage)
        return StepEvent(step, reply, event.is_new)

    def _cut(self, text: str) -> str:
        return self._hide(text)[:MAX_TEXT_CHARACTERS]

    async def run(self, program: Coroutine[Any, Any, T], seconds: float) -> T:
        """Run the program, and record its steps. Return its result.

        If another process took over the run, end the program, and raise the journal's error. If the
        ledger is unreachable when the program has ended, wait until ``seconds`` have passed since
        the start, but at least `MIN_WRITE_SECONDS` and at most `MAX_WRITE_SECONDS`.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        writing = asyncio.create_task(self._write())
        running = asyncio.create_task(program)
        # `writing` ends before the program only because of an error.
        writing.add_done_callback(lambda _: running.cancel())
        try:
            async with showing(lambda: self.lines.writing, self._show):
                result = await running
        except BaseException:
            task = asyncio.current_task()
            is_refused = writing.done() and not (task is not None and task.cancelling())
            with suppress(Exception):
                await self._finish(writing, MIN_WRITE_SECONDS)
            if is_refused:
                writing.result()
            raise
        left = min(end - loop.time(), MAX_WRITE_SECONDS)
        await self._finish(writing, max(left, MIN_WRITE_SECONDS))
        return result

    async def _show(self, step: PlannedStep, text: str) -> None:
        if self._request.journal is not None:
            await self._request.journal.show(step, self._hide(text, is_cut=True))

    async def _finish(self, writing: asyncio.Task[None], seconds: float) -> None:
        """Wait until all events are recorded, at most ``seconds``."""
        self._is_closed = True
        self._add(self.lines.close())
        try:
            async with asyncio.timeout(seconds):
                await writing
        except TimeoutError:
            log.warning(
                "%d steps of a program were not recorded, because the ledger is unreachable",
                len(self._waiting) + 1,
                extra={"action": "step_not_recorded"},
            )

    async def _write(self) -> None:
        """Record the events in their order until the output has ended."""
        journal = self._request.journal
        while True:
            session = self.lines.session
            if journal is not None and session != self._recorded_session:
                self._recorded_session = session
                if session.id == self._hide(session.id):
                    resumed = self._request.resume is not None
                    await journal.program_session(session, resumed=resumed)
                continue
            if not self._waiting:
                if self._is_closed:
                    return
                self.pipe.resume()
                self._changed.clear()
                await self._changed.wait()
                continue
            event = self._waiting.popleft()
            assert journal is not None
            if event.is_new:
                await journal.report(event.step, event.reply)
            elif event.reply is not None:
                await journal.finish(event.step, event.reply)
