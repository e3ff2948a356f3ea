"""Preview of a run without executing it: `run --dry-run`."""

from __future__ import annotations

from typing import Any

from daybook import settings
from daybook.api import authorization, views
from daybook.execution import conversation
from daybook.ledger.engine import open_ledger
from daybook.runs import decision, rows, sessions


async def of_job(ref: str) -> dict[str, Any]:
    """Return what a run of the job would do now.

    `{"job", "kind", "dry_run", "due", "does", "session_id", "history", "to", "recipients",
    "cost_usd"}`: `does` are the fields of its action, the prompt with its variables filled in;
    `history` is the number of messages of the session that are sent along; `to` is the channel of
    the answer; `recipients` maps each event to its recipients; `cost_usd` is None, because this
    version does not estimate it. Nothing is written, and no agent is asked. Works without Prefect.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        stored, now = await authorization.find_job(session, ref), ledger.now()
        row = rows.of_job(stored, "", "manual", now, now)
        row.session_id = sessions.session_id_of(
            row.parameters, job_id=stored.id, run_id=row.id, stored=stored
        )
        grant = await decision.build_grant(session, row, stored)
    action = stored.job.action.model_dump(mode="json")
    has_prompt = "prompt" in action
    if has_prompt:
        action["prompt"] = conversation.turn(grant).prompt
    return {
        "job": stored.row.name,
        "kind": stored.row.kind,
        "dry_run": True,
        "due": views.utc_text(now),
        "does": action,
        "session_id": grant.session_id if has_prompt else None,
        "history": len(grant.history) if has_prompt else 0,
        "to": ["ledger", "prefect"],
        "recipients": views.recipients(stored.job.notify, settings.load().alert_channel),
        "cost_usd": None,
    }
