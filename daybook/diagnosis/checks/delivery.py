"""Checks of delivery: the outbox, the channels that jobs name, destinations and their secrets."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from daybook import settings
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.channels import check as check_channel
from daybook.delivery.outbox import BUILTIN_CHANNELS
from daybook.diagnosis import outbox_status
from daybook.diagnosis.checks import ledger as ledger_checks
from daybook.errors import InvalidInput
from daybook.finding import Finding, problem, warning
from daybook.home import current_home
from daybook.ledger.engine import open_ledger
from daybook.ledger.references import command_word
from daybook.ledger.tables import JobRow
from daybook.short_text import first_names

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient


async def outbox() -> list[Finding]:
    """Check for unsent and failed messages, paused destinations, and unread alerts."""
    jobs = await ledger_checks.stored_jobs()
    if not jobs:
        return []
    async with open_ledger() as ledger:
        state = await outbox_status.read_status(ledger)
    return state.findings({each.row.name for each in jobs if each.row.consecutive_failures})


async def channels(client: PrefectClient) -> list[Finding]:
    """Check that messages can be sent to the channels of jobs and to the alert channel."""
    users_of: dict[tuple[str, str, str], list[JobRow]] = {}
    for each in await ledger_checks.stored_jobs():
        notify = each.job.notify
        if notify.channel:
            key = (notify.channel, notify.chat_id, each.row.owner)
            users_of.setdefault(key, []).append(each.row)
    problems = []
    for (name, chat_id, owner), jobs in users_of.items():
        try:
            await check_channel(client, name, chat_id, owner=owner)
        except InvalidInput as error:
            edit = f"daybook edit {command_word(jobs[0])} --channel <name>"
            names = first_names([each.name for each in jobs])
            message = f"{names} cannot send to the channel {name}: {error}"
            problems.append(problem("channels", message, f"daybook channels list; {edit}"))
    try:
        await check_channel(client, settings.load().alert_channel, "")
    except InvalidInput as error:
        message = f"alerts cannot reach the operator: {error}"
        problems.append(problem("channels", message, "export DAYBOOK_ALERT_CHANNEL=inbox"))
    return problems


async def message_links() -> list[Finding]:
    """Warn if messages to people have no link to their run, because there is no public URL."""
    configured = settings.load()
    used = {configured.alert_channel}
    used |= {each.job.notify.channel for each in await ledger_checks.stored_jobs()}
    if configured.public_url or not used - {"", *BUILTIN_CHANNELS}:
        return []
    text = "messages have no link to their run, because DAYBOOK_PUBLIC_URL is not set"
    return [
        warning(
            "message links", text, "export DAYBOOK_PUBLIC_URL=https://…, see docs/guides/phone.md"
        )
    ]


async def destinations(client: PrefectClient) -> list[Finding]:
    """Check that destinations are valid, and that callbacks can be signed.

    For callbacks that are signed with the home's secret, only warn.
    """
    from daybook.delivery import destinations, home_secret

    known = await destinations.load_index(client)
    problems = []
    for item in await destinations.list_destinations(client, SYSTEM_CLOCK.now()):
        if item.problem:
            text = f"the destination {item.name}: {item.problem}"
            given = f"{shlex.quote(str(item.url))} --name {item.name} --replace"
            edit = f"daybook callbacks destinations add {given}"
            problems.append(problem("destinations", text, edit))
    unsigned: list[str] = []
    for each in await ledger_checks.stored_jobs():
        for url in filter(None, each.job.notify.callbacks.values()):
            try:
                if known.find(url) is None and each.row.name not in unsigned:
                    unsigned.append(each.row.name)
            except InvalidInput:
                pass  # the problem of its destination is reported above
    if not unsigned:
        return problems
    file = current_home().webhook_secret
    if file.exists():  # a check must not create the file
        try:
            home_secret.default_secret(current_home(), SYSTEM_CLOCK.now())
        except (InvalidInput, OSError) as error:
            fix = f"mv {shlex.quote(str(file))} {shlex.quote(f'{file}.broken')}"
            problems.append(problem("destinations", str(error), fix))
    text = (
        f"callbacks of {first_names(unsigned)} are signed with the home's secret, because their "
        "addresses have no secret of their own"
    )
    return [*problems, warning("destinations", text, "daybook callbacks destinations add <url>")]
