"""The `daybook task` commands: the queue of tasks that task sessions claim."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from daybook import plain_text
from daybook.cli import formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import Limit, check_limit, on_interrupt, text_or_file
from daybook.errors import InvalidInput
from daybook.features import tasks
from daybook.features.tasks import printing

if TYPE_CHECKING:
    from daybook.features.tasks.views import TaskWithRun, TitledTaskRun

TOKEN_VARIABLE = "DAYBOOK_TASK_TOKEN"

_ELIGIBILITY = Group("Eligible sessions", sort_key=1)

Ref = Annotated[
    str, Parameter(name="TASK", help="Task title, or a unique prefix of its id or of a run's id.")
]
Run = Annotated[str, Parameter(name="RUN", help="Run id or unique prefix.")]
Reason = Annotated[str, Parameter(help="Reason, stored in the history.")]
Lease = Annotated[str | None, Parameter(help="Duration of the lease, such as 60s, up to 24h.")]
RejectedArgument = Annotated[str, Parameter(show=False)]
RejectedOption = Annotated[str | None, Parameter(show=False)]


@command()
async def add_(
    title: Annotated[str, Parameter(help="Work to do, on one line.")],
    /,
    *,
    instructions: Annotated[
        str, Parameter(help="Instructions for the session: text, or @file.")
    ] = "",
    priority: Annotated[
        str, Parameter(help="Priority: urgent, high, medium or low.", show_default=True)
    ] = "medium",
    capabilities: Annotated[
        list[str] | None,
        Parameter(
            name="--capability",
            group=_ELIGIBILITY,
            help="Capability that a session must have, such as python. Repeatable: a session must "
            "have all of them.",
        ),
    ] = None,
    preferred: Annotated[
        list[str] | None,
        Parameter(
            name="--prefer-capability",
            group=_ELIGIBILITY,
            help="Sessions with this capability are woken first. Repeatable.",
        ),
    ] = None,
    owner: Annotated[
        str,
        Parameter(
            group=_ELIGIBILITY,
            help="Sessions that may claim the task: agent:NAME, session:NAME, or user (none). "
            "[default: all]",
        ),
    ] = "",
    workspace: Annotated[
        str, Parameter(group=_ELIGIBILITY, help="Workspace of the sessions. [default: any]")
    ] = "",
    channel: Annotated[
        str, Parameter(group=_ELIGIBILITY, help="Channel of the sessions. [default: any]")
    ] = "",
    paused: Annotated[bool, Parameter(help="Add the task paused.")] = False,
) -> Answer:
    """Queue a task for task sessions.

    Like all `daybook task` commands, works without Prefect.

    Example: daybook task add "Review pull request 12" --capability python --priority high
    """
    task = await tasks.operations.add(
        title,
        instructions=text_or_file("instructions", instructions),
        priority=priority,
        owner=owner,
        workspace=workspace,
        channel=channel,
        capabilities=repeated_values(capabilities, "capabilities", "--capability"),
        preferred=repeated_values(preferred, "preferred", "--prefer-capability"),
        paused=paused,
    )
    yield task
    printing.print_task(task)
    output.say(_next_step(task))


@command()
async def list_(
    *,
    status: Annotated[
        str | None,
        Parameter(
            help="List only tasks with this status: queued, claimed, needs_attention, completed, "
            "failed or cancelled."
        ),
    ] = None,
    limit: Limit = 50,
) -> Answer:
    """List tasks: those that need attention, then claimed, queued and ended ones.

    Queued tasks are in claim order. Times are in this machine's time zone.

    Example: daybook task list --status queued
    """
    check_limit(limit)

    listed = await tasks.operations.list_tasks(status, limit)
    yield listed
    if listed:
        printing.print_tasks(listed)
        if len(listed) == limit:
            output.say(f"The first {limit} tasks are listed. Use --limit to list more.")
    elif status:
        output.say(f"There are no tasks with the status {status}.")
    else:
        output.say("There are no tasks. Queue one with `daybook task add`.")


@command()
async def show_(task: Ref, /) -> Answer:
    """Show a task, its runs and its history.

    Example: daybook task show "Review pull request 12"
    """
    details = await tasks.operations.show(task)
    yield details
    printing.print_task(details)
    printing.print_history(details)


@command()
async def next_(
    *,
    session: Annotated[str, Parameter(help="Name of the registered session.")],
    lease: Lease = None,
    priority_min: Annotated[
        str,
        Parameter(help="Lowest priority to claim: urgent, high, medium or low.", show_default=True),
    ] = "low",
    wait: Annotated[
        str | None, Parameter(help="Maximum wait for a task, such as 10m. [default: none]")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        Parameter(help="Key of this claim: if its answer was lost, repeat it with the same key."),
    ] = None,
) -> Answer:
    """Claim the next task that fits a session; exit with code 3 if there is none.

    The token is shown only once. Pass it in DAYBOOK_TASK_TOKEN or on standard input to end the run
    or to extend its lease. Without --lease, the lease lasts 5m.

    Example: daybook task next --session alpha --lease 60s --json
    """
    claimed = await tasks.operations.next_run(
        session,
        lease,
        priority_min=priority_min,
        idempotency_key=idempotency_key,
        wait=wait,
    )
    yield claimed
    printing.print_claimed_run(claimed)
    output.say(
        "Save the token: it will not be shown again. "
        f"Pass it in {TOKEN_VARIABLE} or on standard input."
    )


@command()
async def heartbeat_(
    run: Run,
    /,
    *more: RejectedArgument,
    lease: Lease = None,
    token: RejectedOption = None,
) -> Answer:
    """Extend the lease of a run; its duration counts from now.

    Pass the token in DAYBOOK_TASK_TOKEN or on standard input.

    Example: daybook task heartbeat 0f3a9c21 --lease 10m
    """
    run_token = _read_token(more, token)

    held_run = await tasks.operations.heartbeat(run, run_token, lease)
    yield held_run
    until = formatting.local_time(held_run.lease_until)
    output.line(f"{held_run.session} holds {held_run.title} until {until}")


@command()
async def complete_(
    run: Run,
    /,
    *more: RejectedArgument,
    result: Annotated[
        str, Parameter(name="--output", help="Result of the task: text, or @file.")
    ] = "",
    token: RejectedOption = None,
) -> Answer:
    """Report that a task is done.

    Pass the token in DAYBOOK_TASK_TOKEN or on standard input.

    Example: daybook task complete 0f3a9c21 --output "Merged, two remarks"
    """
    run_token = _read_token(more, token)
    text = text_or_file("output", result)

    yield (answer := await tasks.operations.complete(run, run_token, text))
    _print_result(answer, "is done")


@command()
async def fail_(
    run: Run,
    /,
    *more: RejectedArgument,
    error: Annotated[str, Parameter(help="Reason for the failure: text, or @file.")],
    token: RejectedOption = None,
) -> Answer:
    """Report that a task failed. Use `daybook task retry` to queue it again.

    Pass the token in DAYBOOK_TASK_TOKEN or on standard input.

    Example: daybook task fail 0f3a9c21 --error "the branch was deleted"
    """
    run_token = _read_token(more, token)
    text = text_or_file("error", error)

    yield (answer := await tasks.operations.fail(run, run_token, text))
    _print_result(answer, "failed")


@command()
async def release_(
    run: Run,
    /,
    *more: RejectedArgument,
    reason: Reason = "",
    token: RejectedOption = None,
) -> Answer:
    """Return a run to its old place in the queue; any session may claim it.

    Pass the token in DAYBOOK_TASK_TOKEN or on standard input.

    Example: daybook task release 0f3a9c21 --reason "needs access to production"
    """
    run_token = _read_token(more, token)

    yield (answer := await tasks.operations.release(run, run_token, reason))
    _print_result(answer, "is queued again")


@command()
async def retry_(task: Ref, /) -> Answer:
    """Queue another run of a task that failed, was cancelled or needs attention.

    A task has at most ten runs.

    Example: daybook task retry "Review pull request 12"
    """
    yield (answer := await tasks.operations.retry(task))
    _print_result(answer, "is queued again")


@command()
async def recover_(task: Ref, /, *, reason: Reason = "") -> Answer:
    """Queue a claimed run again, or one that needs attention.

    A session that holds the run loses it.

    Example: daybook task recover 0f3a9c21 --reason "alpha hangs"
    """
    yield (answer := await tasks.operations.recover(task, reason))
    _print_result(answer, "is queued again")


@command()
async def cancel_(task: Ref, /, *, reason: Reason = "") -> Answer:
    """Cancel a task. Later calls with the token of its run are refused.

    Example: daybook task cancel 0f3a9c21 --reason "done by hand"
    """
    yield (answer := await tasks.operations.cancel(task, reason))
    _print_result(answer, "is cancelled")


@command()
async def pause_(task: Ref, /, *, reason: Reason = "") -> Answer:
    """Pause a task, so that no session can claim it. A session that holds it continues.

    Example: daybook task pause 0f3a9c21 --reason "wait for the release"
    """
    yield (answer := await tasks.operations.pause(task, reason))
    _print_result(answer, "is paused")


@command()
async def resume_(task: Ref, /) -> Answer:
    """Resume a paused task, so that sessions can claim it again.

    Example: daybook task resume 0f3a9c21
    """
    yield (answer := await tasks.operations.resume(task))
    _print_result(answer, "is resumed")


def repeated_values(given: list[str] | None, field: str, option: str) -> list[str]:
    """Return the values of a repeatable option; [] if it is not given.

    Raise `InvalidInput` for a value with a comma, because the user probably meant several values.
    """
    for each in given or ():
        if "," in each:
            raise InvalidInput(
                field, f'"{each}" contains a comma', f"use {option} once for each value"
            )
    return given or []


def _read_token(more: tuple[str, ...], typed: str | None) -> str:
    """Return the token of a run from the environment, standard input or a prompt.

    Raise `InvalidInput` if the token is missing or not UTF-8. Raise it also if the token is passed
    as an argument, because other users can read arguments.
    """
    hint = f"pass it in {TOKEN_VARIABLE} or on standard input"
    if more or typed is not None:  # the error must not contain the token or a part of it
        raise InvalidInput("token", "cannot be passed on the command line", hint)
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token and sys.stdin.isatty():
        from getpass import getpass

        with on_interrupt():
            token = getpass("Token: ").strip()
    elif not token:
        try:
            token = plain_text.read_input().strip()
        except UnicodeDecodeError:
            raise InvalidInput("token", "is not UTF-8 text", hint) from None
    if not token:
        raise InvalidInput(
            TOKEN_VARIABLE, "is missing", "set it, or pass the token on standard input"
        )
    return token


def _print_result(run: TitledTaskRun | TaskWithRun, result: str) -> None:
    output.line(f"{run.title} {result} (run {run.run_id[:8]})")


def _next_step(task: TaskWithRun) -> str:
    if task.owner == "user":
        return "This task is for the user; no session can claim it."
    if task.paused:
        return f"No session can claim it until you run: daybook task resume {task.id[:8]}"
    return f"To follow it, run: daybook task show {task.id[:8]}"
