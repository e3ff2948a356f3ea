"""Summaries of sessions, which a model gets instead of older messages (decision 0062).

::

    messages    1 … through │ through + 1 …                                    last
    stored      all of them, until retention deletes them
    a model     the summary │ all, up to twice the limit, and always the last `KEPT_MESSAGES`;
    gets                    │ but, with the summary, at most `Compression.most_tokens`

A summary is written after the answer of a run, and includes the previous summary. One transaction
stores the summary. Until then, the next run gets the messages themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import ColumnElement, func, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger.tables import MessageRow, RunRow, SessionRow, SummaryRow
from daybook.policies.compression import (
    CHARACTERS_PER_TOKEN,
    KEPT_MESSAGES,
    Compression,
    estimate_tokens,
    first_within,
)

MAX_UNCOMPRESSED = 2
"""Multiple of the limit that a model gets if a summary is missing, because it failed or is late."""

MAX_PART_CHARACTERS = 20_000 * CHARACTERS_PER_TOKEN
"""Maximum length of the messages in one request, in characters; the rest needs more requests."""

MAX_MESSAGE_CHARACTERS = 20_000
"""Maximum length of one message in a request for a summary, in characters."""

_MAX_MESSAGES = 1_000  # if only tokens are limited


@dataclass(frozen=True)
class CompressedHistory:
    """The last messages of a session, oldest first, and the summary of earlier ones, or None."""

    summary: SummaryRow | None
    messages: tuple[MessageRow, ...]

    def within(self, most_tokens: int) -> CompressedHistory:
        """Return this history, without its oldest messages if it exceeds ``most_tokens``."""
        left = most_tokens - _tokens_of(self.summary)
        sizes = [(each.role == "user", len(each.content)) for each in self.messages]
        return replace(self, messages=self.messages[first_within(sizes, left) :])


@dataclass(frozen=True)
class Part:
    """Messages to summarize, oldest first, and the summary of earlier ones, or None."""

    session_id: str
    summary: SummaryRow | None
    messages: tuple[MessageRow, ...]

    @property
    def through(self) -> int:
        """Return the number of the last message."""
        return self.messages[-1].number


async def latest(
    session: AsyncSession, session_id: str, until: datetime | None = None
) -> SummaryRow | None:
    """Return the newest summary of a session, which includes all others; None if it has none.

    With ``until``, ignore summaries that were stored later.
    """
    newest = (
        select(SummaryRow)
        .where(
            col(SummaryRow.session_id) == session_id,
            true() if until is None else col(SummaryRow.at) <= until,
        )
        .order_by(col(SummaryRow.through).desc())
        .limit(1)
    )
    row: SummaryRow | None = (await session.execute(newest)).scalar_one_or_none()
    return row


async def history(
    session: AsyncSession,
    session_id: str,
    compression: Compression,
    until: datetime | None = None,
    *,
    through: int | None = None,
) -> CompressedHistory:
    """Return the newest summary of a session, and the messages that a model gets with it.

    With ``until``, ignore newer summaries, as in `latest`. ``through`` is the number of the last
    message; None stands for all messages.
    """
    summary = await latest(session, session_id, until)
    newest = (
        select(MessageRow)
        .where(
            *_after(session_id, summary),
            true() if through is None else col(MessageRow.number) <= through,
        )
        .order_by(col(MessageRow.number).desc())
        .limit(MAX_UNCOMPRESSED * (compression.messages or _MAX_MESSAGES))
    )
    messages = list(reversed((await session.execute(newest)).scalars().all()))
    most = Compression(tokens=MAX_UNCOMPRESSED * compression.tokens)
    lengths = [len(each.content) for each in messages]
    first = 0
    while len(messages) - first > KEPT_MESSAGES and most.is_exceeded(lengths[first:]):
        first += 2  # skip a prompt and its answer
    found = CompressedHistory(summary, tuple(messages[first:]))
    return found.within(compression.most_tokens)


async def next_part(
    session: AsyncSession, session_id: str, compression: Compression
) -> Part | None:
    """Return the oldest messages that no summary covers, if all such messages exceed a limit.

    Leave out the last `KEPT_MESSAGES`, or fewer if they take up more than half of the tokens that a
    model gets, so that the next runs need no summary. Return None if there is nothing to summarize.
    """
    summary = await latest(session, session_id)
    sizes = (
        select(MessageRow.number, MessageRow.role, func.length(MessageRow.content))
        .where(*_after(session_id, summary))
        .order_by(col(MessageRow.number))
    )
    rows = (await session.execute(sizes)).tuples().all()
    lengths, left = [length for _, _, length in rows], compression.most_tokens - _tokens_of(summary)
    if not compression.is_exceeded(lengths) and estimate_tokens(lengths) <= left:
        return None
    kept = _first_kept([(role == "user", length) for _, role, length in rows], left)
    through = characters = 0
    for number, role, length in rows[:kept]:
        characters += min(length, MAX_MESSAGE_CHARACTERS)
        if through and characters > MAX_PART_CHARACTERS:
            break
        if role == "assistant":
            through = number
    if not through:
        return None
    messages = (
        select(MessageRow)
        .where(*_after(session_id, summary), col(MessageRow.number) <= through)
        .order_by(col(MessageRow.number))
    )
    return Part(session_id, summary, tuple((await session.execute(messages)).scalars().all()))


def _first_kept(messages: Sequence[tuple[bool, int]], most_tokens: int) -> int:
    """Return the index of the first message that stays in full; see `first_within`."""
    first = first_within(messages, most_tokens // 2)
    if first == len(messages):  # the last answer is long
        first = first_within(messages, most_tokens)
    return max(first, len(messages) - KEPT_MESSAGES)


async def made_after(session: AsyncSession, run: RunRow) -> Sequence[SummaryRow]:
    """Return the summaries that were made after the answer of this run."""
    query = select(SummaryRow).where(
        col(SummaryRow.session_id) == run.session_id, col(SummaryRow.run_id) == run.id
    )
    return (await session.execute(query.order_by(col(SummaryRow.through)))).scalars().all()


async def store(session: AsyncSession, part: Part, row: SummaryRow) -> bool:
    """Store ``row``, the summary of ``part``, once; return whether it was stored.

    Return False, and store nothing, if another process was faster or the session was deleted.
    """
    newest = await latest(session, part.session_id)
    is_outdated = newest is not None and (
        part.summary is None or newest.through != part.summary.through
    )
    if is_outdated or await session.get(SessionRow, part.session_id) is None:
        return False
    session.add(row)
    return True


def _tokens_of(summary: SummaryRow | None) -> int:
    return estimate_tokens([len(summary.content)]) if summary is not None else 0


def _after(session_id: str, summary: SummaryRow | None) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for the messages of a session that ``summary`` does not cover."""
    of_session = col(MessageRow.session_id) == session_id
    return (of_session, col(MessageRow.number) > (summary.through if summary else 0))
