"""Attachments: the files of a run that the message about its outcome carries (`attach_files`).

The ledger has a file's content once, as features keep it (`Feature.files`), and each attempt to
send the message reads it again. A note at the end of the text names each file that is not attached.
"""

from __future__ import annotations

import mimetypes
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.delivery.outbox import MESSAGE, notify_of
from daybook.feature import loaded
from daybook.jobs.notify import EVENTS
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.short_text import first_names, one_line

MAX_ATTACHED_BYTES = 2 * 2**20
"""Maximum length of the attached files of a message; base64 makes a mail a third longer."""

MAX_ATTACHED_FILES = 20

ATTEMPTS_WITH_FILES = 4
"""Number of attempts that carry the files; the following ones, after 10 minutes, go without.

A mail server may refuse a message because of a file, and the answer must arrive nevertheless.
"""

MAX_NAME_LENGTH = 80

_SUFFIX_LENGTH = 12
_MAX_PATH_LENGTH = 100

_FORBIDDEN = re.compile(r'["\\/<>:|?*]')
_SAFE_TYPES = re.compile(
    r"(audio|image|video)/(?!svg)|text/(plain|markdown|csv)\Z|application/(json|pdf)\Z"
)
_ANY_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class WrittenFile:
    """A file of a run. If ``content`` is None, ``reason`` says why there is none."""

    path: str
    content: bytes | None = field(repr=False)
    reason: str = ""


@dataclass(frozen=True)
class Attachment:
    """A file in a message: the name has no folder, and no character that ends a header's value."""

    name: str
    content_type: str
    content: bytes = field(repr=False)


async def read(session: AsyncSession, row: OutboxRow, run: RunRow) -> list[WrittenFile]:
    """Return the files that the message ``row`` about ``run`` should carry, in their order.

    There are none if the run's job does not request them, or if the message is not about the
    outcome of the run.
    """
    is_outcome = row.purpose == MESSAGE and row.event in EVENTS
    if not (is_outcome and notify_of(run.parameters, None).attach_files):
        return []
    return [
        WrittenFile(each.path, await module.content(session, run.id, each.path), each.not_kept)
        for module in loaded("files")
        for each in await module.of_run(session, run.id)
    ]


def choose(
    files: Sequence[WrittenFile], run_id: str, *, refused: str = ""
) -> tuple[tuple[Attachment, ...], str]:
    """Return the attachments, and a note on the other files; "" if all are attached.

    ``refused`` is the reason why no file can be attached; "" if there is none.
    """
    attached: dict[str, Attachment] = {}
    others: dict[str, list[str]] = defaultdict(list)
    space, is_kept = MAX_ATTACHED_BYTES, False
    for each in files:
        content = each.content
        if content is None:
            reason = each.reason or "its content is no longer kept"
        elif refused:
            reason = refused
        elif not content:
            reason = "it is empty"
        elif len(content) > space:
            reason = f"a message carries at most {MAX_ATTACHED_BYTES:,} bytes"
        elif len(attached) == MAX_ATTACHED_FILES:
            reason = f"a message carries at most {MAX_ATTACHED_FILES} files"
        else:
            space -= len(content)
            name = next(name for name in _names(each.path) if name not in attached)
            attached[name] = Attachment(name, content_type(name), content)
            continue
        is_kept |= bool(content)
        others[reason].append(one_line(each.path, _MAX_PATH_LENGTH))
    return tuple(attached.values()), _note(others, run_id, is_kept=is_kept)


def _note(others: dict[str, list[str]], run_id: str, *, is_kept: bool) -> str:
    if not others:
        return ""
    listed = "; ".join(f"{first_names(paths)} ({reason})" for reason, paths in others.items())
    save = f"\nTo save them: daybook files {run_id[:12]} --save FOLDER" if is_kept else ""
    return f"Files that are not attached: {listed}{save}"


def _names(path: str) -> Iterator[str]:
    """Yield the possible names of a file, the best first: `report.md`, `report-2.md`, …"""
    name = PurePosixPath(path).name
    name = "".join(each if each.isprintable() else "_" for each in _FORBIDDEN.sub("_", name))
    suffix = PurePosixPath(name).suffix[:_SUFFIX_LENGTH].rstrip()
    stem = PurePosixPath(name).stem.strip(" .")[: MAX_NAME_LENGTH - len(suffix)] or "file"
    yield stem + suffix
    for number in range(2, MAX_ATTACHED_FILES + 1):
        yield f"{stem}-{number}{suffix}"


def content_type(name: str) -> str:
    """Return the type of a file by its name.

    A program, a page with scripts, or an unknown or compressed file is only a number of bytes.
    """
    guessed, encoding = mimetypes.guess_type(name)
    return guessed if guessed and not encoding and _SAFE_TYPES.match(guessed) else _ANY_TYPE
