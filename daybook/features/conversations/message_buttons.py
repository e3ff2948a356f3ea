"""The buttons of conversations: under an alert, under a job's answer, and under a new job."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession

from daybook import api
from daybook.delivery import outbox
from daybook.delivery.buttons import MessageButton, Press
from daybook.errors import InvalidInput
from daybook.features.conversations import store, words
from daybook.features.conversations.chat_commands import NewJob, due_text
from daybook.features.conversations.store import AGAIN, EVENT
from daybook.ledger.engine import open_ledger
from daybook.ledger.states import TERMINAL
from daybook.ledger.tables import JobRow, OutboxRow, RunRow
from daybook.names import Id

SNOOZE = timedelta(hours=1)
LOG_LINES = 30
MAX_LOG = 3_000
ALERTS = ("failed", "missed", "overdue", "cancelled")
"""Events of a job's messages under which a person can repeat the run."""
_ADDED = "added "
"""Beginning of the action of an update whose job was added."""


async def of(session: AsyncSession, row: OutboxRow) -> list[MessageButton]:
    """Return the buttons of the message ``row``."""
    if row.event == EVENT:
        return await _of_new_job(session, row)
    job = await session.get(JobRow, row.job_id) if row.job_id else None
    run = await session.get(RunRow, row.run_id) if row.run_id else None
    if job is None or run is None or job.archived_at is not None:
        return []
    if row.event == "completed":
        again = partial(_again, row.id)
        return [MessageButton("snooze", "Again in 1 h", again, ("later",), may_lapse=False)]
    if row.event not in ALERTS:
        return []
    found = [MessageButton("log", "Show log", partial(_log, run.id))]
    if run.state in TERMINAL:
        found.insert(0, MessageButton("retry", "Retry", partial(_retry, run.id)))
    if not job.disabled_reason:
        found += [
            MessageButton("snooze", "Snooze 1 h", partial(_snooze, job.id)),
            MessageButton("pause", "Pause", partial(_pause, job.id)),
        ]
    return found


async def _retry(run_id: str, press: Press) -> str:
    run = await api.runs.retry(Id(run_id), request_id=press.id)
    return f"{run.job} runs again."


async def _log(run_id: str, press: Press) -> str:
    lines = deque[str](maxlen=LOG_LINES)
    async for each in api.runs.logs(Id(run_id)):
        lines.append(each.message)
    text = "\n".join(lines)[-MAX_LOG:].replace("```", "'''")
    return f"```\n{text}\n```" if text else "The run has no log."


async def _snooze(job_id: str, press: Press) -> str:
    job = await api.skips.snooze(Id(job_id), f"{int(SNOOZE.total_seconds() // 60)}m")
    return f"{job.name} does not run for an hour."


async def _pause(job_id: str, press: Press) -> str:
    job = await api.jobs.pause(Id(job_id))
    return f"{job.name} is paused. To resume it: /resume {job.name}"


async def _again(row_id: str, press: Press) -> str:
    """Enqueue the message once more, for the same chat, in an hour."""
    async with open_ledger() as ledger, ledger.write() as session:
        row = await session.get(OutboxRow, row_id)
        if row is None:
            raise InvalidInput("message", "was deleted")
        values = row.model_dump(
            include={"event", "run_id", "job_id", "owner", "subject", "body", "address"}
        )
        now = ledger.now()
        again = OutboxRow(
            **values,
            key=f"{AGAIN}{row_id}:{now:%Y%m%d%H}",
            purpose=outbox.MESSAGE,
            queue=outbox.queue_of_channel(press.address, press.chat_id),
            chat_id=press.chat_id,
            next_at=now + SNOOZE,
            created_at=now,
        )
        await outbox.put(session, again)
    return "I send it again in an hour."


# --- a new job


async def _of_new_job(session: AsyncSession, row: OutboxRow) -> list[MessageButton]:
    """Return the button that adds the job which a person has described with `/new`, once."""
    described = await store.answered(session, row)
    if described is None or described.action.startswith(_ADDED):
        return []
    command = words.read_command(store.update_of(described).text.strip())
    if command is None or command[0] != "new":
        return []
    try:
        new = NewJob.of(command[1])
    except InvalidInput:
        return []
    add = partial(_add, new, described.channel, described.id)
    return [MessageButton("add", "Add", add, ("yes", "ok"))]


async def _add(new: NewJob, channel: str, update_id: str, press: Press) -> str:
    job = await new.add(press.address, press.chat_id, store.answer_key(channel, update_id))
    async with open_ledger() as ledger, ledger.write() as session:
        described = await store.get_update(session, channel, update_id)
        if described is not None:
            described.action = f"{_ADDED}{job.name}"
            session.add(described)
    due = f" It is due next at {due_text(job)}." if job.next_due else ""
    return f"Added {job.name}.{due}"
