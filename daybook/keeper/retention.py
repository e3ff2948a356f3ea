"""Retention service: the rules of `runs.retention` and of features, applied in small batches.

The service changes nothing in Prefect; the observer deletes the deployments of removed jobs. The
Prefect server that Daybook starts deletes its own old runs at the same age
(`daybook.operations.server`). The operator configures the retention of any other server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from daybook.feature import features
from daybook.ledger.engine import Ledger
from daybook.runs import retention as runs
from daybook.runs.retention import RetentionLimits

log = logging.getLogger(__name__)


@dataclass
class PruneReport:
    """Result of one or more cycles.

    ::

        runs         deleted runs
        messages     deleted messages of sessions; a deleted session counts as one message
        deliveries   deleted rows of the outbox
        steps        steps, and questions to a person, whose texts were removed
        jobs         names of the archived jobs that were deleted
        removed      names of the disabled jobs that were archived
        features     rows that features deleted, by the names of the features with a retention
        left         true if a limit of time or number stopped the last cycle
    """

    runs: int = 0
    messages: int = 0
    deliveries: int = 0
    steps: int = 0
    jobs: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    features: dict[str, int] = field(
        default_factory=lambda: {each.name: 0 for each in features() if each.retention}
    )
    left: bool = False

    def __bool__(self) -> bool:
        counts = self.runs or self.messages or self.deliveries or any(self.features.values())
        return bool(counts or self.steps or self.jobs or self.removed)


async def prune(
    ledger: Ledger,
    keep: RetentionLimits | None = None,
    done: PruneReport | None = None,
    *,
    most_seconds: float = 5.0,
) -> PruneReport:
    """Delete old data for about ``most_seconds``; the next call continues.

    ``keep`` has the limits, by default the limits in the settings. Add the results to ``done``, the
    report of earlier cycles, and return ``done``. Raise `LedgerUnreachable`, and `InvalidInput` for
    an invalid setting.
    """
    settings, done = keep or RetentionLimits.of_settings(), PruneReport() if done is None else done
    done.left = False
    end = time.monotonic() + most_seconds

    async def in_batches(batch: Callable[[], Awaitable[int]]) -> int:
        count = 0
        while not done.left and (deleted := await batch()):
            count += deleted
            done.left = time.monotonic() >= end
        return count

    async def prune_runs(job_id: str | None) -> int:
        deleted, deliveries = await runs.prune_runs(ledger, job_id, settings)
        done.deliveries += deliveries
        return deleted

    async def remove_disabled_jobs() -> int:
        names = await runs.remove_disabled_jobs(ledger, settings)
        done.removed += names
        return len(names)

    await in_batches(remove_disabled_jobs)
    for job_id in await runs.jobs_to_prune(ledger, settings):
        done.runs += await in_batches(partial(prune_runs, job_id))
    done.steps += await in_batches(partial(runs.remove_texts, ledger, settings))
    for conversation in await runs.sessions_to_prune(ledger, settings):
        done.messages += await in_batches(
            partial(runs.prune_messages, ledger, conversation, settings)
        )
    done.deliveries += await in_batches(partial(runs.prune_outbox, ledger, settings))
    for each in features():
        for number, path in enumerate(each.retention):
            try:
                count = await in_batches(partial(each.load(path), ledger, settings))
            except Exception:  # a foreign mistake in SQL looks like an unreachable ledger
                if each.is_own:
                    raise
                log.exception("the retention of the feature %s failed", each.name)
            else:
                done.features[each.name] += 0 if number else count
    if not done.left:
        jobs = await runs.prune_archived_jobs(ledger, settings)
        done.jobs += jobs
        done.left = len(jobs) == runs.BATCH_SIZE
    return done
