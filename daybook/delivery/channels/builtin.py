"""Channels without an external service: the inbox, a file in the home's `out/`, the console.

A message is one entry in its file or on the console. Entries in a file are never mixed, even if
several processes append::

    ## 2026-11-20 09:00:12 UTC · morning-brief: completed

    The answer.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import sys
from pathlib import Path

from daybook.delivery.channels import text
from daybook.delivery.channels.base import UNBOUNDED, Message, NotDelivered
from daybook.errors import InvalidInput
from daybook.home import current_home

DEFAULT_FILE = "daybook.md"
"""The file for messages without a chat id."""

_NAME = re.compile(r"\w[\w .,@+-]*\Z")
_MAX_NAME_BYTES = 200


class Inbox:
    """The ledger itself. A message is delivered as soon as it is due, and needs no sender."""

    limit = UNBOUNDED
    needs_chat_id = False
    carries_files = False

    async def send(self, message: Message) -> None:
        """Do nothing, because the message is already in the ledger."""


class Console:
    """The standard output of the sending process."""

    limit = UNBOUNDED
    needs_chat_id = False
    carries_files = False

    async def send(self, message: Message) -> None:
        def write() -> None:
            stream = sys.stdout
            if stream is None:
                raise OSError("it is not open")
            stream.write(text.escape_controls(_entry(message)))
            stream.flush()

        try:
            await asyncio.to_thread(write)
        except (OSError, ValueError) as error:  # the standard output is closed
            raise NotDelivered(f"standard output: {_error_text(error)}") from None


class File:
    """A file in the home's `out/`. The chat id is the name of the file."""

    limit = UNBOUNDED
    needs_chat_id = False
    carries_files = False

    async def send(self, message: Message) -> None:
        name = message.chat_id or DEFAULT_FILE
        try:
            check_name(name)
        except InvalidInput as error:
            raise NotDelivered(str(error), temporary=False) from None
        try:
            await asyncio.to_thread(_append, folder(), name, _entry(message))
        except OSError as error:
            raise NotDelivered(f"{folder() / name}: {_error_text(error)}") from None


def folder() -> Path:
    """Return the folder with the files of the channel `file`."""
    return current_home().path / "out"


def check_name(name: str) -> None:
    """Raise `InvalidInput` if a file of the channel `file` cannot have this name."""
    if not _NAME.match(name) or len(name.encode()) > _MAX_NAME_BYTES:
        raise InvalidInput(
            "chat_id",
            f'"{name}" is not a valid file name',
            "use letters, digits and -_.,+@ without folders, such as brief.md",
        )


def _append(folder: Path, name: str, entry: str) -> None:
    """Append an entry to a file under a lock, and sync the file to the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    file = os.open(folder / name, flags, 0o600)
    try:
        os.fchmod(file, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        data = entry.encode(errors="replace")
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    finally:
        os.close(file)


def _entry(message: Message) -> str:
    heading = " ".join(message.subject.split()) or message.event
    at = message.at.strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"## {at} · {heading}\n\n{text.truncate(message, UNBOUNDED)}\n\n"


def _error_text(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
