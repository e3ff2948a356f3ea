"""Spool of outcomes that could not be written to the ledger, one file per outcome.

::

    finish, retry ── ledger unreachable ──► <home>/spool/<run>-<fence>-<n>.json
                                                  │ drained by any process that reaches the ledger
        ┌─────────────────────────────────────────┤
        ▼                                         ▼
    written, or refused and kept as evidence    unreadable, or of no known run: set aside as
    with the run: the file is deleted           `….aside`, which `daybook doctor` reports;
                                                the last `MAX_ASIDE_FILES` are kept

A file is complete or absent, because it is written under another name, synced, and then renamed.
Any process of the home that reaches the ledger drains the spool (promise 6). The outcome of another
ledger, or of a newer program, stays in its file. Writing an outcome twice changes nothing
(`claims.finish`, `claims.retry`). So a file that remains after its outcome was written, because of
a crash or two concurrent drains, does no harm. But an outcome that is refused twice is kept as
evidence twice. Like the ledger, the files are readable only by their owner.
"""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from daybook import home
from daybook.errors import FenceRefused, IllegalTransition, LedgerUnreachable
from daybook.json_text import JsonObject
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.runs import claims
from daybook.short_text import one_line

log = logging.getLogger(__name__)

VERSION = 1
"""Version of the files. Increment it with each new field of `Outcome` (see `ledger.schema`)."""
ASIDE_SUFFIX = ".aside"
MAX_ASIDE_FILES = 100
"""Maximum number of files that stay set aside; if there are more, the oldest are deleted."""
MAX_DRAFT_AGE_SECONDS = 3600.0
"""Age in seconds above which an unfinished file is deleted, because its writer must have died."""


@dataclass(frozen=True)
class SpooledOutcome:
    """Outcome of a run or, if ``until`` (the start of the next attempt) is set, of one attempt."""

    ledger_id: str
    run_id: str
    fence: int
    outcome: Outcome
    until: datetime | None = None

    async def write(self, ledger: Ledger) -> Status:
        """Write the outcome to the ledger; return the run's new status.

        If the database refuses the values, write the outcome again without usage: a report of a
        provider or program must not lose the answer. Raise the errors of `claims.finish` and
        `claims.retry`.
        """
        try:
            return await self._write(ledger, self.outcome)
        except (DBAPIError, OverflowError) as error:  # PostgreSQL's error, SQLite's error
            log.exception("an outcome cannot be stored", extra={"action": "outcome_not_recorded"})
            warning = f"the usage cannot be stored: {one_line(getattr(error, 'orig', error))}"
            warnings = (*self.outcome.warnings, warning)
            outcome = replace(self.outcome, usage=None, warnings=warnings)
            return await self._write(ledger, outcome)

    async def _write(self, ledger: Ledger, outcome: Outcome) -> Status:
        if self.until is None:
            return await claims.finish(ledger, self.run_id, self.fence, outcome)
        return await claims.retry(ledger, self.run_id, self.fence, outcome, self.until)


@dataclass
class SpoolResult:
    """Numbers of outcomes that were written, refused, set aside, or left for other processes."""

    written: int = 0
    refused: int = 0
    aside: int = 0
    left: int = 0

    def __bool__(self) -> bool:
        return bool(self.written or self.refused or self.aside)


class _Newer(Exception):
    """A newer program of this home has written the file, and will read it."""


def folder() -> Path:
    """Return this home's spool folder, which may not exist yet."""
    return home.current_home().path / "spool"


def put(spooled: SpooledOutcome) -> Path:
    """Store an outcome in a file that survives a power failure, and return the file's path.

    Raise OSError if the file cannot be written.
    """
    directory = folder()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Sync each time: the process that created the folder may have died before its own sync.
    _sync(directory.parent)
    text = json.dumps({"version": VERSION, **_as_json(spooled)})
    for number in range(1, 1000):
        final = directory / f"{spooled.run_id}-{spooled.fence}-{number}.json"
        draft = final.with_suffix(f".{os.getpid()}.new")
        if final.exists():
            continue
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(final)
        _sync(directory)
        return final
    raise FileExistsError(f"too many outcomes of run {spooled.run_id} in {directory}")


def drop(file: Path | None) -> None:
    """Delete the file, if any, of an outcome that the ledger has stored, perhaps as evidence.

    If the file cannot be deleted, log the error. The next drain then writes the outcome once more.
    """
    if file is not None:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot delete %s: %s", file, error, extra={"action": "spool_failed"})


async def drain(ledger: Ledger, run_id: str = "") -> SpoolResult:
    """Write the spooled outcomes of ``ledger`` to it.

    With ``run_id``, write only the outcomes of this run. Raise `LedgerUnreachable`; the files of
    outcomes that were written before the error are deleted.
    """
    result = SpoolResult()
    for file in pending_files(run_id):
        try:
            spooled = _read(file)
        except FileNotFoundError:
            continue  # another process is draining too
        except _Newer:
            result.left += 1
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            _set_aside(file, f"cannot be read: {error!r}")
            result.aside += 1
            continue
        if spooled.ledger_id != ledger.id:
            result.left += 1
            continue
        try:
            status = await spooled.write(ledger)
        except LedgerUnreachable:
            raise
        except (FenceRefused, IllegalTransition) as error:
            log.warning("%s", error, extra={"action": "outcome_refused"})
            drop(file)
            result.refused += 1
        except Exception as error:
            _set_aside(file, f"cannot be written: {error!r}")
            result.aside += 1
        else:
            log.info(
                "recorded the outcome of run %s: %s",
                spooled.run_id,
                status,
                extra={"action": "spool_drained"},
            )
            drop(file)
            result.written += 1
    return result


def pending_files(run_id: str = "") -> list[Path]:
    """Return the files to drain, of all runs or of one run, sorted by run, fence and number.

    Also delete unfinished files that are older than `MAX_DRAFT_AGE_SECONDS`. If the spool cannot be
    read, log the error and return an empty list.
    """
    directory = folder()
    try:
        files = list(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        log.error("cannot read the spool: %s", error, extra={"action": "spool_failed"})
        return []
    _delete_abandoned(files)
    return sorted(
        (each for each in files if each.suffix == ".json" and each.name.startswith(run_id)),
        key=_order,
    )


def set_aside_files() -> list[Path]:
    """Return the files that were set aside, sorted by name."""
    with suppress(FileNotFoundError):
        return sorted(each for each in folder().iterdir() if each.suffix == ASIDE_SUFFIX)
    return []


def _order(file: Path) -> tuple[str, int, int]:
    run, _, rest = file.stem.partition("-")
    fence, _, number = rest.partition("-")
    numbered = fence.isdigit() and number.isdigit()
    return (run, int(fence), int(number)) if numbered else (run, 0, 0)


def _delete_abandoned(files: list[Path]) -> None:
    for each in files:
        if each.suffix == ".new":
            with suppress(OSError):
                if time.time() - each.stat().st_mtime > MAX_DRAFT_AGE_SECONDS:
                    each.unlink()


def _as_json(spooled: SpooledOutcome) -> JsonObject:
    until = None if spooled.until is None else spooled.until.isoformat()
    return {
        "ledger": spooled.ledger_id,
        "run": spooled.run_id,
        "fence": spooled.fence,
        "until": until,
        "outcome": asdict(spooled.outcome),
    }


def _read(file: Path) -> SpooledOutcome:
    """Read an outcome; raise OSError, ValueError, KeyError or TypeError for an invalid file.

    Raise `_Newer` for a file of a newer program.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    if (version := content["version"]) != VERSION:
        raise (_Newer if version > VERSION else ValueError)(f"its version is {version}")
    outcome = content["outcome"]
    until = None if content["until"] is None else datetime.fromisoformat(content["until"])
    if until is not None and until.tzinfo is None:
        raise ValueError("its time has no zone")
    return SpooledOutcome(
        str(content["ledger"]),
        str(content["run"]),
        int(content["fence"]),
        Outcome(**{**outcome, "status": Status(outcome["status"])}),
        until,
    )


def _set_aside(file: Path, why: str) -> None:
    log.error("%s %s; it is set aside", file, why, extra={"action": "spool_aside"})
    aside = file.with_suffix(ASIDE_SUFFIX)
    with suppress(OSError):
        file.rename(aside)
        os.utime(aside)
        by_age = sorted(set_aside_files(), key=lambda each: each.stat().st_mtime, reverse=True)
        for each in by_age[MAX_ASIDE_FILES:]:
            log.error(
                "%s is deleted: more than %d files are set aside",
                each,
                MAX_ASIDE_FILES,
                extra={"action": "spool_aside"},
            )
            each.unlink()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
