"""The `daybook task session` commands: live agents that claim tasks."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.command import Answer, command
from daybook.features import tasks
from daybook.features.tasks import printing
from daybook.features.tasks.commands import repeated_values

Name = Annotated[str, Parameter(help="Name of the session.")]


@command()
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
) -> Answer:
    """Register a session as idle and not prompting.

    It expires 15 minutes after its last sign of life. Registering the same name again updates it.

    Example: daybook task session register alpha --agent claude --capability python
    """
    session = await tasks.operations.register(
        name,
        agent=agent,
        type=type_,
        workspace=workspace,
        channel=channel,
        capabilities=repeated_values(capabilities, "capabilities", "--capability"),
    )
    yield session
    printing.print_session(session)
    output.say(
        f"To claim a task, run: daybook task next --session {formatting.quoted(session.name)}"
    )


@command()
async def report_(
    name: Name,
    /,
    *,
    state: Annotated[str, Parameter(help="State: idle, or active if it is busy.")],
    prompting: Annotated[bool, Parameter(help="The session is waiting for user input.")] = False,
) -> Answer:
    """Report the state of a session.

    Only a session that is idle and not prompting is woken and can claim tasks.

    Example: daybook task session report alpha --state idle
    """
    session = await tasks.operations.report(name, state=state, prompting=prompting)
    yield session
    output.line(f"{session.name} ({printing.session_state(session)})")


@command()
async def list_() -> Answer:
    """List sessions, including expired ones.

    Example: daybook task session list
    """
    listed = await tasks.operations.list_sessions()
    yield listed
    if listed:
        printing.print_sessions(listed)
    else:
        output.say("There are no sessions. Register one with `daybook task session register`.")


@command()
async def show_(name: Name, /) -> Answer:
    """Show a session.

    Example: daybook task session show alpha
    """
    session = await tasks.operations.find_session(name)
    yield session
    printing.print_session(session)


@command()
async def remove_(name: Name, /) -> Answer:
    """Remove a session and queue its claimed run again.

    Example: daybook task session remove alpha
    """
    removed = await tasks.operations.remove_session(name)
    yield removed
    requeued = f"; run {removed.run_id[:8]} is queued again" if removed.run_id else ""
    output.line(f"Removed session {removed.name}{requeued}")
