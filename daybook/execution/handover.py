"""What a worker hands to the process of one run, and what that process tells its worker.

A worker that claims before it starts a process (`docs/promise.md` 2) hands over the grant: the run,
its fence, and under whose name further claims of this process are made, so that the worker renews
them all. The process tells of each step in one line of JSON on a pipe; the worker, which must know
when an attempt began, never asks.

::

    {"claimed": fence}                        a claim of its own, between two attempts
    {"checking": fence}                       the job's gate is asked, before the first attempt;
                                              it is answered where {"claimed": fence} follows
    {"running": attempt}                      begun, immediately before the effect
    {"waiting": "<until>"}                    the attempt ended, the next one begins here
    {"took": usage}                           of the attempt so far, where it may be ended in a call
    {"changed": tool}                         a tool that changes something is being called
    {"ended": status}                         the outcome is in the ledger
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from prefect.context import FlowRunContext


@dataclass(frozen=True)
class Handover:
    """``descriptor`` is the pipe's writing end; ``holder`` the worker, as its leases name it."""

    flow_run_id: str
    run_id: str
    fence: int
    holder: str
    descriptor: int

    def tell(self, **facts: object) -> None:
        """Write one line; a worker that is gone needs none."""
        line = json.dumps(facts, default=str) + "\n"
        with suppress(OSError):
            os.write(self.descriptor, line.encode())


_received: list[Handover] = []


def receive(flow_run_id: str, run_id: str, fence: int, holder: str, descriptor: int) -> None:
    """Called once in the process of a run, before its flow is entered."""
    _received[:] = [Handover(flow_run_id, run_id, fence, holder, descriptor)]


def of(flow_run_id: str) -> Handover | None:
    """What was handed over for this flow run; None if it has to claim for itself.

    Another flow run of the same process (a subflow) was handed nothing.
    """
    return next((each for each in _received if each.flow_run_id == flow_run_id), None)


def tell(**facts: object) -> None:
    """Tell the worker of the flow run that this is called in; nobody where there is none."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is not None and (given := of(str(run.id))) is not None:
        given.tell(**facts)


@contextmanager
def ends_softly() -> Iterator[None]:
    """While the block runs, SIGTERM cancels the task that runs it; in the main thread only.

    Prefect's handler raises wherever it strikes, in the loop itself as a rule, which is torn down
    then: an agent's program would be killed without having been asked to end.

    After the block SIGTERM is ignored: the run has its outcome, and Prefect would be told of a
    crash over it. Who sent it sends SIGKILL in its time.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    before = signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    after: Any = before
    try:
        yield
        after = signal.SIG_IGN
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, after)
