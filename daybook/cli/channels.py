"""The `daybook channels` commands."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from daybook.cli import output
from daybook.cli.options import Json, prepare_prefect
from daybook.errors import InvalidInput, NotFound, UnknownName

Name = Annotated[str, Parameter(help="The channel's name.")]


async def list_(*, as_json: Json = False) -> int:
    """List where messages can go, and the jobs that send there.

    Example: daybook channels list
    """
    prepare_prefect()
    from daybook.api import channels
    from daybook.delivery.channels.base import UNBOUNDED

    listed = await channels.list_channels()
    if as_json:
        output.print_json(listed)
        return 0
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
    return 0


async def add_(
    name: Annotated[str, Parameter(help="Lowercase letters, digits and dashes.")],
    /,
    *more: Annotated[str, Parameter(show=False)],
    url: Annotated[str | None, Parameter(show=False)] = None,
    replace: Annotated[
        bool, Parameter(help="In place of the channel of this name, if there is one.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Add a channel: any service that apprise knows, by its URL.

    Such as mailto://user:password@mail.example.org?to=me@example.org, ntfy://topic, or
    tgram://token/{chat_id}, where each job names its chat. The URL is secret: it is read from
    standard input, or asked for on a terminal; it is never an argument. What Prefect has a block
    for (Slack, Teams, Discord, ...) can be added in Prefect's UI as well.

    Example: daybook channels add team < url.txt
    """
    if more or url is not None:  # the error must not repeat the secret
        raise InvalidInput("url", "is never an argument", "give it on standard input")
    secret_url = _read_url()
    prepare_prefect()
    from daybook.api import channels

    channel = await channels.add(name, secret_url, replace=replace)
    if as_json:
        output.print_json(channel)
        return 0
    chat = " --chat-id ID" if channel["chat_id"] else ""
    output.line(f"Keeps the channel {name}; a message has {channel['limit']:,} characters at most")
    output.say(f"Try it: daybook channels test {name}{chat}")
    return 0


async def test_(
    name: Name,
    /,
    text: Annotated[
        str | None, Parameter(help="What is sent. Default: that the channel works.")
    ] = None,
    *,
    chat_id: Annotated[
        str, Parameter(help="Which chat of the channel; of file the file's name.")
    ] = "",
    as_json: Json = False,
) -> int:
    """Send one message, now, and tell whether it arrived.

    Example: daybook channels test team
    """
    prepare_prefect()
    from daybook.api import channels

    try:
        sent = await channels.test(name, chat_id, text or channels.TEST_TEXT)
    except UnknownName as error:
        if error.field != "channel":
            raise
        raise NotFound("channel", name) from error
    if as_json:
        output.print_json(sent)
    elif sent["problem"]:
        output.say(f"Did not arrive: {sent['problem']}")
    else:
        output.line(f"Arrived in {sent['seconds']:.1f} s")
    return 1 if sent["problem"] else 0


async def remove_(name: Name, /, *, as_json: Json = False) -> int:
    """Forget a channel that no job uses any more.

    Example: daybook channels remove team
    """
    prepare_prefect()
    from daybook.api import channels

    await channels.remove(name)
    if as_json:
        output.print_json({"removed": name})
    else:
        output.line(f"Removed the channel {name}")
    return 0


def _read_url() -> str:
    """Read the URL from standard input or a prompt, and strip it."""
    if sys.stdin.isatty():
        from getpass import getpass

        value = getpass("URL: ")
    else:
        try:
            value = sys.stdin.read()
        except UnicodeDecodeError:
            raise InvalidInput("url", "is no UTF-8 text") from None
    if not value.strip():
        raise InvalidInput("url", "there is none on standard input", "such as: < url.txt")
    return value.strip()
