"""When a callback or message that was not taken is tried again. Pure.

::

    try     1   2    3     4      5      6      7     8     9     10    11
    after   –   5 s  30 s  2 min  10 min 30 min 1 h   2 h   4 h   6 h   10 h     about 24 h in all

Each pause is longer by up to a tenth, at random: what failed together does not come back together.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from daybook.delivery.sending import GIVEN_UP_AFTER

if TYPE_CHECKING:
    from daybook.ledger.tables import OutboxRow

PAUSES = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 30, 120, 600, 1800, 3600, 7200, 14400, 21600, 36000)
)
TRIES = len(PAUSES) + 1
LONGEST = GIVEN_UP_AFTER
JITTER = 0.1


def next_try(row: OutboxRow, now: datetime, asked: float | None, tries: int) -> datetime | None:
    """When to try again after the failed try that follows ``row.attempts``; None: it was the last.

    ``asked`` are the seconds of a ``Retry-After``: kept when they are more than the pause, as far
    as the row's time goes.
    """
    made, over = row.attempts + 1, (row.retried_at or row.created_at) + LONGEST
    if made >= tries or now >= over:
        return None
    pause = PAUSES[min(made, len(PAUSES)) - 1] * (1 + random.uniform(0, JITTER))
    if asked is not None and asked > pause.total_seconds():
        pause = max(pause, min(timedelta(seconds=min(asked, LONGEST.total_seconds())), over - now))
    return now + pause
