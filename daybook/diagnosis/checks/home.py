"""Checks of the home: settings, write access, file modes, leftovers, and the processes of `up`."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from daybook import settings as operator_settings
from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis import findings
from daybook.duration_text import duration_in_words
from daybook.errors import FREE_SPACE, InvalidInput
from daybook.finding import Finding, passed, problem, warning
from daybook.home import current_home, full_disk, is_disk_full
from daybook.jobs import limits
from daybook.operations import home_lock, ledger_move, prefect_database

RECENT = timedelta(hours=1)
"""Age up to which the check of the processes reports a restart."""
LOG_NAMES = {"command server": "commands"}
"""Names of the logs that differ from the names of their children."""


def settings() -> list[Finding]:
    """Check that every setting is valid. Warn if the execution of runs is switched off."""
    try:
        rules = limits.load_rules()
        operator_settings.check_features()
    except InvalidInput as error:
        fix = f"edit {_quoted([operator_settings.config_file()])}"
        fix = f"unset {error.field}" if error.field in os.environ else fix
        return [problem("settings", str(error), fix)]
    if rules.execution_off:
        kinds = ", ".join(rules.execution_off)
        fix = "remove DAYBOOK_EXECUTION_OFF, or execution_off in config.toml"
        return [warning("settings", f"execution is switched off for {kinds}", fix)]
    return []


def home() -> list[Finding]:
    """Check that the home is writable, or that it can be created."""
    path = current_home().path
    other_home = "export DAYBOOK_HOME=<a folder of your own>"
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        move = f"mv {_quoted([nearest])} {_quoted([nearest.with_name(nearest.name + '.old')])}"
        return [problem("home", f"{nearest} is not a folder", f"{move}, or {other_home}")]
    if is_disk_full(nearest):
        return [problem("home", f"the disk of {nearest} is full", FREE_SPACE)]
    try:
        if nearest == path:
            with tempfile.TemporaryFile(dir=path):
                return [passed("home", str(path))]
        if os.access(nearest, os.W_OK | os.X_OK):
            return [passed("home", f"{path}, not created yet")]
        why = "no permission"
    except OSError as error:
        why = error.strerror or str(error)
    chown = f"sudo chown -R $(id -u) {_quoted([nearest])}"
    message = f"{nearest} is not writable: {why}"
    return [problem("home", message, f"{chown}, or {other_home}")]


def modes() -> list[Finding]:
    """Check that no other user has access to the home or its files.

    The files include the ledger's files.
    """
    home = current_home()
    folders = [home.path, home.prefect, home.logs]
    files = [home.up_file, home.up_lock, home.ledger_key, home.webhook_secret]
    files += [home.credential_file, home.browser_key_file, home.service_environment]
    files += [home.joined_prefect]
    files += [*home.logs.glob("*.log"), *ledger_files()]
    problems = []
    for paths, mode in ((folders, "700"), (files, "600")):
        if exposed := [path for path in paths if _open_to_others(path)]:
            names = ", ".join(map(str, exposed))
            message = f"other users may read or write {names}"
            problems.append(problem("modes", message, f"chmod {mode} {_quoted(exposed)}"))
    return problems


def ledger_files() -> list[Path]:
    """Return the SQLite files of the configured ledger.

    Return [] if the ledger is not in SQLite, or if the settings are invalid.
    """
    address = ledger_address()
    database = address.partition(":///")[2].partition("?")[0]
    if not address.startswith("sqlite"):
        return []
    return [Path(database + suffix) for suffix in ("", "-wal", "-shm")] if database else []


def ledger_address() -> str:
    """Return the address of the ledger; "" if the settings are invalid."""
    try:
        return operator_settings.load().ledger_address
    except InvalidInput:
        return ""


def leftovers() -> list[Finding]:
    """Check that a killed `up` left no process running, and that no `ledger move` was killed."""
    found, running = list[Finding](), current_home().running()
    if left := home_lock.leftover_children(current_home()):
        names = ", ".join(f"{each.name} (pid {each.pid})" for each in left)
        message = f"`daybook up` was killed, and what it started is still running: {names}"
        fix = "daybook up, which replaces it; or daybook down"
        found.append(problem("leftovers", message, fix))
    # A move holds the lock of the home, as `up` does.
    if running is None or running.get("ready_at"):
        found += ledger_move.finding()
    return found


def disk() -> list[Finding]:
    """Check that no disk of Daybook's folders is full. Return [] if the settings are invalid."""
    try:
        return findings.full_disk(full_disk(operator_settings.load().data_folders))
    except InvalidInput:
        return []  # the check `settings` reports the error


def prefect_size() -> list[Finding]:
    """Warn about a large database of Daybook's own Prefect server."""
    place, size = prefect_database.path(current_home()), prefect_database.size(current_home())
    if size <= prefect_database.MAX_BYTES:
        return []
    message = f"Prefect's database has {size / 2**30:.1f} GiB: {place}"
    fix = "set DAYBOOK_KEEP_DAYS to fewer days, then daybook down and daybook up"
    return [warning("prefect database", message, fix)]


def processes() -> list[Finding]:
    """Warn about processes that `up` has restarted in the last hour."""
    now, home, found = SYSTEM_CLOCK.now(), current_home(), list[Finding]()
    by_name = dict[str, list[home_lock.Restart]]()
    for each in home_lock.restarts(home, now - RECENT):
        by_name.setdefault(each.name, []).append(each)
    for name, restarts in by_name.items():
        times = "once" if len(restarts) == 1 else f"{len(restarts)} times"
        last = restarts[-1]
        ago = duration_in_words(max(now - datetime.fromisoformat(last.at), timedelta(seconds=1)))
        message = f"the {name} was restarted {times} in the last hour: {ago} ago it {last.why}"
        logs = home.logs / f"{LOG_NAMES.get(name, name)}.log"
        found.append(warning("processes", message, f"if it happens again, read {logs}"))
    return found


def _open_to_others(path: Path) -> bool:
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
    except OSError:
        return False  # the path does not exist yet


def _quoted(paths: Iterable[Path]) -> str:
    return " ".join(shlex.quote(str(path)) for path in paths)
