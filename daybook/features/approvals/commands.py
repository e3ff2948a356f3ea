"""The `daybook approve` and `reject` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook.cli import completion, formatting, output
from daybook.cli.options import Absolute, Json
from daybook.cli.selection import act_on_each
from daybook.errors import InvalidInput
from daybook.policies.policy import ANSWER

if TYPE_CHECKING:
    from daybook.delivery.views import RunWithSteps
    from daybook.features.approvals.operations import WaitingApproval

_RUN_HELP = "Run id or unique prefix, perhaps with the number of the approval, or a job."
_REASON_HELP = "Why; the agent reads the reason of a rejection."


async def approve_(
    *runs: Annotated[
        str,
        Parameter(
            name="RUN",
            help=f"{_RUN_HELP} [default: list what waits for an approval]",
            completer=completion.jobs_and_runs,
        ),
    ],
    reason: Annotated[str, Parameter(help=_REASON_HELP)] = "",
    full: Annotated[bool, Parameter(help="List the calls with their whole arguments.")] = False,
    absolute: Absolute = False,
    as_json: Json = False,
) -> int:
    """Approve the tool call for which a run waits; without RUN, list the calls that wait.

    The run goes on within seconds. The first decision counts. Works without Prefect.

    Example: daybook approve 3f2a9c1b4d5e.1
    """
    if runs and full:
        raise InvalidInput("full and run", "cannot be combined", "leave one out")
    if runs:
        return await _decide(runs, reason, approve=True, as_json=as_json)
    if reason:
        raise InvalidInput("run", "is missing", "name the run to approve")
    from daybook.features.approvals import operations

    waiting = await operations.list_waiting()
    if as_json:
        output.print_json(waiting)
    elif waiting:
        _print_waiting(waiting, absolute, full=full)
    else:
        output.say("Nothing waits for an approval.")
    return 0


async def reject_(
    *runs: Annotated[
        str,
        Parameter(name="RUN", help=_RUN_HELP, completer=completion.jobs_and_runs),
    ],
    reason: Annotated[str, Parameter(help=_REASON_HELP)] = "",
    as_json: Json = False,
) -> int:
    """Refuse the tool call for which a run waits.

    The run goes on within seconds, and its agent reads that the call was rejected. A run without an
    agent fails.

    Example: daybook reject 3f2a9c1b4d5e.1 --reason "Wrong address"
    """
    if not runs:
        raise InvalidInput("run", "is missing", "`daybook approve` lists the calls that wait")
    return await _decide(runs, reason, approve=False, as_json=as_json)


async def _decide(runs: tuple[str, ...], reason: str, *, approve: bool, as_json: bool) -> int:
    from daybook.features.approvals import operations

    async def decide(run: str) -> RunWithSteps:
        return await operations.decide(run, approve=approve, reason=reason)

    return await act_on_each(runs, decide, _print_decision, as_json=as_json)


def _print_decision(run: RunWithSteps) -> None:
    last = run.approvals[-1]
    call = f"{last.tool}({', '.join(last.input.splitlines())})"
    what = "the answer" if last.position == ANSWER else call
    label = formatting.job_label(run, run.kind)
    output.line(f"{last.status.capitalize()}: {what}", style="bold")
    output.say(f"{label} goes on. See its outcome: daybook runs {formatting.quoted(label)}")


def _print_waiting(waiting: list[WaitingApproval], absolute: bool, *, full: bool) -> None:
    when = formatting.time_format(absolute)
    heading = formatting.time_heading("UNTIL", absolute)
    output.table(
        ("APPROVAL", "JOB", "TOOL", heading),
        [
            (
                each.ref,
                each.job or "(direct call)",
                each.tool,
                when(each.deadline),
            )
            for each in waiting
        ],
        whole=("APPROVAL", "TOOL", heading),
        cut=True,
    )
    for each in waiting:
        output.line(f"\n{each.ref}: {each.tool}", style="bold")
        for line in (each.full_input if full else each.input).splitlines():
            output.line(f"  {line}")
        if not full and each.input != each.full_input:
            output.say("Read the whole arguments: daybook approve --full")
    output.say("Approve one: daybook approve APPROVAL. Refuse one: daybook reject APPROVAL")
