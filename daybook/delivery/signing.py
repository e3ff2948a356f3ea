"""The headers of a callback: signed as Standard Webhooks say, and what people knew before.

::

    webhook-id          the row's id, the same on every try
    webhook-timestamp   of this try, in seconds
    webhook-signature   v1,<base64> of HMAC-SHA256 over "id.timestamp.body"; while a rotation
                        lasts one of each secret, with a space between
    X-CronRun-ID        the run's id                        X-CronEvent     completed, failed, …
    Idempotency-Key     as webhook-id                       Authorization   Bearer, with a token
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
    """The headers for one try of ``row`` at ``now``, which is UTC; ``body`` is what is sent.

    ``secrets`` are legal, `settings.signing_key` says; the newest comes first.
    """
    text = body.decode("utf-8")
    made = {
        "Content-Type": "application/json",
        "Idempotency-Key": row.id,
        "webhook-id": row.id,
        "webhook-timestamp": str(floor(now.timestamp())),
        "webhook-signature": " ".join(Webhook(each).sign(row.id, now, text) for each in secrets),
        "X-CronEvent": row.event,
    }
    if row.run_id:
        made["X-CronRun-ID"] = row.run_id
    if token:
        made[AUTHORIZATION] = f"Bearer {token}"
    return made
