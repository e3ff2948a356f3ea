"""Attempts to use up the machine."""

from __future__ import annotations

import os
import resource
import signal
import threading

from tests.unit.processes.hostile.registry import (
    MEBIBYTE,
    attempt,
    target,
)


@attempt("start 300 processes", "any")
def _() -> object:
    started = list[int]()
    try:
        while len(started) < 300:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            started.append(pid)
        return True
    finally:
        for pid in started:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@attempt("start 300 threads")
def _() -> object:
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(300)]
    try:
        for each in threads:
            each.start()
        return True
    finally:
        done.set()


@attempt("use 400 MiB of memory", "any")
def _() -> object:
    return len(bytearray(400 * MEBIBYTE))


@attempt("write a file of 80 MiB", "any")
def _() -> object:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("large", "wb") as file:
        file.truncate(80 * MEBIBYTE)
    os.unlink("large")
    return True


for _what in ("/tmp", "/dev/shm", "home"):

    def _fill(where: str = _what) -> object:
        folder = target("home") if where == "home" else where
        block = bytes(MEBIBYTE)
        for part in range(5):
            with open(f"{folder}/fill{part}", "wb", buffering=0) as file:
                for _ in range(20):
                    file.write(block)
        return True

    attempt(f"put 100 MiB into {_what}")(_fill)


@attempt("use much CPU time")
def _() -> object:
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    return most == resource.RLIM_INFINITY or most > 10
