"""Process 1 of a container: reaps orphans, and passes signals on to the program.

The kernel makes process 1 the parent of each orphan, such as a process that an agent left behind,
and gives it no signal for which it has no handler. So process 1 stays small, and the program runs
as its child.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def fork_if_first() -> None:
    """If this is process 1, return in a new child of it; process 1 ends with the child's exit code.

    A child that signal N has ended counts as 128 + N.
    """
    if os.getpid() != 1:
        return
    # No signal is lost: until process 1 has its handlers, signals wait.
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child:

        def forward(number: int, frame: FrameType | None) -> None:
            os.kill(child, number)  # not reaped yet, so it has its pid

        for number in _FORWARDED:
            signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
    while child:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
