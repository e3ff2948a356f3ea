"""Limit of open files of Daybook's own processes."""

from __future__ import annotations

import resource
from contextlib import suppress

MIN_OPEN_FILES = 1_024
"""Number of open files that each process of Daybook may need.

It is the usual limit of Linux. On macOS and in some shells the limit is 256.
"""


def raise_limit(wanted: int = MIN_OPEN_FILES) -> None:
    """Raise this process's soft limit to ``wanted``, or as far as its hard limit allows.

    Never lower it. Processes that this process starts inherit the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS reports a hard limit that it may refuse.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
