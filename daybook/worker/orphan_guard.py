"""A run that nobody supervises any more ends itself.

Where the worker dies its children's parent ends them, where the parent dies the worker does. Where
both are killed at once nobody renews the lease, so another may begin this run anew: it has to be
gone by then. The sign is the status pipe, of which nobody has the reading end any more. What ends
the run is a process of its own, ``python -m daybook.worker.orphan_guard PID STARTED GRACE``, because
what the run began has to be ended after it.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
import time

from daybook.processes import environment, proc
from daybook.timing import TIMING

_LOOK_AGAIN = 1.0


def watch(status: int, grace: float = TIMING.stop_grace.total_seconds()) -> None:
    """End this process and all that it began when neither its worker nor its parent is left.

    ``status`` is the pipe's writing end. Watches from a thread that keeps nobody from leaving.
    """
    work = threading.Thread(
        target=_watch, args=(status, os.getppid(), grace), name="orphaned", daemon=True
    )
    work.start()


def _watch(status: int, parent: int, grace: float) -> None:
    reader = select.poll()
    reader.register(status, 0)  # an error is all that is waited for
    if not any(event & select.POLLERR for _, event in reader.poll()):
        return  # no such sign on this system
    while os.getppid() == parent:  # it ends this process, in its way
        time.sleep(_LOOK_AGAIN)
    me = proc.find(os.getpid())
    assert me is not None
    arguments = [str(me.pid), me.started, str(grace)]
    subprocess.Popen(
        [sys.executable, "-m", "daybook.worker.orphan_guard", *arguments],
        stdin=subprocess.DEVNULL,
        env=environment.allowed((*environment.DEFAULT, "PYTHONPATH")),
        start_new_session=True,
    )


async def end(head: proc.Process, grace: float) -> None:
    """End ``head``, and after it its family, of which this process is one."""
    others = [each for each in proc.family(head) if each.pid != os.getpid()]
    for number in (signal.SIGTERM, signal.SIGCONT):
        proc.tell([each for each in others if each.group == head.pid], number)
    await proc.gone([head], grace)
    others += [each for each in proc.family(head) if each not in others]
    proc.tell([head], signal.SIGKILL)
    await proc.gone([head], grace)
    await proc.kill(each for each in others if each.pid != os.getpid())


def main(arguments: list[str]) -> None:
    """See the module."""
    proc.deny_inspection()
    head = proc.find(int(arguments[0]), arguments[1])
    if head is not None:
        asyncio.run(end(head, float(arguments[2])))


if __name__ == "__main__":
    main(sys.argv[1:])
