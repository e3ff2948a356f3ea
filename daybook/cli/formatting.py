"""Instants, jobs and runs as a person reads them; what comes in are the service's dictionaries."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from typing import Any

from daybook.clock import SYSTEM


def local(text: str | None) -> str:
    """An instant by this machine's clock, to the second; a dash for none."""
    if text is None:
        return "-"
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


def due(text: str) -> str:
    """A due time by its job's own clock: `Fri 2026-11-20 09:00 +01:00`."""
    moment = datetime.fromisoformat(text)
    offset = f"{moment:%z}"
    return f"{_DAYS[moment.weekday()]} {_date_and_time(moment)} {offset[:3]}:{offset[3:5]}"


def due_and_utc(text: str) -> str:
    """The same, and what it is in UTC where that is another time of day."""
    moment = datetime.fromisoformat(text)
    if not moment.utcoffset():
        return f"{_DAYS[moment.weekday()]} {_date_and_time(moment)} UTC"
    return f"{due(text)}  =  {_date_and_time(moment.astimezone(UTC))} UTC"


def short_due(text: str) -> str:
    """A due time for a table: `Fri 20 Nov 09:00`, with seconds and year where they say something.

    The year is left out for the next 180 days, in which no day and month comes twice.
    """
    moment = datetime.fromisoformat(text)
    shown = (
        f"{_DAYS[moment.weekday()]} {moment.day} {_MONTHS[moment.month - 1]} {_time_of_day(moment)}"
    )
    return shown if (moment - SYSTEM.now()).days < 180 else f"{shown} {moment.year}"


def lasted(seconds: float | None) -> str:
    """`0.4 s`, `1 m 05 s`, `2 h 03 m`; a dash for none."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} m"


def switch(job: dict[str, Any]) -> str:
    """Whether a job is on, and why it is not: `on`, `off (paused: on holiday)`."""
    if job["enabled"]:
        return "on"
    reason = job["disabled_reason"]
    return f"off ({reason})" if reason else "off"


def run_in_brief(run: dict[str, Any]) -> str:
    """One line of a run: `failed at 2026-11-20 09:00:01 (exit code 1)`, `running, due …`."""
    if run["finished_at"] is None:
        line = f"{run['status']}, due {local(run['scheduled_for'])}"
    else:
        line = f"{run['status']} at {local(run['finished_at'])}"
    return line + (f" ({why})" if (why := why_in_brief(run)) else "")


def due_of(run: dict[str, Any]) -> str:
    """When a run was due; of several due times that are one run the first, the last, how many."""
    first, last = local(run["scheduled_for"]), run["scheduled_to"]
    return first if last is None else f"{first} to {local(last)}, {run['count']:,} times"


def job_of(run: dict[str, Any], none: str = "-") -> str:
    """The name of the job of a run or a delivery, and whether that was removed; else ``none``."""
    return f"{run['job']} (removed)" if run["job_removed"] else run["job"] or none


def why_in_brief(run: dict[str, Any]) -> str:
    """The first line of a run's reason or error; empty when there is none."""
    return "".join((run["reason"] or run["error"] or "").strip().splitlines()[:1])


def delivery(run: dict[str, Any]) -> str:
    """Return what became of the run's callbacks and messages, or else of its alert, for a table.

    `delivered`, `alert delivered`; a dash if there are none.
    """
    if run["delivery"] != "not_requested":
        return str(run["delivery"])
    return f"alert {run['alert']}" if run.get("alert") else "-"


def told(run: dict[str, Any]) -> str:
    """The same in full, a line for each callback and message; empty where nothing was asked."""
    lines = [f"{receiver(each)}: {delivered(each)}" for each in run.get("deliveries", ())]
    if run["delivery"] == "suppressed":
        lines.append("held back: said before, nothing to say, or the job is silent")
    elif not lines and run["delivery"] != "not_requested":
        lines.append(str(run["delivery"]))
    return "\n".join(lines)


def delivered(each: dict[str, Any]) -> str:
    """`delivered`, `delivered at the 3rd try`, `pending, 2 tries, next 2026-…: connection refused`.

    That is one callback or message.
    """
    tries, error = each["attempts"], in_one_line(each["error"])
    why = f": {error}" if error else ""
    match each["status"]:
        case "delivered":
            return "delivered" + (f" after {counted(tries, 'try')}" if tries > 1 else "")
        case "failed":
            return f"failed after {counted(tries, 'try')}{why}"
        case "suppressed":
            return each["note"] or "withdrawn"
        case _:
            return f"pending, {counted(tries, 'try')}, next {next_try(each['next_at'])}{why}"


def next_try(*at: str | None) -> str:
    """Return the latest of these instants by this machine's clock, or `now` if it has passed."""
    times = [datetime.fromisoformat(each) for each in at if each is not None]
    latest = max(times, default=SYSTEM.now())
    return local(latest.isoformat()) if latest > SYSTEM.now() else "now"


def receiver(each: dict[str, Any]) -> str:
    """To whom a callback or message goes: an address, or `team (chat 42)`."""
    return f"{each['to']} (chat {each['chat_id']})" if each["chat_id"] else str(each["to"])


def who_is_told(told: dict[str, list[str]]) -> str:
    """Of a job, a line for each circle of receivers: `completed, failed → inbox, https://…`."""
    events_of: dict[str, list[str]] = {}
    for event, receivers in told.items():
        for each in receivers:
            events_of.setdefault(each, []).append(event)
    recipients_of: dict[str, list[str]] = {}
    for each, events in events_of.items():
        recipients_of.setdefault(", ".join(events), []).append(each)
    return "\n".join(f"{events} → {', '.join(circle)}" for events, circle in recipients_of.items())


def rotation(until: str | None) -> str:
    """How a destination's secret is: its own, and until when the one before it is valid."""
    return f"its own; the old one until {local(until)}" if until else "its own"


def short_id(of: str) -> str:
    """The beginning of an id by which a person names it, without what all of them begin with."""
    return of.removeprefix("msg_")[:8]


def counted(count: int, noun: str) -> str:
    """`1 try`, `2 tries`, `1,000 messages`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def in_one_line(text: str | None) -> str:
    """The first line that says something; empty for none."""
    return next(filter(None, map(str.strip, (text or "").splitlines())), "")


def attempts(run: dict[str, Any]) -> str:
    """`3 attempts`; empty for one or none, which says nothing."""
    return f"{run['attempts']} attempts" if run["attempts"] > 1 else ""


def tokens(usage: dict[str, Any]) -> str:
    """`14 tokens in, 8 out`; empty where nobody told."""
    if usage.get("input_tokens") is None:
        return ""
    return f"{usage['input_tokens']:,} tokens in, {usage['output_tokens'] or 0:,} out"


def cost(usage: dict[str, Any]) -> str:
    """`$0.000018`, or that the price is unknown; empty for what costs nothing by its nature."""
    if not usage:
        return ""
    dollars = usage.get("cost_usd")
    return "price unknown" if dollars is None else f"${dollars:.6f}"


def spent(run: dict[str, Any]) -> str:
    """What a run took, in one line: `2 attempts · gpt-6-luna · 14 tokens in, 8 out · $0.000018`."""
    usage = run["usage"]
    parts = [attempts(run), run["model"] if usage else "", tokens(usage), cost(usage)]
    return " · ".join(filter(None, parts))


def check(of: dict[str, Any]) -> str:
    """What a job asks before it runs: `the tool mail.any {"box": "in"}`; empty for nothing."""
    if of["tool"]:
        return f"the tool {of['tool']}" + (f" {value(of['params'])}" if of["params"] else "")
    if of["prompt"]:
        return f"the agent {of['agent'] or 'of the job'}: {of['prompt']}"
    return f"the command {shlex.join(of['command'])}" if of["command"] else ""


def value(of: Any) -> str:
    """A field of an action: JSON for an object."""
    return json.dumps(of, ensure_ascii=False) if isinstance(of, dict) else str(of)


def quoted(name: str) -> str:
    """A name as it is written on a command line."""
    return shlex.quote(name)


# English whatever the locale.
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _date_and_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d} {_time_of_day(moment)}"


def _time_of_day(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"
