"""The `daybook channels` commands."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import documents, output
from daybook.cli.options import Json, prepare_prefect
from daybook.errors import InvalidInput


def _print_channels(listed: list[dict[str, Any]]) -> None:
    from daybook.delivery.channels.base import UNBOUNDED

    rows = [
        (
            each["name"],
            each["kind"],
            "needed" if each["chat_id"] else "-",
            f"{limit:,}" if (limit := each["limit"]) and limit < UNBOUNDED else "-",
            each["problem"] or ", ".join(each["jobs"]) or "-",
        )
        for each in listed
    ]
    output.table(("NAME", "KIND", "CHAT ID", "AT MOST", "USED BY"), rows, whole=("NAME",))


list_ = documents.list_command(
    "channels",
    """List channels and the jobs that send to them.

    Example: daybook channels list
    """,
    _print_channels,
)


async def add_(
    name: documents.NewName,
    /,
    *more: Annotated[str, Parameter(show=False)],
    url: Annotated[str | None, Parameter(show=False)] = None,
    replace: Annotated[bool, Parameter(help="Replace the channel of this name, if any.")] = False,
    as_json: Json = False,
) -> int:
    """Add a channel: any service that apprise supports, by its URL.

    Such as mailto://user:password@mail.example.org?to=me@example.org, ntfy://topic, or
    tgram://token/{chat_id}, where each job names its chat. The URL is secret: it is read from
    standard input, or from a prompt on a terminal; it is never an argument. Services for which
    Prefect has a block (Slack, Teams, Discord, ...) can also be added in Prefect's UI.

    Example: daybook channels add team < url.txt
    """
    if more or url is not None:  # the error must not repeat the secret
        raise InvalidInput("url", "is never an argument", "pass it on standard input")
    secret_url = documents.read_hidden_value("url", "URL", "url.txt").strip()
    prepare_prefect()
    from daybook.api import channels

    channel = await channels.add(name, secret_url, replace=replace)
    if as_json:
        output.print_json(channel)
        return 0
    chat = " --chat-id ID" if channel["chat_id"] else ""
    output.line(
        f"Saved the channel {name}; maximum message length: {channel['limit']:,} characters"
    )
    output.say(f"Try it: daybook channels test {name}{chat}")
    return 0


async def test_(
    name: Annotated[str, Parameter(help="The channel's name.")],
    /,
    text: Annotated[str | None, Parameter(help="Text to send. Default: a test sentence.")] = None,
    *,
    chat_id: Annotated[
        str, Parameter(help="Chat of the channel; for the channel file, the file's name.")
    ] = "",
    as_json: Json = False,
) -> int:
    """Send one message now and report whether it arrived.

    Example: daybook channels test team
    """
    prepare_prefect()
    from daybook.api import channels

    with documents.unknown_as_not_found("channel"):
        sent = await channels.test(name, chat_id, text or channels.TEST_TEXT)
    if as_json:
        output.print_json(sent)
    elif sent["problem"]:
        output.say(f"Did not arrive: {sent['problem']}")
    else:
        output.line(f"Arrived in {sent['seconds']:.1f} s")
    return 1 if sent["problem"] else 0


remove_ = documents.remove_command(
    "channels",
    "channel",
    """Remove a channel that no job uses.

    Example: daybook channels remove team
    """,
)
