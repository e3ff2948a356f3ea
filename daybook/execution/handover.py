"""Handover of a claimed run from the worker to its process, and the process's reports back.

A worker that claims a run before it starts a process (promise 2: the worker claims at the due time,
and passes the fencing token to the process) hands over the claim: the run, its fencing token, and
the holder's name. The process uses this name for further claims, so that the worker renews these
claims too. The process reports each step as one line of JSON on a pipe, because the worker has to
know when each attempt starts.

::

    {"claimed": fence}                        a claim by the process itself, for example between
                                              two attempts
    {"checking": fence}                       the job's check runs, before the first attempt;
                                              the check has ended when {"claimed": fence} follows
    {"running": attempt}                      the attempt starts: immediately before the effect
    {"waiting": "<until>"}                    the run waits: for its next attempt, until that time;
                                              for a person's decision, at most until that time
    {"took": usage}                           usage of the attempt so far, in case a call is cut off
    {"changed": tool}                         a tool that changes something is being called;
                                              an empty name: the tool has replied
    {"ended": status}                         the outcome is in the ledger
    {"summarizing": true}                     an agent is asked for a title or a summary of the
                                              session, which may take as long as an attempt
    {"imported": [name, …]}                   modules that the run has imported, for the parent of
                                              later runs (`worker.child`)
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from prefect.context import FlowRunContext


@dataclass(frozen=True)
class Handover:
    """Claim that the worker made for this process.

    ``descriptor`` is the write end of the status pipe; ``holder`` names the worker in its leases.
    ``skew`` is how far the ledger's clock was ahead of this machine's.
    """

    flow_run_id: str
    run_id: str
    fence: int
    holder: str
    descriptor: int
    skew: timedelta = timedelta(0)

    def report(self, **facts: object) -> None:
        """Report ``facts`` to the worker as one line. If the worker has exited, do nothing."""
        line = json.dumps(facts, default=str) + "\n"
        with suppress(OSError):
            os.write(self.descriptor, line.encode())


_received: list[Handover] = []


def receive(
    flow_run_id: str,
    run_id: str,
    fence: int,
    holder: str,
    descriptor: int,
    *,
    skew_seconds: float = 0.0,
) -> None:
    """Store the handover. Call this once in the process of a run, before its flow starts."""
    skew = timedelta(seconds=skew_seconds)
    _received[:] = [Handover(flow_run_id, run_id, fence, holder, descriptor, skew)]


def received_for(flow_run_id: str) -> Handover | None:
    """Return the handover for this flow run; None if it must claim itself, as a subflow does."""
    return next((each for each in _received if each.flow_run_id == flow_run_id), None)


def report(**facts: object) -> None:
    """Report ``facts`` to the worker of the current flow run, if the run has a worker."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is not None and (given := received_for(str(run.id))) is not None:
        given.report(**facts)


@contextmanager
def cancel_on_sigterm() -> Iterator[None]:
    """Make SIGTERM cancel the current task while the block runs; in the main thread only.

    Prefect's own handler raises an exception at any point, usually in the event loop itself. The
    loop then shuts down, and an agent's program would get SIGKILL without SIGTERM.

    After the block, however it ended, ignore SIGTERM, because Prefect would report a crash: the run
    has its outcome or waits again, or its worker handles the exit (`worker.exit_handling`). The
    sender of the SIGTERM sends SIGKILL next.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
