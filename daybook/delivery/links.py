"""Links at the end of a message: to its page, and those of features. Without a public URL, none.

A message gets its links when it is sent, so the ledger and the pages contain no link of a feature
by which a person can do something, such as decide.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from daybook import settings
from daybook.errors import InvalidInput
from daybook.feature import loaded
from daybook.ledger.tables import OutboxRow


def public_url() -> str:
    """Return the public URL; "" if there is none, or if a setting is invalid."""
    try:
        return settings.load().public_url
    except InvalidInput:  # the message is more important than its links
        return ""


def page_of(row: OutboxRow) -> str:
    """Return the address of the page of the message's run or job, or of the inbox; "" if none."""
    url = public_url()
    if not url:
        return ""
    if row.run_id:
        return f"{url}/runs/{row.run_id}"
    return f"{url}/jobs/{row.job_id}" if row.job_id else f"{url}/inbox"


async def read(session: AsyncSession, row: OutboxRow) -> list[str]:
    """Return the lines that features add to the message ``row``; none without a public URL."""
    url = public_url()
    if not url:
        return []
    return [line for find in loaded("message_links") for line in await find(session, row, url)]
