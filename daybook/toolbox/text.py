"""Answers of the tools for jobs and sessions.

Each function turns a result of `daybook.api` into a short text, with ids, due times in the job's
zone, and recipients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING

from daybook.duration_text import measured_in_words
from daybook.instants import utc_text
from daybook.jobs.views import ChangedJob, JobDetails, ListedJob
from daybook.ledger import triggers
from daybook.ledger.views import Run
from daybook.schedules.descriptions import WEEKDAYS
from daybook.schedules.due_times import DueTimes
from daybook.schedules.zones import display_zone
from daybook.short_text import shorten

if TYPE_CHECKING:
    from daybook.api.sessions import Session, SessionDetails

MAX_DUE_TIMES = 3
"""Maximum number of due times in the text of a job."""

MAX_JOBS = 50
"""Maximum number of jobs, or of other groups, in a list."""

MAX_OUTPUT_CHARACTERS = 4_000
"""Maximum length of the output of one run, or of the newest of several runs, in characters."""

MAX_BRIEF_CHARACTERS = 300
"""Maximum length of earlier runs' outputs, and of other long texts, in characters."""


def due(moment: datetime, timezone: str = "") -> str:
    """Return an instant as text, such as `Monday 2026-11-23 09:00 +01:00`.

    The time is in ``timezone`` if it is given, otherwise in the zone of ``moment``. The text has
    seconds only if they are not zero. An offset of zero is written as `UTC`.
    """
    if timezone:
        moment = moment.astimezone(display_zone(timezone)).replace(microsecond=0)
    time = f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"
    offset = f"{moment:%z}"
    from_utc = f"{offset[:3]}:{offset[3:5]}" if moment.utcoffset() else "UTC"
    return f"{WEEKDAYS[moment.isoweekday() % 7]} {moment:%Y-%m-%d} {time} {from_utc}"


def job(found: ChangedJob | JobDetails, begin: str = "") -> str:
    """Describe a job, one line for each fact. ``begin`` is a sentence about a change of the job."""
    lines = [f'{begin}Job "{found.name}", id {found.id}']
    lines.append(f"is: {enabled_state(found)}")
    lines.append(f"schedule: {found.words}")
    lines.append(f"next due: {next_due(found)}")
    facts = [(label, text) for label, text in found.action.facts() if text]
    lines += [f"{label}: {_beginning(text)}" for label, text in facts]
    lines += _recipient_lines(found)
    if isinstance(found, ChangedJob):
        lines += [f"note: {each}" for each in found.notes]
    elif found.sync == "pending":
        lines.append("note: its last change is not in Prefect yet; Daybook retries automatically")
    return "\n".join(lines)


def full_job(found: JobDetails) -> str:
    """Describe a job as `job` does. Add its owner, removal, run counts, last run and last error."""
    lines = [job(found), f"owner: {found.owner}"]
    if found.removed_at:
        lines.append(f"removed at: {due(found.removed_at)}")
    if found.run_count:
        fails = found.consecutive_failures
        times = "one failure" if fails == 1 else f"{fails} failures"
        tail = f", {times} since the last success" if fails else ""
        lines.append(f"runs so far: {found.run_count}{tail}")
    if found.last_run:
        lines.append(f"last run: {_run_line(found.last_run, found.schedule.timezone)}")
    if found.last_error:
        lines.append(f"last error: {_beginning(found.last_error)}")
    return "\n".join(lines)


def jobs(found: Sequence[ListedJob], status: str) -> str:
    """Describe at most `MAX_JOBS` jobs, one line for each. ``status`` is the filter of the list."""
    if not found:
        which = {"all": "no jobs", "failed": "no jobs whose last run failed"}.get(
            status, f"no {status} jobs"
        )
        return f"There are {which}." + hint("cron_add", " {} adds one.")
    lines = [f"{len(found)} job{'s' if len(found) > 1 else ''}:"]
    for each in found[:MAX_JOBS]:
        last = each.last_status or "not run yet"
        at = due(each.next_due[0]) if each.next_due else "-"
        lines.append(
            f'- "{each.name}" (id {each.id[:8]}), {enabled_state(each)}, {each.words}; '
            f"next due: {at}; last: {last}"
        )
    if len(found) > MAX_JOBS:
        lines.append(f"… and {len(found) - MAX_JOBS} more; filter by status.")
    return "\n".join(lines)


def enabled_state(found: ListedJob) -> str:
    """Return `enabled`, or `disabled` with its reason, such as `disabled (paused: on holiday)`."""
    if found.enabled:
        return "enabled"
    reason = found.disabled_reason
    return f"disabled ({reason})" if reason else "disabled"


def next_due(found: ListedJob) -> str:
    """Return the next due times of a job. If it has none, return the reason."""
    if times := found.next_due[:MAX_DUE_TIMES]:
        return ", ".join(map(due, times))
    if not found.enabled:
        on, now = hint("cron_enable", "{} enables it"), hint("cron_trigger", "{} runs it now")
        ways = ", ".join(filter(None, (on, now)))
        return "never while it is disabled" + (f"; {ways}" if ways else "")
    return "never by itself" + hint("cron_trigger", "; {} runs it")


def due_times(found: DueTimes) -> str:
    """Return the due times of a schedule, one on each line, in local time and in UTC."""
    if not found.due:
        return f"{found.words}: never due again"
    lines = [f"{found.words}:"]
    for each in found.due:
        local, utc = due(each.local), utc_text(each.utc)
        lines.append(f"- {local}" + ("" if local.endswith("UTC") else f" = {utc}"))
    return "\n".join(lines)


def run(found: Run, timezone: str, begin: str, longest: int = MAX_OUTPUT_CHARACTERS) -> str:
    """Describe one run of a job: its outcome and its output. Times are in ``timezone``."""
    lines = [f"{begin}{_run_line(found, timezone)}"]
    lines += [
        f"{label}: {_beginning(why)}"
        for label, why in zip(("why", "note"), found.reasons(), strict=False)
    ]
    if found.delivery != "not_requested":
        lines.append(f"delivery: {found.delivery}")
    if found.output:
        lines.append(f"output: {_beginning(found.output, longest)}")
    return "\n".join(lines)


def runs(name: str, timezone: str, found: Sequence[Run]) -> str:
    """Describe runs, newest first. Shorten the outputs of all runs except the newest."""
    if not found:
        return f'"{name}" has not run yet{hint("cron_trigger", "; {} runs it now")}.'
    first, *rest = found
    parts = [
        run(first, timezone, "- "),
        *(run(each, timezone, "- ", MAX_BRIEF_CHARACTERS) for each in rest),
    ]
    return "\n".join([f'Runs of "{name}", newest first:', *parts])


def sessions(found: Sequence[Session]) -> str:
    """Describe sessions, one line for each."""
    if not found:
        return "There are no sessions."
    return "\n".join(
        f"- {_session_line(each)}, last used {due(each.last_used_at)}" for each in found
    )


def session(found: SessionDetails) -> str:
    """Describe a session: its summary and its last messages, oldest first."""
    lines = [f"Session {_session_line(found)}"]
    if found.summary is not None:
        content = _beginning(found.summary.content, MAX_OUTPUT_CHARACTERS)
        lines.append(f"summary of the messages up to {found.summary.through}: {content}")
    lines += [
        f"{each.number} {each.role}: {_beginning(each.content, MAX_OUTPUT_CHARACTERS)}"
        for each in found.history
    ]
    return "\n".join(lines)


def _session_line(found: Session) -> str:
    title = f' "{found.title}"' if found.title else ""
    return f"{found.id}{title}, {found.messages} messages with {found.agent}"


def _beginning(text: str, longest: int = MAX_BRIEF_CHARACTERS) -> str:
    return shorten(text.strip(), longest, inline=True)


def _run_line(found: Run, timezone: str) -> str:
    when = "due" if triggers.of(found.trigger).has_due_time else "requested"
    text = f"run {found.id[:8]}: {found.status}, {when} {due(found.scheduled_for, timezone)}"
    if found.duration_seconds is not None:
        text += f", took {measured_in_words(found.duration_seconds)}"
    return f"{text}, trigger {found.trigger}"


def _recipient_lines(found: ChangedJob | JobDetails) -> Iterable[str]:
    recipients = found.recipients
    if answers := recipients.get("completed"):
        yield f"answer goes to: {', '.join(answers)}"
    else:
        yield "answer goes to: no channel; it is stored" + hint("cron_runs", ", and {} shows it")
    if failures := recipients.get("failed"):
        yield f"failures go to: {', '.join(failures)}"


_OFFERED: ContextVar[Mapping[str, str] | None] = ContextVar("daybook_offered_tools", default=None)


@contextmanager
def offering(tools: Mapping[str, str]) -> Iterator[None]:
    """Limit hints inside the context to ``tools``, which maps tools to the caller's names."""
    token = _OFFERED.set(tools)
    try:
        yield
    finally:
        _OFFERED.reset(token)


def hint(tool: str, text: str) -> str:
    """Return ``text`` with the caller's name for ``tool`` in `{}`, or "" if the caller lacks it.

    Outside of `offering`, every caller has every tool under its own name.
    """
    offered = _OFFERED.get()
    name = tool if offered is None else offered.get(tool)
    return "" if name is None else text.replace("{}", name)
