"""The `daybook task session` commands: the live agents that claim tasks."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from daybook.cli import formatting, output, task_formatting
from daybook.cli.options import Json
from daybook.cli.task import repeated_values

Name = Annotated[str, Parameter(help="The session's name.")]


async def register_(
    name: Annotated[str, Parameter(help="What it is called; unique.")],
    /,
    *,
    agent: Annotated[
        str | None, Parameter(help="Which agent it is: it also gets what is only for that one.")
    ] = None,
    type_: Annotated[
        str, Parameter(name="--type", help="What kind of program it is, for people.")
    ] = "",
    capabilities: Annotated[
        list[str] | None,
        Parameter(name="--capability", help="What it can do. May be given several times."),
    ] = None,
    workspace: Annotated[str, Parameter(help="Whose tasks it gets, beside those of none.")] = "",
    channel: Annotated[str, Parameter(help="Whose tasks it gets, beside those of none.")] = "",
    as_json: Json = False,
) -> int:
    """Say that an agent is there for tasks: idle, and not prompting.

    It expires when nothing is heard of it for 15m; whatever it does with tasks is heard. The same
    name again replaces what was said before.

    Example: daybook task session register alpha --agent claude --capability python
    """
    from daybook.api import tasks

    session = await tasks.register(
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
        f"It takes what fits it: daybook task next --session {formatting.quoted(session['name'])}"
    )
    return 0


async def report_(
    name: Name,
    /,
    *,
    state: Annotated[str, Parameter(help="idle, or active: it is at work on something else.")],
    prompting: Annotated[
        bool, Parameter(help="It waits for a person's answer, so that nothing wakes it.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Say how a session is. It is not woken, and gets nothing, unless it is idle and not prompting.

    Example: daybook task session report alpha --state idle
    """
    from daybook.api import tasks

    session = await tasks.report(name, state=state, prompting=prompting)
    if as_json:
        output.print_json(session)
    else:
        output.line(f"{session['name']} ({task_formatting.session_state(session)})")
    return 0


async def list_(*, as_json: Json = False) -> int:
    """List the sessions, also those that expired.

    Example: daybook task session list
    """
    from daybook.api import tasks

    listed = await tasks.list_sessions()
    if as_json:
        output.print_json(listed)
    elif listed:
        task_formatting.print_sessions(listed)
    else:
        output.say("No session is registered; `daybook task session register --help` says how.")
    return 0


async def show_(name: Name, /, *, as_json: Json = False) -> int:
    """Show a session: what it can, what it holds, and by what it is woken.

    Example: daybook task session show alpha
    """
    from daybook.api import tasks

    session = await tasks.find_session(name)
    if as_json:
        output.print_json(session)
    else:
        task_formatting.print_session(session)
    return 0


async def remove_(name: Name, /, *, as_json: Json = False) -> int:
    """Forget a session; a run that it holds is queued again.

    Example: daybook task session remove alpha
    """
    from daybook.api import tasks

    removed = await tasks.remove_session(name)
    if as_json:
        output.print_json(removed)
    else:
        requeued = f"; run {removed['run_id'][:8]} is queued again" if removed["run_id"] else ""
        output.line(f"Removed the session {removed['name']}{requeued}")
    return 0
