"""Notebooks in the ledger: look up, read, write a version, delete old versions.

::

    write ──► call_key is known ──► the version that the call has written
          └─► the next version; the texts of all but the last `MAX_VERSIONS` are removed

A version without a text stays until the run that wrote it has ended, because a further attempt of
this run may repeat the call.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, exists, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.errors import InvalidInput, UnknownName
from daybook.features.memory.tables import NotebookRow, VersionRow
from daybook.ledger import texts
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE
from daybook.ledger.tables import JobRow, RunRow
from daybook.redaction import redact_tokens
from daybook.runs.retention import BATCH_SIZE, RetentionLimits

MAX_BYTES = 1_000_000
"""Maximum length of a notebook's text in bytes of UTF-8."""
MAX_VERSIONS = 50
"""Number of versions of a notebook whose texts are kept."""


@dataclass(frozen=True)
class Writer:
    """A call of a run, or a person."""

    run_id: str | None = None
    call_key: str | None = None
    person: str = ""


def check_size(text: str) -> None:
    """Raise `InvalidInput` if ``text`` is longer than `MAX_BYTES`."""
    # A character has at least one byte, so this encodes no text of 100 MB.
    size = len(text) if len(text) > MAX_BYTES else len(text.encode(errors="replace"))
    if size > MAX_BYTES:
        problem = f"is too long: the notebook would have at least {size:,} bytes"
        hint = f"the limit is {MAX_BYTES:,}; remove what is not needed any more"
        raise InvalidInput("text", problem, hint)


async def of_job(session: AsyncSession, job_id: str) -> NotebookRow | None:
    """Return the notebook of a job; None if nothing was written yet."""
    found = await session.execute(select(NotebookRow).where(col(NotebookRow.job_id) == job_id))
    row: NotebookRow | None = found.scalar_one_or_none()
    return row


async def shared(session: AsyncSession, name: str, owner: str) -> NotebookRow:
    """Return the shared notebook that the jobs of ``owner`` may use.

    Raise `UnknownName`, also for a notebook of another owner.
    """
    rows = await session.execute(select(NotebookRow).where(col(NotebookRow.name).is_not(None)))
    space = owners.namespace(owner)
    known: dict[str, NotebookRow] = {
        str(each.name): each for each in rows.scalars() if owners.namespace(each.owner) == space
    }
    if name not in known:
        raise UnknownName("notebook", name, sorted(known))
    return known[name]


async def newest(session: AsyncSession, notebook: NotebookRow) -> VersionRow | None:
    """Return the newest version; None if there is none yet."""
    return await session.get(VersionRow, (notebook.id, notebook.version))


async def text_of(session: AsyncSession, notebook: NotebookRow | None) -> str:
    """Return the text of a notebook, "" if nothing was written yet."""
    version = await newest(session, notebook) if notebook is not None else None
    return (version and version.text) or ""


async def written(session: AsyncSession, writer: Writer) -> VersionRow | None:
    """Return the version that an earlier attempt of the same call has written, if any."""
    query = select(VersionRow).where(
        col(VersionRow.run_id) == writer.run_id, col(VersionRow.call_key) == writer.call_key
    )
    row: VersionRow | None = (await session.execute(query)).scalar_one_or_none()
    return row


async def write(
    session: AsyncSession, notebook: NotebookRow, text: str, writer: Writer, now: datetime
) -> VersionRow:
    """Add a version with the whole ``text``; remove the text of a version that is too old.

    Raise `InvalidInput` if the text is too long.
    """
    text = redact_tokens(texts.sanitize(text))
    check_size(text)
    data = text.encode()
    notebook.version += 1
    version = VersionRow(
        notebook_id=notebook.id,
        number=notebook.version,
        written_at=now,
        run_id=writer.run_id,
        call_key=writer.call_key,
        person=writer.person,
        size=len(data),
        digest=hashlib.sha256(data).hexdigest(),
        text=text,
    )
    session.add(notebook)
    await session.flush()
    session.add(version)
    await session.flush()
    old = (
        update(VersionRow)
        .where(
            col(VersionRow.notebook_id) == notebook.id,
            col(VersionRow.number) <= notebook.version - MAX_VERSIONS,
            col(VersionRow.text).is_not(None),
        )
        .values(text=None)
        .execution_options(synchronize_session=False)
    )
    await session.execute(old)
    return version


async def remove(session: AsyncSession, notebook_id: str) -> None:
    """Delete a notebook with its versions."""
    await session.execute(delete(VersionRow).where(col(VersionRow.notebook_id) == notebook_id))
    await session.execute(delete(NotebookRow).where(col(NotebookRow.id) == notebook_id))


async def delete_old_versions(ledger: Ledger, _: RetentionLimits | None = None) -> int:
    """Delete one batch of versions without a text. Return their number."""
    of_live_run = exists().where(
        col(RunRow.id) == col(VersionRow.run_id), col(RunRow.status).in_(LIVE)
    )
    old = (
        select(VersionRow.notebook_id, VersionRow.number)
        .where(col(VersionRow.text).is_(None), ~of_live_run)
        .limit(BATCH_SIZE)
    )
    async with ledger.read() as session:
        if (await session.execute(old.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        found = (await session.execute(old)).all()
        for notebook_id, number in found:
            await session.execute(delete(VersionRow).where(_is(notebook_id, number)))
        return len(found)


async def delete_notebooks(ledger: Ledger, _: RetentionLimits | None = None) -> int:
    """Delete one batch of notebooks whose jobs the retention has deleted. Return their number."""
    has_job = exists().where(col(JobRow.id) == col(NotebookRow.job_id))
    gone = select(NotebookRow.id).where(col(NotebookRow.job_id).is_not(None), ~has_job).limit(10)
    async with ledger.read() as session:
        if (await session.execute(gone.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        ids = list((await session.execute(gone)).scalars())
        for each in ids:
            await remove(session, each)
        return len(ids)


def _is(notebook_id: str, number: int) -> ColumnElement[bool]:
    return (col(VersionRow.notebook_id) == notebook_id) & (col(VersionRow.number) == number)
