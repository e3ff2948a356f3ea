"""The `daybook backfill` command."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import Job


@command()
async def backfill_(
    job: Job,
    /,
    *,
    start: Annotated[
        str,
        Parameter(name="--from", help="Start, in the job's zone: 2026-11-01 or 2026-11-01T09:00."),
    ],
    end: Annotated[str, Parameter(name="--to", help="End, inclusive, in the same format.")],
    dry_run: Annotated[bool, Parameter(help="List the due times without running them.")] = False,
) -> Answer:
    """Run a job for past due times.

    Leaves out due times whose run succeeded or has not ended, those that were requested before, and
    those that will still run late by the job's catch-up policy. The runs use the job as it is now,
    start after all scheduled runs, and run one at a time, unless the job's overlap policy is allow.
    A range has at most 1,000 due times. Repeating the command runs nothing twice. Works without
    Prefect, but the runs need a worker.

    Example: daybook backfill nightly-export --from 2026-11-01 --to 2026-11-07 --dry-run
    """
    result = await api.backfill.run(job, start, end, dry_run=dry_run)
    yield result
    if dry_run:
        for each in result.due:
            status = f"  ({each.status})" if each.status else ""
            output.line(formatting.due_time_with_utc(each.local) + status)
    verb = "would be run" if dry_run else "requested"
    output.line(f"{result.job}: {result.asked} {verb}, {result.left_out} left out")
    if result.asked and not dry_run:
        output.say(f"See their outcomes: daybook runs {formatting.quoted(job)}")
