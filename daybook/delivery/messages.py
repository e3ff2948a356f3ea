"""The words of what is told of a run: to a channel by its template or ours, to a callback as JSON.

A message is kept in full, up to `LONGEST`; whoever sends it cuts it to what its channel takes.
"""

from __future__ import annotations

import shlex
from datetime import datetime
from typing import Any

from daybook import owners
from daybook.jobs import prompts
from daybook.jobs.notify import SILENT, VARIABLES, Event
from daybook.jobs.store import StoredJob
from daybook.ledger import run_json, texts
from daybook.ledger.states import FAILURES, Status
from daybook.ledger.tables import JobRow, RunRow
from daybook.schedules.schedule import zone

VERSION = 1
"""Of a callback's body."""

LONGEST = 100_000
"""Characters of a message."""

LONGEST_SUBJECT = 200

_SAYS: dict[Status, str] = {
    Status.TIMED_OUT: "timed out",
    Status.UNKNOWN: "ended as unknown",
    Status.CANCELLED: "was cancelled",
    Status.MISSED: "was missed",
}


def callback(row: RunRow, job: JobRow | None, event: str, corrects: str | None) -> str:
    """The body of a callback, as it is signed and sent."""
    told = _run(row, job, event, corrects)
    if job is not None and owners.is_agent(job.owner):
        told |= {"output": None, "result": None, "error": None}  # an error may quote the answer
    return texts.to_json(told)


def whole(row: RunRow, job: JobRow | None, event: str, corrects: str | None) -> str:
    """The same with its answer, whoever owns the job: for a listener, which is the operator's."""
    return texts.to_json(_run(row, job, event, corrects))


def _run(row: RunRow, job: JobRow | None, event: str, corrects: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"version": VERSION, "event": event, "corrects": corrects}
    told |= run_json.run(row, job)
    del told["delivery"]  # it is not known before this is delivered
    return told


def answer(row: RunRow, output: str | None) -> str:
    """What a run that succeeded has to say; empty where that is nothing (requirement 29)."""
    said = output if output is not None or row.result is None else texts.to_json(row.result)
    said = (said or "").strip()
    return "" if said.upper() == SILENT else said


def bounded(text: str) -> str:
    """At most `LONGEST` characters, and a mark that says how many were left out."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}\n… ({len(text) - LONGEST:,} more characters)"


def subject(row: RunRow, job: JobRow | None, corrects: str | None) -> str:
    """`morning-brief: failed`."""
    was = f" (was {corrects})" if corrects else ""
    return _line(f"{_name(row, job)}: {row.status.replace('_', ' ')}{was}")


def message(
    row: RunRow, stored: StoredJob | None, event: Event, output: str | None, template: str
) -> str:
    """What the job's channel is told of the run: by the job's template, if that says anything."""
    if template:
        own = prompts.render(template, _values(row, stored, output), VARIABLES)
        if own.strip():
            return bounded(own)
    if event == "completed":
        return bounded(answer(row, output))
    return failure(row, stored)


def failure(row: RunRow, stored: StoredJob | None) -> str:
    """What went wrong, how often by now, and where to look."""
    job = stored.row if stored else None
    often = job.consecutive_failures if job and row.state in FAILURES else 0
    nth = f", {often} times in a row" if often > 1 else ""
    why = (row.error or row.reason).strip()
    lines = [
        f"{_name(row, job)} {_SAYS.get(row.state, row.status)}{nth}" + (f": {why}" if why else "")
    ]
    if row.count > 1:
        first, last = _due(row.due, stored), _due(row.due_to or row.due, stored)
        lines.append(f"{row.count:,} due times, from {first} to {last}")
    else:
        lines.append(f"due {_due(row.due, stored)}")
    lines.append(f"daybook show {row.id[:12]}")
    return bounded("\n".join(lines))


def paused(row: RunRow, stored: StoredJob) -> tuple[str, str]:
    """Subject and text when a job was switched off for its failures."""
    job = stored.row
    text = (
        f"{job.name} was {job.disabled_reason}\nTo go on: daybook resume {shlex.quote(job.name)}\n"
    )
    return _line(f"{job.name}: paused"), bounded(f"{text}daybook show {row.id[:12]}")


def recovered(row: RunRow, stored: StoredJob) -> tuple[str, str]:
    """Subject and text when a job succeeded of whose failures was told."""
    name = stored.row.name
    text = f"{name} succeeded again\ndue {_due(row.due, stored)}\ndaybook show {row.id[:12]}"
    return _line(f"{name}: recovered"), text


def _values(row: RunRow, stored: StoredJob | None, output: str | None) -> dict[str, str]:
    return {
        "job": _name(row, stored.row if stored else None),
        "status": row.status,
        "due": _due(row.due, stored),
        "output": (output or "").strip(),
        "error": row.error or "",
        "reason": row.reason,
        "run": row.id,
    }


def _name(row: RunRow, job: JobRow | None) -> str:
    return job.name if job else row.kind


def _due(instant: datetime, stored: StoredJob | None) -> str:
    local = instant.astimezone(zone(stored.job.schedule.timezone)) if stored else instant
    return local.isoformat(timespec="seconds")


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SUBJECT else f"{line[: LONGEST_SUBJECT - 1]}…"
