"""The `daybook task session` commands: live agents that claim tasks."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import formatting, output, task_formatting
from daybook.cli.options import Json
from daybook.cli.task import repeated_values

Name = Annotated[str, Parameter(help="Name of the session.")]


async def register_(
    name: Annotated[str, Parameter(help="Unique name of the session.")],
    /,
    *,
    agent: Annotated[
        str | None,
        Parameter(help="Agent that the session runs as; it can then claim that agent's tasks."),
    ] = None,
    type_: Annotated[
        str, Parameter(name="--type", help="Kind of program, such as ide; informational only.")
    ] = "",
    capabilities: Annotated[
        list[str] | None,
        Parameter(name="--capability", help="Capability, such as python. Repeatable."),
    ] = None,
    workspace: Annotated[
        str,
        Parameter(help="Workspace whose tasks the session can claim, besides tasks without one."),
    ] = "",
    channel: Annotated[
        str, Parameter(help="Channel whose tasks the session can claim, besides tasks without one.")
    ] = "",
    as_json: Json = False,
) -> int:
    """Register a session as idle and not prompting.

    It expires 15 minutes after its last sign of life. Registering the same name again updates it.

    Example: daybook task session register alpha --agent claude --capability python
    """
    session = await api.tasks.register(
        name,
        agent=agent,
        type=type_,
        workspace=workspace,
        channel=channel,
        capabilities=repeated_values(capabilities, "capabilities", "--capability"),
    )
    if as_json:
        output.print_json(session)
        return 0
    task_formatting.print_session(session)
    output.say(
        f"To claim a task, run: daybook task next --session {formatting.quoted(session.name)}"
    )
    return 0


async def report_(
    name: Name,
    /,
    *,
    state: Annotated[str, Parameter(help="State: idle, or active if it is busy.")],
    prompting: Annotated[bool, Parameter(help="The session is waiting for user input.")] = False,
    as_json: Json = False,
) -> int:
    """Report the state of a session.

    Only a session that is idle and not prompting is woken and can claim tasks.

    Example: daybook task session report alpha --state idle
    """
    session = await api.tasks.report(name, state=state, prompting=prompting)
    if as_json:
        output.print_json(session)
    else:
        output.line(f"{session.name} ({task_formatting.session_state(session)})")
    return 0


async def list_(*, as_json: Json = False) -> int:
    """List sessions, including expired ones.

    Example: daybook task session list
    """
    listed = await api.tasks.list_sessions()
    if as_json:
        output.print_json(listed)
    elif listed:
        task_formatting.print_sessions(listed)
    else:
        output.say("There are no sessions. Register one with `daybook task session register`.")
    return 0


async def show_(name: Name, /, *, as_json: Json = False) -> int:
    """Show a session.

    Example: daybook task session show alpha
    """
    session = await api.tasks.find_session(name)
    if as_json:
        output.print_json(session)
    else:
        task_formatting.print_session(session)
    return 0


async def remove_(name: Name, /, *, as_json: Json = False) -> int:
    """Remove a session and queue its claimed run again.

    Example: daybook task session remove alpha
    """
    removed = await api.tasks.remove_session(name)
    if as_json:
        output.print_json(removed)
    else:
        requeued = f"; run {removed.run_id[:8]} is queued again" if removed.run_id else ""
        output.line(f"Removed session {removed.name}{requeued}")
    return 0
