"""The settings that decide about runs, whichever home claims them or leads.

So all homes of a ledger need the same values. None of them is secret.
"""

from __future__ import annotations

from typing import Any

from daybook import settings

NAMES = (
    *("timezone", "max_concurrent", "max_light", "max_medium", "max_resource_intensive"),
    *("max_per_agent", "max_per_label", "budget", "limits", "user_jobs", "execution_off"),
    "alert_channel",
    *("keep_days", "keep_transcript_days", "keep_disabled_days", "keep_runs"),
)


def of(loaded: settings.Settings) -> dict[str, Any]:
    """Return the shared settings, as JSON."""
    return loaded.model_dump(mode="json", include=set(NAMES))


def usual() -> dict[str, Any]:
    """Return the defaults; None for `timezone`, whose default depends on the machine."""
    fields = settings.all_settings().model_fields
    defaults = {name: fields[name].get_default(call_default_factory=True) for name in NAMES}
    return {**defaults, "timezone": None}


def changed(loaded: settings.Settings) -> dict[str, Any]:
    """Return the shared settings that differ from the default, as JSON; always the time zone."""
    defaults = usual()
    return {name: value for name, value in of(loaded).items() if value != defaults[name]}
