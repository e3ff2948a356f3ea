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

    found = await run_files.of_run(run)
    if save is not None:
        await _save(run, found, save)
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


async def _save(run: str, files: list[RunFile], folder: Path) -> None:
    """Write the kept files into the new ``folder``, so that no link in it leads elsewhere."""
    from daybook.api import run_files

    kept = dict[str, bytes]()
    for each in files:
        if each.not_kept:
            output.say(f"! {each.path} is not saved: {each.not_kept}")
        else:
            kept[each.path] = (await run_files.read(run, each.path)).content
    await asyncio.to_thread(_write, folder, kept)


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    try:
        folder.mkdir()
    except FileExistsError:
        raise InvalidInput("save", f"{folder} exists already", "name a new folder") from None
    except OSError as error:
        raise InvalidInput("save", f"{folder}: {error.strerror}", "name a new folder") from None
    for name, content in contents.items():
        path = folder.joinpath(*name.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
