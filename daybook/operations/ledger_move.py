"""`daybook ledger move`: the ledger's rows in another database, and the setting that names it.

::

    lock of the home, claim lock of the old ledger
      ├─ all rows are copied into the new one, in one transaction    killed before: the old ledger
      ├─ `ledger_url` in config.toml is replaced                     killed before: the old ledger
      └─ the old ledger gets another id                              killed before: repeat the move

Each process compares a ledger's id with the one that it knows, and refuses another one. So none
writes to the old ledger any more. The file `.moving` in the home names both databases until that id
is committed. Before the setting is replaced, it allows a repeated move to overwrite the copy that
an interrupted one has left. Between the setting and the id there are two ledgers with one id: this
home uses the new one, and a process elsewhere that knows the old one could still write to it. If
the move is killed there, a repeated one gives the old ledger its other id, and copies nothing. A
move to the place where the ledger is already does nothing: that is a repeated one, too, if the
first was killed when it had deleted `.moving`.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select, update

from daybook import settings
from daybook.api import authorization
from daybook.errors import InvalidInput
from daybook.home import current_home, replace_private_file
from daybook.ledger import transfer
from daybook.ledger.engine import Ledger
from daybook.ledger.states import HELD
from daybook.ledger.tables import Fact, LeadRow, RunRow, new_id
from daybook.operations import home_lock

MOVED_ID = "moved-"
"""The beginning of the id of a ledger that was moved away; such a ledger may be overwritten."""


class _Marker(BaseModel, frozen=True):
    """The content of `.moving`: the old ledger's address, as in the settings, and the new place.

    The file has mode 0600 like `config.toml`, which may have the same password in the address.
    """

    old: str
    new: str


class LedgerMove(BaseModel, frozen=True):
    """A finished move: the addresses, without passwords, and the number of copied rows.

    Both addresses are the same if the ledger was there already, so that nothing was moved.
    """

    moved_from: str
    moved_to: str
    rows: int


async def move(url: str) -> LedgerMove:
    """Move the ledger into the empty database at ``url``, and write its address to `config.toml`.

    Raises `InvalidInput`, with nothing changed, while `up`, a keeper or a run uses the ledger, if
    the database is not empty, or if the variable `DAYBOOK_LEDGER_URL` is set, which would win over
    the file; also `LedgerUnreachable` for one of the two.
    """
    authorization.require_operator()
    if "DAYBOOK_LEDGER_URL" in os.environ:
        hint = f"set ledger_url in {settings.config_file()} instead, and unset the variable"
        raise InvalidInput("DAYBOOK_LEDGER_URL", "is set, so the ledger cannot be switched", hint)
    if not url:
        raise InvalidInput("url", "is empty", "use the address of an empty database")
    old, new = settings.load().ledger_address, settings.load(ledger_url=url).ledger_address
    settings.with_ledger_url(settings.config_file(), url)  # raises an error if it cannot be written
    home = current_home()
    if home.running() is not None:
        raise home_lock.already_running(home)
    with home_lock.hold(home) as record:
        record.check_leftovers()
        marker = _read(home.moving)
        if marker is not None and (finished := await _finish_interrupted(marker, old)) is not None:
            home.moving.unlink()
            if Ledger(new).place == finished.moved_to:
                return finished
        async with Ledger(old) as source, Ledger(new) as target:
            if source.place == target.place:
                return LedgerMove(moved_from=source.place, moved_to=target.place, rows=0)
            async with source.write() as reading:
                await _check_unused(reading, source.now())
                interrupted = marker is not None and marker.new == target.place
                async with target.write() as writing:
                    copied_before = interrupted and target.id == source.id
                    replaceable = copied_before or target.id.startswith(MOVED_ID)
                    if not replaceable and not await transfer.is_empty(writing):
                        problem = f"{target.place} contains a ledger"
                        raise InvalidInput("url", problem, "use an empty database")
                    written = _Marker(old=old, new=target.place)
                    replace_private_file(home.moving, written.model_dump_json())
                    rows = await transfer.copy_rows(reading, writing)
                settings.set_ledger_url(settings.config_file(), url)
                await _retire(reading)
        home.moving.unlink()
    return LedgerMove(moved_from=source.place, moved_to=target.place, rows=rows)


def interrupted() -> tuple[str, bool] | None:
    """Return the place to which an interrupted move copies, and whether the settings name it.

    If they do, both ledgers have one id until the move is repeated. None if none was interrupted.
    """
    if (marker := _read(current_home().moving)) is None:
        return None
    return marker.new, Ledger(settings.load().ledger_address).place == marker.new


def _read(file: Path) -> _Marker | None:
    """Return the interrupted move that the file names; None if there is none."""
    try:
        return _Marker.model_validate_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None


async def _finish_interrupted(marker: _Marker, present: str) -> LedgerMove | None:
    """Give the old ledger another id if the interrupted move did all but this.

    ``present`` is the address in the settings. Returns the move; None if it did not come so far.
    Raises `LedgerUnreachable`.
    """
    async with Ledger(present) as target:
        if target.place != marker.new:
            return None
        async with Ledger(marker.old) as source, source.write() as session:
            rows = await transfer.count_rows(session)
            if source.id == target.id:
                await _retire(session)
    return LedgerMove(moved_from=source.place, moved_to=target.place, rows=rows)


async def _retire(session: AsyncSession) -> None:
    """Give a ledger that was moved away another id."""
    retired = update(Fact).where(col(Fact.key) == "id")
    await session.execute(retired.values(value=f"{MOVED_ID}{new_id()[:12]}"))


async def _check_unused(session: AsyncSession, now: datetime) -> None:
    """Raise `InvalidInput` if a keeper leads, or a process holds a run."""
    leads = select(LeadRow.holder).where(col(LeadRow.holder) != "", col(LeadRow.until) > now)
    held = select(RunRow.holder).where(col(RunRow.status).in_(HELD), col(RunRow.lease_until) > now)
    for query in (leads, held):
        holder = (await session.execute(query.limit(1))).scalar_one_or_none()
        if holder is not None:
            hint = "stop all workers, keepers and runs, and wait for a minute if one was killed"
            raise InvalidInput("ledger", f"{holder} uses it", hint)
