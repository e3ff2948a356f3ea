"""What a job tells to whom that says nothing of it, as it is stored and shown (requirement 30)."""

from __future__ import annotations

DEFAULT: dict[str, object] = {
    "events": ["completed", "failed"],
    "channel": "",
    "chat_id": "",
    "on_complete": "",
    "on_fail": "",
    "template": "",
    "only_changed": False,
    "silent": False,
    "progress": "",
}
