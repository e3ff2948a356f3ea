"""Instants, durations, money, numbers and changes of fields as the pages show them."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from markupsafe import Markup, escape

from daybook.duration_text import short_duration
from daybook.money_text import rounded_money
from daybook.schedules.zones import is_known, time_text, zone

NONE = "–"
MAX_COMPARED_LINES = 400
"""Maximum number of lines of each value of a change that the page shows."""
_BACKTICKS = re.compile(r"`([^`]+)`")
_ADDRESS = re.compile(r"https://[\w./%#?=&;~+-]*[\w/]")
STATUS_WORDS = {"timed_out": "timed out", "not_requested": "none"}


def filters(tz: ZoneInfo, now: Callable[[], datetime]) -> dict[str, Callable[..., Any]]:
    """Return the filters of the templates by name. They show instants in ``tz``."""

    def when(instant: datetime | None, form: str = "full") -> Markup:
        return time_element(instant, tz, now(), form)

    def ago(instant: datetime | None) -> str:
        return distance(instant, now())

    def when_in(instant: datetime, zone_name: str) -> Markup:
        return in_zones(instant, zone_name, tz, now())

    return {
        "when": when,
        "when_in": when_in,
        "ago": ago,
        "duration": duration,
        "money": money,
        "number": number,
        "status_word": status_word,
        "code": code,
        "linked": linked,
        "json": json_text,
        "local": lambda instant, form: instant.astimezone(tz).strftime(form),
    }


def time_element(
    instant: datetime | None, tz: ZoneInfo, now: datetime, form: str = "full"
) -> Markup:
    """Return a `time` element with the instant in UTC as its title. Return a dash for None."""
    if instant is None:
        return Markup(NONE)
    utc = instant.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(), f"{utc:%Y-%m-%d %H:%M:%S} UTC", time_text(instant, tz, now, form)
    )


def in_zones(instant: datetime, zone_name: str, tz: ZoneInfo, now: datetime) -> Markup:
    """Return an instant in the zone of a job; beside it, in ``tz`` if its clock differs there.

    This is the one rule for due times of a job. With an unknown zone, show only ``tz``.
    """
    own = zone(zone_name) if is_known(zone_name) else tz
    shown = time_element(instant, own, now)
    if instant.astimezone(own).utcoffset() == instant.astimezone(tz).utcoffset():
        return shown
    is_same_day = instant.astimezone(own).date() == instant.astimezone(tz).date()
    other = time_text(instant, tz, now, "clock" if is_same_day else "full")
    return Markup('{} <span class="zones">{}, {} {}</span>').format(shown, own.key, other, tz.key)


def distance(instant: datetime | None, now: datetime) -> str:
    """Return the distance of an instant from ``now``: `3 min ago`, `in 2 h`.

    Return a dash for None.
    """
    if instant is None:
        return NONE
    length = now - instant
    words = short(abs(length))
    return f"{words} ago" if length >= timedelta(0) else f"in {words}"


def short(length: timedelta) -> str:
    """Return a length in its largest unit: `45 s`, `3 min`, `2 h`, `4 d`.

    A length below two days has no days: `47 h`.
    """
    seconds = int(length.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size * (2 if unit == "d" else 1):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def duration(seconds: float | None) -> str:
    """Return a duration, such as `3 min 4 s`. Return a dash for None."""
    return NONE if seconds is None else short_duration(seconds)


def money(dollars: float | None) -> str:
    """Return US dollars as `rounded_money` does. Return a dash for None."""
    return NONE if dollars is None else rounded_money(dollars)


def number(value: float | None) -> str:
    return NONE if value is None else f"{value:,}"


def json_text(value: Any) -> str:
    """Return a JSON value as text of several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def code(text: str) -> Markup:
    """Return a text as HTML in which the words between backticks are `code` elements."""
    return Markup(_BACKTICKS.sub(r"<code>\1</code>", str(escape(text))))


def linked(text: str) -> Markup:
    """Return a text of Daybook's own as HTML: as `code` does, and with links for its addresses."""
    return Markup(_ADDRESS.sub(r'<a href="\g<0>" rel="noreferrer">\g<0></a>', str(code(text))))


def status_word(status: str | None) -> str:
    """Return a status in words, such as `timed out`. Return a dash for None and ""."""
    return STATUS_WORDS.get(status or "", (status or NONE).replace("_", " "))


def change(old: Any, new: Any) -> Markup:
    """Return the removed and the added lines of a field as HTML.

    A value that is not a text is compared as indented JSON. None, and an empty value, have no
    lines. Of each value, only the first `MAX_COMPARED_LINES` lines are compared.
    """
    before, after = _compared_lines(old), _compared_lines(new)
    parts = list[str]()
    # `difflib.ndiff` compares similar lines letter by letter, which takes minutes for long lines.
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for step, i1, i2, j1, j2 in matcher.get_opcodes():
        if step != "equal":
            parts += (f"<del>{escape(line)}</del>" for line in before[i1:i2])
            parts += (f"<ins>{escape(line)}</ins>" for line in after[j1:j2])
    return Markup(f'<div class="diff">{"".join(parts)}</div>')


def _compared_lines(value: Any) -> list[str]:
    if value is None or value in ("", [], {}):
        return []
    if not isinstance(value, str):
        value = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    lines = value.splitlines()
    more = len(lines) - MAX_COMPARED_LINES
    return [*lines[:MAX_COMPARED_LINES], f"… {more} more lines"] if more > 0 else lines
