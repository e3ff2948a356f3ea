"""Journal of the steps of one attempt, in the ledger (`daybook.runs.steps`).

`recording` opens it around an attempt, and `current` returns it to the code that asks agents. A
step whose start cannot be recorded must not happen, so an unreachable ledger delays it until the
attempt's timeout. The texts for people are bounded, and contain no token of a claim on a task.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta

from daybook.agents.journal import Journal, Position, Step, StepReply
from daybook.clock import Clock
from daybook.errors import LedgerUnreachable
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import StepRow
from daybook.runs import steps
from daybook.runs.claim_requests import Granted
from daybook.tasks.model import redact_tokens

log = logging.getLogger(__name__)

MAX_TEXT_CHARACTERS = 2_000
"""Maximum length of a step's input, output or error in the ledger."""

RETRY_DELAY = timedelta(seconds=1)
"""Delay before a write to an unreachable ledger is tried again."""

_current: ContextVar[Journal | None] = ContextVar("journal", default=None)


@contextmanager
def recording(ledger: Ledger, granted: Granted, attempt: int, clock: Clock) -> Iterator[None]:
    """Let `current` return the journal of this attempt in the block."""
    token = _current.set(RunJournal(ledger, granted, attempt, clock))
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Journal | None:
    """Return the journal of the attempt that is running; None outside of an attempt."""
    return _current.get()


class RunJournal:
    """Implementation of `Journal`."""

    def __init__(self, ledger: Ledger, granted: Granted, attempt: int, clock: Clock) -> None:
        self._ledger, self._granted, self._attempt, self._clock = ledger, granted, attempt, clock
        self._last_number: int | None = None if attempt > 1 else 0
        self._numbers: dict[Position, int] = {}

    async def start(self, step: Step) -> None:
        number = await self._next_number()
        row = StepRow(
            run_id=self._granted.run_id,
            number=number,
            position=str(step.position),
            attempt=self._attempt,
            kind=step.kind,
            name=step.name,
            digest=step.digest,
            repeatable=step.repeatable,
            started_at=self._clock.now(),
            input=shorten(step.input),
        )
        await self._persist(lambda: steps.start(self._ledger, self._granted.fence, row))
        self._numbers[step.position] = number

    async def finish(self, step: Step, reply: StepReply) -> None:
        number = self._numbers[step.position]
        status = Status.FAILED if reply.error else Status.SUCCEEDED
        await self._persist(
            lambda: steps.finish(
                self._ledger,
                self._granted.fence,
                self._granted.run_id,
                number,
                status,
                usage=reply.usage,
                error=shorten(reply.error) or None,
                output=shorten(reply.output),
            )
        )

    async def _next_number(self) -> int:
        if self._last_number is None:
            async with self._ledger.read() as session:
                earlier = await steps.of_run(session, self._granted.run_id)
            self._last_number = earlier[-1].number if earlier else 0
        self._last_number += 1
        return self._last_number

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Repeat ``write`` until the ledger is reachable; the attempt's timeout ends this."""
        while True:
            try:
                return await write()
            except LedgerUnreachable as error:
                log.warning(
                    "a step is not recorded yet: %s", error, extra={"action": "step_not_recorded"}
                )
            await self._clock.wait_until(self._clock.now() + RETRY_DELAY)


def shorten(text: str) -> str:
    """Return a text of a step as the ledger stores it."""
    text = redact_tokens(text)
    left_out = len(text) - MAX_TEXT_CHARACTERS
    if left_out <= 0:
        return text
    return f"{text[:MAX_TEXT_CHARACTERS]}\n… ({left_out:,} more characters)"
