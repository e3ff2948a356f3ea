"""The `daybook backfill` command."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.options import Job, Json


async def backfill_(
    job: Job,
    /,
    *,
    start: Annotated[
        str, Parameter(name="--from", help="2026-11-01, or 2026-11-01T09:00 by the job's clock.")
    ],
    end: Annotated[str, Parameter(name="--to", help="The same; a day is included.")],
    dry_run: Annotated[bool, Parameter(help="Only show what would be run.")] = False,
    as_json: Json = False,
) -> int:
    """Run a job for due times that have passed.

    Those that succeeded are left out. One after the other, behind all that is scheduled, with the
    job as it is now; at most 1,000. The same again runs nothing twice. Needs no Prefect, but a
    worker to carry them out.

    Example: daybook backfill nightly-export --from 2026-11-01 --to 2026-11-07 --dry-run
    """
    from daybook.api import backfill

    result = await backfill.run(job, start, end, dry_run=dry_run)
    if as_json:
        output.print_json(result)
        return 0
    if dry_run:
        for each in result["due"]:
            status = f"  ({each['status']})" if each["status"] else ""
            output.line(formatting.due_time_with_utc(each["local"]) + status)
    verb = "would be run" if dry_run else "asked for"
    output.line(f"{result['job']}: {result['asked']} {verb}, {result['left_out']} left out")
    if result["asked"] and not dry_run:
        output.say(f"See what becomes of them: daybook runs {formatting.quoted(job)}")
    return 0
