"""The `daybook apply`, `diff`, `export` and `schema` commands."""

from __future__ import annotations

import difflib
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from daybook import api
from daybook.cli import completion, output
from daybook.cli.command import Answer, command
from daybook.cli.formatting import counted
from daybook.files import sources
from daybook.short_text import clip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daybook.api.file_documents import DocumentChange
    from daybook.api.files import PlannedChange
    from daybook.jobs.views import FieldChange

EXIT_CHANGES = 5
"""Exit code of `apply --dry-run` and `diff` if there are changes."""
MAX_VALUE_LENGTH = 500
"""Maximum number of characters of a value in a diff."""

_SIGNS = {"add": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red")}
_PAST = {"add": "added", "change": "changed", "remove": "removed"}

_Jobs = Annotated[
    str,
    Parameter(
        name="JOB",
        help="Job name, id or unique id prefix. Several may be given. [default: all]",
        completer=completion.jobs,
    ),
]


@command(uses_prefect=True)
async def apply_(
    *,
    file: Annotated[
        list[str],
        Parameter(
            alias="-f",
            allow_leading_hyphen=True,
            help="Jobs file in YAML or JSON, folder of such files, or - for standard input. "
            "Repeatable.",
        ),
    ],
    set_: Annotated[
        str | None,
        Parameter(
            name="--set",
            help="Name of the set that owns the jobs. [default: `set` in the file, else the name "
            "of the file or folder]",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        Parameter(help="Only show the changes. Exits with 5 if there are any, else with 0."),
    ] = False,
    prune: Annotated[
        bool, Parameter(help="Remove the jobs of the set that are not in the files any more.")
    ] = False,
    adopt: Annotated[
        bool, Parameter(help="Make jobs that exist already, and belong to others, part of the set.")
    ] = False,
    wait: Annotated[bool, Parameter(help="Wait until Prefect has the changes.")] = False,
) -> Answer:
    """Add and change jobs, and agents and other settings, to match the files.

    If there is a mistake, nothing is stored. All mistakes are reported at once, with line and
    column. A job keeps its history under a new name if the file has its earlier name as
    `renamed_from`. With --wait, exits with 1 if Prefect refuses a job.

    Example: daybook apply -f jobs.yaml --dry-run
    """
    report = await api.files.apply(
        sources.of_paths(file, sys.stdin.buffer.read),
        set_name=set_,
        default_set=sources.default_set(file),
        dry_run=dry_run,
        prune=prune,
        adopt=adopt,
        wait=wait,
        progress=lambda done, count: output.progress(f"Prefect: {done} of {counted(count, 'job')}"),
    )
    changed = EXIT_CHANGES if report.changes or report.documents else 0
    yield report, changed if dry_run else int(bool(report.failed or (wait and report.pending)))
    for document in report.documents:
        _print_document(document)
    for change in report.changes:
        _print_change(change)
    for note in report.notes:
        output.say(f"! {note}")
    for name, why in report.failed.items():
        output.say(f"! {name}: not in Prefect: {why}")
    if report.documents or report.unchanged_documents:
        documents, unchanged = report.documents, report.unchanged_documents
        output.say(
            f"Settings: {_counts(documents, ('add', 'change'), dry_run)}, {unchanged} unchanged."
        )
    counts = _counts(report.changes, tuple(_PAST), dry_run)
    output.say(f"Set {report.set}: {counts}, {report.unchanged} unchanged.")
    if report.pending and not wait:
        output.say(f"{counted(len(report.pending), 'job')}: {api.jobs.PENDING_NOTE}")


@command()
async def diff_(*jobs: _Jobs) -> Answer:
    """Show the fields that were changed elsewhere since a job was applied from its file.

    The next `daybook apply` overwrites these changes. Exits with 5 if there are any, else with 0.
    `daybook apply --dry-run` compares with the files themselves. Works without Prefect.

    Example: daybook diff
    """
    found = await api.files.drift(jobs)
    yield found, EXIT_CHANGES if found else 0
    for each in found:
        output.line(f"~ {each.job} (file:{each.set})", style="yellow")
        _print_fields(each.changes)
    if not found:
        output.say("No job that a file owns was changed elsewhere.")


@command()
async def export_(*jobs: _Jobs) -> Answer:
    """Print jobs as a jobs file, which `daybook apply` reads; applying it changes nothing.

    Without JOB, also print agents and other settings. Fields with their default values are left
    out. Secrets appear only as references. Works without Prefect.

    Example: daybook export > jobs.yaml
    """
    text, document = await api.files.export(jobs)
    yield document
    output.write_file(text)


def schema_() -> int:
    """Print the JSON schema of a jobs file, for editors.

    Example: daybook schema > jobs.schema.json
    """
    output.print_json(api.file_documents.schema())
    return 0


def _counts(
    changes: Sequence[PlannedChange | DocumentChange], actions: Sequence[str], dry_run: bool
) -> str:
    return ", ".join(
        f"{sum(each.action == action for each in changes)} "
        + (f"to {action}" if dry_run else _PAST[action])
        for action in actions
    )


def _print_document(change: DocumentChange) -> None:
    sign, style = _SIGNS[change.action]
    output.line(f"{sign} {change.kind} {change.name}", style=style)
    _print_fields(change.changes, is_new=change.action == "add")


def _print_change(change: PlannedChange) -> None:
    sign, style = _SIGNS[change.action]
    renamed = f" (was {change.renamed_from})" if change.renamed_from else ""
    output.line(f"{sign} {change.job}{renamed}", style=style)
    if change.overwrites:
        lost = ", ".join(each.field for each in change.overwrites)
        output.line(f"    ! overwrites changes made outside the file: {lost}", style="red")
    _print_fields(change.changes, is_new=change.action == "add")


def _print_fields(changes: list[FieldChange], *, is_new: bool = False) -> None:
    for each in changes:
        if is_new:
            output.line(f"    + {each.field}: {_value(each.new)}")
        elif _is_long(each.old) or _is_long(each.new):
            output.line(f"    ~ {each.field}:")
            old, new = (str(value or "").splitlines() for value in (each.old, each.new))
            for line in list(difflib.unified_diff(old, new, lineterm="", n=1))[2:]:
                output.line(f"        {line}")
        else:
            output.line(f"    ~ {each.field}: {_value(each.old)} → {_value(each.new)}")


def _is_long(value: Any) -> bool:
    return isinstance(value, str) and "\n" in value


def _value(value: Any) -> str:
    return clip(json.dumps(value, ensure_ascii=False), MAX_VALUE_LENGTH)
