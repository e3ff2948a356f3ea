"""Claim requests as the flows make them."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from daybook.jobs.store import StoredJob
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests
from daybook.runs.claim_requests import ClaimRequest


def of_job(stored: StoredJob, due: datetime) -> ClaimRequest:
    """Return the claim request of a due time, as for a run that Prefect's scheduler created."""
    return ClaimRequest(
        occurrence=claim_requests.due_key(stored.id, due),
        kind="agent-prompt",
        trigger="schedule",
        due=due,
        holder="here:1",
        parameters=stored.job.parameters(),
        job_id=stored.id,
        flow_run_id=f"{stored.row.name} {due:%d %H:%M:%S}",
    )


def of_row(row: RunRow) -> ClaimRequest:
    """Return the claim request of a requested run."""
    return ClaimRequest(
        occurrence=row.occurrence,
        kind=row.kind,
        trigger=row.trigger,
        due=row.due,
        holder="here:1",
        parameters=row.parameters,
        job_id=row.job_id,
        flow_run_id=row.flow_run_id or str(uuid4()),
    )
