"""The files that a run has written, kept in the ledger as they were after its last write of each.

A second write of a path replaces the row of the first, so a run that is repeated after a kill adds
no second row. The content is kept if all kept files of the run have at most `MAX_KEPT_BYTES`, and
if it contains no secret that the run's process has got so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import delete, exists, func, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.features.work_tools.tables import WrittenFileRow
from daybook.ledger.engine import Ledger
from daybook.ledger.states import TERMINAL
from daybook.ledger.tables import RunRow
from daybook.ledger.views import RunFile
from daybook.redaction import redact_remembered, redact_tokens
from daybook.runs.retention import BATCH_SIZE, RetentionLimits

if TYPE_CHECKING:
    from daybook.execution.builtin_tools import ToolContext

MAX_KEPT_BYTES = 2 * 2**20
"""Maximum length of all kept files of a run: the limit of one file (`folders.MAX_FILE_BYTES`)."""

TOO_LARGE = f"the files of a run may have {MAX_KEPT_BYTES:,} bytes together"
SECRET = "it contains a secret"

Keep = Callable[[str, bytes], Awaitable[None]]
"""Function that keeps the content of a path."""


def keeping(context: ToolContext) -> Keep:
    """Return the function that keeps the files of the run of ``context``.

    It raises `FenceRefused` if the claim was lost.
    """

    async def keep(path: str, content: bytes) -> None:
        async def work(session: AsyncSession, ledger: Ledger) -> None:
            await record(session, ledger, context.granted.run_id, path, content)

        await context.write(work)

    return keep


async def record(
    session: AsyncSession, ledger: Ledger, run_id: str, path: str, content: bytes
) -> None:
    """Record that the run has written ``content`` to ``path``."""
    others = select(func.sum(WrittenFileRow.size)).where(
        col(WrittenFileRow.run_id) == run_id,
        col(WrittenFileRow.path) != path,
        col(WrittenFileRow.not_kept) == "",
    )
    kept_bytes: int = (await session.execute(others)).scalar_one() or 0
    reason = SECRET if _has_secret(content) else ""
    if not reason and kept_bytes + len(content) > MAX_KEPT_BYTES:
        reason = TOO_LARGE
    row = WrittenFileRow(
        run_id=run_id,
        path=path,
        written_at=ledger.now(),
        size=len(content),
        digest=hashlib.sha256(content).hexdigest(),
        not_kept=reason,
        content=None if reason else content,
    )
    await session.merge(row)


def _has_secret(content: bytes) -> bool:
    text = content.decode(errors="replace")
    return redact_tokens(redact_remembered(text)) != text


async def of_run(session: AsyncSession, run_id: str) -> list[RunFile]:
    """Return the files of a run, in the order of their last writes."""
    order = col(WrittenFileRow.written_at), col(WrittenFileRow.path)
    query = sqlalchemy.select(*_COLUMNS).where(col(WrittenFileRow.run_id) == run_id)
    found = (await session.execute(query.order_by(*order))).mappings()
    return [RunFile.model_validate(dict(each)) for each in found]


async def content(session: AsyncSession, run_id: str, path: str) -> bytes | None:
    """Return the content of a file of a run; None if it is not kept."""
    row = await session.get(WrittenFileRow, (run_id, path))
    return None if row is None else row.content


async def delete_old(ledger: Ledger, keep: RetentionLimits) -> int:
    """Delete one batch of files, together with the texts of steps or with the run."""
    of_run = col(RunRow.id) == col(WrittenFileRow.run_id)
    condition = ~exists().where(of_run)
    if keep.texts is not None:
        before = col(WrittenFileRow.written_at) < ledger.now() - keep.texts
        condition |= before & exists().where(of_run, col(RunRow.status).in_(TERMINAL))
    key: Any = tuple_(col(WrittenFileRow.run_id), col(WrittenFileRow.path))
    old = select(WrittenFileRow.run_id, WrittenFileRow.path).where(condition).limit(BATCH_SIZE)
    async with ledger.read() as session:
        if (await session.execute(old.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        found = [tuple(each) for each in (await session.execute(old)).all()]
        await session.execute(delete(WrittenFileRow).where(key.in_(found)))
        return len(found)


_COLUMNS = tuple(getattr(WrittenFileRow, name) for name in RunFile.model_fields)
