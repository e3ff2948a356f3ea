"""Headers of a callback: the Standard Webhooks signature, and the conventional `X-Cron…` headers.

::

    webhook-id          the row's id, the same in every attempt
    webhook-timestamp   the time of this attempt, in Unix seconds
    webhook-signature   v1,<base64> of HMAC-SHA256 over "id.timestamp.body"; during a rotation one
                        for each secret, separated by a space
    X-CronRun-ID        the run's id                        X-CronEvent     completed, failed, …
    Idempotency-Key     same as webhook-id                  Authorization   Bearer, with a token
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import floor
from typing import TYPE_CHECKING

from standardwebhooks import Webhook

if TYPE_CHECKING:
    from daybook.ledger.tables import OutboxRow

AUTHORIZATION = "Authorization"


def headers(
    row: OutboxRow, body: bytes, secrets: Sequence[str], token: str | None, now: datetime
) -> dict[str, str]:
    """Return the headers for one attempt of ``row`` at ``now`` (UTC); ``body`` is sent with them.

    ``secrets`` are valid for `settings.signing_key`, newest first.
    """
    text = body.decode("utf-8")
    result = {
        "Content-Type": "application/json",
        "Idempotency-Key": row.id,
        "webhook-id": row.id,
        "webhook-timestamp": str(floor(now.timestamp())),
        "webhook-signature": " ".join(Webhook(each).sign(row.id, now, text) for each in secrets),
        "X-CronEvent": row.event,
    }
    if row.run_id:
        result["X-CronRun-ID"] = row.run_id
    if token:
        result[AUTHORIZATION] = f"Bearer {token}"
    return result
