"""Fingerprints of jobs and deployments in memory, so that the next pass skips unchanged jobs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from daybook.jobs.store import StoredJob
from daybook.prefect.deployments import DeploymentList, ListedDeployment
from daybook.prefect.links import JobVersion

RETRY_INTERVAL_SECONDS = 300.0
"""Delay after a failure before Daybook tries an unchanged job or deployment again."""


class _Fingerprint(NamedTuple):
    mark: bytes | None
    updated_at: datetime


@dataclass
class Fingerprints:
    """Fingerprints of the jobs equal on both sides, and of the deployments and jobs that failed.

    ``refused`` maps the id of each deployment that cannot be a job to its fingerprint and to a
    monotonic time in seconds. Before that time, Daybook does not try the unchanged deployment
    again.
    """

    refused: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    _agreed: dict[str, _Fingerprint] = field(default_factory=dict)
    _failed: dict[str, tuple[_Fingerprint, float, bool]] = field(default_factory=dict)

    def knows(self, job: JobVersion, listed: DeploymentList) -> bool:
        """Return whether both sides are unchanged since they were last equal."""
        entry = listed.found.get(job.deployment_id or "")
        if entry is None and (job.deployment_id or listed.has_name(job.slug)):
            return False
        current = _Fingerprint(entry.mark if entry else None, job.updated_at)
        return not job.pending and self._agreed.get(job.id) == current

    def has(self, job_id: str) -> bool:
        """Return whether the job was recorded as equal on both sides before."""
        return job_id in self._agreed

    def agreed(self, stored: StoredJob, there: ListedDeployment | None) -> None:
        """Record that both sides are equal; ``there`` is None if neither side has a deployment."""
        self._agreed[stored.id] = _Fingerprint(there.mark if there else None, stored.row.updated_at)
        self._failed.pop(stored.id, None)

    def failed(self, stored: StoredJob, there: ListedDeployment | None, *, observed: bool) -> None:
        """Record that Prefect refused the job, or that the job cannot be compared.

        ``there`` is its listed deployment, if any. ``observed`` is True if all edits made in
        Prefect until then are in the ledger.
        """
        current = _Fingerprint(there.mark if there else None, stored.row.updated_at)
        self._failed[stored.id] = current, time.monotonic() + RETRY_INTERVAL_SECONDS, observed

    def failed_recently(self, stored: StoredJob, there: ListedDeployment | None) -> bool:
        """Return whether an attempt with the same fingerprints failed recently."""
        failed, until, _ = self._failed.get(stored.id, (None, 0.0, False))
        current = _Fingerprint(there.mark if there else None, stored.row.updated_at)
        return failed == current and time.monotonic() < until

    def was_observed(self, job_id: str) -> bool:
        """Return the ``observed`` of the job's last failure; raise `KeyError` if there is none."""
        return self._failed[job_id][2]
