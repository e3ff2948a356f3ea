"""Preview of a run, without executing it, for `daybook run --dry-run`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from daybook import settings
from daybook.api import authorization
from daybook.delivery.views import recipients
from daybook.execution import conversation
from daybook.instants import UtcTime
from daybook.jobs.actions import Action, AgentPrompt
from daybook.ledger.engine import open_ledger
from daybook.runs import decision, rows, sessions, summaries
from daybook.runs.summaries import CompressedHistory


class Preview(BaseModel, frozen=True):
    """Description of a run that would start now.

    ``does`` is the job's action, with the variables of a prompt filled in. ``history`` is the
    number of the session's messages that are sent with the prompt. If the action has no prompt,
    ``history`` is 0 and ``session_id`` is None. ``to`` lists the places where the answer is stored,
    and ``recipients`` maps each event to its recipients. ``cost_usd`` is None, because this version
    does not estimate the cost.
    """

    job: str
    kind: str
    dry_run: Literal[True] = True
    due: UtcTime
    does: Action
    session_id: str | None
    history: int
    to: list[str]
    recipients: dict[str, list[str]]
    cost_usd: None = None


async def of_job(ref: str) -> Preview:
    """Return the preview of a run of the job that would start now.

    Write nothing, and ask no agent. Works without Prefect. Raise `NotFound`, `Ambiguous`.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        stored, now = await authorization.find_job(session, ref), ledger.now()
        row = rows.of_job(stored, "", "manual", now, now)
        row.session_id = sessions.session_id_of(
            row.parameters, job_id=stored.id, run_id=row.id, stored=stored
        )
        grant = await decision.build_grant(session, row, stored, now)
        limits, given = stored.job.policy.compression, CompressedHistory(None, grant.history)
        if limits:
            given = await summaries.history(session, grant.session_id, limits)
        messages = len(given.within(limits.most_tokens).messages)
    action, session_id, history = stored.job.action, None, 0
    if isinstance(action, AgentPrompt):
        action = action.model_copy(update={"prompt": conversation.filled_prompt(grant)})
        session_id, history = grant.session_id, messages
    return Preview(
        job=stored.row.name,
        kind=stored.row.kind,
        due=now,
        does=action,
        session_id=session_id,
        history=history,
        to=["ledger", "prefect"],
        recipients=recipients(stored.job.notify, settings.load().alert_channel),
    )
