"""Guard that ends a run which no process supervises any more.

If the worker dies, the parent ends the children; if the parent dies, the worker still supervises
the children. If both are killed at once, no process renews the lease. Another worker may then start
this run again, so this run's processes have to end before that. The guard notices this case,
because no process holds the read end of the status pipe any more. It starts a separate process,
``python -m daybook.worker.orphan_guard PID STARTED GRACE``, to end the run. The run cannot do this
itself, because its descendants have to be ended after the run.
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

_CHECK_SECONDS = 1.0


def watch(status: int, parent_pid: int, grace: float = TIMING.stop_grace.total_seconds()) -> None:
    """End this process and its descendants when both its worker and its parent have died.

    ``status`` is the write end of the status pipe; ``parent_pid`` is as the parent itself passed
    it, because it may have died since the fork. The thread is a daemon, so it does not delay the
    exit. Do nothing on a system that does not report a closed read end.
    """
    thread = threading.Thread(
        target=_watch, args=(status, parent_pid, grace), name="orphaned", daemon=True
    )
    thread.start()


def _watch(status: int, parent_pid: int, grace: float) -> None:
    reader = select.poll()
    reader.register(status, 0)  # report errors only
    if not any(event & select.POLLERR for _, event in reader.poll()):
        return  # this system does not report a closed read end
    while os.getppid() == parent_pid:  # the parent is alive, and ends this process itself
        time.sleep(_CHECK_SECONDS)
    process = proc.find(os.getpid())
    assert process is not None
    arguments = [str(process.pid), process.started, str(grace)]
    subprocess.Popen(
        [sys.executable, "-m", "daybook.worker.orphan_guard", *arguments],
        stdin=subprocess.DEVNULL,
        env=environment.select((*environment.DEFAULT_NAMES, "PYTHONPATH")),
        start_new_session=True,
    )


async def end(head: proc.Process, grace: float) -> None:
    """End ``head`` and the other processes of its tree, except this one.

    Send SIGTERM to the group of ``head``. After ``grace`` seconds, or as soon as ``head`` has
    ended, send SIGKILL to ``head`` and then to the rest.
    """
    others = [each for each in proc.process_tree(head) if each.pid != os.getpid()]
    for number in (signal.SIGTERM, signal.SIGCONT):
        proc.send_signal([each for each in others if each.group == head.pid], number)
    await proc.wait_gone([head], grace)
    others += [each for each in proc.process_tree(head) if each not in others]
    proc.send_signal([head], signal.SIGKILL)
    await proc.wait_gone([head], grace)
    await proc.kill(each for each in others if each.pid != os.getpid())


def main(arguments: list[str]) -> None:
    """End the processes of a run; ``arguments`` are its pid, its start time and the grace."""
    proc.deny_inspection()
    head = proc.find(int(arguments[0]), arguments[1])
    if head is not None:
        asyncio.run(end(head, float(arguments[2])))


if __name__ == "__main__":
    main(sys.argv[1:])
