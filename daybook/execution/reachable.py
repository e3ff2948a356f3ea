"""Guard of a run's outgoing addresses."""

from __future__ import annotations

from daybook.http.guard import Guard, Rule
from daybook.jobs import limits, provenance
from daybook.runs.claim_requests import Granted


def guard_of(granted: Granted, parts: tuple[str, ...] = provenance.ACTION_PARTS) -> Guard:
    """Return the guard for an address of the run.

    Its rule is the stricter one of the job's owner and of the last writer of these ``parts``, with
    the owner's hosts. A direct call has the operator's.
    """
    if granted.job is None:
        return Guard.here(Rule.OPERATOR)
    row = granted.job.row
    writer = provenance.author_of(granted.job.revision.written_by, row.created_by, parts)
    return Guard.here(Rule.of(row.owner, writer), limits.load_limits(row.owner))
