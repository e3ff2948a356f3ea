"""The `daybook channels` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import completion, documents, output
from daybook.cli.command import Answer, command
from daybook.errors import InvalidInput

if TYPE_CHECKING:
    from daybook.api.channels import ListedChannel


def _print_channels(listed: list[ListedChannel]) -> None:
    from daybook.delivery.channels.base import UNBOUNDED

    rows = [
        (
            each.name,
            each.kind,
            "needed" if each.chat_id else "-",
            f"{each.limit:,}" if each.limit and each.limit < UNBOUNDED else "-",
            each.problem or ", ".join(each.jobs) or "-",
        )
        for each in listed
    ]
    output.table(("NAME", "KIND", "CHAT ID", "MAX LENGTH", "USED BY"), rows, whole=("NAME",))


list_ = documents.list_command(
    "daybook.api.channels:list_channels",
    """List channels and the jobs that send to them.

    Example: daybook channels list
    """,
    _print_channels,
)


@command(uses_prefect=True)
async def add_(
    name: documents.NewName,
    /,
    *more: Annotated[str, Parameter(show=False)],
    url: Annotated[str | None, Parameter(show=False)] = None,
    replace: Annotated[bool, Parameter(help="Replace the existing channel of this name.")] = False,
) -> Answer:
    """Add a channel for any service that Apprise supports, by its URL.

    Examples are mailto://user:password@mail.example.org?to=me@example.org, ntfy://topic, and
    tgram://token/{chat_id}, where each job names its chat. The URL is secret: it is read from
    standard input, or from a prompt on a terminal, and cannot be passed on the command line.
    Services that have a Prefect block (Slack, Teams, Discord, ...) can also be added in Prefect's
    UI.

    Example: daybook channels add team < url.txt
    """
    if more or url is not None:  # the error must not contain the secret
        raise InvalidInput(
            "url", "cannot be passed on the command line", "pass it on standard input"
        )
    secret_url = documents.read_hidden_value("url", "URL", "url.txt").strip()
    channel = await api.channels.add(name, secret_url, replace=replace)
    yield channel
    chat = " --chat-id ID" if channel.chat_id else ""
    output.line(f"Saved the channel {name}; maximum message length: {channel.limit:,} characters")
    output.say(f"Try it: daybook channels test {name}{chat}")


@command(uses_prefect=True)
async def test_(
    name: Annotated[str, Parameter(help="The channel's name.", completer=completion.channels)],
    /,
    text: Annotated[str | None, Parameter(help="Text to send. [default: a test sentence]")] = None,
    *,
    chat_id: Annotated[
        str, Parameter(help="Chat in the channel; for the `file` channel, the file name.")
    ] = "",
) -> Answer:
    """Send one message now and report whether it arrived.

    Example: daybook channels test team
    """
    with documents.unknown_as_not_found("channel"):
        sent = await api.channels.test(name, chat_id, text or api.channels.TEST_TEXT)
    yield sent, 1 if sent.problem else 0
    if sent.problem:
        output.say(f"Did not arrive: {sent.problem}")
    else:
        output.line(f"Arrived in {sent.seconds:.1f} s")


remove_ = documents.remove_command(
    "daybook.api.channels:remove",
    "channel",
    """Remove a channel that no job uses.

    Example: daybook channels remove team
    """,
    completion.channels,
)
