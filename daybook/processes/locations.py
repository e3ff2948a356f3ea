"""Location of a program, and the folder in which it runs.

The functions raise ValueError for errors that the operator has to fix; `job_folder` raises
`InvalidInput` instead. A temporary folder's name ends in `LOCKED_SUFFIX`, and its creator holds a
lock on it, unless the file system has no locks. If the creator is killed, the kernel releases the
lock, but the folder remains, with any secrets in it, until `remove_abandoned` removes it.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from daybook.errors import InvalidInput
from daybook.processes import environment

LOCKED_SUFFIX = ".held"

_NAMES = "daybook-"
_FIRST_LINE_BYTES = 256
_NEW = f".{_NAMES}"
"""Prefix of folders that are not locked yet; they are empty."""


def check(work_dir: str) -> None:
    """Raise ValueError for a relative path; "" means a new temporary folder."""
    if work_dir and not work_dir.startswith(("/", "~")):
        raise ValueError(
            "is relative; use an absolute path or one that begins with ~, or leave it empty"
        )


def real_path(work_dir: str) -> str:
    """Return the absolute path of ``work_dir`` without symbolic links; it need not exist."""
    return os.path.realpath(os.path.expanduser(work_dir))


def plain_path(work_dir: str) -> str:
    """Return the absolute path of ``work_dir`` as it is written, without a look at the disk."""
    return os.path.normpath(os.path.expanduser(work_dir)) if work_dir else ""


def job_folder(work_dir: str) -> str:
    """Return the real path of a job's work directory; empty if ``work_dir`` is empty.

    Raise `InvalidInput` unless the path is a folder on this machine that this user can write to and
    that is inside a folder of the setting `allowed_work_dirs`. The check follows symbolic links
    first, so no link leads out of the allowed folders.
    """
    if not work_dir:
        return ""
    written, path = os.path.expanduser(work_dir), real_path(work_dir)
    _check_is_allowed(written, path)
    if not os.path.exists(path):
        problem, hint = "does not exist on this machine", "create it, or use another folder"
    elif not os.path.isdir(path):
        problem, hint = "is not a folder", "use a folder"
    elif not os.access(path, os.W_OK | os.X_OK):
        problem, hint = "is not writable by this user", "change its mode, or use another folder"
    else:
        return path
    raise InvalidInput("work_dir", f"{written} {problem}", hint)


def check_job_folder(work_dir: str, *, must_exist: bool = True) -> list[str]:
    """Check a work directory before a job with it is stored. Raise the errors of `job_folder`.

    If the ledger is on PostgreSQL, runs may be on other machines. Then return a note instead.
    Without ``must_exist``, only check that the folder is inside an allowed folder.
    """
    from daybook import settings  # slow to import

    try:
        if must_exist:
            job_folder(work_dir)
        elif work_dir:
            _check_is_allowed(os.path.expanduser(work_dir), real_path(work_dir))
    except InvalidInput as error:
        if settings.load().ledger_address.startswith("sqlite"):
            raise
        return [f"{error}; so every run on a machine like this one will fail"]
    return []


def _check_is_allowed(written: str, path: str) -> None:
    """Raise `InvalidInput` unless ``path`` is inside a folder of `allowed_work_dirs`."""
    from daybook import settings  # slow to import

    allowed = settings.load().work_dir_roots
    if any(Path(path).is_relative_to(real_path(each)) for each in allowed):
        return
    shown = written if path == written else f"{written} leads to {path}, which"
    inside = f"use a folder in {', '.join(allowed)}, or " if allowed else ""
    raise InvalidInput(
        "work_dir",
        f"{shown} is outside the allowed folders",
        f"{inside}let the operator add its folder to DAYBOOK_ALLOWED_WORK_DIRS",
    )


@contextmanager
def run_folder(work_dir: str, prefix: str) -> Iterator[str]:
    """Yield ``work_dir`` or, if it is empty, a new temporary folder, for a program to run in.

    A program never runs in the user's home or the worker's folder by default, so that it does not
    mix its files with others. Raise ValueError if ``work_dir`` is not a folder on this machine.
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

    ``prefix`` must start with ``daybook-``.
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
    """Remove this user's temporary folders whose creators were killed; return their number."""
    swept = 0
    for each in Path(tempfile.gettempdir()).glob(f"{_NAMES}*{LOCKED_SUFFIX}"):
        try:
            lock = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another user's, or already removed
            continue
        try:
            if os.fstat(lock).st_uid == os.getuid() and _locked(lock):
                _remove(each)
                swept += 1
        finally:
            os.close(lock)
    return swept


def _remove(folder: str | Path) -> None:
    """Remove the folder, even if a program made folders inside it inaccessible.

    Files of another user, such as the files of a container, may remain.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.isdir(folder):
        for parent, subfolders, _ in os.walk(folder):
            for each in (os.path.join(parent, name) for name in subfolders):
                if not os.path.islink(each):
                    with suppress(OSError):
                        os.chmod(each, 0o700)
        shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: int) -> bool:
    """Try to lock the folder; False if a process holds it, or the file system has no locks."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def resolve_command(command: Sequence[str], work_dir: str) -> tuple[list[str], str]:
    """Return ``command`` with the absolute path of its program, and a warning or "".

    The warning is that the program was not found on this machine (a worker on another machine may
    have it) or is not executable, or `script_problem`. The path stays unchanged if the program was
    not found, or if the path begins with ~. A relative path is relative to ``work_dir`` and stays
    unchanged; without ``work_dir``, it is relative to the current folder.
    """
    name, *arguments = command
    if "/" in name and not os.path.isabs(os.path.expanduser(name)):
        if work_dir:
            path = os.path.join(os.path.expanduser(work_dir), name)
            return [*command], script_problem(path) if shutil.which(path) else _missing_program(
                path
            )
        name = os.path.abspath(name)
    found = shutil.which(os.path.expanduser(name), path=environment.search_path())
    if found is None:
        stored = name if os.path.exists(name) else command[0]
        return [stored, *arguments], _missing_program(name)
    path = found if os.path.isabs(found) else os.path.abspath(found)
    return [name if name.startswith("~") else path, *arguments], script_problem(path)


def program_problem(command: Sequence[str], work_dir: str) -> str:
    """Return why this machine cannot start the program of ``command``; empty if it can.

    Without ``work_dir``, the folder of the run determines a relative path, so return "".
    """
    if not work_dir and "/" in command[0] and not os.path.isabs(os.path.expanduser(command[0])):
        return ""
    return resolve_command(command, work_dir)[1]


def _missing_program(name: str) -> str:
    path = os.path.expanduser(name)
    if "/" in name and os.path.exists(path):
        return _not_executable(path)
    return (
        f'there is no program "{name}" on this machine, so every run here will fail; install it '
        "where the worker runs, or use its full path"
    )


def _not_executable(path: str) -> str:
    fix = f"; run chmod +x {shlex.quote(path)}" if os.path.isfile(path) else ""
    return f"{path} is not an executable file{fix}"


def find_program(name: str, folder: str, variables: Mapping[str, str]) -> str:
    """Return the path of a program, relative to ``folder`` or in the PATH of ``variables``.

    Raise ValueError if it does not exist, is not executable, or cannot be started
    (`script_problem`).
    """
    path = _find_executable(name, folder, variables)
    if problem := script_problem(path):
        raise ValueError(problem)
    return path


def script_problem(path: str) -> str:
    """Return why the system cannot start the script ``path``; empty if it can.

    Also return an empty text if the file is not a script, or if this user cannot read it. The
    system's own error is only `No such file or directory` or `Exec format error`.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_FIRST_LINE_BYTES)
    except OSError:
        return ""
    line = start.split(b"\n", 1)[0]
    if not line.startswith(b"#!"):
        if b"\0" in start:  # a binary program
            return ""
        if start.startswith(codecs.BOM_UTF8):
            return f"{path} begins with a byte-order mark, so the system cannot start it; remove it"
        return f"{path} has no first line such as #!/bin/sh, so the system cannot start it; add one"
    if line.endswith(b"\r"):
        fix = f"sed -i 's/\\r$//' {shlex.quote(path)}"
        return f"{path} has Windows line endings, so the system cannot start it; run {fix}"
    interpreter = os.fsdecode(b"".join(line[2:].split()[:1]))
    if interpreter and not os.path.exists(interpreter):
        return f"{path} needs {interpreter} (in its first line), which does not exist"
    return ""


def _find_executable(name: str, folder: str, variables: Mapping[str, str]) -> str:
    name = os.path.expanduser(name)
    if "/" in name:
        path = os.path.join(os.path.expanduser(folder), name)
        if found := shutil.which(path):
            return found
        if os.path.exists(path):
            raise ValueError(_not_executable(path))
        raise ValueError(f"there is no program {path}")
    if found := shutil.which(name, path=variables.get("PATH", os.defpath)):
        return found
    raise ValueError(f'there is no program "{name}" on its PATH{_INSTALLATION.get(name, "")}')


_INSTALLATION = {
    "npx": "; install Node.js, which contains it",
    "uvx": "; install uv, which contains it (`pip install uv`)",
}
"""How to install the programs that start most MCP servers."""
