"""What a run of a job would do, without doing it: `run --dry-run` (requirement 61)."""

from __future__ import annotations

from typing import Any

from daybook import settings
from daybook.api import authorization, views
from daybook.execution import conversation
from daybook.ledger.engine import open_ledger
from daybook.runs import decision, rows, sessions
from daybook.runs.claim_requests import Offer


async def of_job(ref: str) -> dict[str, Any]:
    """`{"job", "kind", "dry_run", "due", "does", "session_id", "history", "to", "told",
    "cost_usd"}`.

    `does` are the fields of its action, the prompt with its variables filled in; `history` is how
    many messages of the session go with it; `to` is where the answer goes, `told` who is told
    of which event. `cost_usd` is None: this version does not estimate it. Nothing is written, and
    no agent is asked. Needs no Prefect.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        stored, now = await authorization.job(session, ref), ledger.now()
        parameters = stored.job.parameters()
        offer = Offer("", stored.row.kind, "manual", now, "", parameters, stored.id)
        row = rows.new(offer, "", "manual", stored, now)
        row.session_id = sessions.id_of(parameters, job_id=stored.id, run_id=row.id, stored=stored)
        granted = await decision.grant_of(session, row, stored)
    does = stored.job.action.model_dump(mode="json")
    talks = "prompt" in does
    if talks:
        does["prompt"] = conversation.turn(granted).prompt
    return {
        "job": stored.row.name,
        "kind": stored.row.kind,
        "dry_run": True,
        "due": views.utc(now),
        "does": does,
        "session_id": granted.session_id if talks else None,
        "history": len(granted.history) if talks else 0,
        "to": ["ledger", "prefect"],
        "told": views.told(stored.job.notify, settings.load().alert_channel),
        "cost_usd": None,
    }
