"""Signed links: anyone who knows the link of a question can answer this question, once.

::

    question ──► sent to a channel ──► <public URL>/decide/<token>      never stored
                                         │ GET, HEAD: the question; decides nothing
                                         │ POST with the page's CSRF token, same origin
                                         ▼
                                       `claims.decide_approval`: the first decision counts

The token contains the run, the number of the approval and its deadline, and their signature by a
key of this home. So it is valid for this approval only, until its deadline, and as long as the file
`browser-key` exists. The approval's own row makes it valid once. Messages to built-in channels have
no such link, because the pages, a file or a log would show it.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from daybook import home as homes
from daybook.delivery import outbox
from daybook.errors import InvalidInput
from daybook.features.approvals import settings
from daybook.features.approvals.settings import ApprovalLinks
from daybook.ledger.tables import ApprovalRow, OutboxRow
from daybook.runs.approvals import EVENT

PATH = "/decide/"
"""Equal to `daybook.web.login.SIGNED_PATH`, which a process that sends messages does not import."""

MAX_TOKEN_LENGTH = 200
_SIGNATURE_LENGTH = 32
"""Number of hexadecimal digits of the signature; four bits each."""


@dataclass(frozen=True)
class SignedQuestion:
    """The content of a token: one approval of a run, and its deadline in seconds of the epoch."""

    run_id: str
    number: int
    deadline: int


async def lines(session: AsyncSession, row: OutboxRow, url: str) -> list[str]:
    """Return the lines with the link by which a person answers the question ``row``; [] if none."""
    if row.event != EVENT or not row.run_id or outbox.is_builtin_queue(row.queue):
        return []
    if settings.load().approval_links is not ApprovalLinks.SIGNED:
        return []
    number = int(row.key.rpartition(":")[2])
    asked = await session.get(ApprovalRow, (row.run_id, number))
    if asked is None:
        return []
    link = f"{url}{PATH}{token(row.run_id, number, asked.deadline)}"
    return [f"To decide without a login (anyone with this link can, once): {link}"]


def token(run_id: str, number: int, deadline: datetime) -> str:
    """Return the token of one approval: its run, number and deadline, and their signature."""
    content = f"{run_id}.{number}.{int(deadline.timestamp())}"
    return f"{content}.{_signature(content)}"


def read(given: str) -> SignedQuestion:
    """Return the content of a token. Raise `InvalidInput` if this home has not signed it."""
    content, _, signature = given.rpartition(".")
    is_signed = len(given) <= MAX_TOKEN_LENGTH and hmac.compare_digest(
        signature.encode(), _signature(content).encode()
    )
    if not is_signed:
        raise InvalidInput("link", "this Daybook has not made it", "open it as the message has it")
    run_id, number, deadline = content.split(".")
    return SignedQuestion(run_id, int(number), int(deadline))


def _signature(content: str) -> str:
    key = f"link of an approval\n{homes.current_home().browser_key()}"
    made = hmac.new(key.encode(), content.encode(errors="replace"), hashlib.sha256)
    return made.hexdigest()[:_SIGNATURE_LENGTH]
