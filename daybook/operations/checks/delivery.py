"""What is to be told: the outbox, the channels that jobs name, who signs their callbacks."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from daybook import settings
from daybook.api import views
from daybook.clock import SYSTEM
from daybook.errors import InvalidInput
from daybook.home import here
from daybook.ledger.engine import open_ledger
from daybook.operations import outbox_status
from daybook.operations.checks import ledger as book
from daybook.operations.checks.problem import Problem

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

SHOWN = 5


async def outbox() -> list[Problem]:
    """What is pending is sent, every destination takes it, and no alert is unread."""
    if not await book.stored():
        return []
    async with open_ledger() as ledger:
        found = await outbox_status.look(ledger)
    problems = []
    if waits := found.nobody_sends():
        problems.append(Problem(waits, "daybook keeper, or daybook up"))
    retry = "see that it answers; daybook callbacks retry ID tries one at once"
    problems += [Problem(each, retry) for each in found.away()]
    if alerts := found.unread():
        problems.append(Problem(alerts, "daybook inbox, and daybook inbox --read", harmless=True))
    if failed := found.health["failed"]:
        what = f"{failed:,} callbacks or messages failed for good"
        mend = "daybook callbacks list --status failed; daybook callbacks retry --failed"
        problems.append(Problem(what, mend, harmless=True))
    return problems


async def channels(client: PrefectClient) -> list[Problem]:
    """Every channel that a job names can be sent to, and so can the operator's."""
    from daybook.delivery import channels

    users: dict[tuple[str, str, str], list[str]] = {}
    for each in await book.stored():
        notify = each.job.notify
        if notify.channel:
            key = (notify.channel, notify.chat_id, each.row.owner)
            users.setdefault(key, []).append(each.row.name)
    found = []
    for (name, chat_id, owner), jobs in users.items():
        try:
            await channels.check(client, name, chat_id, owner=owner)
        except InvalidInput as error:
            edit = f"daybook edit {shlex.quote(jobs[0])} --channel <name>"
            what = f"{_some(jobs)} cannot tell the channel {name}: {error}"
            found.append(Problem(what, f"daybook channels list; {edit}"))
    try:
        await channels.check(client, settings.load().alert_channel, "")
    except InvalidInput as error:
        what = f"alerts do not reach the operator: {error}"
        found.append(Problem(what, "export DAYBOOK_ALERT_CHANNEL=inbox"))
    return found


async def destinations(client: PrefectClient) -> list[Problem]:
    """Every callback can be signed; that some are signed by the home's secret is worth knowing."""
    from daybook.delivery import destinations, home_secret

    known = await destinations.known(client)
    found = []
    for kept in await destinations.every(client, SYSTEM.now()):
        if kept["problem"]:
            what = f"the destination {kept['name']}: {kept['problem']}"
            edit = f"daybook callbacks destinations add {kept['url']} --name {kept['name']}"
            found.append(Problem(what, f"{edit} --replace"))
    unsigned: list[str] = []
    for each in await book.stored():
        for url in views.callbacks(each.job.notify):
            try:
                if known.of(url) is None and each.row.name not in unsigned:
                    unsigned.append(each.row.name)
            except InvalidInput:
                pass  # its destination was told of
    if not unsigned:
        return found
    file = here().webhook_secret
    if file.exists():  # it is not made by looking
        try:
            home_secret.default_secret(here(), SYSTEM.now())
        except (InvalidInput, OSError) as error:
            found.append(Problem(str(error), f"mv {shlex.quote(str(file))} {file}.broken"))
    what = (
        f"signed by the home's secret, as their addresses have none: callbacks of {_some(unsigned)}"
    )
    return [*found, Problem(what, "daybook callbacks destinations add <url>", harmless=True)]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
