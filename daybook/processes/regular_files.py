"""Regular files, read without following a link.

A process may replace a folder by a link between two steps. So the way to a folder is opened name by
name, each relative to the folder before it and with `O_NOFOLLOW`, and a file is opened relative to
its folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

# Only the last folder of a path has to be readable; the others need no more than the right to pass.
STEP_FLAGS = os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_PATH", os.O_RDONLY)
LAST_FLAGS = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_RDONLY
# A FIFO or a device must neither block nor become the terminal of this process.
FILE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class NotRegular(Exception):
    """The error that a name is no regular file: ``problem`` is the reason, perhaps with a hint."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem, self.hint = problem, hint


LINK = ("is a link", "no tool follows links")


@contextmanager
def opened_folder(path: str) -> Iterator[int]:
    """Open a folder, name by name from `/`. Raise OSError, also for a link on the way."""
    names = [each for each in path.split("/") if each]
    opened = os.open("/", STEP_FLAGS if names else LAST_FLAGS)
    try:
        for number, name in enumerate(names, 1):
            flags = LAST_FLAGS if number == len(names) else STEP_FLAGS
            following = os.open(name, flags, dir_fd=opened)
            os.close(opened)
            opened = following
        yield opened
    finally:
        os.close(opened)


def check(status: os.stat_result) -> None:
    """Raise `NotRegular` unless ``status``, without following a link, is that of a file."""
    if stat.S_ISLNK(status.st_mode):
        raise NotRegular(*LINK)
    if stat.S_ISDIR(status.st_mode):
        raise NotRegular("is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise NotRegular("is no regular file")


def read(folder: int, name: str, limit: int) -> tuple[bytes, os.stat_result]:
    """Return the first ``limit`` bytes of a file in an opened folder, and its status.

    Raise `NotRegular`, and OSError.
    """
    # Opening a device or a FIFO can have an effect, so look at the file before.
    check(os.stat(name, dir_fd=folder, follow_symlinks=False))
    opened = os.open(name, os.O_RDONLY | FILE_FLAGS, dir_fd=folder)
    try:
        status = os.fstat(opened)
        check(status)
        parts, left = list[bytes](), limit
        while left and (part := os.read(opened, left)):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(opened)
    return b"".join(parts), status
