"""The `daybook spend` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import Absolute
from daybook.money_text import COST_PLACES, money

if TYPE_CHECKING:
    from daybook.features.spend.operations import GroupSpending, SpendingReport


@command()
async def spend_(
    *,
    by: Annotated[
        str, Parameter(help="What to add up. [choices: job, agent, model, day] [default: job]")
    ] = "job",
    since: Annotated[
        str | None,
        Parameter(
            help="Only runs that ended since this time, such as 2026-11-20, 2026-11-20T08:00, 7d "
            "or yesterday. [default: 30 days ago]"
        ),
    ] = None,
    absolute: Absolute = False,
) -> Answer:
    """Show what the runs that ended have cost.

    Includes runs of removed jobs. Days, and times without an offset, are those of DAYBOOK_TIMEZONE.
    `+ 2 unpriced` says that the price of two runs is unknown. The tokens that came from a
    provider's prompt cache, or went into it, are also tokens in. Works without Prefect.

    Example: daybook spend --by agent --since 7d
    """
    from daybook.features.spend import operations

    found = await operations.read(by, since)
    yield found
    _print(found, absolute)


def _print(found: SpendingReport, absolute: bool) -> None:
    if found.groups:
        heading = found.by.upper()
        output.table(
            (heading, "RUNS", "TOKENS IN", "FROM CACHE", "TO CACHE", "TOKENS OUT", "COST"),
            [_row(each, found.by) for each in found.groups],
            whole=("COST",),
        )
    since = formatting.local_time(found.since)
    spent = formatting.spending(found.total)
    output.line(f"{spent} since {since}" if spent else f"Nothing was spent since {since}.")
    if found.budgets:
        output.fields([("budgets today", "\n".join(each.words() for each in found.budgets))])


def _row(group: GroupSpending, by: str) -> tuple[str, ...]:
    unpriced = f" + {group.unpriced_runs:,} unpriced" if group.unpriced_runs else ""
    cost = "unknown" if group.cost_usd is None else money(group.cost_usd, COST_PLACES) + unpriced
    cached = (group.cache_read_tokens, group.cache_write_tokens)
    counts = (group.runs, group.input_tokens, *cached, group.output_tokens)
    return (group.label(by), *(f"{count:,}" for count in counts), cost)
