"""Default notifications of a job without any of its own, as stored and shown (requirement 30)."""

from __future__ import annotations

DEFAULT: dict[str, object] = {
    "events": ["completed", "failed"],
    "channel": "",
    "chat_id": "",
    "on_complete": "",
    "on_fail": "",
    "template": "",
    "only_changed": False,
    "attach_files": False,
    "silent": False,
    "progress": "",
}
