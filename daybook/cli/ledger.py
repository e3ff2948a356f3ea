"""The `daybook ledger` commands."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from daybook.cli import output
from daybook.cli.options import Json, prepare_prefect


async def prune_(
    *,
    disabled_for: Annotated[
        str | None,
        Parameter(
            help="First remove the jobs that are off, and were neither switched nor edited for so "
            "long: 90d."
        ),
    ] = None,
    dry_run: Annotated[
        bool, Parameter(help="Only name the jobs that --disabled-for would remove.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Remove old runs, conversations and tasks, as DAYBOOK_KEEP_DAYS and DAYBOOK_KEEP_RUNS say.

    The keeper does so each hour. Only --disabled-for needs Prefect.

    Example: daybook ledger prune --disabled-for 90d --dry-run
    """
    if disabled_for is not None:
        prepare_prefect()
    from daybook.api import retention

    result = await retention.prune(disabled_for=disabled_for, dry_run=dry_run)
    if as_json:
        output.print_json(result)
        return 0
    for name in result["removed"]:
        output.line(f"{'Would remove' if dry_run else 'Removed'} {name}")
    if dry_run:
        output.say("Nothing was changed.")
    else:
        counts = [f"{result[noun]:,} {noun}" for noun in ("runs", "messages", "tasks")]
        output.line(f"Let go of {', '.join(counts[:2])} and {counts[2]}")
    for name in result["jobs"]:
        output.line(f"Nothing is left of {name}, which was removed before")
    return 0


async def rekey_(
    *,
    discard: Annotated[
        bool, Parameter(help="Also discard the copies that Prefect has lost.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Encrypt the ledger's copies of agents and secrets with a new key, if the old one is lost.

    What Prefect holds is copied again. The key is the file ledger-key in the home.

    Example: daybook ledger rekey
    """
    prepare_prefect()
    from daybook.api import ledger_key

    result = await ledger_key.renew(discard=discard)
    if as_json:
        output.print_json(result)
        return 0
    output.line(f"Copied to the ledger: {', '.join(result['copied']) or 'nothing'}")
    for each in result["discarded"]:
        output.line(f"Discarded the copy of {each}")
    return 0
