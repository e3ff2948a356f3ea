"""The readers of other schedulers' files, by system."""

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class FilesOfSystem:
    """The files of a system, for people: its name, and which files a browser sends.

    A text of one file with the name ``pasted`` can also be pasted; "" if it cannot.
    """

    title: str
    files: str
    pasted: str = ""


_JOBS = "jobs.json"
FILES: dict[System, FilesOfSystem] = {
    "crontab": FilesOfSystem("cron", "What `crontab -l` prints.", "crontab"),
    "systemd": FilesOfSystem(
        "systemd timers", "Each `.timer` file, with the `.service` file that it starts."
    ),
    "openclaw": FilesOfSystem(
        "OpenClaw",
        "`~/.openclaw/cron/jobs.json` (until version 2026.5) with `jobs-state.json`, and for the "
        "history `runs/*.jsonl`; later versions: `~/.openclaw/state/openclaw.sqlite`.",
        _JOBS,
    ),
    "hermes": FilesOfSystem(
        "Hermes",
        "`~/.hermes/cron/jobs.json`. Its scripts stay in `~/.hermes/scripts` of this machine.",
        _JOBS,
    ),
    "anna": FilesOfSystem("anna", "`jobs.json`, or the database with `scheduler_jobs`.", _JOBS),
    "omniagent": FilesOfSystem(
        "omniagent", "Its key–value store, as SQLite or exported as JSON.", "store.json"
    ),
    "hotplex": FilesOfSystem("hotplex", "`jobs.json`, and for the history `runs.json`.", _JOBS),
    "picobot": FilesOfSystem("picobot", "Its SQLite database."),
}
"""The files of each system, in the order in which the pages offer them."""

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
