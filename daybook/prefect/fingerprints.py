"""What was seen at the last look, so that the next one passes over it. In memory only."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from daybook.jobs.store import StoredJob
from daybook.prefect.deployments import Listed, Listing
from daybook.prefect.links import Version

AGAIN = 300.0
"""Seconds until a job that Prefect did not take is offered once more as it is."""


class _Both(NamedTuple):
    mark: bytes | None
    updated_at: datetime


@dataclass
class Seen:
    """Both sides of the jobs that were in agreement, and what was refused.

    ``refused`` are the deployments that cannot be jobs, by their ids: the mark, and until which
    monotonic time they are not asked again as they are.
    """

    refused: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    _agreed: dict[str, _Both] = field(default_factory=dict)
    _failed: dict[str, tuple[_Both, float, bool]] = field(default_factory=dict)

    def knows(self, job: Version, listed: Listing) -> bool:
        """Whether both sides are as they were when they agreed."""
        there = listed.found.get(job.deployment_id or "")
        if there is None and (job.deployment_id or listed.has_name(job.slug)):
            return False
        now_so = _Both(there.mark if there else None, job.updated_at)
        return not job.pending and self._agreed.get(job.id) == now_so

    def has(self, job_id: str) -> bool:
        """Whether the job was seen in agreement before."""
        return job_id in self._agreed

    def agreed(self, stored: StoredJob, there: Listed | None) -> None:
        """Both sides are in agreement: ``there`` is its deployment, None by agreement."""
        self._agreed[stored.id] = _Both(there.mark if there else None, stored.row.updated_at)
        self._failed.pop(stored.id, None)

    def failed(self, stored: StoredJob, there: Listed | None, *, observed: bool) -> None:
        """Prefect did not take the job, or it cannot be compared; what was edited there until then
        is in the ledger where it is ``observed``.
        """
        both = _Both(there.mark if there else None, stored.row.updated_at)
        self._failed[stored.id] = both, time.monotonic() + AGAIN, observed

    def is_hopeless(self, stored: StoredJob, there: Listed | None) -> bool:
        """Whether just this failed a while ago."""
        both, until, _ = self._failed.get(stored.id, (None, 0.0, False))
        now_so = _Both(there.mark if there else None, stored.row.updated_at)
        return both == now_so and time.monotonic() < until

    def was_observed(self, job_id: str) -> bool:
        """Whether all that was edited on the job was in the ledger when it failed."""
        return self._failed[job_id][2]
