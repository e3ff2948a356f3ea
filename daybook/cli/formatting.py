"""Text for instants, jobs and runs, made from the dictionaries of `daybook.api`."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from typing import Any

from daybook.clock import SYSTEM_CLOCK


def local_time(instant: datetime | str | None) -> str:
    """Return an instant in this machine's time zone, to the second; a dash for None."""
    if instant is None:
        return "-"
    if isinstance(instant, str):
        instant = datetime.fromisoformat(instant)
    return f"{instant.astimezone():%Y-%m-%d %H:%M:%S}"


def due_time(text: str) -> str:
    """Return a due time in its job's time zone: `Fri 2026-11-20 09:00 +01:00`."""
    moment = datetime.fromisoformat(text)
    offset = f"{moment:%z}"
    return f"{_DAYS[moment.weekday()]} {_date_and_time(moment)} {offset[:3]}:{offset[3:5]}"


def due_time_with_utc(text: str) -> str:
    """Return a due time in its job's time zone and, if the zone's offset is not zero, also in UTC.

    `Fri 2026-11-20 09:00 +01:00  =  2026-11-20 08:00 UTC`, or `Fri 2026-11-20 09:00 UTC`.
    """
    moment = datetime.fromisoformat(text)
    if not moment.utcoffset():
        return f"{_DAYS[moment.weekday()]} {_date_and_time(moment)} UTC"
    return f"{due_time(text)}  =  {_date_and_time(moment.astimezone(UTC))} UTC"


def short_due_time(text: str) -> str:
    """Return a due time for a table: `Fri 20 Nov 09:00`, with seconds only if they are not zero.

    The year is left out for the next 180 days, in which no day and month comes twice.
    """
    moment = datetime.fromisoformat(text)
    shown = (
        f"{_DAYS[moment.weekday()]} {moment.day} {_MONTHS[moment.month - 1]} {_time_of_day(moment)}"
    )
    return shown if (moment - SYSTEM_CLOCK.now()).days < 180 else f"{shown} {moment.year}"


def duration(seconds: float | None) -> str:
    """Return `0.4 s`, `1 m 05 s` or `2 h 03 m`; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} m"


def enabled_state(job: dict[str, Any]) -> str:
    """Return `on`, or `off` with the reason: `off (paused: on holiday)`."""
    if job["enabled"]:
        return "on"
    reason = job["disabled_reason"]
    return f"off ({reason})" if reason else "off"


def run_summary(run: dict[str, Any]) -> str:
    """Return `failed at 2026-11-20 09:00:01 (exit code 1)`, or `running, due …`."""
    if run["finished_at"] is None:
        line = f"{run['status']}, due {local_time(run['scheduled_for'])}"
    else:
        line = f"{run['status']} at {local_time(run['finished_at'])}"
    return line + (f" ({why})" if (why := short_reason(run)) else "")


def run_due_time(run: dict[str, Any]) -> str:
    """Return the due time of a run.

    For a run that covers several due times, return the first, the last and their number.
    """
    first, last = local_time(run["scheduled_for"]), run["scheduled_to"]
    return first if last is None else f"{first} to {local_time(last)}, {run['count']:,} times"


def job_label(run: dict[str, Any], none: str = "-") -> str:
    """Return the job's name, marked if the job was removed, or ``none`` without a job."""
    return f"{run['job']} (removed)" if run["job_removed"] else run["job"] or none


def short_reason(run: dict[str, Any]) -> str:
    """Return the first line of a run's reason or error; empty if it has neither."""
    return "".join((run["reason"] or run["error"] or "").strip().splitlines()[:1])


def delivery_summary(run: dict[str, Any]) -> str:
    """Return the state of a run's callbacks and messages, or else of its alert, for a table.

    `delivered`, `alert delivered`; a dash if there are none.
    """
    if run["delivery"] != "not_requested":
        return str(run["delivery"])
    return f"alert {run['alert']}" if run.get("alert") else "-"


def delivery_details(run: dict[str, Any]) -> str:
    """Return a line for each callback and message of a run; empty if none was requested."""
    lines = [f"{recipient(each)}: {delivery_state(each)}" for each in run.get("deliveries", ())]
    if run["delivery"] == "suppressed":
        lines.append("not sent: a repeat, nothing to report, or the job is silent")
    elif not lines and run["delivery"] != "not_requested":
        lines.append(str(run["delivery"]))
    return "\n".join(lines)


def delivery_state(each: dict[str, Any]) -> str:
    """Return the state of one callback or message.

    `delivered`, `delivered after 3 tries`, `pending, 2 tries, next 2026-…: connection refused`.
    """
    tries, error = each["attempts"], first_line(each["error"])
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
    """Return the latest of the instants in this machine's time zone, or `now` if it has passed."""
    times = [datetime.fromisoformat(each) for each in at if each is not None]
    latest = max(times, default=SYSTEM_CLOCK.now())
    return local_time(latest.isoformat()) if latest > SYSTEM_CLOCK.now() else "now"


def recipient(each: dict[str, Any]) -> str:
    """Return the recipient of a callback or message: an address, or `team (chat 42)`."""
    return f"{each['to']} (chat {each['chat_id']})" if each["chat_id"] else str(each["to"])


def notifications(recipients_of: dict[str, list[str]]) -> str:
    """Return the notifications of a job: `completed, failed → inbox, https://…`.

    ``recipients_of`` maps each event to its recipients. Recipients of the same events share a line.
    """
    events_of: dict[str, list[str]] = {}
    for event, recipients in recipients_of.items():
        for each in recipients:
            events_of.setdefault(each, []).append(event)
    lines: dict[str, list[str]] = {}
    for each, events in events_of.items():
        lines.setdefault(", ".join(events), []).append(each)
    return "\n".join(f"{events} → {', '.join(recipients)}" for events, recipients in lines.items())


def signing_secret_state(until: str | None) -> str:
    """Describe a destination's signing secret, and until when its previous one is valid."""
    return f"own; the previous one until {local_time(until)}" if until else "own"


def short_id(of: str) -> str:
    """Return the short form of an id that a user can type, without the common prefix."""
    return of.removeprefix("msg_")[:8]


def counted(count: int, noun: str) -> str:
    """Return `1 try`, `2 tries` or `1,000 messages`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def first_line(text: str | None) -> str:
    """Return the first line that is not blank; empty if there is none."""
    return next(filter(None, map(str.strip, (text or "").splitlines())), "")


def attempts(run: dict[str, Any]) -> str:
    """Return `3 attempts`; empty for one or none."""
    return f"{run['attempts']} attempts" if run["attempts"] > 1 else ""


def tokens(usage: dict[str, Any]) -> str:
    """Return `14 tokens in, 8 out`; empty if the usage is not known."""
    if usage.get("input_tokens") is None:
        return ""
    return f"{usage['input_tokens']:,} tokens in, {usage['output_tokens'] or 0:,} out"


def cost(usage: dict[str, Any]) -> str:
    """Return `$0.000018` or `price unknown`; empty if there is no usage."""
    if not usage:
        return ""
    dollars = usage.get("cost_usd")
    return "price unknown" if dollars is None else f"${dollars:.6f}"


def usage_summary(run: dict[str, Any]) -> str:
    """Return the usage of a run: `2 attempts · gpt-6-luna · 14 tokens in, 8 out · $0.000018`."""
    usage = run["usage"]
    parts = [attempts(run), run["model"] if usage else "", tokens(usage), cost(usage)]
    return " · ".join(filter(None, parts))


def check_summary(of: dict[str, Any]) -> str:
    """Describe a job's check: `the tool mail.any {"box": "in"}`; empty if it has none."""
    if of["tool"]:
        return f"the tool {of['tool']}" + (f" {field_text(of['params'])}" if of["params"] else "")
    if of["prompt"]:
        return f"the agent {of['agent'] or 'of the job'}: {of['prompt']}"
    return f"the command {shlex.join(of['command'])}" if of["command"] else ""


def field_text(of: Any) -> str:
    """Return a field of an action as text: JSON for an object."""
    return json.dumps(of, ensure_ascii=False) if isinstance(of, dict) else str(of)


def quoted(name: str) -> str:
    """Quote a name for a shell."""
    return shlex.quote(name)


# English in every locale.
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _date_and_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d} {_time_of_day(moment)}"


def _time_of_day(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"
