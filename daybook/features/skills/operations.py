"""Operations on skills: add, list, show, remove."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel
from sqlmodel import col, delete, select

from daybook.agents import process
from daybook.agents.base import ProgramFolder
from daybook.errors import InvalidInput, UnknownName
from daybook.features.skills import folder as folders
from daybook.features.skills.folder import SkillFolder
from daybook.features.skills.tables import SkillFileRow, SkillRow
from daybook.instants import UtcTime
from daybook.ledger.engine import open_ledger
from daybook.short_text import one_line

_CLONE_TIMEOUT_SECONDS = 120.0


class SkillFile(BaseModel, frozen=True):
    """A file of a skill. ``size`` is in bytes."""

    path: str
    size: int


class SkillSummary(BaseModel, frozen=True):
    """A skill. ``source`` is the folder or address from which it was added."""

    name: str
    description: str
    source: str
    digest: str
    added_at: UtcTime


class SkillDetails(SkillSummary, frozen=True):
    """A skill with its files. ``text`` is its `SKILL.md` without the head."""

    files: tuple[SkillFile, ...]
    text: str


async def add(source: str, *, folder: str = "", replace: bool = False) -> SkillSummary:
    """Add the skill in a folder, or in a git repository.

    ``source`` is the path of a folder, or an address that `git clone` accepts. ``folder`` is the
    skill's folder in the repository. Raise `InvalidInput` for an invalid skill, an address that git
    cannot clone, or a name that is taken; with ``replace``, replace that skill.
    """
    async with _fetched(source, folder) as path:
        skill = await asyncio.to_thread(folders.read, path)
    async with open_ledger() as ledger, ledger.write() as session:
        known = await session.get(SkillRow, skill.name)
        if known is not None and not replace:
            raise InvalidInput(
                "skill", f'"{skill.name}" exists already', "add --replace, or remove it first"
            )
        await session.execute(
            delete(SkillFileRow).where(col(SkillFileRow.skill) == skill.name)  # its old files
        )
        row = SkillRow(
            name=skill.name,
            description=skill.description,
            source=source,
            digest=skill.digest,
            added_at=ledger.now(),
        )
        row = await session.merge(row)
        await session.flush()  # the files refer to it
        session.add_all(_file_rows(skill))
        return _summary(row)


async def list_skills() -> list[SkillSummary]:
    """Return all skills, sorted by name."""
    async with open_ledger() as ledger, ledger.read() as session:
        rows = (await session.execute(select(SkillRow).order_by(col(SkillRow.name)))).scalars()
        return [_summary(each) for each in rows]


async def show(name: str) -> SkillDetails:
    """Return a skill. Raise `UnknownName` if there is none of this name."""
    async with open_ledger() as ledger, ledger.read() as session:
        row = await session.get(SkillRow, name)
        if row is None:
            raise await _unknown(name)
        path, size = col(SkillFileRow.path), col(SkillFileRow.size)
        of_skill = col(SkillFileRow.skill) == name
        files = (await session.execute(select(path, size).where(of_skill).order_by(path))).all()
    text = await read_file(name, folders.SKILL_FILE)
    return SkillDetails(
        **_summary(row).model_dump(),
        files=tuple(SkillFile(path=path, size=size) for path, size in files),
        text=folders.without_head(folders.text_of(text or b"") or ""),
    )


async def remove(name: str) -> SkillSummary:
    """Remove a skill, and return it. Raise `UnknownName` if there is none of this name."""
    async with open_ledger() as ledger, ledger.write() as session:
        row = await session.get(SkillRow, name)
        if row is None:
            raise await _unknown(name)
        await session.execute(delete(SkillFileRow).where(col(SkillFileRow.skill) == name))
        await session.delete(row)
        return _summary(row)


async def read_file(name: str, path: str) -> bytes | None:
    """Return the content of a skill's file; None if the skill has no such file."""
    async with open_ledger() as ledger, ledger.read() as session:
        row = await session.get(SkillFileRow, (name, path))
        return None if row is None else row.content


async def program_folders(pattern: str) -> list[ProgramFolder]:
    """Return the skills whose names match, as folders for programs.

    Raise `UnknownName` if there are none, unless the pattern is `*`.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        rows = (await session.execute(select(col(SkillRow.name), col(SkillRow.digest)))).all()
        digests = {name: digest for name, digest in rows if fnmatchcase(name, pattern)}
        of_skills = col(SkillFileRow.skill).in_(digests)
        found = (await session.execute(select(SkillFileRow).where(of_skills))).scalars().all()
    if not digests and pattern != "*":
        raise await _unknown(pattern)
    files: dict[str, dict[str, bytes]] = {name: {} for name in digests}
    for row in found:
        files[row.skill][row.path] = row.content
    return [ProgramFolder(name, digest, files[name]) for name, digest in digests.items()]


async def _unknown(name: str) -> UnknownName:
    return UnknownName("skill", name, [each.name for each in await list_skills()])


def _summary(row: SkillRow) -> SkillSummary:
    return SkillSummary(
        name=row.name,
        description=row.description,
        source=row.source,
        digest=row.digest,
        added_at=row.added_at,
    )


def _file_rows(skill: SkillFolder) -> list[SkillFileRow]:
    return [
        SkillFileRow(skill=skill.name, path=path, size=len(content), content=content)
        for path, content in skill.files.items()
    ]


@asynccontextmanager
async def _fetched(source: str, folder: str) -> AsyncIterator[Path]:
    """Yield the folder of the skill; clone a repository for the time of the block."""
    if not source.strip() or source.startswith("-"):
        raise InvalidInput("skill", f"{source!r} is no folder and no address", "name a folder")
    if "://" not in source and not _is_ssh(source):
        yield Path(source) / folder
        return
    if "@" in urlsplit(source).netloc:
        hint = "leave it out; git asks its own credential helper"
        raise InvalidInput("skill", "has a user or password in the address", hint)
    with tempfile.TemporaryDirectory(prefix="daybook-skill-") as made:
        yield await _clone(source, Path(made, "clone"), folder)


def _is_ssh(source: str) -> bool:
    """Return whether ``source`` is an address such as `git@host:owner/name`."""
    host, found, _ = source.partition(":")
    return bool(found) and "@" in host and "/" not in host


async def _clone(address: str, clone: Path, folder: str) -> Path:
    """Clone a repository, and return the path of the folder in it.

    Raise `InvalidInput` with git's error if it cannot be cloned, or if the folder is outside.
    """
    try:
        done = await process.run(
            ["git", "clone", "--quiet", "--depth=1", "--no-tags", "--", address, str(clone)],
            folder=str(clone.parent),
            environment={**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"},
            stdin=None,
            seconds=_CLONE_TIMEOUT_SECONDS,
        )
    except OSError:
        raise InvalidInput(
            "skill", "git is not installed", "install it, or name a folder"
        ) from None
    if done.timed_out:
        problem = f"git did not clone it within {_CLONE_TIMEOUT_SECONDS:g} s"
        raise InvalidInput("skill", problem, "clone it yourself, and name its folder")
    if done.code != 0:
        why = one_line(done.errors.decode(errors="replace"), 300)
        raise InvalidInput("skill", f"git cannot clone it: {why}", "check the address")
    found = await asyncio.to_thread((clone / folder).resolve)
    if not found.is_relative_to(await asyncio.to_thread(clone.resolve)):
        raise InvalidInput("folder", "leaves the repository", "name a folder inside of it")
    return found
