"""`daybook session`: the conversations of jobs with their agents."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.options import Json
from daybook.errors import InvalidInput

Limit = Annotated[int, Parameter(help="The most that are shown.", show_default=True)]


async def list_(*, limit: Limit = 20, as_json: Json = False) -> int:
    """List conversations, the last used first.

    Needs no Prefect. Times are by this machine's clock.

    Example: daybook session list
    """
    _check(limit)
    from daybook.api import sessions

    found = await sessions.list_sessions(limit)
    if as_json:
        output.data(found)
    elif found:
        output.table(
            ("SESSION", "AGENT", "JOB", "MESSAGES", "LAST USED"),
            [
                (
                    each["id"],
                    each["agent"],
                    each["job"] or "-",
                    str(each["messages"]),
                    formatting.local(each["last_used_at"]),
                )
                for each in found
            ],
        )
    else:
        output.say("There are no conversations yet: a job's first answer begins one.")
    return 0


async def show_(
    session: Annotated[
        str,
        Parameter(
            help="Its id, the unique beginning of it, or its key; or a job: the one it continues."
        ),
    ],
    /,
    *,
    limit: Limit = 20,
    as_json: Json = False,
) -> int:
    """Show what was said in a conversation: the last messages, oldest first.

    Needs no Prefect. Times are by this machine's clock.

    Example: daybook session show morning-brief
    """
    _check(limit)
    from daybook.api import sessions

    found = await sessions.show(session, limit)
    if as_json:
        output.data(found)
        return 0
    shown = len(found["history"])
    output.line(found["id"], style="bold")
    output.line(
        f"  {found['messages']} messages with {found['agent']}"
        + (f", the last {shown} of them" if shown < found["messages"] else "")
    )
    for each in found["history"]:
        output.line()
        output.line(f"{each['number']} {_who(each, found['agent'])}", style="bold")
        output.line("\n".join(f"  {text}".rstrip() for text in each["content"].splitlines()))
    return 0


def _check(limit: int) -> None:
    if limit < 1:
        raise InvalidInput("limit", f"{limit} is not legal", "legal: 1 or more")


def _who(message: dict[str, Any], agent: str) -> str:
    """Who said it, and when; of a prompt also for what."""
    at, source = formatting.local(message["at"]), message["source"]
    if message["role"] == "assistant":
        return f"{agent}, {at}"
    by = source["job"] or source["kind"]
    due = formatting.local(source["due"])
    return f"{by}, {at}: due {due} ({source['trigger']}, run {message['run_id'][:8]})"
