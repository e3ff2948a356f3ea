"""The `daybook import` command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.command import Answer, command

if TYPE_CHECKING:
    from daybook.features.imports.writer import ImportReport


@command(uses_prefect=True)
async def import_(
    system: Annotated[
        str,
        Parameter(
            name="SYSTEM",
            help="`openclaw`, `hermes`, `crontab`, `systemd`, `anna`, `omniagent`, `hotplex` or "
            "`picobot`.",
        ),
    ],
    path: Annotated[
        str,
        Parameter(
            name="PATH",
            allow_leading_hyphen=True,
            help="Its file, or the folder of its files; `-` for a crontab on standard input.",
        ),
    ],
    /,
    *,
    dry_run: Annotated[bool, Parameter(help="Show what would be imported.")] = False,
    on_conflict: Annotated[
        str,
        Parameter(
            help="What to do with a job whose name is taken: `skip`, `rename` or `replace`.",
            show_default=True,
        ),
    ] = "skip",
    leave_out: Annotated[
        list[str] | None,
        Parameter(help="Name or id of a job of the file to leave out. Repeatable.", negative=()),
    ] = None,
    disabled: Annotated[bool, Parameter(help="Import the jobs as disabled.")] = False,
) -> Answer:
    """Import the jobs and the history of another scheduler.

    All of it or nothing: a file that is not complete, from an unknown version, or with a job that
    Daybook cannot run is refused.
    Repeating the command adds only what is new. Due times in the past are never run. Works without
    Prefect.

    Example: daybook import openclaw ~/.openclaw/cron --dry-run

    Example: crontab -l | daybook import crontab -

    Example: daybook import systemd ~/.config/systemd/user
    """
    from daybook.features.imports import operations

    content = sys.stdin.buffer.read() if path == "-" else None
    report = await operations.run(
        system,
        path,
        content=content,
        dry_run=dry_run,
        on_conflict=on_conflict,
        leave_out=leave_out or (),
        disabled=disabled,
    )
    yield report
    for line in lines(report):
        output.line(line)
    added = sum(job.result in ("added", "replaced") for job in report.jobs)
    verb = "would be imported" if dry_run else "imported"
    jobs, runs = formatting.counted(added, "job"), formatting.counted(report.runs, "run")
    output.say(f"{jobs} and {runs} {verb}, {len(report.jobs) - added} left as they are.")


def lines(report: ImportReport) -> list[str]:
    """Return the lines that describe an import: due times, jobs and notes.

    The next due times are first, because imported jobs run from now on.
    """
    due = [(job.next_due, job.name) for job in report.jobs if job.next_due]
    found = [f"next due {formatting.due_time(time)}: {name}" for time, name in sorted(due)]
    for job in report.jobs:
        state = ", disabled" if job.result in ("added", "replaced") and not job.enabled else ""
        runs = f", {formatting.counted(job.runs, 'run')}" if job.runs else ""
        found.append(f"{job.result} {job.name} ({job.source_id}){state}{runs}")
        found += [f"  {note}" for note in job.notes]
    return found + [f"note: {note}" for note in report.notes]
