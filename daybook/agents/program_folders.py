"""Folders that a program finds for the time of a run, such as skills.

The folder in which the program runs may belong to a user. So each folder that Daybook writes there
has a marker, a file with its name and its digest, and only marked folders are replaced or removed::

    .claude            flock: shared by each run that uses the folders, until the run ends
    .claude/skills     flock: exclusive while a run writes or removes folders

The last run that uses the folders removes all of them. If it is killed, the kernel releases its
locks, and the next run of a program in the same folder removes them.

A folder is written, and removed, under a temporary name. So a marked folder is complete, and the
next run removes the rest after a kill. No link is followed.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import PurePosixPath

from daybook.agents.base import ProgramFolder
from daybook.processes import regular_files
from daybook.processes.regular_files import LAST_FLAGS, NotRegular

log = logging.getLogger(__name__)

PLACES = ((".claude", "skills"), (".agents", "skills"))
"""Where programs look: Claude Code in the first folder, Codex and Gemini CLI in the second one."""

MARKER = ".daybook-folder"
"""Name of the marker in each folder that Daybook has written."""

LOCK_SECONDS = 10.0
"""How long a run waits while another one writes or removes folders."""

_LOCK_INTERVAL_SECONDS = 0.02
_MAX_MARKER_BYTES = 1_000
_TEMPORARY = re.compile(r"\.daybook-[0-9a-f]{16}\Z")


class FolderRefused(ValueError):
    """The error that the folders cannot be written, with the reason and what to do."""


@contextmanager
def written(
    work_dir: str, folders: Sequence[ProgramFolder]
) -> Iterator[tuple[list[ProgramFolder], list[str]]]:
    """Write ``folders`` for the time of the block. Yield those that are there, and warnings.

    A user's folder of the same name stays, with a warning that the program finds this one.
    Remove the folders that killed runs have left, also if there are no ``folders``. Raise
    `FolderRefused`, and TimeoutError while another run does not finish its writes.
    """
    root = os.path.realpath(work_dir)
    given, warnings = list[ProgramFolder](), list[str]()
    with ExitStack() as stack:
        for place in PLACES:
            found = stack.enter_context(_written_in(root, place, folders))
            given += [each for each in found if each not in given]
            for name in [each.name for each in folders if each not in found]:
                path = os.path.join(root, *place, name)
                warnings.append(f"{path} is not Daybook's, so the program finds this one")
        yield given, warnings


@contextmanager
def _written_in(
    root: str, place: tuple[str, str], folders: Sequence[ProgramFolder]
) -> Iterator[list[ProgramFolder]]:
    shown = os.path.join(root, *place)
    if not folders:
        with suppress(OSError, FolderRefused), _opened(root, place, creates=False) as (used, found):
            _remove_unused(used, found)
        yield []
        return
    with ExitStack() as stack:
        try:
            used, found = stack.enter_context(_opened(root, place, creates=True))
            stack.callback(_remove_at_end, used, found, shown)
            with _exclusive(found):
                if _locked(used, fcntl.LOCK_EX):
                    _remove_marked(found)
                if not _locked(used, fcntl.LOCK_SH):
                    raise OSError(errno.EAGAIN, "another program has locked it")
                given = [each for each in folders if _write(found, each)]
        except TimeoutError:
            raise
        except OSError as error:
            raise FolderRefused(
                f"{shown} cannot be written ({error.strerror or error}); change its mode, or "
                "remove the entries of its folders from the agent's tools"
            ) from None
        yield given


@contextmanager
def _opened(root: str, place: tuple[str, str], *, creates: bool) -> Iterator[tuple[int, int]]:
    """Open both folders of a place. Raise OSError, and `FolderRefused` for a link."""
    with regular_files.opened_folder(root) as top, ExitStack() as stack:
        folder, path, opened = top, root, list[int]()
        for name in place:
            path = os.path.join(path, name)
            if creates:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder)
            if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise FolderRefused(
                    f"{path} is a link, which Daybook does not follow; replace it by a folder, or "
                    "remove the entries of its folders from the agent's tools"
                )
            folder = os.open(name, LAST_FLAGS, dir_fd=folder)
            stack.callback(os.close, folder)
            opened.append(folder)
        yield opened[0], opened[1]


def _remove_at_end(used: int, found: int, shown: str) -> None:
    try:
        _remove_unused(used, found)
    except OSError as error:
        log.warning("%s has folders that could not be removed: %s", shown, error)


def _remove_unused(used: int, found: int) -> None:
    """Release the shared lock, and remove the marked folders if no other run uses them."""
    with _exclusive(found):
        if _locked(used, fcntl.LOCK_EX):
            _remove_marked(found)
            fcntl.flock(used, fcntl.LOCK_UN)


@contextmanager
def _exclusive(folder: int) -> Iterator[None]:
    end = time.monotonic() + LOCK_SECONDS
    while not _locked(folder, fcntl.LOCK_EX):
        if time.monotonic() > end:
            raise TimeoutError(errno.ETIMEDOUT, "another run writes there")
        time.sleep(_LOCK_INTERVAL_SECONDS)
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


def _locked(folder: int, kind: int) -> bool:
    """Lock an opened folder in place of its lock. If others hold one, leave it without a lock."""
    try:
        fcntl.flock(folder, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(folder, fcntl.LOCK_UN)
        return False
    return True


def _write(found: int, folder: ProgramFolder) -> bool:
    """Write a folder, and return True. Return False if there is one that Daybook has not written.

    While another run uses an older version, its name is missing for an instant.
    """
    marker = _marker_of(folder.name) + f"{folder.digest}\n"
    before = _read_marker(found, folder.name)
    if before == marker:
        return True
    if not before and _exists(found, folder.name):
        return False
    temporary = _temporary_name()
    os.mkdir(temporary, 0o700, dir_fd=found)  # pictures of a person may be private
    opened = os.open(temporary, LAST_FLAGS, dir_fd=found)
    try:
        for path, content in {**folder.files, MARKER: marker.encode()}.items():
            _write_file(opened, path, content)
    finally:
        os.close(opened)
    old = _temporary_name() if before else ""
    if old:
        os.rename(folder.name, old, src_dir_fd=found, dst_dir_fd=found)
    os.rename(temporary, folder.name, src_dir_fd=found, dst_dir_fd=found)
    if old:
        shutil.rmtree(old, dir_fd=found)
    return True


def _write_file(folder: int, path: str, content: bytes) -> None:
    """Create a file in an opened folder, with the folders on its way."""
    *parents, name = PurePosixPath(path).parts
    if ".." in parents or name == ".." or path.startswith("/"):
        raise OSError(errno.EINVAL, f"{path} leaves the folder")
    with ExitStack() as stack:
        for each in parents:
            with suppress(FileExistsError):
                os.mkdir(each, dir_fd=folder)
            folder = os.open(each, LAST_FLAGS, dir_fd=folder)
            stack.callback(os.close, folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        # The ledger stores no modes, but a file with an interpreter is a program.
        mode = 0o755 if content.startswith(b"#!") else 0o644
        with open(os.open(name, flags, mode, dir_fd=folder), "wb") as file:
            file.write(content)


def _remove_marked(found: int) -> None:
    for name in os.listdir(found):
        temporary = name
        if not _TEMPORARY.match(name):
            if not _read_marker(found, name):
                continue
            temporary = _temporary_name()
            os.rename(name, temporary, src_dir_fd=found, dst_dir_fd=found)
        shutil.rmtree(temporary, dir_fd=found)


def _temporary_name() -> str:
    return f".daybook-{secrets.token_hex(8)}"


def _marker_of(name: str) -> str:
    """Return the begin of a marker. It has the name, so a copy under another name is not marked."""
    return f"Daybook has written the folder {name} for a run, and removes it.\n"


def _read_marker(found: int, name: str) -> str:
    """Return the marker of a folder; "" if Daybook has not written it."""
    try:
        opened = os.open(name, LAST_FLAGS, dir_fd=found)
    except OSError:  # a file, a link, or nothing
        return ""
    try:
        content, _ = regular_files.read(opened, MARKER, _MAX_MARKER_BYTES)
    except (OSError, NotRegular):
        return ""
    finally:
        os.close(opened)
    text = content.decode(errors="replace")
    return text if text.startswith(_marker_of(name)) else ""


def _exists(found: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=found, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
