"""Files and folders that a model may use, opened without following a link.

A process may replace a folder by a link between two steps of a call. So no step uses a joined path:
the way from `/` to a folder is opened name by name, each relative to the folder before it and with
`O_NOFOLLOW`, and a file is opened, created or replaced relative to its folder::

    /  ──open──►  home  ──open──►  ana  ──open──►  project  ──open──►  src  ──►  a.py

A link in the work directory is therefore an error ("is a link"), wherever it leads. A link that
leads to the work directory is resolved before the run begins.

A hard link is as good as a copy, and a process that creates one could have copied the file, so it
may be read. It cannot be written through: a write creates a new file and gives it the name of
the old one, which keeps its content under its other names.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice

from daybook.errors import DaybookError
from daybook.features.work_tools.paths import (
    TEMPORARY_PREFIX,
    TEMPORARY_SUFFIX,
    Place,
    Root,
    has_instructions,
    is_denied,
    locate,
)
from daybook.processes import regular_files
from daybook.processes.regular_files import FILE_FLAGS, LAST_FLAGS, LINK, STEP_FLAGS, NotRegular

MAX_FILE_BYTES = 2 * 2**20
MAX_VISITED_ENTRIES = 50_000
"""Maximum number of entries of one folder that a search visits."""

Identity = tuple[int, int]
"""Device and inode of a folder."""

_TOKEN_BYTES = 8  # of the name of a new file


class FileRefused(DaybookError):
    """The error that a file or folder cannot be used, with the reason."""

    code = "file_refused"

    def __init__(self, place: Place, problem: str, hint: str = "") -> None:
        super().__init__(f"{place} {problem}" + (f" ({hint})" if hint else ""))


@dataclass(frozen=True)
class Visited:
    """The entries of one folder that a search visits. ``descriptor`` is the opened folder."""

    place: Place
    descriptor: int
    entries: list[os.DirEntry[str]]


@dataclass
class Coverage:
    """How complete a search is. It ends at ``deadline``, in the time of `time.monotonic`."""

    deadline: float
    is_out_of_time: bool = False
    left_out: list[str] = field(default_factory=list)

    def is_over(self) -> bool:
        self.is_out_of_time = self.is_out_of_time or time.monotonic() > self.deadline
        return self.is_out_of_time


@dataclass(frozen=True)
class Folders:
    """The folders of a run: ``roots``, of which the first is the work directory.

    No tool opens a folder that is one of ``closed``, or one below ``home``; and none writes in or
    below one of ``read_only``. They are compared by their identities, because a file system may
    ignore case. (The folder of the ledger's file is closed, but may be the user's home.) Only a
    work directory that Daybook has made, a worktree, may be below ``home``.
    """

    roots: tuple[Root, ...]
    closed: Collection[Identity] = ()
    read_only: Collection[Identity] = ()
    home: Collection[Identity] = ()
    is_worktree: bool = False

    def locate(self, path: str, field: str = "path") -> Place:
        return locate(path, self.roots, field)

    # --- reading

    def read(self, place: Place) -> bytes:
        """Return the content of a file. Raise `FileRefused`."""
        with self._opened(place.folder) as folder:
            return _read_in(folder, place)[0]

    def is_folder(self, place: Place) -> bool:
        """Return whether the place is a folder. Raise `FileRefused` for a link, among others."""
        if not place.parts:
            return True
        name = place.parts[-1]
        with self._opened(place.folder) as folder, _errors(place, folder, name):
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise FileRefused(place, *LINK)
        return stat.S_ISDIR(mode)

    def entries(self, place: Place, most: int) -> tuple[list[tuple[str, os.stat_result]], int]:
        """Return at most ``most`` entries of a folder, sorted by name, and the number of others.

        Denied names are left out. Raise `FileRefused`.
        """
        found = list[tuple[str, os.stat_result]]()
        with self._opened(place) as folder, _errors(place, folder):
            names = [each for each in os.listdir(folder) if not is_denied(each)]
            for name in sorted(names)[:most]:
                with suppress(FileNotFoundError):  # it was removed meanwhile
                    found.append((name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
        return found, max(len(names) - most, 0)

    def visit(self, place: Place, coverage: Coverage) -> Iterator[Visited]:
        """Yield a folder and all folders in it, sorted by name, without links and denied names.

        A folder that cannot be opened is left out. If this is ``place`` itself, raise
        `FileRefused`.
        """
        waiting = [place]
        while waiting and not coverage.is_over():
            here = waiting.pop()
            try:
                with self._opened(here) as folder, _errors(here, folder):
                    with os.scandir(folder) as scan:
                        found = list(islice(scan, MAX_VISITED_ENTRIES + 1))
                    if len(found) > MAX_VISITED_ENTRIES:
                        coverage.left_out.append(f"a part of {here}")
                    kept = sorted(
                        (each for each in found if not is_denied(each.name)),
                        key=lambda each: each.name,
                    )
                    yield Visited(here, folder, kept)
                    names = [each.name for each in kept if each.is_dir(follow_symlinks=False)]
            except FileRefused:
                if here is place:
                    raise
                coverage.left_out.append(str(here))
            else:
                waiting += [here / name for name in reversed(names)]

    # --- writing

    def write(self, place: Place, content: bytes, *, create_folders: bool = False) -> None:
        """Create or replace a file, which keeps its mode. Raise `FileRefused`.

        Any reader of the file gets either the old or the new content.
        """
        _check_name(place)
        with self._opened(place.folder, is_writing=True, creates=create_folders) as folder:
            before = _status_before(folder, place)
            _replace(folder, place, content, before)

    def edit(self, place: Place, change: Callable[[bytes], bytes]) -> bytes:
        """Replace the content of a file by the result of ``change``, and return it.

        Raise `FileRefused`, also if the file was changed meanwhile, and the errors of ``change``.
        """
        _check_name(place)
        with self._opened(place.folder, is_writing=True) as folder:
            content, before = _read_in(folder, place)
            changed = change(content)
            _status_before(folder, place)
            _replace(folder, place, changed, before, only_unchanged=True)
        return changed

    @contextmanager
    def _opened(
        self, place: Place, *, is_writing: bool = False, creates: bool = False
    ) -> Iterator[int]:
        """Open a folder, name by name from `/`. Raise `FileRefused`."""
        if is_writing and not place.root.is_writable:
            raise FileRefused(place, "is read-only", "write in the work directory")
        names, depth = (*place.root.parts, *place.parts), len(place.root.parts)
        opened = os.open("/", STEP_FLAGS if names else LAST_FLAGS)
        try:
            for number, name in enumerate(names, 1):
                here = Place(place.root, place.parts[: max(number - depth, 0)])
                flags = LAST_FLAGS if number == len(names) else STEP_FLAGS
                with _errors(here, opened, name):
                    following = _enter(opened, name, flags, creates=creates and number > depth)
                os.close(opened)
                opened = following
                self._check(here, opened, is_inside=number >= depth, is_writing=is_writing)
            yield opened
        finally:
            os.close(opened)

    def _check(self, place: Place, opened: int, *, is_inside: bool, is_writing: bool) -> None:
        identity = identity_of(os.fstat(opened))
        is_own = self.is_worktree and place.root.is_writable and not is_inside
        if (identity in self.home and not is_own) or (is_inside and identity in self.closed):
            raise FileRefused(place, "is a folder of Daybook itself", "no tool opens it")
        if is_writing and identity in self.read_only:
            raise FileRefused(place, "is read-only", "write elsewhere in the work directory")


def _check_name(place: Place) -> None:
    """Raise `FileRefused` if no tool writes a file of this name."""
    if not place.parts:
        raise FileRefused(place, "is a folder")
    if has_instructions(place.parts[-1]):
        hint = "a person writes it; say what it should contain"
        raise FileRefused(place, "instructs later runs, so no tool writes it", hint)


def identity_of(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def read_entry(visited: Visited, name: str) -> bytes:
    """Return the content of a file in a folder that a search visits. Raise `FileRefused`."""
    return _read_in(visited.descriptor, visited.place / name)[0]


def _enter(folder: int, name: str, flags: int, *, creates: bool) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        if not creates:
            raise
    with suppress(FileExistsError):  # another process has created it, perhaps as a link
        os.mkdir(name, dir_fd=folder)
    return os.open(name, flags, dir_fd=folder)


def _read_in(folder: int, place: Place) -> tuple[bytes, os.stat_result]:
    """Return the content and the status of a file in an opened folder."""
    if not place.parts:
        raise FileRefused(place, "is a folder")
    name = place.parts[-1]
    with _errors(place, folder, name):
        content, status = regular_files.read(folder, name, MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        size = max(status.st_size, len(content))
        raise FileRefused(place, f"has {size:,} bytes", f"the limit is {MAX_FILE_BYTES:,} bytes")
    return content, status


def _status_before(folder: int, place: Place) -> os.stat_result | None:
    """Return the status of a file that may be replaced; None if there is no such file."""
    name = place.parts[-1]
    with _errors(place, folder, name):
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        regular_files.check(status)
        # The rename needs no right to write the file, but a write of this user would.
        os.close(os.open(name, os.O_WRONLY | FILE_FLAGS, dir_fd=folder))
    return status


def _replace(
    folder: int,
    place: Place,
    content: bytes,
    before: os.stat_result | None,
    *,
    only_unchanged: bool = False,
) -> None:
    """Write a new file, and give it the name of the old one (``before``)."""
    name = place.parts[-1]
    with _errors(place, folder, name):
        _remove_abandoned(folder)
        temporary, opened = _new_file(folder, 0o666 if before is None else 0o600)
        try:
            if before is not None:
                os.fchmod(opened, stat.S_IMODE(before.st_mode) & 0o777)
            _write_all(opened, content)
            os.fsync(opened)
            if only_unchanged and before is not None:
                now = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if _version(now) != _version(before):
                    raise FileRefused(place, "was changed meanwhile", "read it again")
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        finally:
            os.close(opened)
        with suppress(OSError):  # not every file system can do this; the file has its new content
            os.fsync(folder)


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _new_file(folder: int, mode: int) -> tuple[str, int]:
    """Return name and descriptor of a new, locked file with a name that no tool opens."""
    while True:
        name = f"{TEMPORARY_PREFIX}{secrets.token_hex(_TOKEN_BYTES)}{TEMPORARY_SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | FILE_FLAGS
        opened = os.open(name, flags, mode, dir_fd=folder)
        with suppress(OSError):  # the file system has no locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        if os.fstat(opened).st_nlink:
            return name, opened
        os.close(opened)  # another process has removed it before it was locked


def _is_temporary(name: str) -> bool:
    """Return whether a file has a name that `_new_file` gives, and not one of a user."""
    middle = name.removeprefix(TEMPORARY_PREFIX).removesuffix(TEMPORARY_SUFFIX)
    return name == f"{TEMPORARY_PREFIX}{middle}{TEMPORARY_SUFFIX}" and (
        len(middle) == 2 * _TOKEN_BYTES and not middle.strip("0123456789abcdef")
    )


def _remove_abandoned(folder: int) -> None:
    """Remove new files of processes that were killed: those that no process has locked."""
    for name in os.listdir(folder):
        if _is_temporary(name):
            with suppress(OSError):
                opened = os.open(name, os.O_RDONLY | FILE_FLAGS, dir_fd=folder)
                try:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=folder)
                finally:
                    os.close(opened)


def _write_all(opened: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(opened, rest) :]


@contextmanager
def _errors(place: Place, folder: int, name: str = "") -> Iterator[None]:
    """Raise any error as `FileRefused`. ``name`` is the entry in ``folder``."""
    try:
        yield
    except NotRegular as error:
        raise FileRefused(place, error.problem, error.hint) from None
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise FileRefused(place, "does not exist") from None
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            if error.errno == errno.ELOOP or _is_link(folder, name):
                raise FileRefused(place, *LINK) from None
            raise FileRefused(place, "is no folder") from None
        raise FileRefused(place, f"cannot be used: {error.strerror}") from None


def _is_link(folder: int, name: str) -> bool:
    """Return whether an entry is a link, for a message."""
    with suppress(OSError):
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    return False
