"""The tool `spend` of MCP clients, and the text of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daybook.money_text import COST_PLACES, money
from daybook.toolbox.arguments import Argument
from daybook.toolbox.invocation import define_tool
from daybook.toolbox.text import MAX_JOBS, due
from daybook.usage import tokens_in_words

if TYPE_CHECKING:
    from daybook.features.spend.operations import GroupSpending, SpendingReport


async def _spend(given: Mapping[str, Any]) -> str:
    from daybook.features.spend import operations

    return text(await operations.read(given.get("by") or "job", given.get("since")))


def text(found: SpendingReport) -> str:
    """Describe spending: a line for the sum, a line for each group, and a line for each budget.

    Describe at most `MAX_JOBS` groups.
    """
    lines = [f"Since {due(found.since)}: {_spent(found.total)}"]
    lines += [f"- {each.label(found.by)}: {_spent(each)}" for each in found.groups[:MAX_JOBS]]
    if len(found.groups) > MAX_JOBS:
        lines.append(f"and {len(found.groups) - MAX_JOBS} more")
    lines += [f"Budget today, {each.words()}" for each in found.budgets]
    return "\n".join(lines)


def _spent(group: GroupSpending) -> str:
    if not group.runs:
        return "nothing"
    cost = "cost unknown" if group.cost_usd is None else money(group.cost_usd, COST_PLACES)
    if group.cost_usd is not None and group.unpriced_runs:
        cost += f" and {group.unpriced_runs} runs of unknown price"
    return f"{cost}, {group.runs} runs, {tokens_in_words(group.model_dump())}"


TOOLS = (
    define_tool(
        "spend",
        "Show what runs cost, by job, agent, model or day, in US dollars and tokens.",
        _spend,
        Argument("by", "job, agent, model or day.", "job"),
        Argument("since", "Such as 2027-01-15, 7d or today. Default: 30 days ago.", longest=200),
        read_only=True,
    ),
)
