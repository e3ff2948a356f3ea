"""Reader of the texts of jobs files: from files, folders of files, and standard input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from daybook import plain_text
from daybook.errors import InvalidInput
from daybook.files.jobs_file import FileText

SUFFIXES = (".yaml", ".yml", ".json")
SCHEMA_SUFFIX = ".schema.json"
MAX_FILE_BYTES = 50_000_000
STANDARD_INPUT = "-"


def of_paths(
    paths: Sequence[str], read_standard_input: Callable[[], bytes] | None = None
) -> list[FileText]:
    """Return the texts of the files ``paths``, and of the jobs files in folders, sorted by name.

    With ``read_standard_input``, the path `-` means standard input. Of a folder, omit hidden files,
    subfolders, and schemas (`SCHEMA_SUFFIX`). Raise `InvalidInput` for a folder without a jobs
    file, and for a file that cannot be read, is not UTF-8, or is larger than `MAX_FILE_BYTES`.
    """
    found = list[FileText]()
    for path in paths:
        if path == STANDARD_INPUT and read_standard_input is not None:
            found.append(FileText("standard input", _decode(path, read_standard_input())))
        elif Path(path).is_dir():
            names = _jobs_files(Path(path))
            if not names:
                hint = f"its files must end in {', '.join(SUFFIXES)}"
                raise InvalidInput("file", f"{path} has no jobs file", hint)
            found += [FileText(str(each), _read(each)) for each in sorted(names)]
        else:
            found.append(FileText(path, _read(Path(path))))
    return found


def default_set(paths: Sequence[str]) -> str:
    """Return the name of the only folder, or of the only file without its suffix; otherwise ""."""
    if len(paths) != 1 or paths[0] == STANDARD_INPUT:
        return ""
    path = Path(paths[0])
    return path.resolve().name if path.is_dir() else path.stem


def _jobs_files(folder: Path) -> list[Path]:
    try:
        return [each for each in folder.iterdir() if _is_jobs_file(each)]
    except OSError as error:
        raise InvalidInput("file", f"{folder} cannot be read: {error.strerror}") from None


def _is_jobs_file(path: Path) -> bool:
    name = path.name.lower()
    is_hidden = name.startswith(".") or name.endswith(SCHEMA_SUFFIX)
    return name.endswith(SUFFIXES) and not is_hidden and path.is_file()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput("file", f"{path} cannot be read: {error.strerror}") from None
    return _decode(str(path), content)


def _decode(name: str, content: bytes) -> str:
    if len(content) > MAX_FILE_BYTES:
        hint = f"use at most {MAX_FILE_BYTES:,} bytes, and several files"
        raise InvalidInput("file", f"{name} is too large", hint)
    try:
        return plain_text.decode(content)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problem = f"{name} is not UTF-8 text: line {line}"
        raise InvalidInput("file", problem, "save it as UTF-8") from None
