"""The readers of other schedulers' files, by system."""

from collections.abc import Callable
from pathlib import Path

from daybook.features.imports import (
    anna,
    crontab,
    hermes,
    hotplex,
    omniagent,
    openclaw,
    picobot,
    systemd,
)
from daybook.features.imports.source import Source, System

READERS: dict[System, Callable[[Path], Source]] = {
    "anna": anna.read,
    "omniagent": omniagent.read,
    "hotplex": hotplex.read,
    "picobot": picobot.read,
    "openclaw": openclaw.read,
    "hermes": hermes.read,
    "crontab": crontab.read,
    "systemd": systemd.read,
}
"""The function that reads a file, by system. For an invalid file it raises `InvalidInput`."""

OTHER_NAMES: dict[str, System] = {
    "clawdbot": "openclaw",
    "moltbot": "openclaw",
    "claw": "openclaw",
    "hermes-agent": "hermes",
    "cron": "crontab",
    "crontabs": "crontab",
    "cronie": "crontab",
    "systemctl": "systemd",
    "timer": "systemd",
    "timers": "systemd",
}
"""Other names that people write for a system. An error proposes the name of the system."""
