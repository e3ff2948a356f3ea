"""Operations on sessions (conversations): list and show. Works without Prefect."""

from __future__ import annotations

from typing import Any

from daybook.api import views
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import MessageRow
from daybook.runs import sessions
from daybook.runs.sessions import SessionSummary


async def list_sessions(limit: int = 20) -> list[dict[str, Any]]:
    """Return conversations, the most recently used first.

    `{"id", "agent", "job", "messages", "created_at", "last_used_at"}`; `job` is None if several
    jobs share the conversation, and for runs without a job.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        return [_view(each) for each in await sessions.recent(session, limit)]


async def show(ref: str, limit: int = 20) -> dict[str, Any]:
    """Return one conversation with its last ``limit`` messages under `history`, oldest first.

    ``ref`` is its id, a unique id prefix, its key, or the job that it belongs to. A message is
    `{"number", "role", "content", "source", "run_id", "at"}`. Raise `NotFound`, `Ambiguous`.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        listed = await sessions.find(session, ref)
        messages = await sessions.history(session, listed.row.id, limit)
        return _view(listed) | {"history": [_message(each) for each in messages]}


def _view(listed: SessionSummary) -> dict[str, Any]:
    return {
        "id": listed.row.id,
        "agent": listed.row.agent,
        "job": listed.job,
        "messages": listed.messages,
        "created_at": views.utc_text(listed.row.created_at),
        "last_used_at": views.utc_text(listed.row.updated_at),
    }


def _message(row: MessageRow) -> dict[str, Any]:
    return {
        "number": row.number,
        "role": row.role,
        "content": row.content,
        "source": row.source,
        "run_id": row.run_id,
        "at": views.utc_text(row.at),
    }
