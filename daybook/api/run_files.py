"""The files that a run has written with its tools, as features keep them (`Feature.files`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from daybook.api import authorization
from daybook.errors import NotFound
from daybook.feature import loaded
from daybook.ledger.engine import reading
from daybook.ledger.views import RunFile

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


class KeptFile(RunFile, frozen=True):
    """A file of a run with its content."""

    content: bytes = Field(repr=False)


async def of_run(ref: str) -> list[RunFile]:
    """Return the files of a run, or of the last run of a job. Raise `NotFound`, `Ambiguous`."""
    async with reading() as session:
        row, _ = await authorization.find_last_run(session, ref)
        return await find(session, row.id)


async def read(ref: str, path: str) -> KeptFile:
    """Return a file of a run, or of the last run of a job, with its content.

    Raise `NotFound`, also if the content is not kept, and `Ambiguous`.
    """
    async with reading() as session:
        row, _ = await authorization.find_last_run(session, ref)
        for module in loaded("files"):
            for each in await module.of_run(session, row.id):
                content = await module.content(session, row.id, path) if each.path == path else None
                if content is not None:
                    return KeptFile(**dict(each), content=content)
    raise NotFound("file", path, f"`daybook files {row.id[:8]}` lists the files that are kept")


async def with_contents(ref: str) -> list[tuple[RunFile, bytes | None]]:
    """Return the files of a run, or of the last run of a job, with the contents that are kept.

    All are of the same run, even if a further run of the job begins. Raise `NotFound`, `Ambiguous`.
    """
    async with reading() as session:
        row, _ = await authorization.find_last_run(session, ref)
        return [
            (each, await module.content(session, row.id, each.path))
            for module in loaded("files")
            for each in await module.of_run(session, row.id)
        ]


async def find(session: AsyncSession, run_id: str) -> list[RunFile]:
    """Return the files of the run with this id, in the order of their last writes."""
    return [each for module in loaded("files") for each in await module.of_run(session, run_id)]
