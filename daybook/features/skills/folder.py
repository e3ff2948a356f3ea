"""Reader of a skill's folder."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from daybook.errors import InvalidInput
from daybook.short_text import one_line

SKILL_FILE = "SKILL.md"
MAX_BYTES = 10_000_000
"""Maximum size of all files of a skill."""
MAX_FILES = 500
MAX_DESCRIPTION_CHARACTERS = 1_024
MAX_NAME_CHARACTERS = 50  # 64 with `skills_`, which begins the name of the tool
_MAX_HEAD_CHARACTERS = 20_000
_LEFT_OUT = (".git", "__pycache__", ".DS_Store")

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")


@dataclass(frozen=True)
class SkillFolder:
    """A skill. ``files`` maps the path of each file, relative and with `/`, to its content."""

    name: str
    description: str
    files: dict[str, bytes] = field(repr=False)

    @property
    def digest(self) -> str:
        """Return the SHA-256 digest of the paths and contents of all files, in hexadecimal."""
        found = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            found.update(f"{len(path.encode())} {path} {len(content)}\n".encode())
            found.update(content)
        return found.hexdigest()


def read(folder: Path) -> SkillFolder:
    """Read and check the folder of a skill.

    Raise `InvalidInput` if it has no valid `SKILL.md`, is larger than `MAX_BYTES`, or contains a
    link to a folder or out of the folder.
    """
    try:
        root = folder.expanduser().resolve(strict=True)
        files = _files(root)
    except (OSError, RuntimeError, UnicodeError) as error:  # a loop of links, a name of bytes
        why = getattr(error, "strerror", None) or type(error).__name__
        hint = "name a folder whose files can be read"
        raise _invalid(f"{folder} cannot be read ({why})", hint) from None
    if SKILL_FILE not in files:
        hint = f"name the folder of one skill, which has a {SKILL_FILE}"
        raise _invalid(f"{folder} has no {SKILL_FILE}", hint)
    head = _head(files[SKILL_FILE])
    name, description = head.get("name"), head.get("description")
    if not isinstance(name, str) or len(name) > MAX_NAME_CHARACTERS or not _NAME.match(name):
        hint = f"use at most {MAX_NAME_CHARACTERS} of a-z, 0-9 and single dashes"
        shown = f'"{one_line(name, 100)}"' if isinstance(name, str) else "no text"
        raise _invalid(f"its name is {shown}, which is not valid", hint)
    if not isinstance(description, str) or not description.strip():
        hint = "say in the head of the file what the skill is for, and when to use it"
        raise _invalid("it has no description", hint)
    if len(description) > MAX_DESCRIPTION_CHARACTERS:
        hint = f"use at most {MAX_DESCRIPTION_CHARACTERS:,} characters"
        raise _invalid("its description is too long", hint)
    return SkillFolder(name, " ".join(description.split()), files)


def text_of(content: bytes) -> str | None:
    """Return the content of a file as text; None if it is not text in UTF-8."""
    try:
        return None if b"\0" in content else content.decode()
    except UnicodeDecodeError:
        return None


def without_head(text: str) -> str:
    """Return the text of a `SKILL.md` without its head."""
    _, found, rest = text.partition("\n---\n")
    return rest.lstrip("\n") if found and text.startswith("---\n") else text


def _head(content: bytes) -> dict[str, Any]:
    text = (text_of(content) or "").replace("\r\n", "\n")
    head, found, _ = text[:_MAX_HEAD_CHARACTERS].partition("\n---\n")
    if not found or not head.startswith("---\n"):
        hint = "begin the file with ---, name: …, description: …, ---"
        raise _invalid(f"{SKILL_FILE} has no head", hint)
    try:
        read_head = yaml.safe_load(head)
    except (yaml.YAMLError, RecursionError, ValueError):
        raise _invalid(f"the head of {SKILL_FILE} is no YAML", "quote texts with a colon") from None
    return read_head if isinstance(read_head, dict) else {}


def _files(root: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    left = MAX_BYTES
    for path in _walk(root):
        name = path.relative_to(root).as_posix()
        name.encode()
        real = path.resolve(strict=True)
        if not real.is_relative_to(root) or {*_LEFT_OUT} & {*real.relative_to(root).parts}:
            raise _invalid(f"{name} is a link out of the folder", "copy the file into the folder")
        if not stat.S_ISREG(real.stat().st_mode):
            raise _invalid(f"{name} is no file", "remove it, or link to a file")
        with real.open("rb") as opened:
            files[name] = opened.read(left + 1)
        left -= len(files[name])
        if left < 0:
            raise _invalid(f"it has more than {MAX_BYTES:,} bytes", "remove large files")
        if len(files) > MAX_FILES:
            raise _invalid(f"it has more than {MAX_FILES} files", "remove some")
    return files


def _walk(folder: Path) -> list[Path]:
    """Return the paths in ``folder`` that are no folders, sorted; follow no link."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        links = [each for each in folders if os.path.islink(os.path.join(parent, each))]
        found += [Path(parent, each) for each in [*names, *links] if each not in _LEFT_OUT]
        folders[:] = [each for each in folders if each not in (*_LEFT_OUT, *links)]
        if len(found) > 10 * MAX_FILES:
            break
    return sorted(found)


def _invalid(problem: str, hint: str) -> InvalidInput:
    return InvalidInput("skill", problem, hint)
