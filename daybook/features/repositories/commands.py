"""The `daybook review`, `land`, `discard` and `worktrees` commands."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook.cli import completion, formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import Absolute
from daybook.features.repositories import hidden_characters

if TYPE_CHECKING:
    from daybook.features.repositories.operations import RepositoryChange, RepositoryChangeDetails

Run = Annotated[
    str,
    Parameter(
        name="RUN",
        help="Run id or unique prefix, or a job.",
        completer=completion.jobs_and_runs,
    ),
]
_STYLES = {"+": "green", "-": "red", "@": "cyan"}
"""Styles of the lines of a patch, by their first character."""


@command()
async def review_(
    run: Annotated[
        str,
        Parameter(
            name="RUN",
            help="Run id or unique prefix, or a job. [default: list the changes]",
            completer=completion.jobs_and_runs,
        ),
    ] = "",
    /,
    *,
    limit: Annotated[int, Parameter(help="Maximum number of listed changes.")] = 20,
    absolute: Absolute = False,
) -> Answer:
    """Show the change of a run with its diff; without RUN, list the changes.

    Those that wait for a decision come first. Works without Prefect.

    Example: daybook review nightly-fix
    """
    from daybook.features.repositories import operations

    if run:
        yield (change := await operations.show(run))
        _print_change(change, absolute)
        return
    yield (listed := await operations.list_changes(limit))
    if not listed:
        output.say("There are no changes. A job with --repo leaves one.")
        return
    heading = formatting.time_heading("RECORDED", absolute)
    when = formatting.time_format(absolute)
    rows = [
        (
            each.run_id[:12],
            each.job or "(direct call)",
            each.words(),
            f"{each.changed_files:,}",
            f"+{each.insertions:,} −{each.deletions:,}",
            each.verified_in_words(),
            when(each.recorded_at),
        )
        for each in listed
    ]
    headers = ("RUN", "JOB", "STATE", "FILES", "LINES", "VERIFICATION", heading)
    output.table(headers, rows, whole=("RUN", "FILES", "LINES"), cut=True)
    output.say("Show one: daybook review RUN")


@command()
async def land_(run: Run, /) -> Answer:
    """Land the change of a run on its branch.

    It is rebased, and verified again, if the branch has moved. A change lands once.

    Example: daybook land nightly-fix
    """
    from daybook.features.repositories import operations
    from daybook.features.repositories.tables import ChangeStatus

    change = await operations.land(run)
    yield change, int(change.status == ChangeStatus.WAITING)
    _print_state(change)


@command()
async def discard_(
    run: Run,
    /,
    *,
    note: Annotated[str, Parameter(help="Why; the next run of the agent's session reads it.")] = "",
) -> Answer:
    """Discard the change of a run.

    Example: daybook discard nightly-fix --note "Keep the old name"
    """
    from daybook.features.repositories import operations

    yield (change := await operations.discard(run, note))
    _print_state(change)


@command()
async def worktrees_(*, absolute: Absolute = False) -> Answer:
    """List the worktrees of runs on this machine, the largest first.

    Example: daybook worktrees
    """
    from daybook.features.repositories import operations

    yield (listed := await operations.list_worktrees())
    if not listed:
        output.say("There are no worktrees.")
        return
    heading = formatting.time_heading("STARTED", absolute)
    when = formatting.time_format(absolute)
    rows = [
        (
            each.run_id[:12],
            each.job or "(direct call)",
            f"{each.bytes / 1e6:,.1f} MB",
            each.status,
            when(each.started_at),
            each.path,
        )
        for each in listed
    ]
    headers = ("RUN", "JOB", "SIZE", "CHANGE", heading, "FOLDER")
    output.table(headers, rows, whole=("RUN", "SIZE", "FOLDER"))


def _print_state(change: RepositoryChange) -> None:
    name = change.job or change.run_id[:12]
    output.line(f"{name}: {change.state_in_words()}", style="bold")


def _print_change(change: RepositoryChangeDetails, absolute: bool) -> None:
    when = formatting.time_format(absolute)
    _print_state(change)
    pairs = [
        ("run", change.run_id),
        ("size", change.size_in_words()),
        ("repository", change.repo),
        ("lands on", change.onto),
        ("branch", change.branch),
        ("commits", f"{change.base[:12]}..{change.head[:12]}"),
        ("pull request", change.address),
        ("verification", change.verified_in_words()),
        ("agent", change.agent or "-"),
        ("recorded", when(change.recorded_at)),
        ("decided by", change.decided_by),
        ("note", change.note),
        *(("not in it", each) for each in change.notes),
    ]
    output.fields([(name, value) for name, value in pairs if value])
    if change.verification and not change.is_verified:
        output.line("\nOutput of the verification:", style="bold")
        output.line(change.verification)
    output.line()
    _print_patch(change.patch)
    if change.status == "waiting":
        ref = change.run_id[:12]
        output.say(f"Land it: daybook land {ref}. Discard it: daybook discard {ref}")


def _print_patch(patch: str) -> None:
    """Print a patch; on a terminal, with colours."""
    for style, lines in groupby(_styled(patch), itemgetter(0)):
        output.line("\n".join(hidden_characters.visible(line) for _, line in lines), style=style)


def _styled(patch: str) -> Iterator[tuple[str, str]]:
    is_header = True
    for line in patch.removesuffix("\n").split("\n"):
        is_header = line.startswith("diff ") or (is_header and not line.startswith("@@"))
        yield "bold" if is_header else _STYLES.get(line[:1], ""), line
