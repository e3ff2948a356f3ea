"""Output of processes that must continue when the disk of their log is full."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO


class _LossyFile(io.FileIO):
    """File that drops the data that a full disk cannot store, instead of raising an error."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return memoryview(data).nbytes


def survive_full_disk() -> None:
    """Make this process's stdout and stderr drop the data that a full disk cannot store.

    Call it before other modules, such as log handlers, store these streams. A terminal, or a stream
    that replaced the original one, does not change.
    """
    sys.stdout, sys.stderr = _lossy(sys.stdout, 1), _lossy(sys.stderr, 2)


def _lossy(stream: TextIO, number: int) -> TextIO:
    try:
        if stream.fileno() != number or os.isatty(number):
            return stream
    except (OSError, ValueError, AttributeError):  # not a file, or closed
        return stream
    stream.flush()
    lossy = io.BufferedWriter(_LossyFile(number, "wb", closefd=False))
    return io.TextIOWrapper(
        lossy, stream.encoding, stream.errors, line_buffering=True, write_through=True
    )
