"""The `daybook inbox` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import Absolute, Limit, check_limit
from daybook.errors import InvalidInput

if TYPE_CHECKING:
    from daybook.delivery.views import InboxMessage


@command()
async def inbox_(
    *messages: Annotated[
        str, Parameter(name="ID", help="Message id or unique prefix; shows the full message.")
    ],
    all_: Annotated[
        bool, Parameter(name="--all", help="Also list messages that are already read.")
    ] = False,
    job: Annotated[
        str | None, Parameter(help="List only messages about this job, current or removed.")
    ] = None,
    read: Annotated[
        bool, Parameter(help="Mark the given messages as read; without ID, all messages.")
    ] = False,
    limit: Limit = 20,
    absolute: Absolute = False,
) -> Answer:
    """List inbox messages, newest first: alerts, and answers of jobs that send to the inbox.

    Showing a message leaves it unread. Works without Prefect.

    Example: daybook inbox --read
    """
    check_limit(limit)
    if (messages or read) and (job or all_):
        other = "ID" if messages else "read"
        raise InvalidInput(
            "job" if job else "all", f"cannot be combined with {other}", "leave one out"
        )

    if read:
        count = await api.inbox.mark_read(messages)
        yield {"read": count}
        output.line(f"Marked as read: {formatting.counted(count, 'message')}")
        return
    if messages:
        listed = [await api.inbox.show(each) for each in messages]
    else:
        listed = await api.inbox.list_messages(job, unread_only=not all_, limit=limit)
    yield listed
    if messages:
        for each in listed:
            _print_message(each, absolute)
    elif listed:
        _print_list(listed, limit, absolute)
    else:
        empty_text = "No unread messages. `daybook inbox --all` lists all messages."
        output.say("There are no messages." if all_ or job else empty_text)


def _print_list(listed: list[InboxMessage], limit: int, absolute: bool) -> None:
    when, heading = formatting.time_format(absolute), formatting.time_heading("WHEN", absolute)
    output.table(
        ("ID", heading, "JOB", "ABOUT", "MESSAGE"),
        [
            (
                formatting.short_id(each.id),
                when(each.created_at),
                formatting.job_label(each),
                output.ALERT_PREFIX * each.alert + each.event,
                _summary(each),
            )
            for each in listed
        ],
        whole=("ID", heading, "ABOUT"),
        cut=True,
    )
    more_text = (
        f"Showing the newest {limit}; use --limit for more. " if len(listed) == limit else ""
    )
    output.say(f"{more_text}Show one: daybook inbox ID. Mark all as read: daybook inbox --read")


def _summary(message: InboxMessage) -> str:
    """Return the first line of a message. If it has no job or no text, put its subject first."""
    first = formatting.first_line(message.text)
    return first if message.job and first else f"{message.subject}. {first}"


def _print_message(message: InboxMessage, absolute: bool) -> None:
    when = formatting.time_format(absolute)
    subject = message.subject or formatting.job_label(message)
    output.line(subject, style="bold red" if message.alert else "bold")
    run = message.run_id
    pairs = [
        ("about", ", ".join(filter(None, [formatting.job_label(message, ""), message.event]))),
        ("at", when(message.created_at)),
        ("read", when(message.read_at) if message.read_at else "no"),
        ("run", f"{run} (`daybook show {run[:8]}`)" if run else ""),
        ("id", message.id),
        *formatting.time_zone_field(absolute),
    ]
    output.fields([(name, value) for name, value in pairs if value])
    output.line()
    output.line("\n".join(f"  {each}".rstrip() for each in message.text.splitlines()))
