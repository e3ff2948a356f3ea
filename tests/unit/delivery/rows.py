"""Builder of claimed outbox rows, and webhook signatures computed with openssl."""

from __future__ import annotations

import base64
import subprocess
from datetime import UTC, datetime
from typing import Any

from daybook.ledger.tables import OutboxRow

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)

OLD = "whsec_b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xkLW9sZCE="
NEW = "whsec_bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3LW5ldyE="


def callback(**fields: Any) -> OutboxRow:
    """Return a claimed callback row that was created at noon and has not been tried."""
    given: dict[str, Any] = {
        "id": "msg_0123456789abcdef0123456789abcdef",
        "key": "run:r1:on_complete",
        "purpose": "callback",
        "event": "completed",
        "run_id": "r1",
        "queue": "https://ops.example.org/hook",
        "address": "https://ops.example.org/hook?token=s3cr3t",
        "body": '{"version": 1, "output": "Grüße, 世界 \\u0000"}',
        "next_at": NOON,
        "created_at": NOON,
        "fence": 1,
    }
    return OutboxRow(**given | fields)


def signature(secret: str, webhook_id: str, timestamp: str, body: bytes) -> str:
    """Return the Standard Webhooks signature, computed with openssl and not by Daybook."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    made = subprocess.run(
        ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}", "-binary"],
        input=f"{webhook_id}.{timestamp}.".encode() + body,
        capture_output=True,
        check=True,
    )
    return f"v1,{base64.b64encode(made.stdout).decode()}"
