"""Where a program is, and where it runs. Raises ValueError for what the operator has to change.

A folder made here ends in `HELD`, and whoever made it holds a lock on it. Who is killed lets go of
the lock and leaves the folder, with the secrets that may stand in it: `sweep` takes those away.
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

HELD = ".held"

_NAMES = "daybook-"
_NEW = f".{_NAMES}"
"""Of folders that are not locked yet; nothing stands in them."""


def check(work_dir: str) -> None:
    """Raise ValueError for one that depends on where somebody stands; none is a fresh folder."""
    if work_dir and not work_dir.startswith(("/", "~")):
        raise ValueError("is relative; legal is an absolute path, one beginning with ~, or none")


@contextmanager
def folder(work_dir: str, prefix: str) -> Iterator[str]:
    """The folder to run in: the operator's, else a private one that lasts as long as the run.

    Neither the user's home nor the worker's folder: a program that writes where it stands should
    not do so among other people's files, unless the operator says where.
    """
    if not work_dir:
        with fresh(prefix) as made:
            yield made
        return
    there = os.path.expanduser(work_dir)
    if not os.path.isdir(there):
        raise ValueError(f"work_dir {there} is not a folder of this machine")
    yield there


@contextmanager
def fresh(prefix: str) -> Iterator[str]:
    """A folder of this user alone, gone afterwards; ``prefix`` begins with ``daybook-``."""
    made = tempfile.mkdtemp(prefix=_NEW)
    lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
    try:
        random = os.path.basename(made).removeprefix(_NEW)
        name = f"{prefix}{random}{HELD if _locked(lock) else ''}"
        held = os.path.join(os.path.dirname(made), name)
        os.rename(made, held)
        made = held
        yield made
    finally:
        _remove(made)
        os.close(lock)


def sweep() -> int:
    """Remove the folders whose maker was killed, this user's only; how many there were."""
    swept = 0
    for each in Path(tempfile.gettempdir()).glob(f"{_NAMES}*{HELD}"):
        try:
            lock = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another's, or gone by now
            continue
        try:
            if os.fstat(lock).st_uid == os.getuid() and _locked(lock):
                _remove(each)
                swept += 1
        finally:
            os.close(lock)
    return swept


def _remove(folder: str | Path) -> None:
    """Also what a program wrote into folders that it closed to itself."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.isdir(folder):
        for place, within, _ in os.walk(folder):
            for each in (os.path.join(place, name) for name in within):
                if not os.path.islink(each):
                    os.chmod(each, 0o700)
        shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: int) -> bool:
    """Whether the lock is ours now: another has it, or this file system has none, where not."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def resolved(command: Sequence[str], work_dir: str) -> tuple[list[str], str]:
    """Return ``command`` with the absolute path of its program, as found from here.

    With it a warning, empty if the program was found: a worker on another machine may have it. A
    path relative to ``work_dir`` stays as it is; without one it is relative to the current folder.
    """
    name, *arguments = command
    if "/" in name and not os.path.isabs(os.path.expanduser(name)):
        if work_dir:
            place = os.path.join(os.path.expanduser(work_dir), name)
            return [*command], "" if shutil.which(place) else _absent(place)
        name = os.path.abspath(name)
    found = shutil.which(os.path.expanduser(name), path=environment.search_path())
    if found is None:
        return [*command], _absent(name)
    place = found if os.path.isabs(found) else os.path.abspath(found)
    return [name if name.startswith("~") else place, *arguments], ""


def _absent(name: str) -> str:
    return (
        f'there is no program "{name}" here; install it where the worker runs, or give its '
        "whole path, else every run fails"
    )


def program(name: str, folder: str, variables: Mapping[str, str]) -> str:
    """The file of the program called ``name``, for one who runs in ``folder``."""
    name = os.path.expanduser(name)
    if "/" in name:
        place = os.path.join(folder, name)
        if not os.path.exists(place):
            raise ValueError(f"there is no program {place}")
        if found := shutil.which(place):
            return found
        raise ValueError(f"{place} is not an executable file")
    if found := shutil.which(name, path=variables.get("PATH", os.defpath)):
        return found
    raise ValueError(f'there is no program "{name}" in the PATH that it is given')
