"""The message that a change waits for a person, and the size of a change in words."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.delivery import outbox, pending
from daybook.features.repositories.tables import ChangeRow
from daybook.ledger.tables import JobRow
from daybook.redaction import redact_tokens
from daybook.short_text import one_line

EVENT = "change"
MAX_SUBJECT_CHARACTERS = 200


def _key(run_id: str) -> str:
    return f"change:{run_id}"


async def withdraw(session: AsyncSession, run_id: str, now: datetime) -> None:
    """Withdraw the message about a change that waits no longer, unless it was sent."""
    await pending.withdraw(session, _key(run_id), now)


async def enqueue(session: AsyncSession, row: ChangeRow, now: datetime) -> None:
    """Queue the message for the operator's channel, unless it was queued before."""
    job = await session.get(JobRow, row.job_id) if row.job_id else None
    name = job.name if job else "A direct call"
    ref = row.run_id[:12]
    size = size_in_words(row.changed_files, row.insertions, row.deletions)
    lines = [
        f"{name} has changed {row.repo}: {size}.",
        *([f"It has not landed on {row.onto}: {row.problem}"] if row.problem else []),
        f"To read it: daybook review {ref}",
        f"To land it: daybook land {ref}",
        f"To discard it: daybook discard {ref} --note WHY",
    ]
    await outbox.enqueue_message(
        session,
        key=_key(row.run_id),
        purpose=outbox.ALERT,
        event=EVENT,
        channel=outbox.operator_channel(),
        subject=one_line(f"{name}: review a change", MAX_SUBJECT_CHARACTERS),
        body=redact_tokens("\n".join(lines)),
        run_id=row.run_id,
        job_id=row.job_id,
        now=now,
    )


def size_in_words(files: int, insertions: int, deletions: int) -> str:
    """Return the size of a change, such as `3 files changed (+10 −2)`."""
    return f"{files:,} file{'s' * (files != 1)} changed (+{insertions:,} −{deletions:,})"
