"""The tools `approval_list` and `approval_decide` of MCP clients, with their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from daybook.toolbox.arguments import Argument, Arguments
from daybook.toolbox.invocation import define_tool
from daybook.toolbox.text import due

if TYPE_CHECKING:
    from daybook.features.approvals.operations import WaitingApproval

_LINE = 200
"""Maximum length of a reference to an approval, in characters."""


async def _list(given: Arguments) -> str:
    from daybook.features.approvals import operations

    found = await operations.list_waiting()
    if ref := given.get("approval"):
        return text([each for each in found if each.ref == ref], full=True)
    return text(found)


async def _decide(given: Arguments) -> str:
    from daybook.features.approvals import operations

    is_approved = given["decision"] == "approve"
    run = await operations.decide(
        given["approval"], approve=is_approved, reason=given.get("reason", "")
    )
    last = run.approvals[-1]
    return f"{last.status.capitalize()}: {last.tool}. The run {run.id[:8]} goes on within seconds."


def text(found: Sequence[WaitingApproval], *, full: bool = False) -> str:
    """Describe the calls and answers that wait for a person, with one line for each argument."""
    if not found:
        return "Nothing waits for an approval."
    lines = []
    for each in found:
        lines.append(
            f"- {each.ref}: {each.job or 'a direct call'} asks for {each.tool}; refused "
            f"without a decision until {due(each.deadline)}"
        )
        lines += [f"  {line}" for line in (each.full_input if full else each.input).splitlines()]
        if not full and each.full_input != each.input:
            lines.append("  (cut; pass approval to approval_list to read all)")
    return "\n".join(lines)


TOOLS = (
    define_tool(
        "approval_list",
        "List the tool calls of runs that wait for a person's approval.",
        _list,
        Argument("approval", "Id of one approval, to read its whole arguments.", longest=_LINE),
        read_only=True,
    ),
    define_tool(
        "approval_decide",
        "Approve or reject a tool call or an answer, as the user decided. The first counts.",
        _decide,
        Argument(
            "approval", "Id from approval_list.", None, write="see approval_list", longest=_LINE
        ),
        Argument(
            "decision",
            "approve or reject.",
            None,
            write="approve or reject",
            legal=("approve", "reject"),
        ),
        Argument("reason", "Why; the agent reads the reason of a rejection.", longest=500),
        open_world=True,
    ),
)
