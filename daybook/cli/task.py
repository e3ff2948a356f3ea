"""The `daybook task` commands: the queue of tasks that idle task sessions claim."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from daybook.cli import formatting, output, task_formatting
from daybook.cli.options import Json, text_or_file
from daybook.errors import InvalidInput

if TYPE_CHECKING:
    from daybook.tasks.views import TaskWithRun, TitledTaskRun

TOKEN_VARIABLE = "DAYBOOK_TASK_TOKEN"

_ELIGIBILITY = Group("Eligible sessions", sort_key=1)

Ref = Annotated[
    str, Parameter(name="TASK", help="Task title, or a unique prefix of its id or of a run's id.")
]
Run = Annotated[str, Parameter(name="RUN", help="Unique prefix of the run's id.")]
Reason = Annotated[str, Parameter(help="Reason, stored in the history.")]
Lease = Annotated[str | None, Parameter(help="Duration of the lease, such as 60s, up to 24h.")]
RejectedArgument = Annotated[str, Parameter(show=False)]
RejectedOption = Annotated[str | None, Parameter(show=False)]


async def add_(
    title: Annotated[str, Parameter(help="Work to do, on one line.")],
    /,
    *,
    instructions: Annotated[
        str, Parameter(help="Instructions for the session: text or @FILE.")
    ] = "",
    priority: Annotated[
        str, Parameter(help="Priority: urgent, high, medium or low.", show_default=True)
    ] = "medium",
    capabilities: Annotated[
        list[str] | None,
        Parameter(
            name="--capability",
            group=_ELIGIBILITY,
            help="Capability that a session must have, such as python. Repeatable; a session "
            "must have all of them.",
        ),
    ] = None,
    preferred: Annotated[
        list[str] | None,
        Parameter(
            name="--prefer-capability",
            group=_ELIGIBILITY,
            help="Capability that decides which session is woken first. Repeatable.",
        ),
    ] = None,
    owner: Annotated[
        str,
        Parameter(
            group=_ELIGIBILITY,
            help="Owner: agent:NAME, session:NAME, or user for a person. [default: any session]",
        ),
    ] = "",
    workspace: Annotated[
        str, Parameter(group=_ELIGIBILITY, help="Workspace of the sessions. [default: any]")
    ] = "",
    channel: Annotated[
        str, Parameter(group=_ELIGIBILITY, help="Channel of the sessions. [default: any]")
    ] = "",
    paused: Annotated[bool, Parameter(help="Add it paused.")] = False,
    as_json: Json = False,
) -> int:
    """Queue a task for task sessions.

    Like all `daybook task` commands, this needs no Prefect.

    Example: daybook task add "Review pull request 12" --capability python --priority high
    """
    from daybook.api import tasks

    task = await tasks.add(
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
    if as_json:
        output.print_json(task)
        return 0
    task_formatting.print_task(task)
    output.say(_next_step(task))
    return 0


async def list_(
    *,
    status: Annotated[
        str | None,
        Parameter(help="Status: queued, claimed, needs_attention, completed, failed or cancelled."),
    ] = None,
    limit: Annotated[int, Parameter(help="Maximum number to list.", show_default=True)] = 50,
    as_json: Json = False,
) -> int:
    """List tasks: those that need attention, then claimed, queued and ended ones.

    Queued tasks are in claim order. Times are in this machine's time zone.

    Example: daybook task list --status queued
    """
    if limit < 1:
        raise InvalidInput("limit", f"{limit} is less than 1", "use 1 or more")
    from daybook.api import tasks

    listed = await tasks.list_tasks(status, limit)
    if as_json:
        output.print_json(listed)
    elif listed:
        task_formatting.print_tasks(listed)
        if len(listed) == limit:
            output.say(f"Only the first {limit} tasks are listed; use --limit to list more.")
    elif status:
        output.say(f"There are no tasks with the status {status}.")
    else:
        output.say("There are no tasks. Queue one with `daybook task add`.")
    return 0


async def show_(task: Ref, /, *, as_json: Json = False) -> int:
    """Show a task, its runs and its history.

    Example: daybook task show "Review pull request 12"
    """
    from daybook.api import tasks

    details = await tasks.show(task)
    if as_json:
        output.print_json(details)
    else:
        task_formatting.print_task(details)
        task_formatting.print_history(details)
    return 0


async def next_(
    *,
    session: Annotated[str, Parameter(help="Name of the registered session.")],
    lease: Lease = None,
    as_json: Json = False,
) -> int:
    """Claim the next task that fits a session; exit with code 3 if there is none.

    The token is shown only once. Pass it in DAYBOOK_TASK_TOKEN or on standard input to end the run
    or to extend its lease. Without --lease, the lease lasts 5m.

    Example: daybook task next --session alpha --lease 60s --json
    """
    from daybook.api import tasks

    claimed = await tasks.next_run(session, lease)
    if as_json:
        output.print_json(claimed)
        return 0
    task_formatting.print_claimed_run(claimed)
    output.say(
        "Save the token: it will not be shown again. "
        f"Pass it in {TOKEN_VARIABLE} or on standard input."
    )
    return 0


async def heartbeat_(
    run: Run,
    /,
    *more: RejectedArgument,
    lease: Lease = None,
    token: RejectedOption = None,
    as_json: Json = False,
) -> int:
    """Extend the lease of a run, from now on.

    Pass the token in DAYBOOK_TASK_TOKEN or on standard input.

    Example: daybook task heartbeat 0f3a9c21 --lease 10m
    """
    run_token = _read_token(more, token)
    from daybook.api import tasks

    held_run = await tasks.heartbeat(run, run_token, lease)
    if as_json:
        output.print_json(held_run)
    else:
        until = formatting.local_time(held_run.lease_until)
        output.line(f"{held_run.session} holds {held_run.title} until {until}")
    return 0


async def complete_(
    run: Run,
    /,
    *more: RejectedArgument,
    result: Annotated[
        str, Parameter(name="--output", help="Result of the work: text or @FILE.")
    ] = "",
    token: RejectedOption = None,
    as_json: Json = False,
) -> int:
    """Report that the work is done.

    Pass the token in DAYBOOK_TASK_TOKEN or on standard input.

    Example: daybook task complete 0f3a9c21 --output "Merged, two remarks"
    """
    run_token = _read_token(more, token)
    text = text_or_file("output", result)
    from daybook.api import tasks

    return _print_result(await tasks.complete(run, run_token, text), "is done", as_json)


async def fail_(
    run: Run,
    /,
    *more: RejectedArgument,
    error: Annotated[str, Parameter(help="Reason for the failure: text or @FILE.")],
    token: RejectedOption = None,
    as_json: Json = False,
) -> int:
    """Report that the work failed. Use `daybook task retry` to queue it again.

    Pass the token in DAYBOOK_TASK_TOKEN or on standard input.

    Example: daybook task fail 0f3a9c21 --error "the branch is gone"
    """
    run_token = _read_token(more, token)
    text = text_or_file("error", error)
    from daybook.api import tasks

    return _print_result(await tasks.fail(run, run_token, text), "failed", as_json)


async def release_(
    run: Run,
    /,
    *more: RejectedArgument,
    reason: Reason = "",
    token: RejectedOption = None,
    as_json: Json = False,
) -> int:
    """Return a run to its old place in the queue; any session may claim it.

    Pass the token in DAYBOOK_TASK_TOKEN or on standard input.

    Example: daybook task release 0f3a9c21 --reason "needs access to production"
    """
    run_token = _read_token(more, token)
    from daybook.api import tasks

    return _print_result(await tasks.release(run, run_token, reason), "is queued again", as_json)


async def retry_(task: Ref, /, *, as_json: Json = False) -> int:
    """Queue another run of a failed or cancelled task, at most ten per task.

    Example: daybook task retry "Review pull request 12"
    """
    from daybook.api import tasks

    return _print_result(await tasks.retry(task), "is queued again", as_json)


async def recover_(task: Ref, /, *, reason: Reason = "", as_json: Json = False) -> int:
    """Queue a claimed run again, or one that needs attention.

    A session that holds the run loses it.

    Example: daybook task recover 0f3a9c21 --reason "alpha hangs"
    """
    from daybook.api import tasks

    return _print_result(await tasks.recover(task, reason), "is queued again", as_json)


async def cancel_(task: Ref, /, *, reason: Reason = "", as_json: Json = False) -> int:
    """Cancel a task. Later calls with the token of its run are refused.

    Example: daybook task cancel 0f3a9c21 --reason "done by hand"
    """
    from daybook.api import tasks

    return _print_result(await tasks.cancel(task, reason), "is cancelled", as_json)


async def pause_(task: Ref, /, *, reason: Reason = "", as_json: Json = False) -> int:
    """Stop claims of a task. A session that holds it continues.

    Example: daybook task pause 0f3a9c21 --reason "wait for the release"
    """
    from daybook.api import tasks

    return _print_result(await tasks.pause(task, reason), "is paused", as_json)


async def resume_(task: Ref, /, *, as_json: Json = False) -> int:
    """Resume a paused task, so that sessions can claim it again.

    Example: daybook task resume 0f3a9c21
    """
    from daybook.api import tasks

    return _print_result(await tasks.resume(task), "is resumed", as_json)


def repeated_values(given: list[str] | None, field: str, option: str) -> list[str]:
    """Return the values of a repeatable option.

    Raise `InvalidInput` if one of them contains a comma, that is several values.
    """
    for each in given or ():
        if "," in each:
            raise InvalidInput(field, f'"{each}" contains a comma', f"use {option} once for each")
    return given or []


def _read_token(more: tuple[str, ...], typed: str | None) -> str:
    """Read the token of a run from the environment, standard input or a prompt.

    Raise `InvalidInput` if it is an argument, because other users can read arguments.
    """
    hint = f"pass it in {TOKEN_VARIABLE} or on standard input"
    if more or typed is not None:  # the error must not repeat the token or a part of it
        raise InvalidInput("token", "must not be an argument", hint)
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token and sys.stdin.isatty():
        from getpass import getpass

        token = getpass("Token: ").strip()
    elif not token:
        try:
            token = sys.stdin.read().strip()
        except UnicodeDecodeError:
            raise InvalidInput("token", "is not UTF-8 text", hint) from None
    if not token:
        raise InvalidInput(
            TOKEN_VARIABLE, "is missing", "set it, or pass the token on standard input"
        )
    return token


def _print_result(run: TitledTaskRun | TaskWithRun, result: str, as_json: bool) -> int:
    if as_json:
        output.print_json(run)
    else:
        output.line(f"{run.title} {result} (run {run.run_id[:8]})")
    return 0


def _next_step(task: TaskWithRun) -> str:
    if task.owner == "user":
        return "This task is for a person; no session can claim it."
    if task.paused:
        return f"No session can claim it until you run: daybook task resume {task.id[:8]}"
    return f"To follow it, run: daybook task show {task.id[:8]}"
