"""Jobs of the chaos test: all kinds, in UTC, none due after one instant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from prefect.client.orchestration import PrefectClient

from chaos import steps
from chaos.callbacks import Receiver
from chaos.effects import Effects
from daybook.agents import documents
from daybook.api import jobs, tools
from daybook.runs.claim_requests import due_key

INTERVAL_SECONDS = 10
"""Time between two due times of one job, in every kind of schedule."""
AGENT_SECONDS = (0.1, 1.0)
"""Duration of the work of each agent that is a program."""
STEPPING_AGENT = "stepping"
"""The agent with several steps (`chaos.steps`)."""


FAILED = frozenset({"failed", "timed_out", "unknown"})


class Chain(NamedTuple):
    """A job that runs after the job ``before``, for each of its ``outcomes`` since ``added_at``."""

    before: str
    outcomes: set[str]
    added_at: datetime


@dataclass
class Workload:
    """The job ids by name. ``edited`` are the jobs reserved for the edits; ``end`` is in UTC.

    ``chained`` are the jobs that run after others. ``messages`` and ``chat_messages`` are the keys
    of the runs that answer messages of sessions, and of chats.
    """

    end: datetime
    jobs: dict[str, str] = field(default_factory=dict)
    edited: dict[str, str] = field(default_factory=dict)
    chained: dict[str, Chain] = field(default_factory=dict)
    messages: set[str] = field(default_factory=set)
    chat_messages: set[str] = field(default_factory=set)

    @property
    def all_messages(self) -> set[str]:
        return self.messages | self.chat_messages

    def occurrence(self, effect: str) -> str:
        """Return the occurrence key of an effect; an agent's line has job name and due time."""
        name, _, due = effect.partition(" ")
        ids = self.jobs | self.edited
        if name not in ids:
            return effect
        return due_key(ids[name], datetime.fromisoformat(due))


class Plan(NamedTuple):
    """Number of jobs: ``jobs`` without edits, with due times until ``end``, and ``edited`` ones.

    Each of the first ``chained`` jobs has another job after its success.

    ``schedules``, if given, replace this module's, one for each job.
    """

    end: datetime
    jobs: int
    edited: int
    chained: int = 0
    agent_seconds: tuple[float, ...] = AGENT_SECONDS
    schedules: tuple[dict[str, str], ...] = ()


async def add(
    client: PrefectClient, effects: Effects, receiver: Receiver, folder: Path, plan: Plan
) -> Workload:
    """Add the jobs, each with its callbacks."""
    agents = list[str]()
    for number, seconds in enumerate(plan.agent_seconds):
        agents.append(f"counting-{number}")
        command = [effects.agent_command(folder, seconds)]
        await documents.add(client, agents[-1], "command", {"command": command})
    await tools.add("counter", {"url": f"{effects.address}/mcp/"})
    await documents.add(client, STEPPING_AGENT, "model", steps.settings(effects.address))
    workload = Workload(plan.end)
    policy = {"until": plan.end.isoformat(), "pause_after_failures": 0}
    kinds = _kinds(effects, agents)
    for number, fields in zip(range(plan.jobs + plan.edited), kinds, strict=False):
        is_edited = number >= plan.jobs
        name = f"edited-{number - plan.jobs:02}" if is_edited else f"job-{number:02}"
        schedule = plan.schedules[number] if plan.schedules else _schedule(number)
        notify = receiver.fields(name)
        added = await jobs.add(
            {"name": name, "timezone": "UTC", **fields, **schedule, **notify, "policy": policy}
        )
        (workload.edited if is_edited else workload.jobs)[name] = added.id
    for number, before in enumerate(list(workload.jobs)[: plan.chained]):
        name, webhook = f"after-{before}", {"kind": "webhook", "url": f"{effects.address}/hook"}
        chain = {"after": before, "on": "any" if number % 2 else "succeeded"}
        added = await jobs.add(
            {"name": name, **chain, **webhook, **receiver.fields(name), "policy": policy}
        )
        starting = {"succeeded", *(FAILED if number % 2 else ())}
        workload.chained[added.id] = Chain(workload.jobs[before], starting, added.created_at)
    return workload


def _kinds(effects: Effects, agents: list[str]) -> Iterator[dict[str, Any]]:
    while True:
        for agent in agents:
            prompt = {"prompt": "{{job}} {{due}}", "agent": agent, "session": "new"}
            yield prompt | {"retries": 1, "on_lost": "rerun"}
            yield prompt | {"retries": 0}
            yield prompt | {"agent": STEPPING_AGENT, "retries": 2, "on_lost": "rerun"}
            yield {"kind": "webhook", "url": f"{effects.address}/hook"}
            yield {"kind": "tool-call", "tool": "counter.mark"}


def _schedule(number: int) -> dict[str, str]:
    """Return a schedule every `INTERVAL_SECONDS`: an interval for odd numbers, else cron.

    Each cron schedule has its own second.
    """
    if number % 2:
        return {"every": f"{INTERVAL_SECONDS}s"}
    seconds = ",".join(str(each) for each in range(number % INTERVAL_SECONDS, 60, INTERVAL_SECONDS))
    return {"cron": f"{seconds} * * * * *"}


def is_due(schedule: dict[str, Any], second: datetime) -> bool:
    """Return whether a schedule is due at this second, computed without the tested code."""
    match schedule:
        case {"kind": "cron", "expr": expr}:
            seconds, minutes, *rest = expr.split()
            assert rest == ["*"] * 4, expr
            if minutes != "*" and second.minute not in map(int, minutes.split(",")):
                return False
            return second.second in map(int, seconds.split(","))
        case {"kind": "every", "every": every, "anchor": anchor}:
            step = timedelta(seconds=_seconds(every))
            since = second - datetime.fromisoformat(anchor)
            return since > timedelta(0) and since % step == timedelta(0)
        case {"kind": "after"}:
            return False
    raise AssertionError(schedule)


def _seconds(text: str) -> int:
    assert text.endswith("s"), text
    return int(text.removesuffix("s"))


def seconds_until(first: datetime, last: datetime) -> Iterator[datetime]:
    """Yield each whole second in (first, last]."""
    second = first.astimezone(UTC).replace(microsecond=0)
    while (second := second + timedelta(seconds=1)) <= last:
        yield second
