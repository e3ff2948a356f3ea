"""Operations on sessions (conversations): list and show. They work without Prefect."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel

from daybook.errors import NotFound
from daybook.ledger.engine import open_ledger
from daybook.ledger.views import UtcTime, columns
from daybook.runs import sessions
from daybook.runs.sessions import SessionSummary

MAX_SESSIONS_COMPARED = 1_000
"""Maximum number of sessions whose names are compared with an unknown one."""


class Session(BaseModel, frozen=True):
    """A session with the number of its ``messages``.

    ``job`` is None if several jobs share the session, and for runs without a job.
    """

    id: str
    agent: str
    job: str | None
    messages: int
    created_at: UtcTime
    last_used_at: UtcTime

    @classmethod
    def of(cls, listed: SessionSummary) -> Self:
        return cls(
            **columns(cls, listed.row),
            job=listed.job,
            messages=listed.messages,
            last_used_at=listed.row.updated_at,
        )


class MessageSource(BaseModel, frozen=True):
    """The run that added a message: its kind, channel, session and trigger, and its job.

    ``user`` is the job's user id, or None; ``due`` is the run's due time. A value that an earlier
    version did not store is empty or None.
    """

    kind: str = ""
    channel: str | None = None
    session: str | None = None
    user: str | None = None
    job: str | None = None
    job_id: str | None = None
    due: UtcTime | None = None
    trigger: str = ""


class SessionMessage(BaseModel, frozen=True):
    """A message of a session; ``role`` is `user` or `assistant`."""

    number: int
    role: str
    content: str
    source: MessageSource
    run_id: str
    at: UtcTime


class SessionDetails(Session, frozen=True):
    """A session with its last messages, oldest first."""

    history: list[SessionMessage]


async def list_sessions(limit: int = 20) -> list[Session]:
    """Return up to ``limit`` sessions, the most recently used first."""
    async with open_ledger() as ledger, ledger.read() as session:
        return [Session.of(each) for each in await sessions.recent(session, limit)]


async def show(ref: str, limit: int = 20) -> SessionDetails:
    """Return one session with its last ``limit`` messages.

    ``ref`` is its id, a unique id prefix, its key, or the job that it belongs to. Raise `NotFound`,
    `Ambiguous`.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        try:
            listed = await sessions.find(session, ref)
        except NotFound as error:
            others = await sessions.recent(session, MAX_SESSIONS_COMPARED)
            known = {name for each in others for name in _names(each)}
            raise NotFound(error.noun, ref, str(error), known=known) from None
        messages = await sessions.history(session, listed.row.id, limit)
        history = [SessionMessage(**columns(SessionMessage, each)) for each in messages]
        return SessionDetails(**dict(Session.of(listed)), history=history)


def _names(of: SessionSummary) -> list[str]:
    """Return the names by which `show` finds a session: its id, its key and its job's name."""
    return [of.row.id, of.row.id.removeprefix(f"{of.row.agent}:"), *filter(None, [of.job])]
