"""Hints about a job without a recipient of its answers, or with an agent that has no tools.

Works without Prefect: the agents' settings are those of their copies in the ledger.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from daybook import home
from daybook.agents import kinds
from daybook.errors import CopyDamaged, LedgerKeyMissing
from daybook.jobs import store
from daybook.jobs.actions import Action
from daybook.jobs.notify import Notify
from daybook.jobs.store import StoredJob
from daybook.json_text import JsonObject
from daybook.ledger.engine import reading
from daybook.ledger.references import command_word
from daybook.resources import copies

UNREAD = "its answers are not sent anywhere; to get them: daybook edit {} --channel inbox"
OFFLINE = (
    "the agent {0} is offline: it only repeats the prompt; for a model, write: "
    "daybook agents add {0} --replace --model PROVIDER:MODEL --key-env VARIABLE"
)
NO_TOOLS = (
    "the agent {0} has no tools: it knows only the prompt; to give it tools, write: "
    "daybook agents edit {0} --tool NAME"
)


async def of_job(job_id: str | None) -> list[str]:
    """Return the hints about a stored job; none for an unknown or removed job."""
    async with reading() as session:
        stored = await store.get(session, job_id) if job_id else None
        if stored is None or stored.row.archived_at is not None:
            return []
        return await of_stored(session, stored)


async def of_stored(
    session: AsyncSession, stored: StoredJob, *, action: bool = True, notify: bool = True
) -> list[str]:
    """Return the hints about a job: about its agent (``action``), and its answers (``notify``)."""
    job = stored.job
    if not job.action.agents():
        return []
    hints = await _about_agent(session, job.action) if action else []
    if notify and not _is_decided(job.notify):
        hints.append(UNREAD.format(command_word(stored.row)))
    return hints


def _is_decided(notify: Notify) -> bool:
    """Return whether the answers have a recipient, or the user has chosen none."""
    is_unwanted = notify.silent or "completed" not in notify.events
    return bool(notify.channel or notify.on_complete or is_unwanted)


async def _about_agent(session: AsyncSession, action: Action) -> list[str]:
    """Return a hint if the agent that the action asks first has no tools.

    An agent without a copy that this home can read gets no hint.
    """
    prefix, _, name = action.agents()[0][1].rpartition("/")
    found = {
        slug: data
        for slug in kinds.KINDS
        if prefix in ("", slug) and (data := await _settings(session, slug, name)) is not None
    }
    if kinds.OFFLINE.slug in found:
        return [OFFLINE.format(name)]
    if (model := found.get(kinds.MODEL.slug)) is not None and not model.get("tools"):
        return [NO_TOOLS.format(name)]
    return []


async def _settings(session: AsyncSession, slug: str, name: str) -> JsonObject | None:
    row = await copies.get(session, (slug, name))
    try:
        key = await copies.key(session, home.current_home()) if row is not None else None
        return None if row is None or key is None else copies.decrypt(row, key)
    except (LedgerKeyMissing, CopyDamaged, OSError):
        return None
