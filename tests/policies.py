"""Default policy of a job without one of its own, as stored and shown (requirement 11)."""

from __future__ import annotations

DEFAULT: dict[str, object] = {
    "timeout": "30m",
    "deadline": "",
    "retries": 3,
    "retry_delay": "1s",
    "overlap": "skip",
    "catch_up": "latest",
    "class": "medium",
    "start": "",
    "until": "",
    "max_runs": 0,
    "exclude": [],
    "active_hours": "",
    "quiet_hours": [],
    "pause_after_failures": 10,
    "stagger": "",
    "delete_after_run": False,
    "idempotent": False,
    "on_lost": "unknown",
    "work_dir": "",
    "tokens_per_run": 0,
    "tokens_per_day": 0,
    "summarize_after_messages": 0,
    "summarize_after_tokens": 0,
    "check": {
        "tool": "",
        "params": {},
        "prompt": "",
        "agent": "",
        "command": [],
        "watch_url": "",
        "watch_command": [],
    },
}
