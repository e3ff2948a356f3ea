"""Import of the jobs and runs of other schedulers.

`run` imports a file when the operator requests it. `migrate_anna` imports anna's folder, once, when
`daybook up` starts.

::

    file ── reader ──► Source ── plan ──► one transaction (jobs, runs) ──► Prefect
             └ not complete, unknown: refused  └ invalid: refused
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from daybook import prefect, settings
from daybook.agents import documents, kinds
from daybook.api import authorization, preflight
from daybook.api.jobs import PENDING_NOTE
from daybook.errors import AgentMisconfigured, InvalidInput, UnknownName
from daybook.features.imports import anna, crontab, hermes, readers, shell, uploads, writer
from daybook.features.imports import settings as import_settings
from daybook.features.imports.source import FIX_HINT, Source, System
from daybook.features.imports.writer import ImportedJob, ImportReport, OnConflict
from daybook.jobs import store
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.tables import Fact

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

MIGRATED_FACT = "anna_imported"
"""Key of the ledger's fact that anna's folder was imported. So the folder is imported only once."""
SET_ASIDE_SUFFIX = ".imported"
"""Suffix that Daybook adds to the name of anna's file after the import."""

_logger = logging.getLogger(__name__)


async def run(
    system: str,
    path: str,
    *,
    content: bytes | None = None,
    files: Mapping[str, bytes] | None = None,
    dry_run: bool = False,
    on_conflict: str = "skip",
    leave_out: Sequence[str] = (),
    disabled: bool = False,
) -> ImportReport:
    """Import the jobs and runs of a file of ``system`` in one transaction. Return a report.

    ``content`` is the text of a crontab that the caller has read from standard input; ``path`` is
    then `-`. ``files`` are the contents of copies of the files, by name; ``path`` is then not used.
    If a job runs a command and the agent `shell.AGENT` is missing, create this agent before the
    transaction. If Prefect cannot store the agent now, the report has a note with the command that
    adds it.

    If a job was imported before, it is not changed, and only gets the new runs of its history. If
    another job already has the name of an imported job, ``on_conflict`` decides. With `skip`, the
    imported job is skipped; with `rename`, it gets another name; with `replace`, the other job is
    archived. ``leave_out`` are the names or ids of jobs to leave out. With ``disabled``, the new
    jobs are disabled. With ``dry_run``, nothing is written. If Prefect is unreachable, the keeper
    deploys the jobs later.

    Raise `InvalidInput` for an agent, for an unknown ``system``, ``on_conflict`` or job in
    ``leave_out``, for a file that is incomplete, of an unknown version or with a job that cannot be
    imported, for ``files`` with more than `uploads.MAX_JOBS` jobs, and if another agent has the
    name `shell.AGENT`. After this error, no job and no run was written.
    """
    authorization.require_operator()
    reader = readers.READERS.get(system)  # type: ignore[call-overload]
    if reader is None:
        fix = f"did you mean {near}?" if (near := readers.OTHER_NAMES.get(system.lower())) else ""
        raise UnknownName("SYSTEM", system, readers.READERS, fix)
    if on_conflict not in get_args(OnConflict):
        hint = f"use {', '.join(get_args(OnConflict))}"
        raise InvalidInput("on_conflict", f"{on_conflict!r} is unknown", hint)
    if files is None:
        source = await asyncio.to_thread(_read, reader, path, content)
    else:
        source = await asyncio.to_thread(_read_copies, reader, files)
        if (count := len(source.jobs) + len(source.refused)) > uploads.MAX_JOBS:
            hint = f"use `daybook import {system} PATH`"
            raise InvalidInput("path", f"has {count:,} jobs, more than {uploads.MAX_JOBS:,}", hint)
    options: dict[str, Any] = {
        "default_timezone": settings.load().timezone,
        "on_conflict": on_conflict,
        "leave_out": leave_out,
        "disabled": disabled,
    }
    async with open_ledger() as ledger:
        async with ledger.read() as session:  # if this read refuses the import, no agent is created
            report = await writer.write(session, source, ledger.now(), **options, dry_run=True)
        if dry_run:
            return report
        async with prefect.client.connected_if_reachable() as client:
            notes = await _prepare_shell(client, source)
            async with ledger.write() as session:
                report = await writer.write(session, source, ledger.now(), **options)
            report = report.model_copy(update={"notes": [*report.notes, *notes]})
            return await _deploy(ledger, client, report)


async def migrate_anna(ledger: Ledger, say: Callable[[str], None]) -> None:
    """Import the folder of the setting `anna_folder`, once for each ledger, and show what it added.

    Do nothing if the setting is empty, there is no file, or the folder was imported before. If the
    folder has an invalid file or cannot be read, show the error.
    """
    try:
        report = await import_anna(ledger)
    except InvalidInput as error:
        say(f"DAYBOOK_ANNA_FOLDER was not imported: {error}")
        return
    if report is not None:
        say(f"Imported anna's jobs: {', '.join(job.name for job in report.jobs) or 'none'}")
        for job in report.jobs:
            for note in job.notes:
                say(f"  {job.name}: {note}")


async def import_anna(ledger: Ledger) -> ImportReport | None:
    """Import the folder of the setting `anna_folder`, once for each ledger.

    Return None if the setting is empty, there is no file, or the folder was imported before. One
    transaction stores the jobs and the fact that they were imported. After it, the file is renamed.
    If the process dies before the rename, the next call renames the file. Raise `InvalidInput` as
    `run` does, and for a folder that cannot be read.
    """
    folder = import_settings.load().anna_folder
    if not folder:
        return None
    file = _file_of(folder)
    async with ledger.read() as session:
        is_done = await session.get(Fact, MIGRATED_FACT) is not None
    report = None
    if not is_done and (found := await asyncio.to_thread(_read_if_there, file)) is not None:
        mark, source = found
        async with ledger.write() as session:
            if await session.get(Fact, MIGRATED_FACT) is None:
                report = await writer.write(
                    session,
                    source,
                    ledger.now(),
                    default_timezone=settings.load().timezone,
                    on_conflict="rename",
                )
                session.add(Fact(key=MIGRATED_FACT, value=mark))
        is_done = True
    if is_done:
        await _set_aside(ledger, file)
    return report


def _read(reader: Callable[[Path], Source], path: str, content: bytes | None) -> Source:
    if content is None:
        return _read_file(reader, path)
    if reader is not crontab.read:
        raise InvalidInput("path", "only a crontab is read from standard input", "name the file")
    return crontab.read_text(crontab.STANDARD_INPUT, content)


def _read_copies(reader: Callable[[Path], Source], files: Mapping[str, bytes]) -> Source:
    with uploads.written(files) as path:
        try:
            return _read_file(hermes.read_copy if reader is hermes.read else reader, str(path))
        except InvalidInput as error:  # the folder of the copies means nothing to the user
            problem = error.problem.replace(f"{uploads.folder_of(path)}/", "")
            raise InvalidInput(error.field, problem, error.hint) from None


def _read_file(reader: Callable[[Path], Source], path: str) -> Source:
    try:
        return reader(Path(path).expanduser())
    except OSError as error:
        problem = f"{path}: cannot be read: {error.strerror or error}"
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        problem = f"{path}: has an impossible value: {error}"
    raise InvalidInput("path", problem, FIX_HINT)


async def _prepare_shell(client: PrefectClient | None, source: Source) -> list[str]:
    """Create the agent that runs commands, if a job needs it and it does not exist. Return notes.

    Raise `InvalidInput` if another agent has its name.
    """
    if all(job.fields.get("agent") != shell.AGENT for job in source.jobs):
        return []
    try:
        known = await documents.names(client) if client else None
    except AgentMisconfigured:  # `daybook up` has not registered the block types yet
        known = None
    if client is None or known is None:
        return [f'make the agent "{shell.AGENT}" before the jobs are due: {shell.ADD_COMMAND}']
    if shell.AGENT not in known:
        await documents.add(client, shell.AGENT, kinds.COMMAND.slug, shell.SETTINGS)
        return []
    agent = await documents.describe(client, documents.matches(known, shell.AGENT)[0])
    if len(known[shell.AGENT]) > 1 or agent.settings.get("command") != shell.SETTINGS["command"]:
        problem = f'the agent "{shell.AGENT}" is not the program {shell.PROGRAM}'
        hint = (
            f"the import needs the name for commands; remove it, or: {shell.ADD_COMMAND} --replace"
        )
        raise InvalidInput("agent", problem, hint)
    return []


def _file_of(folder: str) -> Path:
    return Path(os.path.expanduser(folder)) / anna.JOBS_FILE


def _read_if_there(file: Path) -> tuple[str, Source] | None:
    """Return the file's mark (`_file_mark`) and its content; None if the file does not exist.

    Raise `InvalidInput` if the file cannot be read or is invalid.
    """
    try:
        mark = _file_mark(file)
    except OSError as error:
        problem = f"{file} cannot be read: {error.strerror or error}"
        hint = "name a folder that this user can read, or leave the setting empty"
        raise InvalidInput("anna_folder", problem, hint) from None
    return (mark, _read(anna.read, str(file), None)) if mark else None


def _file_mark(file: Path) -> str:
    """Return a text that identifies this version of the file; empty if there is no file."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return ""
    return f"{found.st_ino} {found.st_mtime_ns}"


async def _set_aside(ledger: Ledger, file: Path) -> None:
    """Rename the imported file. Do not rename a later file that has the same name."""
    async with ledger.read() as session:
        fact = await session.get(Fact, MIGRATED_FACT)
    with suppress(OSError):  # after the import, this user may no longer be able to read the folder
        if fact is not None and fact.value and fact.value == _file_mark(file):
            _rename(file)


def _rename(file: Path) -> None:
    try:
        file.rename(file.with_name(file.name + SET_ASIDE_SUFFIX))
    except OSError as error:
        _logger.warning("%s was imported, but cannot be renamed: %s", file, error)


async def _deploy(
    ledger: Ledger, client: PrefectClient | None, report: ImportReport
) -> ImportReport:
    """Deploy the imported jobs. Return the report, with notes on jobs whose runs would fail."""
    notes = list(report.notes)
    new = {job.id for job in report.jobs if job.result in ("added", "replaced")}
    if not new:
        return report
    jobs = [await _checked(ledger, client, job) for job in report.jobs]
    if client is None:
        notes.append(PENDING_NOTE)
    else:
        done = await prefect.reconcile.reconcile_all(ledger, client)
        notes += [f"not deployed to Prefect: {name} ({why})" for name, why in done.failed.items()]
    return report.model_copy(update={"jobs": jobs, "notes": notes})


async def _checked(
    ledger: Ledger, client: PrefectClient | None, imported: ImportedJob
) -> ImportedJob:
    """Return the job, with notes if its runs could not use its agent, tool or address."""
    if imported.result not in ("added", "replaced") or imported.id is None:
        return imported
    async with ledger.read() as session:
        stored = await store.get(session, imported.id)
    assert stored is not None
    try:
        found = await preflight.check(client, stored.job, stored.row.owner) if client else []
    except InvalidInput as error:
        found = [f"its runs would fail: {error}"]
    return imported.model_copy(update={"notes": [*imported.notes, *found]})


__all__ = ["ImportReport", "ImportedJob", "System", "import_anna", "migrate_anna", "run"]
