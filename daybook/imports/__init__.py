"""Imports: readers of other schedulers' files, and the one writer of what they found.

Each reader (a module with the name of its system) turns a file into a `source.Source`; it writes
nothing and knows no ledger. `writer.write` stores a source in one transaction.

To add a system: a module here with `read(path)`, its name in `source.System` and in `READERS`, and
its table in `docs/guides/imports.md`.
"""

from collections.abc import Callable
from pathlib import Path

from daybook.imports import anna, crontab, hermes, hotplex, omniagent, openclaw, picobot, systemd
from daybook.imports.source import Source, System

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
"""The function that reads a system's file. It raises `InvalidInput` naming what is wrong."""

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
"""Names that people type for a system: an error proposes the right one."""
