"""The `daybook files` command."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook.cli import completion, output
from daybook.cli.command import Answer, command
from daybook.errors import InvalidInput

if TYPE_CHECKING:
    from daybook.ledger.views import RunFile


@command()
async def files_(
    run: Annotated[
        str,
        Parameter(
            help="Run id or unique prefix, or a job for its last run.",
            completer=completion.jobs_and_runs,
        ),
    ],
    /,
    *,
    save: Annotated[
        Path | None, Parameter(help="Save the files in this folder, which is created.")
    ] = None,
) -> Answer:
    """List the files that a run has written with its tools, or save them as it wrote them.

    Files that `shell` or a program has written are not listed. Works without Prefect.

    Example: daybook files morning-brief --save ./brief
    """
    from daybook.api import run_files

    if save is None:
        found = await run_files.of_run(run)
    else:
        contents = await run_files.with_contents(run)
        found = [each for each, _ in contents]
        await asyncio.to_thread(_save, save, contents)
    yield found
    if found:
        print_files(found)
    else:
        output.line("This run has written no file with its tools.")


def print_files(files: list[RunFile]) -> None:
    """Print a table of files."""
    output.table(
        ("FILE", "BYTES", "SHA-256", "KEPT"),
        [(each.path, f"{each.size:,}", each.digest[:12], each.kept_in_words()) for each in files],
        whole=("FILE",),
        cut=True,
    )


def _save(folder: Path, contents: list[tuple[RunFile, bytes | None]]) -> None:
    """Write the kept files into the new ``folder``, so that no link in it leads elsewhere."""
    try:
        folder.mkdir()
    except FileExistsError:
        raise InvalidInput("save", f"{folder} exists already", "name a new folder") from None
    except OSError as error:
        raise InvalidInput("save", f"{folder}: {error.strerror}", "name a new folder") from None
    # The last written ones first, because the run may have replaced a file by a folder.
    for each, content in reversed(contents):
        problem = each.not_kept if content is None else _write(folder, each.path, content)
        if problem:
            output.say(f"! {each.path} is not saved: {problem}")


def _write(folder: Path, name: str, content: bytes) -> str:
    """Write a new file; return why its path is not free, or ""."""
    path = folder.joinpath(*name.split("/"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
    except (FileExistsError, NotADirectoryError):
        return "a file that the run wrote later has its path"
    return ""
