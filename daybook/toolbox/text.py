"""Answers of the job tools: short texts, with ids, due times in the job's zone, and recipients.

The input is a dictionary of `daybook.api.views`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from daybook.schedules.descriptions import WEEKDAYS
from daybook.schedules.zones import zone

MAX_DUE_TIMES = 3
"""Maximum number of due times in the text of a job."""

MAX_JOBS = 50
"""Maximum number of jobs in a list."""

MAX_OUTPUT_CHARACTERS = 4_000
"""Maximum characters of the newest run's output."""

MAX_BRIEF_CHARACTERS = 300
"""Maximum characters of the outputs of earlier runs, and of other long texts."""

_BY_TIME = ("schedule", "catch_up", "backfill")
"""The triggers of runs that a schedule made due."""


def due(instant: datetime | str, timezone: str = "") -> str:
    """Return `Monday 2026-11-23 09:00 +01:00`, with seconds only if they are not zero.

    The offset is taken from ``instant``, or from ``timezone``.
    """
    moment = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
    if timezone:
        moment = moment.astimezone(zone(timezone)).replace(microsecond=0)
    time = f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"
    offset = f"{moment:%z}"
    from_utc = f"{offset[:3]}:{offset[3:5]}" if moment.utcoffset() else "UTC"
    return f"{WEEKDAYS[moment.isoweekday() % 7]} {moment:%Y-%m-%d} {time} {from_utc}"


def job(found: dict[str, Any], begin: str = "") -> str:
    """Describe a job, one line for each fact; ``begin`` says what was done to it."""
    lines = [f'{begin}Job "{found["name"]}", id {found["id"]}']
    lines.append(f"is: {enabled_state(found)}")
    lines.append(f"schedule: {found['words']}")
    lines.append(f"next due: {next_due(found)}")
    lines += _action_lines(found)
    lines += _recipient_lines(found)
    lines += [f"note: {each}" for each in found.get("notes", ())]
    if found["sync"] == "pending":
        lines.append("note: Prefect does not have it yet; Daybook retries by itself")
    return "\n".join(lines)


def full_job(found: dict[str, Any]) -> str:
    """Describe a job in full: as `job`, with its owner, run counts, last run and last error."""
    lines = [job(found), f"owner: {found['owner']}"]
    if found["removed_at"]:
        lines.append(f"removed at: {due(found['removed_at'])}")
    if found["run_count"]:
        fails = found["consecutive_failures"]
        tail = f", the last {fails} failed" if fails else ""
        lines.append(f"runs so far: {found['run_count']}{tail}")
    if found.get("last_run"):
        lines.append(f"last run: {_run_line(found['last_run'], found['schedule']['timezone'])}")
    if found["last_error"]:
        lines.append(f"last error: {truncated(found['last_error'], MAX_BRIEF_CHARACTERS)}")
    return "\n".join(lines)


def jobs(found: Sequence[dict[str, Any]], status: str) -> str:
    """Describe a list of jobs, one line for each."""
    if not found:
        which = "no jobs" if status == "all" else f"no jobs that are {status}"
        return f"There are {which}." + hint("cron_add", " {} adds one.")
    lines = [f"{len(found)} job{'s' if len(found) > 1 else ''}:"]
    for each in found[:MAX_JOBS]:
        last = each["last_status"] or "not run yet"
        at = due(each["next_due"][0]) if each["next_due"] else "-"
        lines.append(
            f'- "{each["name"]}" (id {each["id"][:8]}), {enabled_state(each)}, {each["words"]}; '
            f"next due: {at}; last: {last}"
        )
    if len(found) > MAX_JOBS:
        lines.append(f"… and {len(found) - MAX_JOBS} more; filter by status.")
    return "\n".join(lines)


def enabled_state(found: dict[str, Any]) -> str:
    """Return `enabled`, or `disabled (paused: on holiday)`."""
    if found["enabled"]:
        return "enabled"
    reason = found["disabled_reason"]
    return f"disabled ({reason})" if reason else "disabled"


def next_due(found: dict[str, Any]) -> str:
    """Return the next due times of a job, or why there are none."""
    if times := found["next_due"][:MAX_DUE_TIMES]:
        return ", ".join(map(due, times))
    if not found["enabled"]:
        on, now = hint("cron_enable", "{} enables it"), hint("cron_trigger", "{} runs it now")
        ways = ", ".join(filter(None, (on, now)))
        return "never while it is disabled" + (f"; {ways}" if ways else "")
    return "never by itself" + hint("cron_trigger", "; {} runs it")


def due_times(found: dict[str, Any]) -> str:
    """Return the due times of a schedule, local and UTC."""
    if not found["due"]:
        return f"{found['words']}: never due again"
    lines = [f"{found['words']}:"]
    for each in found["due"]:
        local, utc = due(each["local"]), each["utc"]
        lines.append(f"- {local}" + ("" if local.endswith("UTC") else f" = {utc}"))
    return "\n".join(lines)


def run(
    found: dict[str, Any], timezone: str, begin: str, longest: int = MAX_OUTPUT_CHARACTERS
) -> str:
    """Describe one run of a job in ``timezone``: its outcome and its output."""
    lines = [f"{begin}{_run_line(found, timezone)}"]
    if why := found["reason"] or found["error"]:
        lines.append(f"why: {truncated(why, MAX_BRIEF_CHARACTERS)}")
    if found["delivery"] != "not_requested":
        lines.append(f"delivery: {found['delivery']}")
    if found["output"]:
        lines.append(f"output: {truncated(found['output'], longest)}")
    return "\n".join(lines)


def runs(name: str, timezone: str, found: Sequence[dict[str, Any]]) -> str:
    """Describe runs, newest first; only the first with its full output."""
    if not found:
        return f'"{name}" has not run yet{hint("cron_trigger", "; {} runs it now")}.'
    first, *rest = found
    parts = [
        run(first, timezone, "- "),
        *(run(each, timezone, "- ", MAX_BRIEF_CHARACTERS) for each in rest),
    ]
    return "\n".join([f'Runs of "{name}", newest first:', *parts])


def truncated(text: str, longest: int) -> str:
    """Return ``text``, or its beginning and the number of omitted characters."""
    text = text.strip()
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… ({len(text) - longest:,} more characters)"


def _run_line(found: dict[str, Any], timezone: str) -> str:
    text = f"run {found['id'][:8]}: {found['status']}"
    if found["scheduled_for"]:
        when = "due" if found["trigger"] in _BY_TIME else "requested"
        text += f", {when} {due(found['scheduled_for'], timezone)}"
    if found["duration_seconds"] is not None:
        text += f", took {found['duration_seconds']:.1f} s"
    return f"{text}, trigger {found['trigger']}"


def _action_lines(found: dict[str, Any]) -> Iterable[str]:
    match found["kind"]:
        case "webhook":
            yield f"calls: {found['method']} {found['url']}"
        case "tool-call":
            params = truncated(
                json.dumps(found["params"], ensure_ascii=False), MAX_BRIEF_CHARACTERS
            )
            yield f"calls: the tool {found['tool']} with {params}"
        case _ if "prompt" in found:
            model = f", model {found['model']}" if found.get("model") else ""
            session = f", session {found['session']}" if found.get("session") else ""
            yield f"asks: the agent {found['agent']}{model}{session}"
            yield f"prompt: {truncated(found['prompt'], MAX_BRIEF_CHARACTERS)}"
        case kind:
            yield f"kind: {kind}"


def _recipient_lines(found: dict[str, Any]) -> Iterable[str]:
    recipients = found["recipients"]
    if answers := recipients.get("completed"):
        yield f"answer goes to: {', '.join(answers)}"
    else:
        yield "answer goes to: no channel; it is stored" + hint("cron_runs", ", and {} shows it")
    if failures := recipients.get("failed"):
        yield f"failures go to: {', '.join(failures)}"


_OFFERED: ContextVar[Mapping[str, str] | None] = ContextVar("daybook_offered_tools", default=None)


@contextmanager
def offering(tools: Mapping[str, str]) -> Iterator[None]:
    """Limit hints inside to these tools; the values are how the caller calls each."""
    token = _OFFERED.set(tools)
    try:
        yield
    finally:
        _OFFERED.reset(token)


def hint(tool: str, text: str) -> str:
    """Return ``text`` with `{}` replaced by how ``tool`` is called; empty if it is not offered.

    Outside of `offering` every tool is offered, under its own name.
    """
    offered = _OFFERED.get()
    name = tool if offered is None else offered.get(tool)
    return "" if name is None else text.replace("{}", name)
