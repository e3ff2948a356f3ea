"""The commands of `daybook channels` for accounts that hear what people write."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from pydantic import SecretStr

from daybook.cli import completion, documents, formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.field_options import FieldOption, FieldOptions, options_of, with_options
from daybook.cli.options import on_interrupt
from daybook.errors import InvalidInput
from daybook.features.conversations.settings import AccountSettings

if TYPE_CHECKING:
    from daybook.features.conversations.people import PairedPerson, PairingCode

POLL_SECONDS = 1.0
_CHANNEL = Annotated[str, Parameter(help="The channel's name.", completer=completion.channels)]


def _options() -> list[FieldOption]:
    """Return the options for the settings of all services, without their secrets."""
    found = list[FieldOption]()
    for model in AccountSettings.__subclasses__():
        fields = model.model_fields
        found += options_of(fields, *(k for k, v in fields.items() if v.annotation != SecretStr))
    return found


@Parameter(name="*")
@with_options({"": _options()})
class AccountOptions(FieldOptions):
    """Options of `daybook channels connect` for the settings of an account."""


@command(uses_prefect=True)
async def connect_(
    service: Annotated[
        str, Parameter(help="The messaging service: telegram, slack or mail.")
    ] = "telegram",
    /,
    *more: Annotated[str, Parameter(show=False)],
    name: Annotated[str, Parameter(help="The channel's name. [default: the service]")] = "",
    options: AccountOptions = AccountOptions(),  # noqa: B008 - immutable
    token_stdin: Annotated[
        bool, Parameter(help="Read the secrets from standard input, which is the default.")
    ] = False,
    replace: Annotated[
        bool, Parameter(help="Replace the existing channel of this name, but keep its agent.")
    ] = False,
    wait: Annotated[
        bool, Parameter(help="Wait until the first person has paired.", negative="--no-wait")
    ] = True,
) -> Answer:
    """Connect an account that people can talk to, and pair the first person.

    The tokens are secret: they are read from standard input, one a line, or from prompts on a
    terminal. Then write the code that this command prints to the account.

    Example: daybook channels connect telegram < token.txt
    """
    from daybook.features.conversations import accounts, operations

    kind = accounts.kind_of(service)
    first, *_ = kind.secrets
    if more:  # the error must not contain the token
        raise InvalidInput(
            first, "cannot be passed on the command line", "pass it on standard input"
        )
    given = options.given()
    if unknown := sorted(given.keys() - kind.store.model.model_fields.keys()):
        raise InvalidInput(unknown[0], f"is no setting of {kind.title}", "leave it out")
    if sys.stdin.isatty():
        output.say(kind.about)
        if kind.to_paste:
            output.say(kind.to_paste)
    connected = await operations.connect(
        service, name or service, {**_read_secrets(kind.secrets), **given}, replace=replace
    )
    yield connected
    output.line(f"Connected {connected.identity} as the channel {connected.channel}")
    _print_code(connected.code, connected.identity)
    if wait:
        await _wait_for_person(connected.channel)


def _read_secrets(titles: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets by field, from prompts or the lines of standard input."""
    first, *_ = titles
    if sys.stdin.isatty():
        return {
            name: documents.read_hidden_value(name, title, "tokens.txt").strip()
            for name, title in titles.items()
        }
    given = documents.read_hidden_value(first, titles[first], "tokens.txt").split("\n")
    lines = [each.strip() for each in given if each.strip()]
    if len(lines) != len(titles):
        wanted = ", then ".join(titles.values())
        problem = "standard input has the wrong number of lines"
        raise InvalidInput(list(titles)[-1], problem, f"write a line each: {wanted}")
    return dict(zip(titles, lines, strict=True))


@command()
async def pair_(
    channel: _CHANNEL,
    /,
    *,
    role: Annotated[
        str,
        Parameter(help="operator (everything) or reader (asks about delivered messages)."),
    ] = "operator",
) -> Answer:
    """Print a code with which one person may talk to the channel's account.

    The code is valid for 10 minutes.

    Example: daybook channels pair telegram --role reader
    """
    from daybook.features.conversations import operations

    code = await operations.make_code(channel, role)
    yield code
    _print_code(code)


def _print_code(code: PairingCode, identity: str = "") -> None:
    output.fields([("code", code.code)])
    account = identity or f"the account of {code.channel}"
    until = formatting.local_time(code.expires_at)
    output.say(
        f"Write it to {account} in a private chat, until {until}: this pairs the {code.role}."
    )


async def _wait_for_person(channel: str) -> None:
    from daybook.features.conversations import people

    output.say("Waiting for the code, while `daybook up` runs; Ctrl-C ends the wait only.")
    with on_interrupt():
        async with asyncio.timeout(people.CODE_LIFETIME.total_seconds()):
            found = await people.list_people(channel)
            while not found:
                await asyncio.sleep(POLL_SECONDS)
                found = await people.list_people(channel)
    output.line(f"Paired {found[0].name} ({found[0].role})", style="green")


def _print_people(listed: list[PairedPerson]) -> None:
    if not listed:
        output.say("No person is paired. Pair a person with `daybook channels pair CHANNEL`.")
        return
    rows = [
        (
            each.id[:8],
            each.name,
            each.channel,
            each.role.value,
            each.paired_by,
            formatting.local_time(each.used_at),
            each.quiet_hours or "-",
        )
        for each in listed
    ]
    head = ("ID", "NAME", "CHANNEL", "ROLE", "PAIRED BY", "LAST USED", "QUIET HOURS")
    output.table(head, rows, whole=("ID",))


@command()
async def people_(
    channel: Annotated[str, Parameter(help="Only of this channel.")] = "", /
) -> Answer:
    """List the people who may talk to accounts.

    Example: daybook channels people
    """
    from daybook.features.conversations import operations

    listed = await operations.list_people(channel)
    yield listed
    _print_people(listed)


@command()
async def quiet_(
    person: Annotated[str, Parameter(help="The person's id, its beginning, or the name.")],
    hours: Annotated[str, Parameter(help="Hours such as 22:00-07:00, or off.")],
    /,
    *,
    timezone: Annotated[
        str, Parameter(help="Time zone of the hours. [default: that of the settings]")
    ] = "",
) -> Answer:
    """Set the hours in which a person's private chat is quiet.

    Messages that Daybook sends by itself wait until the hours end. Answers to what the person wrote
    are sent at once, and so are questions whose deadline is within the hours.

    Example: daybook channels quiet anna 22:00-07:00
    """
    from daybook.features.conversations import operations

    changed = await operations.set_quiet_hours(person, f"{hours} {timezone}".strip())
    yield changed
    if changed.quiet_hours:
        output.line(f"{changed.name} has quiet hours in {changed.channel}: {changed.quiet_hours}")
    else:
        output.line(f"{changed.name} has no quiet hours in {changed.channel}")


@command()
async def unpair_(
    person: Annotated[str, Parameter(help="The person's id, its beginning, or the name.")], /
) -> Answer:
    """End what a person may do in a channel, at once.

    Example: daybook channels unpair 3f2a9c1b
    """
    from daybook.features.conversations import operations

    ended = await operations.unpair(person)
    yield ended
    output.line(f"{ended.name} may no longer talk to {ended.channel}")


@command()
async def heard_(
    channel: Annotated[str, Parameter(help="Only of this channel.")] = "",
    /,
    *,
    limit: Annotated[int, Parameter(help="Number of entries.")] = 20,
) -> Answer:
    """List what people have written and pressed in chats, and what was done about it.

    Example: daybook channels heard telegram
    """
    from daybook.features.conversations import operations

    listed = await operations.heard(channel, limit)
    yield listed
    rows = [
        (
            formatting.local_time(each.received_at),
            each.channel,
            each.person_name,
            each.action or each.state,
            each.run_id[:12] if each.run_id else "-",
        )
        for each in listed
    ]
    if rows:
        output.table(("AT", "CHANNEL", "PERSON", "WHAT", "RUN"), rows, whole=("AT", "RUN"))
    else:
        output.say("Nothing was heard yet.")
