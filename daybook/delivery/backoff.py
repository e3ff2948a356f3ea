"""Retry delays of callbacks, messages and listener calls.

::

    attempt  1   2    3     4      5      6      7     8     9     10    11
    after    –   5 s  30 s  2 min  10 min 30 min 1 h   2 h   4 h   6 h   10 h     about 24 h in all

Each delay is extended by a random part of up to a tenth, so that rows that failed together are not
retried together. If a destination allows more than 11 attempts, the last delay applies to each
further attempt.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from daybook.delivery.destination_settings import DEFAULT_ATTEMPTS, RETRY_DELAYS
from daybook.delivery.outbox import WAKE
from daybook.delivery.sending import MAX_DELIVERY_AGE, DeliveryResult
from daybook.http.request import MAX_REQUESTED_DELAY
from daybook.ledger.states import Delivery

if TYPE_CHECKING:
    from daybook.ledger.tables import OutboxRow

MAX_RETRY_AGE = MAX_DELIVERY_AGE
MAX_JITTER = 0.1


def next_attempt_at(
    row: OutboxRow, now: datetime, asked: float | None, tries: int
) -> datetime | None:
    """Return the time of the next attempt to send ``row`` after an attempt that failed at ``now``.

    ``row.attempts`` does not count the failed attempt yet. ``asked`` is the delay in the response's
    ``Retry-After``, in seconds; it replaces a shorter delay, up to `MAX_REQUESTED_DELAY` and the
    row's deadline.
    Return None if no attempt follows. This is so after ``tries`` attempts, and if `MAX_RETRY_AGE`
    has passed since the row was created or since the operator last retried it.
    """
    attempts, deadline = row.attempts + 1, (row.retried_at or row.created_at) + MAX_RETRY_AGE
    if attempts >= tries or now >= deadline:
        return None
    delay = RETRY_DELAYS[min(attempts, len(RETRY_DELAYS)) - 1] * (1 + random.uniform(0, MAX_JITTER))
    if asked is not None and asked > delay.total_seconds():
        delay = max(
            delay,
            min(timedelta(seconds=min(asked, MAX_REQUESTED_DELAY.total_seconds())), deadline - now),
        )
    return now + delay


def failed(
    row: OutboxRow,
    now: datetime,
    error: str,
    seconds: float,
    *,
    final: bool = False,
    asked: float | None = None,
    tries: int = DEFAULT_ATTEMPTS,
) -> DeliveryResult:
    """Return the result of a failed attempt: pending if another attempt follows, otherwise failed.

    ``seconds`` is its duration. ``final`` means that no later attempt of this row can succeed;
    other rows of its queue may be sent. A wake has one attempt, because the next cycle sends the
    next wake. ``asked`` and ``tries`` are as for `next_attempt_at`.
    """
    last = final or row.purpose == WAKE
    next_at = None if last else next_attempt_at(row, now, asked, tries)
    status = Delivery.FAILED if next_at is None else Delivery.PENDING
    return DeliveryResult(
        row.id, row.fence, status, next_at, seconds, error=error, went_out=not final
    )
