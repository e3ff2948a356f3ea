"""The `daybook session` commands: the stored conversations with agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import (
    Absolute,
    Limit,
    check_limit,
    prompt_or_file,
)
from daybook.cli.runs import print_run
from daybook.ledger.states import Status

if TYPE_CHECKING:
    from daybook.api.sessions import SessionMessage


SessionRef = Annotated[
    str,
    Parameter(
        help="Session id, unique id prefix or key, or a job for the session that it continues."
    ),
]


@command()
async def list_(*, limit: Limit = 20, absolute: Absolute = False) -> Answer:
    """List sessions with agents, most recently used first.

    Works without Prefect.

    Example: daybook session list
    """
    check_limit(limit)

    listed = await api.sessions.list_sessions(limit)
    yield listed
    if listed:
        when = formatting.time_format(absolute)
        used_heading = formatting.time_heading("LAST USED", absolute)
        output.table(
            ("SESSION", "TITLE", "AGENT", "JOB", "MESSAGES", used_heading),
            [
                (
                    each.id,
                    each.title or "-",
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


@command()
async def show_(
    session: SessionRef,
    /,
    *,
    limit: Limit = 20,
    absolute: Absolute = False,
) -> Answer:
    """Show the last messages of a session, oldest first.

    Works without Prefect.

    Example: daybook session show morning-brief
    """
    check_limit(limit)

    conversation = await api.sessions.show(session, limit)
    yield conversation
    shown = len(conversation.history)
    output.line(conversation.id, style="bold")
    if conversation.title:
        output.line(f"  {conversation.title}")
    output.line(
        f"  {conversation.messages} messages with {conversation.agent}"
        + (f", last {shown} shown" if shown < conversation.messages else "")
    )
    if (summary := conversation.summary) is not None:
        by = f"{summary.agent}, {formatting.time_format(absolute)(summary.at)}"
        output.line()
        output.line(f"Summary of the messages up to {summary.through}, {by}", style="bold")
        output.line(_indented(summary.content))
    for each in conversation.history:
        output.line()
        output.line(f"{each.number} {_speaker(each, conversation.agent, absolute)}", style="bold")
        output.line(_indented(each.content))


@command(uses_prefect=True)
async def send_(
    session: SessionRef,
    prompt: Annotated[
        str, Parameter(help="What to say; @FILE reads it from a file, and - from standard input.")
    ],
    /,
) -> Answer:
    """Continue a session: its agent answers, and remembers it. Recorded as a run.

    It runs in this command, so Ctrl-C stops it. The session's job does not run, and its channel
    receives nothing. Exits with 0 if it succeeded.

    Example: daybook session send morning-brief "Which of these is urgent?"
    """
    text = prompt_or_file(prompt) or ""
    from daybook.prefect.console import without_console_logs

    with without_console_logs():
        answered = await api.sessions.send(session, text)
    yield answered, 0 if answered.status == Status.SUCCEEDED else 1
    print_run(answered, answered.deliveries)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def _speaker(message: SessionMessage, agent: str, absolute: bool) -> str:
    """Return the author and the time of a message. For a prompt, add its due time and run."""
    when, source = formatting.time_format(absolute), message.source
    at = when(message.at)
    if message.role == "assistant":
        return f"{agent}, {at}"
    due = when(source.due)
    name = source.job or source.kind
    return f"{name}, {at}: due {due} ({source.trigger}, run {message.run_id[:8]})"
