"""Jobs of the chaos test: all kinds, in UTC, none due after one instant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from prefect.client.orchestration import PrefectClient

from chaos.callbacks import Callbacks
from chaos.effects import Effects
from daybook.agents import documents
from daybook.api import jobs, tools
from daybook.runs.claim_requests import due_key

EVERY = 10
"""Seconds between two due times of one job, in every kind of schedule."""
NAPS = (0.1, 1.0)


@dataclass
class Work:
    """The job ids by name. ``edited`` are the jobs reserved for the walk of edits."""

    end: datetime
    jobs: dict[str, str] = field(default_factory=dict)
    edited: dict[str, str] = field(default_factory=dict)

    def occurrence(self, effect: str) -> str:
        """Return the occurrence key of an effect; an agent's line has job name and time."""
        name, _, due = effect.partition(" ")
        ids = self.jobs | self.edited
        if name not in ids:
            return effect
        return due_key(ids[name], datetime.fromisoformat(due))


class Wanted(NamedTuple):
    """``many`` jobs that nobody edits, with due times spread until ``end``, and ``edited`` ones.

    ``naps`` are the durations of the agents in seconds; ``schedules`` replace this module's.
    """

    end: datetime
    many: int
    edited: int
    naps: tuple[float, ...] = NAPS
    schedules: tuple[dict[str, str], ...] = ()


async def add(
    client: PrefectClient, effects: Effects, callbacks: Callbacks, folder: Path, wanted: Wanted
) -> Work:
    """Add the jobs, each with its callbacks."""
    end, many, edited, naps, schedules = wanted
    agents = list[str]()
    for number, nap in enumerate(naps):
        agents.append(f"counting-{number}")
        command = [effects.agent(folder, nap)]
        await documents.add(client, agents[-1], "command", {"command": command})
    await tools.add("counter", {"url": f"{effects.address}/mcp/"})
    work = Work(end)
    given = _kinds(effects, agents)
    for number, fields in zip(range(many + edited), given, strict=False):
        name = f"job-{number:02}" if number < many else f"edited-{number - many:02}"
        policy = {"until": end.isoformat(), "pause_after_failures": 0}
        schedule = schedules[number] if schedules else _schedule(number, many)
        told = callbacks.fields(name)
        added = await jobs.add(
            {"name": name, "timezone": "UTC", **fields, **schedule, **told, "policy": policy}
        )
        (work.jobs if number < many else work.edited)[name] = added["id"]
    return work


def _kinds(effects: Effects, agents: list[str]) -> Iterator[dict[str, Any]]:
    while True:
        for agent in agents:
            prompt = {"prompt": "{{job}} {{due}}", "agent": agent, "session": "new"}
            yield prompt | {"retries": 1, "on_lost": "rerun"}
            yield prompt | {"retries": 0}
            yield {"kind": "webhook", "url": f"{effects.address}/hook"}
            yield {"kind": "tool-call", "tool": "counter.mark"}


def _schedule(number: int, many: int) -> dict[str, str]:
    """Return a schedule every `EVERY` seconds, as cron for every second job, at its own second."""
    if number % 2:
        return {"every": f"{EVERY}s"}
    seconds = ",".join(str(each) for each in range(number % EVERY, 60, EVERY))
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
    raise AssertionError(schedule)


def _seconds(text: str) -> int:
    assert text.endswith("s"), text
    return int(text.removesuffix("s"))


def seconds_until(first: datetime, last: datetime) -> Iterator[datetime]:
    """Yield each whole second in (first, last]."""
    second = first.astimezone(UTC).replace(microsecond=0)
    while (second := second + timedelta(seconds=1)) <= last:
        yield second
