"""Operations on notebooks, for the operator. They work without Prefect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import sqlalchemy
from pydantic import BaseModel, Field
from sqlalchemy import Select, true
from sqlalchemy.orm import defer
from sqlmodel import SQLModel, col, select

from daybook import names, owners
from daybook.api import authorization
from daybook.errors import ChangedMeanwhile, InvalidInput, NotFound
from daybook.features.memory import notebooks
from daybook.features.memory.notebooks import Writer
from daybook.features.memory.tables import NOTEBOOK, NotebookRow, VersionRow
from daybook.instants import UtcTime
from daybook.ledger import references
from daybook.ledger.engine import open_ledger, reading
from daybook.ledger.references import JOB
from daybook.ledger.tables import JobRow, new_id

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


class Notebook(BaseModel, frozen=True):
    """A notebook: of the job ``job_id``, or a shared one, whose ``job_id`` is None.

    ``owner`` is the owner whose jobs use it: `user` for all jobs that no agent owns. ``version`` is
    the number of its newest version, and ``size`` its length in bytes, both 0 for an empty one.
    ``written_by`` is a person, or a run such as `run 3f2a9c1b4d5e`. ``id`` is empty for the
    notebook of a job in which nothing was written yet.
    """

    id: str
    name: str
    job_id: str | None
    owner: str
    version: int
    size: int
    written_at: UtcTime | None
    written_by: str

    @classmethod
    def of(cls, row: NotebookRow, version: VersionRow | None, job: JobRow | None) -> Self:
        """Return the view of a notebook with its newest version; ``job`` is None if shared."""
        return cls.model_validate(_fields(row, version, job))


class NotebookText(Notebook, frozen=True):
    """A notebook with the text of one version, ``shown``."""

    shown: int
    text: str = Field(repr=False)


class NotebookVersion(BaseModel, frozen=True):
    """A version of a notebook. ``digest`` is the SHA-256 digest of its text in UTF-8.

    If ``is_kept`` is false, its text was removed, because it was too old.
    """

    number: int
    written_at: UtcTime
    written_by: str
    run_id: str | None
    size: int
    digest: str
    is_kept: bool


async def list_notebooks() -> list[Notebook]:
    """Return all notebooks, sorted by name. Raise `InvalidInput` if the actor is an agent."""
    authorization.require_operator()
    async with reading() as session:
        found = (await session.execute(_WITH_VERSION)).all()
    return sorted((Notebook.of(*each) for each in found), key=lambda each: each.name)


async def show(ref: str, version: int | None = None) -> NotebookText:
    """Return a notebook with its text, or with that of an earlier version.

    ``ref`` is the name of a shared notebook, a job, or the id of either. Raise `NotFound`, also if
    the text of this version is not kept any more, `Ambiguous`, and `InvalidInput` for an agent.
    """
    authorization.require_operator()
    async with reading() as session:
        row, job = await _find(session, ref)
        latest = await notebooks.newest(session, row)
        shown = latest if version is None else await session.get(VersionRow, (row.id, version))
        if version is not None and (shown is None or shown.text is None):
            raise NotFound("version", str(version), f"`daybook memory history {ref}` lists them")
        text = (shown and shown.text) or ""
        number = shown.number if shown else 0
        return NotebookText.model_validate(
            _fields(row, latest, job) | {"shown": number, "text": text}
        )


async def history(ref: str) -> list[NotebookVersion]:
    """Return the versions of a notebook, newest first. Raise the errors of `show`."""
    authorization.require_operator()
    async with reading() as session:
        row, _ = await _find(session, ref)
        query = (
            sqlalchemy.select(*_WITHOUT_TEXT, col(VersionRow.text).is_not(None).label("is_kept"))
            .where(col(VersionRow.notebook_id) == row.id)
            .order_by(col(VersionRow.number).desc())
        )
        found = (await session.execute(query)).mappings().all()
    return [
        NotebookVersion.model_validate(
            {**each, "written_by": _writer(each["run_id"], each["person"])}
        )
        for each in found
    ]


async def create(name: str, owner: str = owners.USER) -> Notebook:
    """Create a shared notebook for the jobs of ``owner``: `user`, or `agent:<name>`.

    All jobs that no agent owns may use a notebook of `user`. Raise `InvalidInput` for an invalid or
    taken name, for another owner, and for an agent.
    """
    authorization.require_operator()
    name, owner = names.validate_new_name(name), owners.validate_owner(owner)
    if not owners.is_agent(owner) and owner != owners.USER:
        raise InvalidInput("owner", f"{owner!r} has no notebooks", "use user or agent:<its name>")
    async with open_ledger() as ledger, ledger.write() as session:
        known = select(NotebookRow.id).where(col(NotebookRow.name) == name)
        if (await session.execute(known)).first() is not None:
            raise InvalidInput("name", f'"{name}" is the name of a notebook', "choose another")
        row = NotebookRow(name=name, owner=owner, created_at=ledger.now())
        session.add(row)
        await session.flush()
        return Notebook.of(row, None, None)


async def write(ref: str, text: str, base: int | None = None) -> Notebook:
    """Replace the whole text of a notebook. Create the notebook of a job that has none yet.

    ``base`` is the version that the writer has read; None replaces any version. The earlier
    versions are kept. Raise `ChangedMeanwhile` if there is a newer version than ``base``,
    `InvalidInput` for a text that is too long and for an agent, `NotFound` and `Ambiguous`.
    """
    authorization.require_operator()
    async with open_ledger() as ledger, ledger.write() as session:
        row, job = await _find(session, ref)
        if base is not None and base != row.version:
            raise ChangedMeanwhile("notebook", ref)
        latest = await notebooks.newest(session, row)
        if latest is None or latest.text != text:
            row.id = row.id or new_id()
            writer = Writer(person=authorization.person())
            latest = await notebooks.write(session, row, text, writer, ledger.now())
        return Notebook.of(row, latest, job)


async def remove(ref: str) -> Notebook:
    """Delete a notebook with all its versions, and return it. Raise the errors of `show`."""
    authorization.require_operator()
    async with open_ledger() as ledger, ledger.write() as session:
        row, job = await _find(session, ref)
        if not row.id:
            raise NotFound("notebook", ref)
        removed = Notebook.of(row, await notebooks.newest(session, row), job)
        await notebooks.remove(session, row.id)
        return removed


async def _find(session: AsyncSession, ref: str) -> tuple[NotebookRow, JobRow | None]:
    """Return a notebook and its job; a new row for a job that has no notebook yet."""
    match = await references.resolve(session, ref, {NOTEBOOK: true(), JOB: true()})
    if match.noun is NOTEBOOK:
        found = await session.get_one(NotebookRow, str(match.id))
        return found, await session.get(JobRow, found.job_id) if found.job_id else None
    job = await session.get_one(JobRow, str(match.id))
    row = await notebooks.of_job(session, job.id)
    if row is None:
        row = NotebookRow(id="", job_id=job.id, created_at=job.created_at)
    return row, job


_WITHOUT_TEXT = [
    column
    for column in SQLModel.metadata.tables[VersionRow.__tablename__].columns
    if column.name not in ("text", "notebook_id", "call_key")
]

_WITH_VERSION: Select[tuple[NotebookRow, VersionRow, JobRow]] = (
    select(NotebookRow, VersionRow, JobRow)
    .outerjoin(
        VersionRow,
        (col(VersionRow.notebook_id) == col(NotebookRow.id))
        & (col(VersionRow.number) == col(NotebookRow.version)),
    )
    .outerjoin(JobRow, col(JobRow.id) == col(NotebookRow.job_id))
    .options(defer(VersionRow.text))  # type: ignore[arg-type]  # up to 1 MB each
)


def _fields(row: NotebookRow, version: VersionRow | None, job: JobRow | None) -> dict[str, object]:
    return {
        "id": row.id,
        "name": job.name if job else (row.name or row.job_id),
        "job_id": row.job_id,
        "owner": job.owner if job else row.owner,
        "version": row.version,
        "size": version.size if version else 0,
        "written_at": version.written_at if version else None,
        "written_by": _writer(version.run_id, version.person) if version else "",
    }


def _writer(run_id: str | None, person: str) -> str:
    return f"run {run_id[:12]}" if run_id else person
