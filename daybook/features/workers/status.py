"""The workers in `daybook status`, `/health` and `daybook doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Self

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.api.overdue import MAX_CLOCK_SKEW
from daybook.diagnosis.feature_status import FeatureStatus
from daybook.duration_text import duration_in_words
from daybook.features.workers import operations
from daybook.features.workers.operations import ListedWorker, WorkerState
from daybook.finding import Finding, passed, problem, warning
from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import open_ledger
from daybook.runs import shared_settings, workers
from daybook.runs.workers import WorkerRecord
from daybook.short_text import clip, first_names

CHECK = "workers"


class WorkersStatus(FeatureStatus, frozen=True):
    """The number of workers that start runs, and the names of the living ones that drain."""

    online: int
    draining: list[str]

    @classmethod
    async def read(cls, session: AsyncSession, now: datetime) -> Self:
        living = [each for each in await workers.read_all(session, now) if not each.is_lost]
        draining = [each.record.name for each in living if each.drain is not None]
        return cls(online=len(living) - len(draining), draining=draining)

    def findings(self) -> list[Finding]:
        """Report the draining workers; it is a problem if no other worker is online."""
        if not self.draining:
            return []
        names, fix = first_names(self.draining), f"daybook workers resume {self.draining[0]}"
        if not self.online:
            return [problem(CHECK, "every worker is draining, so no run starts", fix, why=names)]
        verb = "is" if len(self.draining) == 1 else "are"
        return [warning(CHECK, f"{names} {verb} draining and will start no run", fix)]


async def check() -> list[Finding]:
    """Check the workers: they start runs, agree in version, settings and time, and have the labels
    of the jobs.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        now = ledger.now()
        known = await operations.read(session, now)
        known_workers = await workers.read_all(session, now)
        jobs = await store.all_jobs(session)
        status = await WorkersStatus.read(session, now)
    found = [
        *status.findings(),
        *names([each.record for each in known_workers]),
        *lost(known, now),
        *versions(known),
        *different_settings([each.record for each in known_workers if not each.is_lost]),
        *clocks(known),
        *labels(known, jobs),
    ]
    online = [each.name for each in known if each.state is WorkerState.ONLINE]
    return found or [passed(CHECK, f"online: {first_names(online)}" if online else "")]


def names(records: Iterable[WorkerRecord]) -> list[Finding]:
    """Report a name that two living workers have: they share their drain and their record."""
    return [
        problem(
            CHECK,
            f"two workers have the name {each.name}",
            "start one with another name (daybook worker --name); on a cloned machine, delete the "
            "file worker-id in its home, and restart its worker",
            why=f"on {each.host} and on {each.rival.host}",
        )
        for each in records
        if each.rival is not None
    ]


def lost(known: Iterable[ListedWorker], now: datetime) -> list[Finding]:
    """Report the workers that ended without a notice, or whose machine is unreachable.

    A drained worker is out of service, so its end is no problem.
    """
    return [
        warning(
            CHECK,
            f"{each.name} has not been seen for {_words(now - each.seen_at)}",
            f"start it again on {each.host}; a day after its end, it is no longer listed",
        )
        for each in known
        if each.state is WorkerState.LOST and each.drained_at is None
    ]


def versions(known: Iterable[ListedWorker]) -> list[Finding]:
    """Report workers that have different versions of Daybook or Prefect."""
    online = [each for each in known if each.state is not WorkerState.LOST]
    found = {(each.version, each.prefect_version): each.name for each in online}
    if len(found) < 2:
        return []
    texts = [f"{name} has {own} with Prefect {other}" for (own, other), name in found.items()]
    fix = "install the same version on each machine, and restart the workers"
    return [warning(CHECK, "the workers have different versions", fix, why="; ".join(texts))]


def different_settings(online: Iterable[WorkerRecord]) -> list[Finding]:
    """Report shared settings of which the workers have different values."""
    known = [each for each in online if each.settings is not None]
    found, usual = list[Finding](), shared_settings.usual()
    for name in shared_settings.NAMES:
        values = dict[str, list[str]]()
        for each in known:
            value = (each.settings or {}).get(name, usual[name])
            values.setdefault(json.dumps(value, sort_keys=True), []).append(each.name)
        if len(values) > 1:
            texts = [f"{clip(value, 60)} on {first_names(own)}" for value, own in values.items()]
            title = f"the workers have different values of the setting {name}"
            fix = f"set the same {name} on each machine, in config.toml or DAYBOOK_{name.upper()}"
            found.append(problem(CHECK, title, fix, why="; ".join(texts)))
    return found


def clocks(known: Iterable[ListedWorker]) -> list[Finding]:
    """Report workers whose clock differs from the ledger's."""
    found = list[Finding]()
    for each in known:
        skew = timedelta(seconds=each.clock_ahead_seconds)
        if abs(skew) > MAX_CLOCK_SKEW and each.state is not WorkerState.LOST:
            side = "ahead of" if skew > timedelta(0) else "behind"
            title = (
                f"the clock of {each.host} is {abs(skew).total_seconds():.1f} s {side} the ledger's"
            )
            fix = f"on {each.host}: sudo timedatectl set-ntp true"
            found.append(warning(CHECK, title, fix, why=f"worker {each.name}"))
    return found


def labels(known: Iterable[ListedWorker], jobs: Iterable[StoredJob]) -> list[Finding]:
    """Report labels of enabled jobs that no worker has that starts runs."""
    present = {label for each in known if each.state is WorkerState.ONLINE for label in each.labels}
    needed = dict[str, list[str]]()
    for stored in jobs:
        label = stored.job.policy.worker_label
        if label and label not in present and stored.job.enabled:
            needed.setdefault(label, []).append(stored.row.name)
    return [
        problem(
            CHECK,
            f"no worker with the label {label} is online",
            f"start one: DAYBOOK_WORKER_LABELS={label} daybook worker",
            why=f"needed by {first_names(names)}",
        )
        for label, names in sorted(needed.items())
    ]


def _words(age: timedelta) -> str:
    return duration_in_words(timedelta(seconds=round(age.total_seconds())))
