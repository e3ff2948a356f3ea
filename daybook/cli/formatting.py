"""Text for instants, jobs and runs, made from the results of `daybook.api`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from daybook.clock import SYSTEM_CLOCK
from daybook.duration_text import short_duration
from daybook.ledger.states import FAILURES, Usage
from daybook.money_text import COST_PLACES, money
from daybook.short_text import one_line
from daybook.usage import cost_in_words, tokens_in_words

if TYPE_CHECKING:
    from daybook.api.maintenance import MaintenanceWindow
    from daybook.delivery.views import InboxMessage, ListedRun, Notification
    from daybook.diagnosis.status import DueJob
    from daybook.jobs.views import ListedJob
    from daybook.ledger.views import Run, Spending

MAX_VALUE_LENGTH = 60
"""Maximum number of characters of a field's value on one line."""

PRICE_UNKNOWN = "price unknown (set --input-price and --output-price of the agent)"

TimeFormat = Callable[[datetime | None], str]
"""Function that returns an instant as text: `relative_time` or `local_time`."""


def time_format(absolute: bool) -> TimeFormat:
    """Return the format of all times in one output. ``absolute`` is the option `--absolute`."""
    return local_time if absolute else relative_time


def time_heading(name: str, absolute: bool) -> str:
    """Return the heading of a column of times.

    With absolute times, it has the zone: `DUE (UTC)`.
    """
    return f"{name} ({_zone_name()})" if absolute else name


def time_zone_field(absolute: bool) -> list[tuple[str, str]]:
    """Return the field with the zone of absolute times. For relative times, return no field."""
    return [("times in", _zone_name())] if absolute else []


def _zone_name() -> str:
    from daybook.settings import machine_timezone  # relative times do not need this import

    return machine_timezone()


def relative_time(instant: datetime | None) -> str:
    """Return an instant relative to now: `in 14 min`, `2 h ago`, `now`. Return a dash for None.

    The unit is the largest one whose number is at least 2, or seconds: `1 s ago`.
    """
    if instant is None:
        return "-"
    seconds = round((instant - SYSTEM_CLOCK.now()).total_seconds())
    if seconds == 0:
        return "now"
    units = (("days", 86_400, 3_600), ("h", 3_600, 60), ("min", 60, 1), ("s", 1, 1))
    unit, size = next(
        (unit, size)
        for unit, size, smaller in units
        if abs(seconds) >= 2 * size - smaller / 2 or size == 1  # 119.6 min are 2 h
    )
    amount = f"{round(abs(seconds) / size)} {unit}"
    return f"in {amount}" if seconds > 0 else f"{amount} ago"


def local_time(instant: datetime | None) -> str:
    """Return an instant in this machine's time zone, to the second. Return a dash for None."""
    if instant is None:
        return "-"
    return f"{instant.astimezone():%Y-%m-%d %H:%M:%S}"


def due_time(moment: datetime) -> str:
    """Return a due time in its job's time zone, such as `Fri 2026-11-20 09:00 +01:00`."""
    offset = f"{moment:%z}"
    return f"{_DAYS[moment.weekday()]} {_date_and_time(moment)} {offset[:3]}:{offset[3:5]}"


def due_time_with_utc(moment: datetime) -> str:
    """Return a due time in its job's zone, and in UTC if the zone has an offset.

    `Fri 2026-11-20 09:00 +01:00  =  2026-11-20 08:00 UTC`, or `Fri 2026-11-20 09:00 UTC`.
    """
    if not moment.utcoffset():
        return f"{_DAYS[moment.weekday()]} {_date_and_time(moment)} UTC"
    return f"{due_time(moment)}  =  {_date_and_time(moment.astimezone(UTC))} UTC"


def maintenance(window: MaintenanceWindow) -> str:
    """Return a maintenance window in this machine's time zone, with its note."""
    begin, end = (due_time(each.astimezone()) for each in (window.begin, window.end))
    return f"from {begin} until {end}" + (f": {window.note}" if window.note else "")


def duration(seconds: float | None) -> str:
    """Return a duration such as `0.4 s`, `1 m 05 s` or `2 h 03 m`; a dash for None."""
    return "-" if seconds is None else short_duration(seconds, aligned=True)


def short_state(job: ListedJob) -> str:
    """Return the state of a job for a table: `on`, `off` or `running`, such as `on, conflict`."""
    state = "running" if job.running else "on" if job.enabled else "off"
    return state + (", conflict" if job.conflicts else "")


def last_outcome(job: ListedJob) -> str:
    """Return the last outcome, with the failures in a row.

    `failed × 3`, or after another last outcome `cancelled, failed × 3 before`.
    """
    count, last = job.consecutive_failures, job.last_status or "-"
    if last not in FAILURES:
        return last + (f", failed × {count} before" if count else "")
    return last + (f" × {count}" if count > 1 else "")


def enabled_state(job: ListedJob) -> str:
    """Return `on`, or `off` with the reason if there is one, such as `off (paused: on holiday)`."""
    if job.enabled:
        return "on"
    reason = job.disabled_reason
    return f"off ({reason})" if reason else "off"


def run_summary(run: Run, when: TimeFormat = local_time) -> str:
    """Return a run's state: `failed, 2026-11-20 09:00:01 (exit code 1)` or `running, due …`."""
    if run.finished_at is None:
        line = f"{run.status}, due {when(run.scheduled_for)}"
    else:
        line = f"{run.status}, {when(run.finished_at)}"
    return line + (f" ({why})" if (why := short_reason(run)) else "")


def run_due_time(run: Run, when: TimeFormat = local_time) -> str:
    """Return the due time of a run; of several due times the first, the last and the number."""
    first, last = when(run.scheduled_for), run.scheduled_to
    return first if last is None else f"{first} to {when(last)}, {run.count:,} times"


def due_jobs(due_soon: Sequence[DueJob], when: TimeFormat) -> str:
    """Return a line for each job with its due time and name; "" if there are no jobs."""
    times = [when(each.due) for each in due_soon]
    width = max(map(len, times), default=0)
    return "\n".join(f"{at:<{width}}  {each.job}" for at, each in zip(times, due_soon, strict=True))


def job_label(of: Run | Notification | InboxMessage, none: str = "-") -> str:
    """Return the job's name, with a mark if the job was removed; ``none`` without a job."""
    return f"{of.job} (removed)" if of.job_removed else of.job or none


def short_reason(run: Run) -> str:
    """Return the first line of a run's reason, or of a failure's error; "" if it has neither."""
    return "".join("".join(run.reasons()[:1]).strip().splitlines()[:1])


def delivery_summary(run: ListedRun) -> str:
    """Return the state of a run's deliveries: `delivered`, `alert delivered`, or a dash."""
    if run.delivery != "not_requested":
        return run.delivery
    return f"alert {run.alert}" if run.alert else "-"


def delivery_details(run: Run, deliveries: Sequence[Notification]) -> str:
    """Return a line for each callback and message of a run, and the reason if others were not sent.

    Return "" if none was requested.
    """
    lines = [f"{recipient(each)}: {delivery_state(each)}" for each in deliveries]
    if run.delivery == "suppressed":
        lines.append("not sent: a repeat, nothing to report, or the job is silent")
    elif not lines and run.delivery != "not_requested":
        lines.append(run.delivery)
    return "\n".join(lines)


def delivery_state(each: Notification) -> str:
    """Return the state of one callback or message.

    Examples are `delivered`, `delivered after 3 tries`, and
    `pending, 2 tries, next 2026-…: connection refused`.
    """
    tries, error = each.attempts, first_line(each.error)
    why = f": {error}" if error else ""
    match each.status:
        case "delivered":
            return "delivered" + (f" after {counted(tries, 'try')}" if tries > 1 else "")
        case "failed":
            return f"failed after {counted(tries, 'try')}{why}"
        case "suppressed":
            return each.note or "withdrawn"
        case _:
            return f"pending, {counted(tries, 'try')}, next {next_try(each.next_at)}{why}"


def next_try(*at: datetime | None) -> str:
    """Return the latest instant in this machine's zone; `now` if it has passed or there is none."""
    latest = max(filter(None, at), default=SYSTEM_CLOCK.now())
    return local_time(latest) if latest > SYSTEM_CLOCK.now() else "now"


def recipient(each: Notification) -> str:
    """Return the recipient of a callback or message: an address, or `team (chat 42)`."""
    return f"{each.to} (chat {each.chat_id})" if each.chat_id else each.to


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


def signing_secret_state(until: datetime | None) -> str:
    """Describe a destination's signing secret. ``until`` is the end of a rotation, or None."""
    return f"own; the previous one until {local_time(until)}" if until else "own"


def short_id(of: str) -> str:
    """Return the first 8 characters of an id, without the prefix `msg_`."""
    return of.removeprefix("msg_")[:8]


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as `1 try`, `2 tries` or `1,000 messages`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def first_line(text: str | None) -> str:
    """Return the first line of ``text`` that is not blank; "" if there is none."""
    return next(filter(None, map(str.strip, (text or "").splitlines())), "")


def attempts(run: Run) -> str:
    """Return the number of attempts, such as `3 attempts`; "" for fewer than two."""
    return f"{run.attempts} attempts" if run.attempts > 1 else ""


def cost(usage: Usage) -> str:
    """Return the cost of ``usage``, such as `$0.000018`, or `PRICE_UNKNOWN`; "" without usage."""
    return cost_in_words(usage, PRICE_UNKNOWN)


def short_tokens(usage: Usage) -> str:
    """Return the sum of input and output tokens for a table: `1,302`; a dash if it is not known."""
    counts = [usage.get("input_tokens"), usage.get("output_tokens")]
    return "-" if counts == [None, None] else f"{sum(filter(None, counts)):,}"


def short_cost(usage: Usage) -> str:
    """Return the cost of ``usage`` for a table: `$0.0042`; a dash if the cost is not known."""
    dollars = usage.get("cost_usd")
    return "-" if dollars is None else money(dollars, COST_PLACES)


def spending(of: Spending) -> str:
    """Return the cost and the tokens of runs; "" if no run has used a model.

    An example is `$0.0042 and 1 run of unknown price, 1,400 tokens in, 80 out`.
    """
    prices = [] if of.cost_usd is None else [money(of.cost_usd, COST_PLACES)]
    if of.unpriced_runs:
        prices.append(f"{counted(of.unpriced_runs, 'run')} of unknown price")
    tokens_text = tokens_in_words(of.model_dump())
    return f"{' and '.join(prices)}, {tokens_text}" if prices else ""


def short_spending(of: Spending) -> str:
    """Return a cost: `$0.0042`, `$0.0042+` if some prices are unknown, or a dash."""
    if of.cost_usd is None:
        return "-"
    return money(of.cost_usd, COST_PLACES) + ("+" if of.unpriced_runs else "")


def usage_summary(run: Run) -> str:
    """Return the usage of a run: `2 attempts · gpt-6-luna · 14 tokens in, 8 out · $0.000018`."""
    usage = run.usage
    parts = [attempts(run), (run.model or "") if usage else "", tokens_in_words(usage), cost(usage)]
    return " · ".join(filter(None, parts))


def field_text(of: Any) -> str:
    """Return a field of an action as text. An object becomes JSON."""
    return json.dumps(of, ensure_ascii=False) if isinstance(of, dict) else str(of)


def value_text(value: Any) -> str:
    """Return a value as a line of at most `MAX_VALUE_LENGTH` characters, or `none` if empty."""
    if value in (None, "", [], {}):
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return one_line(text, MAX_VALUE_LENGTH)


def quoted(name: str) -> str:
    """Quote a name for a shell."""
    return shlex.quote(name)


# The names are English in every locale.
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def _date_and_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment.second else f"{moment:%Y-%m-%d %H:%M}"
