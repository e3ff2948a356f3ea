"""The `daybook task` commands: a queue of tasks that idle task sessions claim."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

from cyclopts import Group, Parameter

from daybook.cli import formatting, output, task_formatting
from daybook.cli.options import Json, text_or_file
from daybook.errors import InvalidInput

TOKEN_VARIABLE = "DAYBOOK_TASK_TOKEN"

_ELIGIBILITY = Group("Who may do it", sort_key=1)

Ref = Annotated[
    str, Parameter(name="TASK", help="Its id or that of a run, the beginning of one, or its title.")
]
Run = Annotated[str, Parameter(name="RUN", help="The run's id, or the unique beginning of it.")]
Reason = Annotated[str, Parameter(help="Why; kept in its history.")]
Lease = Annotated[
    str | None, Parameter(help="How long it is held unless a heartbeat comes: 60s, up to 24h.")
]
RejectedArgument = Annotated[str, Parameter(show=False)]
RejectedOption = Annotated[str | None, Parameter(show=False)]


async def add_(
    title: Annotated[str, Parameter(help="What is to be done, in a line.")],
    /,
    *,
    instructions: Annotated[
        str, Parameter(help="All that whoever does it should know: text, or @file.")
    ] = "",
    priority: Annotated[
        str, Parameter(help="urgent, high, medium or low.", show_default=True)
    ] = "medium",
    capabilities: Annotated[
        list[str] | None,
        Parameter(
            name="--capability",
            group=_ELIGIBILITY,
            help="What a session must be able to do: python, deploy:eu. May be given several "
            "times; all are required.",
        ),
    ] = None,
    preferred: Annotated[
        list[str] | None,
        Parameter(
            name="--prefer-capability",
            group=_ELIGIBILITY,
            help="What is welcome: who has more of these is woken first. May be given several "
            "times.",
        ),
    ] = None,
    owner: Annotated[
        str,
        Parameter(
            group=_ELIGIBILITY,
            help="agent:NAME, session:NAME, or user, a person. Default: any session.",
        ),
    ] = "",
    workspace: Annotated[
        str, Parameter(group=_ELIGIBILITY, help="Only sessions of this workspace. Default: of any.")
    ] = "",
    channel: Annotated[
        str, Parameter(group=_ELIGIBILITY, help="Only sessions of this channel. Default: of any.")
    ] = "",
    paused: Annotated[bool, Parameter(help="Nobody gets it before `daybook task resume`.")] = False,
    as_json: Json = False,
) -> int:
    """Queue a task for a task session that fits.

    Needs no Prefect, as all of `daybook task`.

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
        Parameter(
            help="Only those: queued, claimed, needs_attention, completed, failed, cancelled."
        ),
    ] = None,
    limit: Annotated[int, Parameter(help="The most that are listed.", show_default=True)] = 50,
    as_json: Json = False,
) -> int:
    """List tasks: what is to be looked at, what is at work, what is queued, and what has ended.

    What is queued comes in the order in which it is claimed. Times are by this machine's clock.

    Example: daybook task list --status queued
    """
    if limit < 1:
        raise InvalidInput("limit", f"{limit} is not legal", "legal: 1 or more")
    from daybook.api import tasks

    listed = await tasks.list_tasks(status, limit)
    if as_json:
        output.print_json(listed)
    elif listed:
        task_formatting.print_tasks(listed)
        if len(listed) == limit:
            output.say(f"These are the first {limit}; --limit shows more.")
    elif status:
        output.say(f"No task is {status}.")
    else:
        output.say("There are no tasks; `daybook task add --help` says how to queue one.")
    return 0


async def show_(task: Ref, /, *, as_json: Json = False) -> int:
    """Show a task, each try at it, and what happened: when, by whom, why.

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
    session: Annotated[
        str, Parameter(help="For whom: a name from `daybook task session register`.")
    ],
    lease: Lease = None,
    as_json: Json = False,
) -> int:
    """Claim the next task that fits a session; exit code 3 when there is none.

    The output has a token, which is shown only once. Pass it in DAYBOOK_TASK_TOKEN or on standard
    input to end the run or to extend its lease. Without --lease the lease lasts 5m.

    Example: daybook task next --session alpha --lease 60s --json
    """
    from daybook.api import tasks

    claimed = await tasks.next_run(session, lease)
    if as_json:
        output.print_json(claimed)
        return 0
    task_formatting.print_claimed_run(claimed)
    output.say(
        f"The token is not shown again; whoever goes on has it in {TOKEN_VARIABLE}, or on stdin."
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
    """Hold a run longer: its lease begins anew, from now on.

    The token comes in DAYBOOK_TASK_TOKEN or on standard input.

    Example: daybook task heartbeat 0f3a9c21 --lease 10m
    """
    run_token = _read_token(more, token)
    from daybook.api import tasks

    held_run = await tasks.heartbeat(run, run_token, lease)
    if as_json:
        output.print_json(held_run)
    else:
        until = formatting.local_time(held_run["lease_until"])
        output.line(f"{held_run['session']} holds {held_run['title']} until {until}")
    return 0


async def complete_(
    run: Run,
    /,
    *more: RejectedArgument,
    result: Annotated[
        str, Parameter(name="--output", help="What came of it: text, or @file.")
    ] = "",
    token: RejectedOption = None,
    as_json: Json = False,
) -> int:
    """Say that it is done.

    The token comes in DAYBOOK_TASK_TOKEN or on standard input.

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
    error: Annotated[str, Parameter(help="Why it could not be done: text, or @file.")],
    token: RejectedOption = None,
    as_json: Json = False,
) -> int:
    """Say that it could not be done. `daybook task retry` queues it once more.

    The token comes in DAYBOOK_TASK_TOKEN or on standard input.

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
    """Give a run back: another session may have it, as if nobody had taken it.

    The token comes in DAYBOOK_TASK_TOKEN or on standard input.

    Example: daybook task release 0f3a9c21 --reason "needs somebody with access"
    """
    run_token = _read_token(more, token)
    from daybook.api import tasks

    return _print_result(await tasks.release(run, run_token, reason), "is queued again", as_json)


async def retry_(task: Ref, /, *, as_json: Json = False) -> int:
    """Queue another run of a task that failed or was cancelled; a task has at most ten.

    Example: daybook task retry "Review pull request 12"
    """
    from daybook.api import tasks

    return _print_result(await tasks.retry(task), "is queued again", as_json)


async def recover_(task: Ref, /, *, reason: Reason = "", as_json: Json = False) -> int:
    """Take a run from the session that holds it, or one that needs attention, and queue it again.

    Example: daybook task recover 0f3a9c21 --reason "alpha hangs"
    """
    from daybook.api import tasks

    return _print_result(await tasks.recover(task, reason), "is queued again", as_json)


async def cancel_(task: Ref, /, *, reason: Reason = "", as_json: Json = False) -> int:
    """End a task that is not to be done any more; who holds it is told at its next heartbeat.

    Example: daybook task cancel 0f3a9c21 --reason "done by hand"
    """
    from daybook.api import tasks

    return _print_result(await tasks.cancel(task, reason), "is cancelled", as_json)


async def pause_(task: Ref, /, *, reason: Reason = "", as_json: Json = False) -> int:
    """Let nobody take a task for now; a session that holds it goes on.

    Example: daybook task pause 0f3a9c21 --reason "wait for the release"
    """
    from daybook.api import tasks

    return _print_result(await tasks.pause(task, reason), "is paused", as_json)


async def resume_(task: Ref, /, *, as_json: Json = False) -> int:
    """Let a paused task be taken again.

    Example: daybook task resume 0f3a9c21
    """
    from daybook.api import tasks

    return _print_result(await tasks.resume(task), "goes on", as_json)


def repeated_values(given: list[str] | None, field: str, option: str) -> list[str]:
    """Return the values of a repeatable option.

    Raise `InvalidInput` if one of them contains a comma, that is several values.
    """
    for each in given or ():
        if "," in each:
            raise InvalidInput(field, f'"{each}" is not legal', f"give {option} once for each")
    return given or []


def _read_token(more: tuple[str, ...], typed: str | None) -> str:
    """Read the token of a run from the environment, standard input or a prompt.

    Raise `InvalidInput` if it is an argument, because other users can read arguments.
    """
    hint = f"give it in {TOKEN_VARIABLE}, or on standard input"
    if more or typed is not None:  # the error must not repeat the token or a part of it
        raise InvalidInput("token", "is never an argument", hint)
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token and sys.stdin.isatty():
        from getpass import getpass

        token = getpass("Token: ").strip()
    elif not token:
        try:
            token = sys.stdin.read().strip()
        except UnicodeDecodeError:
            raise InvalidInput("token", "is no UTF-8 text", hint) from None
    if not token:
        raise InvalidInput(
            TOKEN_VARIABLE, "is missing", "write the token there, or on standard input"
        )
    return token


def _print_result(run: dict[str, Any], result: str, as_json: bool) -> int:
    if as_json:
        output.print_json(run)
    else:
        output.line(f"{run['title']} {result} (run {run['run_id'][:8]})")
    return 0


def _next_step(task: dict[str, Any]) -> str:
    if task["owner"] == "user":
        return "It is a person's: it is listed, and no session gets it."
    if task["paused"]:
        return f"Nobody gets it before: daybook task resume {task['id'][:8]}"
    return f"What becomes of it: daybook task show {task['id'][:8]}"
