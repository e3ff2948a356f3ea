"""The tool `notify.send`, which queues a message in the outbox.

The message goes the way of the answer: to the channel and chat of the job, within the owner's
limits, which the sender checks, and not while the job is silent. It counts for the run's delivery
status. Its key is that of the call, so an attempt that repeats the call queues no second message.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.agents.base import Tool
from daybook.delivery import outbox
from daybook.delivery.messages import MAX_MESSAGE_LENGTH, MAX_SUBJECT_LENGTH
from daybook.errors import InvalidInput
from daybook.execution import tool_arguments
from daybook.execution.builtin_tools import ToolContext, call_key
from daybook.jobs import store
from daybook.json_text import JsonObject
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import OutboxRow
from daybook.redaction import redact_tokens
from daybook.runs import rows
from daybook.short_text import one_line

MAX_MESSAGES = 5
"""Number of messages that a run may send."""

EVENT = "message"

_SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "The message, in Markdown."},
        "subject": {"type": "string", "description": "What it is about, on one line."},
    },
    "required": ["text"],
    "additionalProperties": False,
}

_SILENT = "The message was not sent: a person has silenced this job for now."


async def notify_tools(context: ToolContext) -> Sequence[Tool]:
    """Return the tool. Its calls raise `InvalidInput` if the run's job has no channel."""
    granted = context.granted

    async def send(arguments: JsonObject) -> str:
        if not outbox.notify_of(granted.parameters, granted.job).channel:
            hint = "set one with `daybook edit JOB --channel inbox`, or another channel"
            raise InvalidInput("channel", "the job has none for its messages", hint)
        text = tool_arguments.text(arguments, "text")
        subject = tool_arguments.text(arguments, "subject", default="")
        if not text.strip():
            raise InvalidInput("text", "is blank", "write the message")
        if len(text) > MAX_MESSAGE_LENGTH:
            hint = f"use at most {MAX_MESSAGE_LENGTH:,}"
            raise InvalidInput("text", f"has {len(text):,} characters", hint)
        key = f"notify:{granted.run_id}:{call_key()}"

        async def queue(session: AsyncSession, ledger: Ledger) -> str:
            run = await rows.get(session, granted.run_id)
            stored = await store.get_readable(session, run.job_id)
            notify = outbox.notify_of(run.parameters, stored)
            sent = await _keys(session, run.id) | {key}
            if len(sent) > MAX_MESSAGES:
                problem = f"this run has sent {MAX_MESSAGES} messages, which is the limit"
                raise InvalidInput("text", problem, "put the rest into your answer")
            if notify.silent or not notify.channel:
                return _SILENT
            name = stored.row.name if stored else run.kind
            about = f"{name}: {subject[:MAX_SUBJECT_LENGTH]}" if subject.strip() else name
            await outbox.enqueue_message(
                session,
                key=key,
                purpose=outbox.MESSAGE,
                event=EVENT,
                channel=notify.channel,
                chat_id=notify.chat_id,
                subject=redact_tokens(one_line(about, MAX_SUBJECT_LENGTH)),
                body=redact_tokens(text.strip()),
                run_id=run.id,
                job_id=run.job_id,
                now=ledger.now(),
            )
            left = MAX_MESSAGES - len(sent)
            return f"The message will be sent. You can send {left} more in this run."

        return await context.write(queue)

    return (
        Tool(
            "send",
            "Send a short message to the person now, before your answer, at most "
            f"{MAX_MESSAGES} in a run. Your answer is sent too: do not repeat it here.",
            _SCHEMA,
            send,
            idempotent=True,
            open_world=True,
        ),
    )


async def _keys(session: AsyncSession, run_id: str) -> set[str]:
    """Return the keys of the messages that the run has sent."""
    sent = select(OutboxRow.key).where(
        col(OutboxRow.run_id) == run_id, col(OutboxRow.event) == EVENT
    )
    return set((await session.execute(sent)).scalars())
