"""Timings that Daybook's processes share: leases, check intervals and grace periods.

A process reads its `Timing` once, when it starts, and passes it to the processes that it starts.
All processes that share a ledger have to use the same timing, because one process checks the lease
that another process renews. So the timing is not a user setting. Only tests change it, to start
processes with shorter times.

To change the lease of runs, change `run_lease` in this module, which affects:

- Values that it limits: `run_lease_renewal`, `run_lease_renewal_delay`, `stop_grace` (through
  `rerun_stop`) and `worker_signal`, which `Timing` checks, and
  `tools.connection.OPEN_TIMEOUT_SECONDS`, which has to be shorter than the lease.
- Code that uses it and needs no change: `runs.leases` (expiry), `runs.claims`, `runs.decision`,
  `runs.overlap`, `prefect.ended_runs` and `prefect.scheduled_runs`; the renewals in
  `worker.worker_loop`, `execution.lease`, `execution.execute` and `execution.attempt`; the retries
  in `execution.recording` and `worker.exit_handling`; and the silence after which `worker.parent`
  ends the runs.
- Texts with its 60 seconds, or with times derived from them: `docs/promise.md` (rule 5),
  `docs/concepts/claim.md`, `docs/chaos.md`, and the decisions 0009 and 0011.
- Tests with these times: `tests/unit/test_timing.py` and `tests/unit/runs/test_leases.py`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from datetime import timedelta

TIMING_VARIABLE = "_DAYBOOK_TIMING"
"""Environment variable with the values that differ from the defaults: a JSON object of seconds."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """All timings. A timing that is not positive or contradicts another raises `ValueError`."""

    # --- leases

    run_lease: timedelta = timedelta(seconds=60)
    """How long a claim on a run is valid after its last renewal.

    A process that finds the lease expired marks the claim's holder as suspected. If the holder does
    not renew the lease within one more lease duration, it counts as lost.
    """
    run_lease_renewal: timedelta = timedelta(seconds=20)
    run_lease_renewal_delay: timedelta = timedelta(seconds=5)
    """How late a renewal may come before it counts as missed."""
    leader_lease: timedelta = timedelta(seconds=15)
    """How long a leader leads after its last renewal.

    After the leader's death, another keeper leads within this time and one `leader_check`.
    """
    leader_lease_renewal: timedelta = timedelta(seconds=5)
    delivery_lease: timedelta = timedelta(seconds=90)
    """How long a claim on a message to be sent is valid.

    This lease is longer than the longest attempt. An attempt takes up to 10 s to read the
    destinations from Prefect, 10 s to read a token, 45 s for the request, and the time to record
    the result.
    """
    subscription_lease: timedelta = timedelta(seconds=60)
    """How long an MCP client counts as connected after its last renewal."""
    subscription_lease_renewal: timedelta = timedelta(seconds=20)

    # --- the ledger

    ledger_lock: timedelta = timedelta(seconds=30)
    """How long a transaction waits for the claim lock.

    The time includes the wait in the queue of its process and the wait in the database.
    """

    # --- Prefect

    prefect_answer: timedelta = timedelta(seconds=1.5)
    """How long a change of a job waits for Prefect's first answer.

    Then Prefect counts as unreachable: the change is stored, and the keeper deploys it.
    """

    # --- the worker

    poll: timedelta = timedelta(seconds=2)
    """Minimum interval between two polls of Prefect for runs, unless an event causes a poll.

    While polls are slow, it is longer (`worker.run_queue`).
    """
    lease_check: timedelta = timedelta(seconds=1)
    """Interval between two checks whether leases of active runs need renewal."""
    cancel_check: timedelta = timedelta(seconds=5)
    """Interval between two polls for cancellations whose event was not received."""
    leftover_check: timedelta = timedelta(seconds=30)
    """Interval between two checks for runs that a dead worker had started."""
    worker_signal: timedelta = timedelta(seconds=5)
    """Interval at which a worker signals to the preloaded parent that it is alive.

    A worker that is silent for `run_lease` has lost its runs, and the preloaded parent ends them.
    """
    worker_check: timedelta = timedelta(seconds=5)
    """Interval at which a worker reads whether it drains."""
    worker_record: timedelta = timedelta(seconds=20)
    """Interval at which a worker records itself. After `run_lease` without a record, it is lost."""
    stop_grace: timedelta = timedelta(seconds=10)
    """Time from SIGTERM to SIGKILL. The flow first ends its agent's program, and then itself."""
    shutdown_wait: timedelta = timedelta(seconds=10)
    """How long active runs may take to end by themselves when the worker is stopped."""
    timeout_margin: timedelta = timedelta(seconds=15)
    """How much longer than its timeout an attempt may take before the worker ends it.

    Normally the flow ends its own attempt, which takes a few seconds.
    """

    # --- the keeper

    leader_check: timedelta = timedelta(seconds=5)
    """Interval between two attempts of a keeper to become leader."""
    runs_interval: timedelta = timedelta(seconds=5)
    """Interval of the services that handle runs, and of the audit until it is complete."""
    jobs_interval: timedelta = timedelta(seconds=10)
    """Interval of the services that handle jobs, such as the import of edits made in Prefect."""
    min_pass_interval: timedelta = timedelta(seconds=1)
    """Minimum interval between two cycles of these services, however many events arrive."""
    alert_interval: timedelta = timedelta(seconds=30)
    delivery_interval: timedelta = timedelta(seconds=2)
    """Interval at which the keeper checks for due callbacks and messages, and sends them.

    The keeper polls, because other processes do not announce the rows that they queue.
    """
    listener_interval: timedelta = timedelta(seconds=2)
    """Interval at which the keeper calls the listeners with new outcomes."""
    server_interval: timedelta = timedelta(seconds=60)
    """Interval at which a process records in the ledger which Prefect server it uses."""
    tables_interval: timedelta = timedelta(seconds=60)
    """Interval at which the keeper updates the two tables in Prefect (`keeper.overview`)."""
    retention_interval: timedelta = timedelta(hours=1)
    """Interval at which the keeper deletes old rows of the ledger."""

    backup_interval: timedelta = timedelta(minutes=5)
    """Interval between two checks whether the nightly backup is due."""

    # --- the children of `daybook up`

    probe_interval: timedelta = timedelta(seconds=10)
    """Pause between two probes of a child, and the maximum time for the child's answer."""
    max_silence: timedelta = timedelta(seconds=120)
    """How long a child may leave all probes unanswered before `daybook up` restarts it.

    A child that is merely busy answers in this time.
    """
    max_start: timedelta = timedelta(minutes=15)
    """How long a child may take from its start to its first answer; a migration may be slow."""

    # --- when the keeper takes over from another process

    start_limit: timedelta = timedelta(seconds=60)
    """How long after a run's scheduled time the process that fetched the run may start it."""
    entry_limit: timedelta = timedelta(minutes=5)
    """How long a running flow may take to request its claim from the ledger."""
    own_wait_limit: timedelta = timedelta(seconds=60)
    """How long after the end of its wait a waiting process may take to continue by itself."""
    own_state_limit: timedelta = timedelta(seconds=15)
    """How long a flow may take to set its state in Prefect after it has recorded its outcome.

    In this time the flow sends its messages (`daybook.execution.delivery`) and creates its
    artifact.
    """

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) <= timedelta():
                raise ValueError(f"{each.name} must be positive")
        for lease in ("run_lease", "leader_lease", "subscription_lease"):
            if getattr(self, f"{lease}_renewal") >= getattr(self, lease) / 2:
                raise ValueError(f"{lease}_renewal is not shorter than half of {lease}")
        if self.run_lease_missed >= self.run_lease:
            raise ValueError("run_lease ends before a renewal counts as missed")
        if self.rerun_stop <= self.run_lease_renewal:
            raise ValueError("stop_grace leaves no time to renew run_lease")
        if self.max_silence < 4 * self.probe_interval:
            raise ValueError("max_silence is shorter than two probes without an answer")
        if self.worker_record >= self.run_lease / 2:
            raise ValueError("worker_record is not shorter than half of run_lease")
        if self.worker_signal >= self.run_lease / 2:
            raise ValueError("worker_signal is not shorter than half of run_lease")

    @property
    def run_lease_missed(self) -> timedelta:
        """Return the time since the last renewal after which the next renewal counts as missed."""
        return self.run_lease_renewal + self.run_lease_renewal_delay

    @property
    def rerun_stop(self) -> timedelta:
        """Return how long after the last renewal a run with `on_lost: rerun` is stopped.

        So its process group is dead before a rerun may start.
        """
        return self.run_lease - 1.5 * self.stop_grace

    @property
    def leader_trust(self) -> timedelta:
        """Return how long a process acts as leader after its last renewal, by its own clock."""
        return self.leader_lease * 14 / 15

    def environment(self) -> dict[str, str]:
        """Return the environment variables that give a process this timing."""
        changed = {
            name: value.total_seconds()
            for name, value in asdict(self).items()
            if value != getattr(Timing, name)
        }
        return {TIMING_VARIABLE: json.dumps(changed)}


_CHANGED_SECONDS: dict[str, float] = json.loads(os.environ.get(TIMING_VARIABLE) or "{}")

TIMING = Timing(**{name: timedelta(seconds=each) for name, each in _CHANGED_SECONDS.items()})
"""This process's timing."""
