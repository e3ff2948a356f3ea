"""A model of the task queue, updated alongside the ledger, that predicts the ledger's answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from daybook.features.tasks import sessions
from daybook.features.tasks.states import MAX_EXPIRIES


@dataclass
class Run:
    """A task run as the model expects it."""

    id: str
    task_id: str
    priority: int
    needs: frozenset[str]
    queued_at: datetime
    number: int = 1
    status: str = "queued"
    holder: str | None = None
    lease_until: datetime | None = None
    lease: timedelta = timedelta(0)
    token: str | None = None
    fence: int = 0
    expiries: int = 0

    def end_claim(self, status: str) -> None:
        self.status, self.holder, self.lease_until, self.token = status, None, None, None

    def take_back(self, now: datetime) -> None:
        self.expiries += 1
        if self.expiries < MAX_EXPIRIES:
            self.end_claim("queued")
            self.queued_at = now
        else:
            self.end_claim("needs_attention")


@dataclass
class Session:
    expires_at: datetime
    has: frozenset[str]
    state: str = "idle"
    prompting: bool = False


@dataclass
class Model:
    """The expected state of the queue and its sessions."""

    runs: dict[str, Run] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    paused: bool = False
    paused_tasks: set[str] = field(default_factory=set)
    happened: Counter[str] = field(default_factory=Counter)

    def held_by(self, name: str) -> Run | None:
        return next((run for run in self.runs.values() if run.holder == name), None)

    def claim(self, name: str, now: datetime) -> Run | None:
        """Apply a claim's other effects to the model, and return the run that the session gets."""
        one = self.sessions[name]
        if one.expires_at <= now:
            return None
        if one.expires_at < now + sessions.SESSION_TIMEOUT - sessions.TOUCH_INTERVAL:
            one.expires_at = now + sessions.SESSION_TIMEOUT
        if self.paused:
            return None
        held = self.held_by(name)
        if held is not None and held.lease_until is not None and held.lease_until > now:
            return None
        if held is not None:
            one.expires_at = now + sessions.SESSION_TIMEOUT
            held.take_back(now)
            self.happened["expired"] += 1
        if one.state != "idle" or one.prompting:
            return None
        fit = (
            run
            for run in self.runs.values()
            if run.status == "queued"
            and run.needs <= one.has
            and run.task_id not in self.paused_tasks
        )
        first = min(fit, key=lambda run: (run.priority, run.queued_at, run.id), default=None)
        if first is not None:
            one.expires_at = now + sessions.SESSION_TIMEOUT
        return first
