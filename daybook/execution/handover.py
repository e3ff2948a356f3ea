"""Handover of a claimed run from the worker to its process, and the process's reports back.

A worker that claims before it starts a process (promise.md 2) hands over the grant: the run, its
fencing token, and the holder name for further claims of this process, so that the worker renews
them all. The process reports each step as one line of JSON on a pipe. The worker needs to know when
an attempt started, but never asks.

::

    {"claimed": fence}                        a claim by the process, between two attempts
    {"checking": fence}                       the job's check runs, before the first attempt;
                                              it has ended when {"claimed": fence} follows
    {"running": attempt}                      started, immediately before the effect
    {"waiting": "<until>"}                    the attempt ended, the next one begins here
    {"took": usage}                           of the attempt so far, in case a call is cut off
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
    """A grant from the worker.

    ``descriptor`` is the writing end of the status pipe; ``holder`` names the worker in its leases.
    """

    flow_run_id: str
    run_id: str
    fence: int
    holder: str
    descriptor: int

    def report(self, **facts: object) -> None:
        """Write one line. If the worker is gone, do nothing."""
        line = json.dumps(facts, default=str) + "\n"
        with suppress(OSError):
            os.write(self.descriptor, line.encode())


_received: list[Handover] = []


def receive(flow_run_id: str, run_id: str, fence: int, holder: str, descriptor: int) -> None:
    """Store the handover. Called once in the process of a run, before its flow is entered."""
    _received[:] = [Handover(flow_run_id, run_id, fence, holder, descriptor)]


def received_for(flow_run_id: str) -> Handover | None:
    """Return the handover for this flow run, or None if it has to claim for itself.

    Another flow run in the same process (a subflow) has no handover.
    """
    return next((each for each in _received if each.flow_run_id == flow_run_id), None)


def report(**facts: object) -> None:
    """Report to the worker of the current flow run, if it has one."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is not None and (given := received_for(str(run.id))) is not None:
        given.report(**facts)


@contextmanager
def cancel_on_sigterm() -> Iterator[None]:
    """Make SIGTERM cancel the current task while the block runs; in the main thread only.

    Prefect's handler raises at any point, usually in the event loop itself, which is then torn
    down: an agent's program would be killed without SIGTERM.

    After the block SIGTERM is ignored: the run has its outcome, and Prefect would get a crash
    instead. The sender follows with SIGKILL.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    old_handler = signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    new_handler: Any = old_handler
    try:
        yield
        new_handler = signal.SIG_IGN
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, new_handler)
