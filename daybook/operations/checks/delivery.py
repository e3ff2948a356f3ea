"""Checks of the delivery: outbox, channels that jobs name, destinations and their secrets."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from daybook import settings
from daybook.api import views
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput
from daybook.home import current_home
from daybook.ledger.engine import open_ledger
from daybook.operations import outbox_status
from daybook.operations.checks import Problem
from daybook.operations.checks import ledger as book

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

MAX_LISTED = 5


async def outbox() -> list[Problem]:
    """Check that pending messages are sent, no destination is paused, and no alert is unread."""
    if not await book.stored_jobs():
        return []
    async with open_ledger() as ledger:
        state = await outbox_status.read_status(ledger)
    problems = []
    if unsent := state.unsent_problem():
        problems.append(Problem(unsent, "daybook keeper, or daybook up"))
    retry = "see that it answers; daybook callbacks retry ID tries one at once"
    problems += [Problem(each, retry) for each in state.paused_destinations()]
    if alerts := state.unread_alerts():
        problems.append(Problem(alerts, "daybook inbox, and daybook inbox --read", harmless=True))
    if failed := state.health["failed"]:
        message = f"{failed:,} callbacks or messages failed for good"
        fix = "daybook callbacks list --status failed; daybook callbacks retry --failed"
        problems.append(Problem(message, fix, harmless=True))
    return problems


async def channels(client: PrefectClient) -> list[Problem]:
    """Check that the channels of jobs and the operator's alert channel can be sent to."""
    from daybook.delivery import channels

    users_of: dict[tuple[str, str, str], list[str]] = {}
    for each in await book.stored_jobs():
        notify = each.job.notify
        if notify.channel:
            key = (notify.channel, notify.chat_id, each.row.owner)
            users_of.setdefault(key, []).append(each.row.name)
    problems = []
    for (name, chat_id, owner), jobs in users_of.items():
        try:
            await channels.check(client, name, chat_id, owner=owner)
        except InvalidInput as error:
            edit = f"daybook edit {shlex.quote(jobs[0])} --channel <name>"
            message = f"{_join(jobs)} cannot tell the channel {name}: {error}"
            problems.append(Problem(message, f"daybook channels list; {edit}"))
    try:
        await channels.check(client, settings.load().alert_channel, "")
    except InvalidInput as error:
        message = f"alerts do not reach the operator: {error}"
        problems.append(Problem(message, "export DAYBOOK_ALERT_CHANNEL=inbox"))
    return problems


async def destinations(client: PrefectClient) -> list[Problem]:
    """Check that callbacks can be signed; signing by the home's secret is reported as harmless."""
    from daybook.delivery import destinations, home_secret

    known = await destinations.load_index(client)
    problems = []
    for item in await destinations.list_destinations(client, SYSTEM_CLOCK.now()):
        if item["problem"]:
            text = f"the destination {item['name']}: {item['problem']}"
            edit = f"daybook callbacks destinations add {item['url']} --name {item['name']}"
            problems.append(Problem(text, f"{edit} --replace"))
    unsigned: list[str] = []
    for each in await book.stored_jobs():
        for url in views.callback_urls(each.job.notify):
            try:
                if known.find(url) is None and each.row.name not in unsigned:
                    unsigned.append(each.row.name)
            except InvalidInput:
                pass  # its destination is reported above
    if not unsigned:
        return problems
    file = current_home().webhook_secret
    if file.exists():  # a check does not create it
        try:
            home_secret.default_secret(current_home(), SYSTEM_CLOCK.now())
        except (InvalidInput, OSError) as error:
            problems.append(Problem(str(error), f"mv {shlex.quote(str(file))} {file}.broken"))
    text = (
        f"signed by the home's secret, as their addresses have none: callbacks of {_join(unsigned)}"
    )
    return [*problems, Problem(text, "daybook callbacks destinations add <url>", harmless=True)]


def _join(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
