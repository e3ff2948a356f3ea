"""Supervision of one run's process, from its start to its exit.

::

    watch ─► the process ends by itself ─────────────────────┐
      │                                                      ├─► `exit_handling`: record the outcome
      └► a `StopCause` to end it ─► its whole group is dead ─┘   in the ledger, then in Prefect

Only the first cause counts. A lost lease is a cause (promise 5: a refused renewal stops the run).
The worker records no outcome before the group is gone (promise 8: no attempt overlaps an earlier
one). If the parent was killed, the worker can end only those processes of the group that
`RunProcess.watch` has found.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from daybook.ledger.states import TERMINAL, Status, Usage
from daybook.policies.policy import Policy
from daybook.processes import group
from daybook.processes.children import read_tail
from daybook.timing import TIMING
from daybook.worker.run_process import RunProcess

log = logging.getLogger(__name__)

TAIL_LINES = 20
PIPE_GRACE_SECONDS = 1.0
"""How long to wait for the last facts in the pipe after the process has ended."""


class StopCause(StrEnum):
    """Cause for which the worker ends a run's processes."""

    CANCEL = "cancelled"
    TIMEOUT = "the attempt did not end at its timeout"
    DEADLINE = "the deadline passed"
    LOST = "the lease was lost"
    SHUTDOWN = "the worker was stopped"


@dataclass
class ReportedFacts:
    """Facts that the process has reported so far (`daybook.execution.handover`)."""

    attempt: int = 0
    running_since: float | None = None
    ended: str = ""
    took: Usage | None = None
    changed: bool = False
    summarizing: bool = False
    waits: bool = False


MAX_WAIT_SECONDS = 90.0
"""Maximum time for which a process may stay while its run waits.

It waits up to 30 s for its next attempt, and reschedules its run in Prefect.
"""


@dataclass(eq=False)
class SupervisedRun:
    """Supervised process of one flow run.

    ``run_id`` is the run's id in the ledger, "" for an external run. ``holder`` is the holder that
    the lease names, and ``fence`` the last known fencing token. ``ends_at`` is the time of the
    deadline in seconds of the monotonic clock, None for no deadline. `watch` calls ``on_release``
    when the run has ended or waits, although its process continues.
    """

    flow_run: Any
    running: RunProcess
    run_id: str = ""
    holder: str = ""
    fence: int = 0
    kind: str = ""
    policy: Policy = field(default_factory=Policy)
    facts: ReportedFacts = field(default_factory=ReportedFacts)
    ends_at: float | None = None
    on_release: Callable[[], None] = lambda: None
    cause: StopCause | None = None
    exit_code: int | None = None
    _was_terminal: bool = False
    _waiting_since: float | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def flow_run_id(self) -> str:
        return str(self.flow_run.id)

    @property
    def is_in_ledger(self) -> bool:
        return bool(self.run_id)

    @property
    def uses_slot(self) -> bool:
        """Return whether the run uses a slot: it has not ended and does not wait."""
        return self.is_in_ledger and not self.facts.waits and not self.facts.ended

    def set_deadline(self, left: timedelta) -> None:
        """Set the deadline to ``left`` from now."""
        self.ends_at = time.monotonic() + left.total_seconds()

    def stop(self, cause: StopCause) -> None:
        """Make `watch` end the processes for ``cause``; a later cause has no effect."""
        if self.cause is None:
            self.cause = cause
            self._changed.set()

    def renewed(self, status: Status | None) -> None:
        """Stop the run if its lease was lost.

        ``status`` is the run's status after a renewal of the lease. The lease was lost if the
        status is None (the renewal was refused), or terminal after two renewals in a row. A process
        whose run waits has to end within `MAX_WAIT_SECONDS`, because the run starts again only
        then.
        """
        # A process that has recorded its outcome may have work left, but for less than the interval
        # between two renewals, unless it summarizes its session.
        is_terminal = status in TERMINAL and not self.facts.summarizing
        if status is None or (is_terminal and self._was_terminal):
            self.stop(StopCause.LOST)
        self._was_terminal = is_terminal
        if status is not Status.WAITING:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = time.monotonic()
        elif time.monotonic() - self._waiting_since > MAX_WAIT_SECONDS:
            self.stop(StopCause.LOST)

    def tail(self) -> str:
        """Return the last lines that the process printed."""
        return read_tail(self.running.output, 0, TAIL_LINES).replace("\0", "\ufffd")

    async def watch(self) -> None:
        """Wait for the end of the run's process (`RunProcess.ended`); store its exit code.

        End the process and its descendants at the timeout, at the deadline, or after `stop`.
        """
        reading = asyncio.create_task(self._read_facts())
        ended = asyncio.create_task(self.running.ended())
        try:
            while self.cause is None and not ended.done():
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                first = min(self._stop_times().values(), default=None)
                await asyncio.wait(
                    {ended, changed},
                    timeout=None if first is None else max(0.0, first - time.monotonic()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                changed.cancel()
                now = time.monotonic()
                for cause, at in self._stop_times().items():
                    if at <= now:
                        self.stop(cause)
            if not ended.done():
                log.info("ending %s: %s", self.flow_run.name, self.cause)
            # If the process ended by itself, this sends nothing: the parent, if alive, has ended
            # the descendants.
            await self.running.end(0.0 if ended.done() else TIMING.stop_grace.total_seconds())
            self.exit_code = await ended
            await asyncio.wait({reading}, timeout=PIPE_GRACE_SECONDS)
        finally:
            reading.cancel()
            ended.cancel()

    async def _read_facts(self) -> None:
        async for fact in self.running.facts():
            facts = self.facts
            if fact.keys() & {"running", "claimed", "checking"}:
                self._waiting_since = None  # the process continues: its next wait is another one
            if "running" in fact:
                facts.attempt, facts.running_since = fact["running"], time.monotonic()
                facts.took, facts.changed = None, False
            elif "took" in fact:
                facts.took = fact["took"]
            elif "changed" in fact:
                facts.changed = bool(fact["changed"])
            elif "checking" in fact:  # the timeout of an attempt also limits a check
                facts.running_since = time.monotonic()
            elif "waiting" in fact or "claimed" in fact:
                facts.waits = "waiting" in fact
                self.fence = fact.get("claimed", self.fence)
                facts.running_since = facts.took = None  # the attempt has recorded its usage
            elif "ended" in fact:
                facts.ended, facts.running_since = fact["ended"], None
            elif "summarizing" in fact:
                facts.summarizing, facts.running_since = True, time.monotonic()
            if fact.keys() & {"ended", "waiting"}:
                self.on_release()
            self._changed.set()

    def _stop_times(self) -> dict[StopCause, float]:
        times: dict[StopCause, float] = {}
        if self.facts.running_since is not None:
            limit = (self.policy.timeout + TIMING.timeout_margin).total_seconds()
            times[StopCause.TIMEOUT] = self.facts.running_since + limit
        if self.ends_at is not None and not self.facts.ended:
            times[StopCause.DEADLINE] = self.ends_at
        return times


def describe_exit(watched: SupervisedRun) -> str:
    """Return in words why the worker ended the process, or how the process ended by itself."""
    if watched.cause is not None:
        return str(watched.cause)
    code = watched.exit_code
    if code is None:
        return "its process has exited"
    unrecorded = " and recorded no outcome" if code >= 0 else ""
    return f"its process {group.describe_exit(code)}{unrecorded}"
