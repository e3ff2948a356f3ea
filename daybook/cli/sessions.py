"""The `daybook session` commands: the conversations of jobs with their agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import formatting, output
from daybook.cli.options import Absolute, Json, Limit, check_limit

if TYPE_CHECKING:
    from daybook.api.sessions import SessionMessage


async def list_(*, limit: Limit = 20, absolute: Absolute = False, as_json: Json = False) -> int:
    """List sessions with agents, most recently used first.

    Works without Prefect.

    Example: daybook session list
    """
    check_limit(limit)

    listed = await api.sessions.list_sessions(limit)
    if as_json:
        output.print_json(listed)
    elif listed:
        when = formatting.time_format(absolute)
        used_heading = formatting.time_heading("LAST USED", absolute)
        output.table(
            ("SESSION", "AGENT", "JOB", "MESSAGES", used_heading),
            [
                (
                    each.id,
                    each.agent,
                    each.job or "-",
                    str(each.messages),
                    when(each.last_used_at),
                )
                for each in listed
            ],
        )
    else:
        output.say("There are no sessions yet. A job's first answer starts one.")
    return 0


async def show_(
    session: Annotated[
        str,
        Parameter(
            help="Session id, unique id prefix or key, or a job for the session that it continues."
        ),
    ],
    /,
    *,
    limit: Limit = 20,
    absolute: Absolute = False,
    as_json: Json = False,
) -> int:
    """Show the last messages of a session, oldest first.

    Works without Prefect.

    Example: daybook session show morning-brief
    """
    check_limit(limit)

    conversation = await api.sessions.show(session, limit)
    if as_json:
        output.print_json(conversation)
        return 0
    shown = len(conversation.history)
    output.line(conversation.id, style="bold")
    output.line(
        f"  {conversation.messages} messages with {conversation.agent}"
        + (f", last {shown} shown" if shown < conversation.messages else "")
    )
    for each in conversation.history:
        output.line()
        output.line(f"{each.number} {_speaker(each, conversation.agent, absolute)}", style="bold")
        output.line("\n".join(f"  {text}".rstrip() for text in each.content.splitlines()))
    return 0


def _speaker(message: SessionMessage, agent: str, absolute: bool) -> str:
    """Return the author and the time of a message and, for a prompt, its due time and run."""
    when, source = formatting.time_format(absolute), message.source
    at = when(message.at)
    if message.role == "assistant":
        return f"{agent}, {at}"
    due = when(source.due)
    name = source.job or source.kind
    return f"{name}, {at}: due {due} ({source.trigger}, run {message.run_id[:8]})"
