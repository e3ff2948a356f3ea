"""Fakes for tests of Daybook and of programs that embed it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from daybook.agents.base import AgentReply, AgentRequest
from daybook.errors import AgentTimeout

# --- time


class ManualClock:
    """Clock that stands still until a test moves it; pass it to `Ledger` and to `carry_out`.

    ``wait_until`` moves the clock to the instant and returns at once, so a test of code that waits
    takes no time. ``waits`` contains the instants that ``wait_until`` got. All instants are
    timezone-aware.
    """

    def __init__(self, now: datetime = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)) -> None:
        self._now = now.astimezone(UTC)
        self.waits: list[datetime] = []

    def now(self) -> datetime:
        return self._now

    def move(self, by: timedelta) -> datetime:
        """Move the clock by a duration, which may be negative; return the new time."""
        return self.set(self._now + by)

    def set(self, instant: datetime) -> datetime:
        """Set the clock to ``instant``; return it in UTC."""
        self._now = instant.astimezone(UTC)
        return self._now

    async def wait_until(self, instant: datetime) -> None:
        self.waits.append(instant)
        if instant > self._now:
            self.set(instant)
        await asyncio.sleep(0)


# --- agents


class ScriptedAgent:
    """Agent that returns the given answers in order, and then repeats the last answer.

    An answer is a string, an `AgentReply`, or an error to raise; without any, the answer is
    `scripted answer`. ``requests`` contains the requests that the agent received. With
    ``held=True`` each answer waits until the test sets ``release``. The first request sets
    ``asked``, so that a test can wait until the agent is working.
    """

    def __init__(
        self,
        *answers: str | AgentReply | BaseException,
        name: str = "scripted",
        held: bool = False,
    ) -> None:
        self.name = name
        self.requests: list[AgentRequest] = []
        self.asked = asyncio.Event()
        self.release = asyncio.Event()
        self._answers = list(answers) or ["scripted answer"]
        if not held:
            self.release.set()

    async def answer(self, request: AgentRequest) -> AgentReply:
        self.requests.append(request)
        self.asked.set()
        try:
            async with asyncio.timeout(request.timeout):
                await asyncio.sleep(0)
                await self.release.wait()
        except TimeoutError:
            raise AgentTimeout(request.timeout) from None
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, AgentReply):
            return answer
        return AgentReply(text=answer, agent=self.name)
