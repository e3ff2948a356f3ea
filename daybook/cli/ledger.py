"""The `daybook ledger` commands."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from daybook import api, operations
from daybook.cli import formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import prepare_prefect, text_or_file


@command()
async def prune_(
    *,
    disabled_for: Annotated[
        str | None,
        Parameter(
            help="First remove jobs that have been disabled and unused for a time such as 90d. "
            "[default: the setting DAYBOOK_KEEP_DISABLED_DAYS]"
        ),
    ] = None,
    dry_run: Annotated[
        bool, Parameter(help="Only list the disabled jobs that would be removed.")
    ] = False,
) -> Answer:
    """Remove old runs, session messages, deliveries, texts of steps, and rows of features.

    DAYBOOK_KEEP_DAYS, DAYBOOK_KEEP_RUNS, DAYBOOK_KEEP_TRANSCRIPT_DAYS and
    DAYBOOK_KEEP_DISABLED_DAYS set what to keep. The keeper does the same every hour. A job is
    unused if it was neither edited nor run, and no other job names it; the runs of a removed job
    are kept like all others. Only --disabled-for needs Prefect.

    Example: daybook ledger prune --disabled-for 90d --dry-run
    """
    if disabled_for is not None:
        prepare_prefect()

    result = await api.ledger.prune(disabled_for=disabled_for, dry_run=dry_run)
    yield result
    for name in result.removed:
        output.line(f"{'Would remove' if dry_run else 'Removed'} {name}")
    of_features = result.__pydantic_extra__.items()
    if dry_run:
        output.say("Nothing was changed.")
    else:
        *first, last = (
            formatting.counted(result.runs, "run"),
            formatting.counted(result.messages, "message"),
            formatting.counted(result.deliveries, "delivery"),
            *(formatting.counted(count, name.removesuffix("s")) for name, count in of_features),
        )
        output.line(f"Deleted {', '.join(first)} and {last}")
    if result.steps:
        output.line(f"Removed the texts of {formatting.counted(result.steps, 'step')}")
    for name in result.jobs:
        output.line(f"Deleted the last record of {name}, which was removed earlier")


@command(uses_prefect=True)
async def rekey_(
    *,
    discard: Annotated[
        bool, Parameter(help="Also discard copies of blocks that Prefect has lost.")
    ] = False,
) -> Answer:
    """Replace a lost ledger key, and copy agents and secrets from Prefect again.

    The key encrypts these copies. It is the file `ledger-key` in the home.

    Example: daybook ledger rekey
    """
    result = await api.ledger.rekey(discard=discard)
    yield result
    output.line(f"Copied to the ledger: {', '.join(result.copied) or 'nothing'}")
    for each in result.discarded:
        output.line(f"Discarded the copy of {each}")


@command()
async def move_(
    url: Annotated[
        str,
        Parameter(
            help="Address of the new ledger, an empty database; @FILE reads it from a file, @- "
            "from standard input."
        ),
    ],
) -> Answer:
    """Move the ledger to another database, from SQLite to PostgreSQL or back.

    Copies all rows, then writes the address to config.toml. Stop everything first. If the command
    is interrupted, run it again before you start anything. Other processes can read the
    arguments of a command, so read an address with a password from a file.

    Example: daybook ledger move postgresql://daybook@localhost/daybook
    """
    moved = await operations.ledger_move.move(text_or_file("url", url).strip())
    yield moved
    if moved.moved_from == moved.moved_to:
        output.line(f"The ledger is already at {moved.moved_to}; nothing was moved.")
        return
    output.line(f"Moved {formatting.counted(moved.rows, 'row')} to {moved.moved_to}")
    output.say(f"The old ledger, {moved.moved_from}, is not used any more.")
