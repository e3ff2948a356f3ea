"""The `daybook inbox` command."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.options import Json
from daybook.errors import InvalidInput


async def inbox_(
    *messages: Annotated[
        str, Parameter(name="ID", help="A message's id or its unique beginning: it is shown whole.")
    ],
    all_: Annotated[
        bool, Parameter(name="--all", help="Also those that were read before.")
    ] = False,
    job: Annotated[
        str | None, Parameter(help="Only those about this job, also a removed one.")
    ] = None,
    read: Annotated[
        bool, Parameter(help="Mark them as read: those named, else all that are unread.")
    ] = False,
    limit: Annotated[int, Parameter(help="The most that are listed.", show_default=True)] = 20,
    as_json: Json = False,
) -> int:
    """Show what was told to you, newest first: answers of jobs whose channel it is, and alerts.

    Needs no Prefect. Times are by this machine's clock. A look leaves a message unread.

    Example: daybook inbox --read
    """
    if limit < 1:
        raise InvalidInput("limit", f"{limit} is not legal", "legal: 1 or more")
    if (messages or read) and (job or all_):
        other = "ID" if messages else "read"
        raise InvalidInput("job" if job else "all", f"does not go with {other}", "leave one out")
    from daybook.api import inbox

    if read:
        return await _mark_read(messages, as_json)
    if messages:
        listed = [await inbox.show(each) for each in messages]
    else:
        listed = await inbox.list_messages(job, unread_only=not all_, limit=limit)
    if as_json:
        output.print_json(listed)
    elif messages:
        for each in listed:
            _print_message(each)
    elif listed:
        _print_list(listed, limit)
    else:
        empty_text = "Nothing is unread; `daybook inbox --all` shows what was read."
        output.say("There is nothing in the inbox." if all_ or job else empty_text)
    return 0


async def _mark_read(messages: tuple[str, ...], as_json: bool) -> int:
    from daybook.api import inbox

    count = await inbox.mark_read(messages)
    if as_json:
        output.print_json({"read": count})
    else:
        output.line(f"Marked as read: {formatting.counted(count, 'message')}")
    return 0


def _print_list(listed: list[dict[str, Any]], limit: int) -> None:
    output.table(
        ("ID", "WHEN", "JOB", "ABOUT", "MESSAGE"),
        [
            (
                formatting.short_id(each["id"]),
                formatting.local_time(each["created_at"]),
                formatting.job_label(each),
                output.ALERT_PREFIX * each["alert"] + each["event"],
                _summary(each),
            )
            for each in listed
        ],
        whole=("ID", "WHEN", "ABOUT"),
        cut=True,
    )
    more_text = (
        f"These are the newest {limit}; --limit shows more. " if len(listed) == limit else ""
    )
    output.say(f"{more_text}One in full: daybook inbox ID; all are read: daybook inbox --read")


def _summary(message: dict[str, Any]) -> str:
    """Return the first line of a message; with the subject if the message has no job."""
    first = formatting.first_line(message["text"])
    return first if message["job"] and first else f"{message['subject']}. {first}"


def _print_message(message: dict[str, Any]) -> None:
    subject = message["subject"] or formatting.job_label(message)
    output.line(subject, style="bold red" if message["alert"] else "bold")
    run = message["run_id"]
    pairs = [
        ("about", ", ".join(filter(None, [formatting.job_label(message, ""), message["event"]]))),
        ("at", formatting.local_time(message["created_at"])),
        ("read", formatting.local_time(message["read_at"]) if message["read_at"] else "not yet"),
        ("run", f"{run} (`daybook show {run[:8]}`)" if run else ""),
        ("id", message["id"]),
    ]
    output.fields([(name, value) for name, value in pairs if value])
    output.line()
    output.line("\n".join(f"  {each}".rstrip() for each in message["text"].splitlines()))
