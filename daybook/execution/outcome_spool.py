"""Outcomes that could not be written into the ledger, each in a file until they are (rule 6).

::

    settle, retry ── the ledger is away ──► <home>/spool/<run>-<fence>-<n>.json
                                                  │ whoever reaches the ledger drains it
        ┌─────────────────────────────────────────┤
        ▼                                         ▼
    written, or refused and kept as evidence    cannot be read, or is of no run here: set aside as
    with the run: the file goes                 `….aside`, which `daybook doctor` tells of

A file is complete or not there: it is written beside its name, synced, and renamed. Writing an
outcome twice changes nothing (`claims.settle`, `claims.retry`), so a file that is still there after
its outcome was written, because somebody died in between or several drain at once, does no harm.
Files are readable by their owner only, as the ledger is.
"""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from daybook import home
from daybook.errors import FenceRefused, IllegalTransition, LedgerUnreachable
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.runs import claims

log = logging.getLogger(__name__)

VERSION = 1
ASIDE = ".aside"
ABANDONED = 3600.0
"""Seconds after which a file that was never finished is deleted: its writer died at it."""


@dataclass(frozen=True)
class Spooled:
    """An outcome on its way; with ``until`` it is that of an attempt, and another one follows."""

    ledger_id: str
    run_id: str
    fence: int
    outcome: Outcome
    until: datetime | None = None

    async def write(self, ledger: Ledger) -> Status:
        """Bring it into the ledger; raises what `claims.settle` and `claims.retry` raise."""
        if self.until is None:
            return await claims.settle(ledger, self.run_id, self.fence, self.outcome)
        return await claims.retry(ledger, self.run_id, self.fence, self.outcome, self.until)


@dataclass
class Drained:
    """How many outcomes were written, refused by the ledger, set aside, and left for another."""

    written: int = 0
    refused: int = 0
    aside: int = 0
    left: int = 0

    def __bool__(self) -> bool:
        return bool(self.written or self.refused or self.aside)


def folder() -> Path:
    """This home's spool; it is made when it is needed."""
    return home.here().path / "spool"


def put(spooled: Spooled) -> Path:
    """Keep an outcome in a file of its own, which survives the machine. Raises OSError."""
    place = folder()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Each time, not only by who made it: that one may have died before, or be at it still.
    _sync(place.parent)
    text = json.dumps({"version": VERSION, **_as_json(spooled)})
    for number in range(1, 1000):
        final = place / f"{spooled.run_id}-{spooled.fence}-{number}.json"
        draft = final.with_suffix(f".{os.getpid()}.new")
        if final.exists():
            continue
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(final)
        _sync(place)
        return final
    raise FileExistsError(f"too many outcomes of run {spooled.run_id} in {place}")


def drop(file: Path | None) -> None:
    """Its outcome is in the ledger."""
    if file is not None:
        file.unlink(missing_ok=True)


async def drain(ledger: Ledger, run_id: str = "") -> Drained:
    """Write what lies in the spool into ``ledger``, all or that of one run.

    Raises `LedgerUnreachable`; what was written until then has gone from the spool.
    """
    done = Drained()
    for file in waiting(run_id):
        try:
            spooled = _read(file)
        except FileNotFoundError:
            continue  # another drains too
        except (OSError, ValueError, KeyError, TypeError) as error:
            _set_aside(file, f"cannot be read: {error!r}")
            done.aside += 1
            continue
        if spooled.ledger_id != ledger.id:
            done.left += 1
            continue
        try:
            status = await spooled.write(ledger)
        except LedgerUnreachable:
            raise
        except (FenceRefused, IllegalTransition) as error:
            log.warning("%s", error, extra={"action": "outcome_refused"})
            drop(file)
            done.refused += 1
        except Exception as error:
            _set_aside(file, f"cannot be written: {error!r}")
            done.aside += 1
        else:
            log.info("run %s was %s", spooled.run_id, status, extra={"action": "spool_drained"})
            drop(file)
            done.written += 1
    return done


def waiting(run_id: str = "") -> list[Path]:
    """The files that wait to be drained, those of a run in the order in which they were written."""
    place = folder()
    try:
        found = list(place.iterdir())
    except FileNotFoundError:
        return []
    _tidy(found)
    return sorted(
        (each for each in found if each.suffix == ".json" and each.name.startswith(run_id)),
        key=_order,
    )


def aside() -> list[Path]:
    """The files that were set aside."""
    with suppress(FileNotFoundError):
        return sorted(each for each in folder().iterdir() if each.suffix == ASIDE)
    return []


def _order(file: Path) -> tuple[str, int, int]:
    run, _, rest = file.stem.partition("-")
    fence, _, number = rest.partition("-")
    numbered = fence.isdigit() and number.isdigit()
    return (run, int(fence), int(number)) if numbered else (run, 0, 0)


def _tidy(found: list[Path]) -> None:
    for each in found:
        if each.suffix == ".new":
            with suppress(OSError):
                if time.time() - each.stat().st_mtime > ABANDONED:
                    each.unlink()


def _as_json(spooled: Spooled) -> dict[str, Any]:
    until = None if spooled.until is None else spooled.until.isoformat()
    return {
        "ledger": spooled.ledger_id,
        "run": spooled.run_id,
        "fence": spooled.fence,
        "until": until,
        "outcome": asdict(spooled.outcome),
    }


def _read(file: Path) -> Spooled:
    """Raises OSError, ValueError, KeyError, TypeError for what was not written by `put`."""
    told = json.loads(file.read_text(encoding="utf-8"))
    if told["version"] != VERSION:
        raise ValueError(f"of version {told['version']}, known is {VERSION}")
    outcome = told["outcome"]
    until = None if told["until"] is None else datetime.fromisoformat(told["until"])
    if until is not None and until.tzinfo is None:
        raise ValueError("a time without a zone")
    return Spooled(
        str(told["ledger"]),
        str(told["run"]),
        int(told["fence"]),
        Outcome(**{**outcome, "status": Status(outcome["status"])}),
        until,
    )


def _set_aside(file: Path, why: str) -> None:
    log.error("%s %s; it is set aside", file, why, extra={"action": "spool_aside"})
    with suppress(FileNotFoundError):
        file.rename(file.with_suffix(ASIDE))


def _sync(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
