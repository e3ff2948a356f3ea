"""Location of a program, and the folder in which it runs.

Raises ValueError for errors that the operator has to fix. A temporary folder's name ends in
`LOCKED_SUFFIX`, and its maker holds a lock on it. If the maker is killed, the lock is released but
the folder remains, with any secrets in it: `remove_abandoned` removes such folders.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from daybook.processes import environment

LOCKED_SUFFIX = ".held"

_NAMES = "daybook-"
_NEW = f".{_NAMES}"
"""Prefix of folders that are not locked yet; they are empty."""


def check(work_dir: str) -> None:
    """Raise ValueError for a relative path, which would depend on the current folder.

    An empty ``work_dir`` means a new temporary folder.
    """
    if work_dir and not work_dir.startswith(("/", "~")):
        raise ValueError(
            "is relative; use an absolute path or one that begins with ~, or leave it empty"
        )


@contextmanager
def run_folder(work_dir: str, prefix: str) -> Iterator[str]:
    """Yield the folder to run in: the operator's, else a temporary one that lasts as long as the
    run.

    It is neither the user's home nor the worker's folder: a program that writes to its current
    folder must not do so among other files unless the operator says so.
    """
    if not work_dir:
        with temporary_folder(prefix) as made:
            yield made
        return
    path = os.path.expanduser(work_dir)
    if not os.path.isdir(path):
        raise ValueError(f"work_dir {path} is not a folder on this machine")
    yield path


@contextmanager
def temporary_folder(prefix: str) -> Iterator[str]:
    """Yield a private temporary folder, which is removed afterwards.

    ``prefix`` starts with ``daybook-``.
    """
    made = tempfile.mkdtemp(prefix=_NEW)
    lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
    try:
        random = os.path.basename(made).removeprefix(_NEW)
        name = f"{prefix}{random}{LOCKED_SUFFIX if _locked(lock) else ''}"
        locked_path = os.path.join(os.path.dirname(made), name)
        os.rename(made, locked_path)
        made = locked_path
        yield made
    finally:
        _remove(made)
        os.close(lock)


def remove_abandoned() -> int:
    """Remove this user's folders whose creators were killed; return the number removed."""
    swept = 0
    for each in Path(tempfile.gettempdir()).glob(f"{_NAMES}*{LOCKED_SUFFIX}"):
        try:
            lock = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another user's, or removed in the meantime
            continue
        try:
            if os.fstat(lock).st_uid == os.getuid() and _locked(lock):
                _remove(each)
                swept += 1
        finally:
            os.close(lock)
    return swept


def _remove(folder: str | Path) -> None:
    """Remove the folder, even if a program took its own permissions on folders inside it."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.isdir(folder):
        for parent, subfolders, _ in os.walk(folder):
            for each in (os.path.join(parent, name) for name in subfolders):
                if not os.path.islink(each):
                    os.chmod(each, 0o700)
        shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: int) -> bool:
    """Return whether this process has the lock now.

    False if another process holds it, or if the file system has no locks.
    """
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def resolve_command(command: Sequence[str], work_dir: str) -> tuple[list[str], str]:
    """Return ``command`` with the absolute path of its program, found from the current folder.

    Also return a warning if the program was not found, else "": a worker on another machine may
    have it. A path relative to ``work_dir`` stays as it is; without a ``work_dir`` it is relative
    to the current folder.
    """
    name, *arguments = command
    if "/" in name and not os.path.isabs(os.path.expanduser(name)):
        if work_dir:
            path = os.path.join(os.path.expanduser(work_dir), name)
            return [*command], "" if shutil.which(path) else _missing_program(path)
        name = os.path.abspath(name)
    found = shutil.which(os.path.expanduser(name), path=environment.search_path())
    if found is None:
        return [*command], _missing_program(name)
    path = found if os.path.isabs(found) else os.path.abspath(found)
    return [name if name.startswith("~") else path, *arguments], ""


def _missing_program(name: str) -> str:
    return (
        f'there is no program "{name}" on this machine; install it where the worker runs or '
        "write its full path, or every run fails"
    )


def find_program(name: str, folder: str, variables: Mapping[str, str]) -> str:
    """Return the file of the program called ``name``, for a process that runs in ``folder``."""
    name = os.path.expanduser(name)
    if "/" in name:
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            raise ValueError(f"there is no program {path}")
        if found := shutil.which(path):
            return found
        raise ValueError(f"{path} is not an executable file")
    if found := shutil.which(name, path=variables.get("PATH", os.defpath)):
        return found
    raise ValueError(f'there is no program "{name}" on its PATH')
