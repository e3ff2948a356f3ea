"""End of a forked process: it exits as an interpreter does, and never returns to the parent's code.

A fresh interpreter that replaced a forked process (`worker.child_setup`) ends in the same way, and
so does a command in a process of its own (`cli.entry`).
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, cast


def exit_with(
    work: Callable[[], int], report: Callable[[int], None] = lambda code: None
) -> NoReturn:
    """Call ``work``, and exit with its code as an interpreter does, but without unloading modules.

    Join non-daemon threads and call the exit functions, in which Prefect sends its last logs and
    events. At the very end, call ``report`` with the code, and ignore its errors. After a
    KeyboardInterrupt, do none of this, but end the process by SIGINT at once.
    """
    code = 1
    try:
        code = _exit_code(work)
        with suppress(KeyboardInterrupt):
            cast(Any, threading)._shutdown()
        atexit._run_exitfuncs()
        flush_output()
    except BaseException:
        traceback.print_exc()
    finally:  # in any case: a forked child must never return into its parent's loop
        with suppress(BaseException):
            report(code)
        os._exit(code)


def _exit_code(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        flush_output()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1


def flush_output() -> None:
    """Flush stdout and stderr, and ignore errors."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
