"""The `daybook session` commands: the conversations of jobs with their agents."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.options import Json
from daybook.errors import InvalidInput

Limit = Annotated[int, Parameter(help="Maximum number to show.", show_default=True)]


async def list_(*, limit: Limit = 20, as_json: Json = False) -> int:
    """List conversations, most recently used first.

    Works without Prefect. Times are in this machine's time zone.

    Example: daybook session list
    """
    _check_limit(limit)
    from daybook.api import sessions

    listed = await sessions.list_sessions(limit)
    if as_json:
        output.print_json(listed)
    elif listed:
        output.table(
            ("SESSION", "AGENT", "JOB", "MESSAGES", "LAST USED"),
            [
                (
                    each["id"],
                    each["agent"],
                    each["job"] or "-",
                    str(each["messages"]),
                    formatting.local_time(each["last_used_at"]),
                )
                for each in listed
            ],
        )
    else:
        output.say("There are no conversations yet. A job's first answer starts one.")
    return 0


async def show_(
    session: Annotated[
        str,
        Parameter(
            help="Session id, unique prefix or key, or a job (the session that it continues)."
        ),
    ],
    /,
    *,
    limit: Limit = 20,
    as_json: Json = False,
) -> int:
    """Show the last messages of a conversation, oldest first.

    Works without Prefect. Times are in this machine's time zone.

    Example: daybook session show morning-brief
    """
    _check_limit(limit)
    from daybook.api import sessions

    conversation = await sessions.show(session, limit)
    if as_json:
        output.print_json(conversation)
        return 0
    shown = len(conversation["history"])
    output.line(conversation["id"], style="bold")
    output.line(
        f"  {conversation['messages']} messages with {conversation['agent']}"
        + (f", last {shown} shown" if shown < conversation["messages"] else "")
    )
    for each in conversation["history"]:
        output.line()
        output.line(f"{each['number']} {_speaker(each, conversation['agent'])}", style="bold")
        output.line("\n".join(f"  {text}".rstrip() for text in each["content"].splitlines()))
    return 0


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise InvalidInput("limit", f"{limit} is too small", "use 1 or more")


def _speaker(message: dict[str, Any], agent: str) -> str:
    """Return the author and the time of a message; for a prompt also its run."""
    at, source = formatting.local_time(message["at"]), message["source"]
    if message["role"] == "assistant":
        return f"{agent}, {at}"
    source_name = source["job"] or source["kind"]
    due = formatting.local_time(source["due"])
    return f"{source_name}, {at}: due {due} ({source['trigger']}, run {message['run_id'][:8]})"
