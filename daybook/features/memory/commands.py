"""The `daybook memory` commands: the notes of agents."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import plain_text
from daybook.cli import completion, formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import Absolute
from daybook.errors import DaybookError, InvalidInput

if TYPE_CHECKING:
    from daybook.features.memory.operations import Notebook, NotebookText

Name = Annotated[
    str,
    Parameter(
        name="NOTEBOOK",
        help="Name of a shared notebook, or a job.",
        completer=completion.jobs,
    ),
]


@command()
async def list_(*, absolute: Absolute = False) -> Answer:
    """List the notebooks of jobs, and the shared ones.

    Works without Prefect, like all `daybook memory` commands.

    Example: daybook memory list
    """
    from daybook.features.memory import operations

    yield (listed := await operations.list_notebooks())
    if not listed:
        output.say(
            "There are no notebooks. An agent with the tool `memory` writes one, and "
            "`daybook memory create NAME` adds a shared one."
        )
        return
    when, heading = formatting.time_format(absolute), formatting.time_heading("WRITTEN", absolute)
    output.table(
        ("NOTEBOOK", "OF", "BYTES", "VERSION", heading, "BY"),
        [
            (
                each.name,
                _kind(each),
                f"{each.size:,}",
                str(each.version),
                when(each.written_at),
                each.written_by or "-",
            )
            for each in listed
        ],
        whole=("NOTEBOOK", "BYTES"),
    )


@command()
async def show_(
    notebook: Name,
    /,
    *,
    version: Annotated[
        int | None, Parameter(help="Number of an earlier version. [default: the newest]")
    ] = None,
) -> Answer:
    """Print the text of a notebook.

    Example: daybook memory show morning-brief
    """
    from daybook.features.memory import operations

    yield (shown := await operations.show(notebook, version))
    if shown.text:
        output.line(shown.text.removesuffix("\n"))
    else:
        output.say("The notebook is empty.")


@command()
async def edit_(notebook: Name, /) -> Answer:
    """Edit the text of a notebook in your editor, or replace it by standard input.

    The earlier versions are kept.

    Example: daybook memory edit morning-brief
    """
    from daybook.features.memory import operations

    if sys.stdin.isatty():
        written = await _edit(await operations.show(notebook))
    else:
        try:
            text = plain_text.read_input()
        except UnicodeDecodeError:
            raise InvalidInput("text", "is not UTF-8 text") from None
        written = await operations.write(notebook, text)
    yield written
    output.line(f"Version {written.version} of {written.name} has {written.size:,} bytes")


async def _edit(before: NotebookText) -> Notebook:
    """Let the user edit the text. If it cannot be stored, keep it in a file."""
    from daybook.cli.editor import check_utf8, keep, open_editor
    from daybook.features.memory import operations

    text = open_editor(before.text, "notebook.md")
    try:
        check_utf8(text)
        return await operations.write(before.id or str(before.job_id), text, before.version)
    except DaybookError:
        output.say(f"Your text is in {keep(text, '.md')}")
        raise


@command()
async def history_(notebook: Name, /, *, absolute: Absolute = False) -> Answer:
    """List the versions of a notebook, newest first.

    The texts of the last 50 versions are kept.

    Example: daybook memory history morning-brief
    """
    from daybook.features.memory import operations

    yield (versions := await operations.history(notebook))
    if not versions:
        output.say("The notebook is empty.")
        return
    when, heading = formatting.time_format(absolute), formatting.time_heading("WRITTEN", absolute)
    output.table(
        ("VERSION", heading, "BY", "BYTES"),
        [
            (str(each.number), when(each.written_at), each.written_by, f"{each.size:,}")
            for each in versions
            if each.is_kept
        ],
    )
    output.say("Show one: daybook memory show NOTEBOOK --version VERSION")


@command()
async def create_(
    name: Annotated[str, Parameter(help="Name of the notebook.")],
    /,
    *,
    owner: Annotated[
        str,
        Parameter(
            help="Owner whose jobs may use it: agent:NAME, or user for all jobs that no agent "
            "owns.",
            show_default=True,
        ),
    ] = "user",
) -> Answer:
    """Create a notebook that several jobs share.

    An agent uses it if it names it in its calls, so name it in the prompts of these jobs.

    Example: daybook memory create house-rules
    """
    from daybook.features.memory import operations

    yield (created := await operations.create(name, owner))
    output.line(f"Created the notebook {created.name} for {_kind(created)}")
    output.say(f"Write it: daybook memory edit {formatting.quoted(created.name)}")


@command()
async def remove_(notebook: Name, /) -> Answer:
    """Remove a notebook with all its versions.

    Example: daybook memory remove house-rules
    """
    from daybook.features.memory import operations

    yield (removed := await operations.remove(notebook))
    of = "of " * bool(removed.job_id)
    output.line(f"Removed the notebook {of}{removed.name}")


def _kind(notebook: Notebook) -> str:
    return "the job" if notebook.job_id else f"the jobs of {notebook.owner}"
