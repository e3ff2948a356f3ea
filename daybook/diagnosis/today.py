"""`daybook today`: the runs of the last day, problems for a person, and the next due times."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from pydantic import BaseModel

from daybook.api import inbox
from daybook.delivery.views import InboxMessage
from daybook.diagnosis import status
from daybook.diagnosis.status import DueJob
from daybook.finding import Finding
from daybook.instants import UtcTime
from daybook.ledger.engine import open_ledger
from daybook.ledger.views import Spending
from daybook.runs import history

PERIOD = timedelta(days=1)
MAX_MESSAGES = 5


class Today(BaseModel, frozen=True):
    """The runs that ended since ``since``, and the present problems, messages and due times.

    ``ended`` counts the due times and requests by outcome. ``problems`` are the problems in the
    report of `daybook status`, each with its fix. ``unread`` has up to `MAX_MESSAGES` of the
    ``unread_count`` unread inbox messages, newest first. ``spent`` is the models' usage of the
    ended runs.
    """

    since: UtcTime
    ended: dict[str, int]
    problems: list[Finding]
    unread_count: int
    unread: list[InboxMessage]
    due_soon: list[DueJob]
    spent: Spending


async def today() -> Today:
    """Return the runs of the last 24 hours, and the present state. Raise `LedgerUnreachable`."""
    report = await status.status()
    async with open_ledger() as ledger, ledger.read() as session:
        since = ledger.now() - PERIOD
        runs = await history.ended_runs(session, since)
    ended = Counter[str]()
    for outcome, count, _ in runs:
        ended[outcome] += count
    return Today(
        since=since,
        ended=dict(ended.most_common()),
        problems=report.problems,
        unread_count=report.outbox.unread,
        unread=await inbox.list_messages(limit=MAX_MESSAGES),
        due_soon=report.due_soon,
        spent=Spending.of(usage for _, _, usage in runs),
    )
