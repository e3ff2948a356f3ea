"""`daybook ledger move`: copies the ledger to another database, and changes the setting for it.

::

    hold the lock of the home and the claim lock of the old ledger
      ├─ copy all rows to the new ledger, in one transaction    killed before: old ledger in use
      ├─ replace `ledger_url` in config.toml                    killed before: old ledger in use
      └─ give the old ledger another id                         killed before: repeat the move

Each process compares a ledger's id with the id that it has read at its start, and refuses a ledger
with another id. So no process writes to the old ledger any more. The file `.moving` in the home
names both databases until the new id of the old ledger is committed. Until the setting is replaced,
`.moving` allows a repeated move to overwrite the copy of an interrupted move.

After the setting is replaced, both ledgers have the same id until the old ledger gets another id.
This home uses the new ledger, but a process on another machine could still write to the old one. If
the move is killed in this state, a repeated move gives the old ledger another id, and copies
nothing.

A move to the present place of the ledger does nothing. A repeated move also does nothing if the
first move was killed after it had deleted `.moving`.
"""

from __future__ import annotations

import os
import shlex
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select, update

from daybook import settings
from daybook.api import authorization
from daybook.errors import InvalidInput
from daybook.finding import Finding, warning
from daybook.home import current_home, replace_private_file
from daybook.ledger import transfer
from daybook.ledger.engine import Ledger
from daybook.ledger.states import HELD
from daybook.ledger.tables import Fact, LeadRow, RunRow, new_id
from daybook.operations import home_lock, ledger_setting

MOVED_ID = "moved-"
"""First characters of the id of a moved ledger. A move may overwrite a ledger with such an id."""


class _Marker(BaseModel, frozen=True):
    """The content of `.moving`: the old ledger's address, as in the settings, and the new place.

    The file has mode 0600 like `config.toml`, because the address may contain a password.
    """

    old: str
    new: str


class LedgerMove(BaseModel, frozen=True):
    """A finished move: the addresses, without passwords, and the number of copied rows.

    If the ledger was already at ``moved_to``, nothing was moved, and both addresses are the same.
    """

    moved_from: str
    moved_to: str
    rows: int


async def move(url: str) -> LedgerMove:
    """Move the ledger into the empty database at ``url``, and write its address to `config.toml`.

    Raise `InvalidInput`, and change nothing, if `up`, a child of a killed `up`, a keeper or a run
    uses the ledger, or if the database is not empty. A moved ledger, or the copy of an interrupted
    move, counts as empty. Raise it also if ``url`` is not valid, if `config.toml` cannot be
    changed, or if an agent calls this function. Raise it also if the variable `DAYBOOK_LEDGER_URL`
    is set, because it would override the file. Raise `LedgerUnreachable` if one of the databases is
    unreachable.
    """
    authorization.require_operator()
    if "DAYBOOK_LEDGER_URL" in os.environ:
        hint = f"set ledger_url in {settings.config_file()} instead, and unset the variable"
        raise InvalidInput("DAYBOOK_LEDGER_URL", "is set, so the ledger cannot be switched", hint)
    if not url:
        raise InvalidInput("url", "is empty", "use the address of an empty database")
    old = settings.load().ledger_address
    try:
        new = settings.load(ledger_url=url).ledger_address
    except InvalidInput as error:
        if error.field != "DAYBOOK_LEDGER_URL":
            raise
        raise InvalidInput("url", error.problem, error.hint) from None
    # This raises an error if the file cannot be written.
    ledger_setting.with_ledger_url(settings.config_file(), url)
    home = current_home()
    if home.running() is not None:
        raise home_lock.already_running(home)
    with home_lock.hold(home, command="ledger move") as record:
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
                ledger_setting.set_ledger_url(settings.config_file(), url)
                await _retire(reading)
        home.moving.unlink()
    return LedgerMove(moved_from=source.place, moved_to=target.place, rows=rows)


def interrupted() -> tuple[str, bool] | None:
    """Return the target of an interrupted move, if any, and whether the settings name it.

    If they do, both ledgers have the same id until the move is repeated.
    """
    if (marker := _read(current_home().moving)) is None:
        return None
    return marker.new, Ledger(settings.load().ledger_address).place == marker.new


def finding() -> list[Finding]:
    """Return the finding of an interrupted move, or []. Do not call this while one is running."""
    try:
        move = interrupted()
    except InvalidInput:  # the check of the settings reports the error
        return []
    if move is None:
        return []
    place, moved = move
    message = f"a `daybook ledger move` to {place} was interrupted"
    fix = "daybook down, then the same `daybook ledger move` again"
    if moved:
        message += ", and the old ledger still has the same id"
    else:
        fix += f", or rm {shlex.quote(str(current_home().moving))}"
    return [warning("leftovers", message, fix)]


def _read(file: Path) -> _Marker | None:
    """Return the interrupted move that ``file`` describes.

    Return None if there is no valid file.
    """
    try:
        return _Marker.model_validate_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None


async def _finish_interrupted(marker: _Marker, present: str) -> LedgerMove | None:
    """Give the old ledger another id if the interrupted move completed all other steps.

    ``present`` is the address in the settings. Return the finished move. Return None if the
    interrupted move had not replaced the setting. Raise `LedgerUnreachable`.
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
    """Give the old ledger of a move another id."""
    retired = update(Fact).where(col(Fact.key) == "id")
    await session.execute(retired.values(value=f"{MOVED_ID}{new_id()[:12]}"))


async def _check_unused(session: AsyncSession, now: datetime) -> None:
    """Raise `InvalidInput` if there is a leader, or if a process has claimed a run."""
    leads = select(LeadRow.holder).where(col(LeadRow.holder) != "", col(LeadRow.until) > now)
    held = select(RunRow.holder).where(col(RunRow.status).in_(HELD), col(RunRow.lease_until) > now)
    for query in (leads, held):
        holder = (await session.execute(query.limit(1))).scalar_one_or_none()
        if holder is not None:
            hint = "stop all workers, keepers and runs, and wait for a minute if one was killed"
            raise InvalidInput("ledger", f"{holder} uses it", hint)
