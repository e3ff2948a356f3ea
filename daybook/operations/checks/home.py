"""This home: its settings, that it can be written, who can read it, and what a killed `up` left."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from daybook import settings as ours
from daybook.errors import InvalidInput
from daybook.home import here
from daybook.jobs import limits
from daybook.operations.checks.problem import Problem
from daybook.tasks import escalation


def settings() -> list[Problem]:
    """Every setting is legal."""
    try:
        limits.of_settings()
        escalation.here()
    except InvalidInput as error:
        edit = f"edit {_quoted([ours.config_file()])}"
        return [Problem(str(error), f"unset {error.field}" if error.field in os.environ else edit)]
    return []


def home() -> list[Problem]:
    """The home can be written, or made."""
    path = here().path
    elsewhere = "export DAYBOOK_HOME=<a folder of your own>"
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        aside = f"mv {_quoted([nearest])} {_quoted([nearest.with_name(nearest.name + '.old')])}"
        return [Problem(f"{nearest} is not a folder", f"{aside}, or {elsewhere}")]
    try:
        if nearest == path:
            with tempfile.TemporaryFile(dir=path):
                return []
        if os.access(nearest, os.W_OK | os.X_OK):
            return []
        why = "no permission"
    except OSError as error:
        why = error.strerror or str(error)
    owned = f"sudo chown -R $(id -u) {_quoted([nearest])}"
    return [Problem(f"{nearest} cannot be written: {why}", f"{owned}, or {elsewhere}")]


def modes() -> list[Problem]:
    """Nobody but the owner can read the home, the ledger and what `up` writes."""
    home = here()
    folders = [home.path, home.prefect, home.logs]
    files = [home.up_file, home.up_lock, home.ledger_key, home.webhook_secret]
    files += [*home.logs.glob("*.log"), *ledger_files()]
    found = []
    for paths, mode in ((folders, "700"), (files, "600")):
        if open_ := [path for path in paths if _open_to_others(path)]:
            names = ", ".join(map(str, open_))
            what = f"other users may read or write {names}"
            found.append(Problem(what, f"chmod {mode} {_quoted(open_)}"))
    return found


def ledger_files() -> list[Path]:
    """The SQLite files of the ledger that the settings name; [] where it is none, or not legal."""
    address = ledger_address()
    database = address.partition(":///")[2].partition("?")[0]
    if not address.startswith("sqlite"):
        return []
    return [Path(database + suffix) for suffix in ("", "-wal", "-shm")] if database else []


def ledger_address() -> str:
    """Where the ledger is; empty where the settings are not legal."""
    try:
        return ours.load().ledger_address
    except InvalidInput:
        return ""


def leftovers() -> list[Problem]:
    """No server or worker of a killed `up` runs on."""
    from daybook.operations import home_lock

    return [
        Problem(f"a {each.name} (pid {each.pid}) of a killed `daybook up` runs on", "daybook down")
        for each in home_lock.left_behind(here())
    ]


def _open_to_others(path: Path) -> bool:
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
    except OSError:
        return False  # not there yet


def _quoted(paths: Iterable[Path]) -> str:
    return " ".join(shlex.quote(str(path)) for path in paths)
