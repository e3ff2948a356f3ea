"""Imports: readers of other schedulers' files, and the writer of their results.

A reader is a module with the name of its system. It turns a file into a `source.Source`, writes
nothing, and does not use the ledger. `writer.write` stores a source in one transaction. `source`,
`shell` and `on_calendar` are shared parts of the readers.

To add a system, write a module here with `read(path)`, add its name to `source.System`, to
`READERS` and to the help text in `cli.imports`, and add its table to `docs/guides/imports.md`.
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
