"""Copies of another scheduler's files, in a private folder while a reader reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from daybook.errors import InvalidInput
from daybook.features.imports.openclaw import RUNS_FOLDER

MAX_FILES = 1_000
"""Maximum number of files of one import."""
MAX_JOBS = 1_000
"""Maximum number of jobs in copies of files; to plan an import of so many takes a second."""
MAX_NAME_BYTES = 200
_HISTORY_SUFFIX = ".jsonl"
"""Suffix of the files of OpenClaw's history, which are in a folder of their own."""
FOLDER = "upload"
"""Name of the folder, which errors of readers contain."""


@contextmanager
def written(files: Mapping[str, bytes]) -> Iterator[Path]:
    """Write the files to a folder; yield the path of the only file, or of the folder.

    At the end of the block, the folder is deleted. Raise `InvalidInput` for names that are no
    different names of files, and for no or too many files.
    """
    if not files:
        raise InvalidInput("file", "is missing", "choose a file, or paste its text")
    if len(files) > MAX_FILES:
        raise InvalidInput("file", f"is more than {MAX_FILES:,} files", "choose fewer files")
    with TemporaryDirectory(prefix="daybook-import-") as made:
        folder = Path(made).resolve() / FOLDER
        folder.mkdir()
        paths = list[Path]()
        for given, content in files.items():
            name = file_name(given)
            path = folder / (RUNS_FOLDER if name.endswith(_HISTORY_SUFFIX) else "") / name
            try:
                path.parent.mkdir(exist_ok=True)
                with path.open("xb") as file:
                    file.write(content)
            except FileExistsError:
                raise InvalidInput("file", f"two files are called {name}") from None
            paths.append(path)
        yield paths[0] if len(paths) == 1 else folder


def folder_of(path: Path) -> Path:
    """Return the folder of the copies, for a path that `written` has yielded."""
    return path if path.is_dir() else path.parent


def file_name(given: str) -> str:
    """Return the last part of the name that a browser sends. Raise `InvalidInput`."""
    name = PurePosixPath(given.replace("\\", "/")).name
    if not name or name == ".." or not name.isprintable():
        raise InvalidInput("file", f"{given[:60]!r} is no name of a file", "rename the file")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidInput("file", f"{name[:60]}… is too long a name", "rename the file")
    return name
