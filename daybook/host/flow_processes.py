"""The processes of a worker's flow runs: they end before it does, so that each leaves its word.

Prefect's worker answers SIGTERM by SIGKILL to them. Then nobody writes down what became of a run at
work, and the agent's program lives on without its timeout. SIGTERM to a flow's process itself lets
it end its agent and settle the run as unknown, which takes about a second.
"""

from __future__ import annotations

import signal

from daybook.agents.process import GRACE as AGENT_GRACE
from daybook.host import processes

WORKER = "worker"
"""The name of a child whose flow processes are to be ended first."""
GRACE = AGENT_GRACE + 5.0
"""Seconds: the agent's program has its own, and the outcome is still to be written."""


async def end(worker: processes.Process) -> None:
    """SIGTERM to the flow processes of ``worker``; wait until they have ended, at most `GRACE`.

    The worker gets SIGSTOP first, so that it begins no others and kills none of these. It is left
    so: the caller sends it SIGTERM and then SIGCONT.
    """
    processes.tell([worker], signal.SIGSTOP)
    # Prefect begins each in a session of its own; what is in the worker's group is no flow.
    begun = [
        p for p in processes.family(worker) if p.parent == worker.pid and p.group != worker.pid
    ]
    processes.tell(begun, signal.SIGTERM)
    await processes.gone(begun, GRACE)
