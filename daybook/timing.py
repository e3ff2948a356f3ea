"""How long the processes of Daybook wait for each other.

A process reads its `Timing` once, when it starts, and the processes that it starts inherit it.
Those that share a ledger have to agree on it: a lease that one of them renews is judged by another.
So it is no setting of users. Only tests change it: they start processes with shorter times.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from datetime import timedelta

VARIABLE = "_DAYBOOK_TIMING"
"""The environment variable with what differs from the defaults: a JSON object of seconds."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Raises `ValueError` where one time contradicts another."""

    # --- leases

    run_lease: timedelta = timedelta(seconds=60)
    """A claim on a run expires so long after its last renewal. Who finds it expired notes that; if
    it is still not renewed as long again after the note, its holder is lost."""
    run_lease_renewal: timedelta = timedelta(seconds=20)
    run_lease_renewal_delay: timedelta = timedelta(seconds=5)
    """How late a renewal may come before it counts as missed."""
    leader_lease: timedelta = timedelta(seconds=30)
    leader_lease_renewal: timedelta = timedelta(seconds=10)
    delivery_lease: timedelta = timedelta(seconds=90)
    """A claim on a message to be sent. Longer than the longest try: 10 s each to ask Prefect for
    destinations and for a token, 45 s for the request, and its recording."""
    subscription_lease: timedelta = timedelta(seconds=60)
    """A client of MCP counts as connected so long after the last renewal."""
    subscription_lease_renewal: timedelta = timedelta(seconds=20)

    # --- the worker

    poll: timedelta = timedelta(seconds=2)
    """Between two questions to Prefect for runs."""
    lease_check: timedelta = timedelta(seconds=1)
    """Between two looks at whether the leases of the runs at work are to be renewed."""
    cancel_check: timedelta = timedelta(seconds=5)
    """Between two looks for cancellations of which no event was heard."""
    leftover_check: timedelta = timedelta(seconds=30)
    """Between two looks for what a dead worker left started."""
    worker_signal: timedelta = timedelta(seconds=5)
    """Between two messages of a worker to the parent of its processes, which so knows that it
    lives. Silent for `run_lease`, it has lost its runs, and the parent ends them."""
    stop_grace: timedelta = timedelta(seconds=10)
    """From SIGTERM to SIGKILL. An agent's program has half of it to end, then the flow."""
    shutdown_wait: timedelta = timedelta(seconds=10)
    """For the runs at work to end by themselves when the worker is stopped."""
    timeout_margin: timedelta = timedelta(seconds=15)
    """How much longer than its timeout an attempt may take before it is ended from outside: the
    flow ends its attempts itself, and that takes its own grace."""

    # --- the keeper

    leader_check: timedelta = timedelta(seconds=5)
    """Between two tries of a keeper to lead."""
    runs_pass: timedelta = timedelta(seconds=5)
    """Between two turns of the passes over runs, and of an audit that is not done."""
    jobs_pass: timedelta = timedelta(seconds=10)
    """The same of those over jobs: an edit in Prefect is in the ledger so soon (requirement 52)."""
    soonest_pass: timedelta = timedelta(seconds=1)
    """Between two turns however many events come."""
    alert_pass: timedelta = timedelta(seconds=30)

    # --- when the keeper judges what another process left undone

    start_limit: timedelta = timedelta(seconds=60)
    """For whoever fetched a run to start it, from its scheduled time on."""
    entry_limit: timedelta = timedelta(minutes=5)
    """For a flow that runs to ask the ledger for its claim."""
    own_wait_limit: timedelta = timedelta(seconds=60)
    """For a process that waits to go on by itself, after the end of its wait."""
    own_state_limit: timedelta = timedelta(seconds=15)
    """For a flow to set its state in Prefect after it has written its outcome: before that it sends
    what is to be sent (`runs.delivery.WITHIN`), and makes its artifact."""

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
        if self.worker_signal >= self.run_lease / 2:
            raise ValueError("worker_signal is not shorter than half of run_lease")

    @property
    def run_lease_missed(self) -> timedelta:
        """After the last renewal: its holder has missed the next one."""
        return self.run_lease_renewal + self.run_lease_renewal_delay

    @property
    def rerun_stop(self) -> timedelta:
        """After the last renewal a run with `on_lost: rerun` is stopped: its process group is dead
        before another one may start.
        """
        return self.run_lease - 1.5 * self.stop_grace

    @property
    def leader_trust(self) -> timedelta:
        """After the last renewal was sent, by its own clock, a leader stops to act as one."""
        return self.leader_lease * 14 / 15

    def environment(self) -> dict[str, str]:
        """The variables with which a process starts with this timing."""
        changed = {
            name: value.total_seconds()
            for name, value in asdict(self).items()
            if value != getattr(Timing, name)
        }
        return {VARIABLE: json.dumps(changed)}


def _of_this_process() -> Timing:
    changed = json.loads(os.environ.get(VARIABLE) or "{}")
    return Timing(**{name: timedelta(seconds=number) for name, number in changed.items()})


TIMING = _of_this_process()
"""That of this process."""
