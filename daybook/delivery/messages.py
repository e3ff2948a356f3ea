"""Texts of notifications: callbacks as JSON, and messages from the job's or Daybook's template.

The ledger stores up to `MAX_MESSAGE_LENGTH` characters of a message. If the limit of a channel is
lower, the channel truncates the message when it sends it.
"""

from __future__ import annotations

from datetime import datetime

from daybook import owners
from daybook.jobs import prompts
from daybook.jobs.notify import VARIABLES, Event, is_silent
from daybook.jobs.store import StoredJob
from daybook.json_text import JsonObject
from daybook.ledger import texts
from daybook.ledger.references import command_word
from daybook.ledger.states import FAILURES, Status
from daybook.ledger.tables import ApprovalRow, JobRow, RunRow
from daybook.ledger.views import Approval, Run
from daybook.policies.policy import ANSWER
from daybook.schedules.zones import display_zone
from daybook.short_text import one_line, shorten

CALLBACK_VERSION = 1
"""Version of a callback's body."""

MAX_MESSAGE_LENGTH = 100_000
"""Maximum length of a stored message in characters."""

MAX_SUBJECT_LENGTH = 200
MAX_WARNING_LENGTH = 200
MAX_WARNINGS = 5

_STATUS_PHRASES: dict[Status, str] = {
    Status.TIMED_OUT: "timed out",
    Status.UNKNOWN: "ended with an unknown outcome",
    Status.CANCELLED: "was cancelled",
    Status.MISSED: "was missed",
}


def callback_body(row: RunRow, job: JobRow | None, event: str, corrects: str | None) -> str:
    """Return the body of a callback, as Daybook signs and sends it.

    If the outcome of the run was corrected, ``corrects`` is the former outcome, otherwise None. For
    a job that an agent owns, `output`, `result` and `error` are null; if the run has warnings,
    `warnings` and `reason` contain only the names of the tools.
    """
    data = _run(row, job, event, corrects)
    if job is not None and owners.is_agent(job.owner):
        # An error may contain a part of the answer.
        data |= {"output": None, "result": None, "error": None}
        if row.warnings:
            names = [each.partition(":")[0] for each in row.warnings]
            data |= {"warnings": names, "reason": f"warning: {'; '.join(names)}"}
    return texts.to_json(data)


def listener_body(row: RunRow, job: JobRow | None, event: str, corrects: str | None) -> str:
    """Return the body for a listener, with the answer even of an agent's job.

    Listeners belong to the operator; the receivers of callbacks may belong to others.
    """
    return texts.to_json(_run(row, job, event, corrects))


def _run(row: RunRow, job: JobRow | None, event: str, corrects: str | None) -> JsonObject:
    data: JsonObject = {"version": CALLBACK_VERSION, "event": event, "corrects": corrects}
    data |= Run.of(row, job).model_dump(mode="json")
    del data["delivery"]  # the delivery status is not known before this row is delivered
    return data


def answer_text(row: RunRow, output: str | None) -> str:
    """Return the answer of a run that succeeded; "" if there is none, or if it is silent."""
    text = output if output is not None or row.result is None else texts.to_json(row.result)
    text = (text or "").strip()
    return "" if is_silent(text) else text


def subject(row: RunRow, job: JobRow | None, corrects: str | None) -> str:
    """Return a subject such as `morning-brief: failed`."""
    was = f" (was {corrects})" if corrects else ""
    return one_line(f"{_name(row, job)}: {row.status.replace('_', ' ')}{was}", MAX_SUBJECT_LENGTH)


def message(
    row: RunRow, stored: StoredJob | None, event: Event, output: str | None, template: str
) -> str:
    """Return the text for the job's channel: the rendered template, unless it is blank.

    Without such a text, return the answer of a completed run, or the description of any other
    outcome.
    """
    if template:
        rendered = prompts.render(template, _values(row, stored, output), VARIABLES)
        if rendered.strip():
            return shorten(rendered, MAX_MESSAGE_LENGTH)
    if event == "completed":
        return shorten(answer_text(row, output), MAX_MESSAGE_LENGTH)
    return failure(row, stored)


def warnings(row: RunRow, owner: str) -> str:
    """Return the lines about the failed tools of a run that succeeded; "" if none failed.

    For a job that an agent owns, they contain only the names of the tools, as in its callbacks.
    """
    if row.state is not Status.SUCCEEDED or not row.warnings:
        return ""
    names_only = owners.is_agent(owner)
    shown = [each.partition(":")[0] if names_only else each for each in row.warnings]
    lines = [one_line(each, MAX_WARNING_LENGTH) for each in shown[:MAX_WARNINGS]]
    more = [f"{len(shown) - MAX_WARNINGS} more"] if len(shown) > MAX_WARNINGS else []
    return "\n".join(["Warnings:", *(f"- {each}" for each in (*lines, *more))])


def failure(row: RunRow, stored: StoredJob | None) -> str:
    """Return the description of a run that did not succeed, with the command that shows the run."""
    job = stored.row if stored else None
    failures = job.consecutive_failures if job and row.state in FAILURES else 0
    nth = f", {failures} times in a row" if failures > 1 else ""
    reason = (row.error or row.reason).strip()
    lines = [
        f"{_name(row, job)} {_STATUS_PHRASES.get(row.state, row.status)}{nth}"
        + (f": {reason}" if reason else "")
    ]
    if row.count > 1:
        first, last = _due(row.due, stored), _due(row.due_to or row.due, stored)
        lines.append(f"{row.count:,} due times, from {first} to {last}")
    else:
        lines.append(f"due {_due(row.due, stored)}")
    lines.append(f"daybook show {row.id[:12]}")
    return shorten("\n".join(lines), MAX_MESSAGE_LENGTH)


def paused(row: RunRow, stored: StoredJob) -> tuple[str, str]:
    """Return the subject and the text for a job that was paused because of its failures."""
    job = stored.row
    lines = [
        f"{job.name} was {job.disabled_reason}",
        f"To resume it: daybook resume {command_word(job)}",
        f"daybook show {row.id[:12]}",
    ]
    text = shorten("\n".join(lines), MAX_MESSAGE_LENGTH)
    return one_line(f"{job.name}: paused", MAX_SUBJECT_LENGTH), text


def approval(row: RunRow, stored: StoredJob | None, asked: ApprovalRow) -> tuple[str, str]:
    """Return the subject and the text of a question about a tool call or an answer."""
    name = _name(row, stored.row if stored else None)
    is_answer = asked.position == ANSWER
    what = "the answer" if is_answer else asked.tool
    refused = "the run fails" if is_answer else "the call is refused"
    lines = [
        f"{name} has answered:\n\n{asked.input}\n"
        if is_answer
        else _call(name, Approval.of(asked)),
        f"To allow it: daybook approve {row.id[:12]}.{asked.number}",
        f"To refuse it: daybook reject {row.id[:12]}.{asked.number} --reason WHY",
        f"Without a decision until {_due(asked.deadline, stored)} {refused}.",
    ]
    text = shorten("\n".join(lines), MAX_MESSAGE_LENGTH)
    return one_line(f"{name}: approve {what}?", MAX_SUBJECT_LENGTH), text


def _call(name: str, asked: Approval) -> str:
    listed = f" with\n\n{asked.input}\n" if asked.input else " without arguments"
    is_cut = asked.input != asked.full_input
    whole = "Read the whole arguments: daybook approve --full\n" if is_cut else ""
    return f"{name} wants to call {asked.tool}{listed}{whole}"


def recovered(row: RunRow, stored: StoredJob) -> tuple[str, str]:
    """Return the subject and the text of the message that a job succeeds again after an alert."""
    name = stored.row.name
    text = f"{name} succeeded again\ndue {_due(row.due, stored)}\ndaybook show {row.id[:12]}"
    return one_line(f"{name}: recovered", MAX_SUBJECT_LENGTH), text


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
    local = instant.astimezone(display_zone(stored.job.schedule.timezone)) if stored else instant
    return local.isoformat(timespec="seconds")
