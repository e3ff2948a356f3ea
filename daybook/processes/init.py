"""Process 1 of a container, which reaps orphans and forwards signals to the program.

The kernel makes process 1 the parent of each orphan, such as a process that an agent left behind.
The kernel does not deliver a signal to process 1 if process 1 has no handler for it. So process 1
stays small, and the program runs as its child.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def fork_if_first() -> None:
    """If this is process 1, fork, and return only in the child; otherwise do nothing.

    Process 1 waits for the child and then exits with the child's exit code, or with 128 + N if
    signal N ended the child.
    """
    if os.getpid() != 1:
        return
    # Block the signals until process 1 has its handlers, so that no signal is lost.
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child:

        def forward(number: int, frame: FrameType | None) -> None:
            os.kill(child, number)  # the child is not reaped yet, so it still has this pid

        for number in _FORWARDED:
            signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
    while child:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
