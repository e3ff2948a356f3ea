"""Marks and charts as HTML and SVG, made on the server.

Every status has a colour and a shape, so a reader does not need the colour. `claimed` has those of
`running`. The symbols are in `templates/symbols.svg`. The colours are in `static/daybook.css`
(classes `s-<status>` and `f-<status>`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from markupsafe import Markup, escape

from daybook.api.job_pages import DayStrip
from daybook.api.timeline import Mark, Row, Timeline
from daybook.ledger.states import FAILURES, LIVE, Status
from daybook.web import formatting

_ORDER = (
    Status.SKIPPED,
    Status.CANCELLED,
    Status.SUCCEEDED,
    Status.WAITING,
    Status.CLAIMED,
    Status.RUNNING,
    Status.MISSED,
    Status.UNKNOWN,
    Status.TIMED_OUT,
    Status.FAILED,
)
_SEVERITY = {str(status): number for number, status in enumerate(_ORDER)}
"""Rank of each status. A mark or bar for several runs shows the status with the highest rank."""
GROUP = timedelta(hours=1)
MAX_SINGLE_MARKS = 48
"""Maximum number of separate marks in a row.

If there are more marks, one mark stands for the ended runs of an hour, and one for the live runs.
"""

TimeText = Callable[[datetime, str], str]
"""Function that returns an instant as text, in the zone of the page.

Its second argument is the ``form`` of `formatting.text_of`.
"""


def symbol(status: str) -> Markup:
    """Return the symbol of a status. It has no name, because the text beside it is the name."""
    shape = "running" if status == Status.CLAIMED else status
    return Markup('<svg class="sym s-{0}" aria-hidden="true"><use href="#i-{1}"/></svg>').format(
        status, shape
    )


def bar(
    status: str, begin: datetime, finish: datetime | None, start: datetime, end: datetime
) -> Markup:
    """Return the bar of a step from ``begin`` to ``finish`` in the time from ``start`` to ``end``.

    A step that runs has no ``finish``. The cells beside it have the times in words, so it
    has no name.
    """
    first = place(begin, start, end)
    last = place(finish or end, start, end)
    return Markup(
        '<svg class="bar s-{}" viewBox="0 0 1000 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect x="{}" width="{}" height="8" fill="currentColor"/></svg>'
    ).format(status, min(first, 990), max(last - first, 10))


def place(instant: datetime, start: datetime, end: datetime) -> int:
    """Return the position of ``instant`` on the timeline in thousandths, from 0 to 1,000."""
    share = (instant - start) / (end - start) if end > start else 0
    return min(1_000, max(0, round(share * 1_000)))


def marks(row: Row, within: Timeline, text: TimeText) -> Markup:
    """Return the marks of one job on the timeline: links to runs, and future due times.

    If the job has more due times than ``row.upcoming``, one band stands for all future due times.
    """
    start, end = within.start, within.end
    groups = _groups(row.marks)
    parts = [_mark(each, place(each[0].due, start, end), row, text) for each in groups]
    if row.more:
        first = place(row.upcoming[0], start, end) if row.upcoming else 500
        parts.append(f'<i class="band p{first}" title="due many times"></i>')
    else:
        for due in row.upcoming:
            title = escape(f"due {text(due, 'full')}")
            parts.append(f'<i class="due p{place(due, start, end)}" title="{title}"></i>')
    return Markup("".join(parts))


def _groups(found: Sequence[Mark]) -> list[list[Mark]]:
    """Return the runs for each mark to draw, earliest mark first."""
    ordered = sorted(found, key=lambda each: each.due)
    if len(ordered) <= MAX_SINGLE_MARKS:
        return [[each] for each in ordered]
    by_hour: dict[tuple[float, bool], list[Mark]] = {}
    for each in ordered:
        hour = each.due.timestamp() // GROUP.total_seconds()
        by_hour.setdefault((hour, each.status in LIVE), []).append(each)
    return list(by_hour.values())


def _mark(group: Sequence[Mark], at: int, row: Row, text: TimeText) -> str:
    worst = max(group, key=lambda each: _SEVERITY.get(each.status, 0))
    shape = "running" if worst.status == Status.CLAIMED else worst.status
    side = " tip-left" if at > 600 else ""
    href = f"/runs/{worst.run_id}"
    if len(group) > 1:
        lines = [f"{len(group)} runs from {text(group[0].due, 'full')}", _tally(group)]
    else:
        lines = describe(worst, text)
    tip = "".join(f"<span>{escape(line)}</span> " for line in lines)
    return (
        f'<a class="mark s-{worst.status} p{at}{side}" id="d-{worst.run_id}" href="{href}">'
        f'<svg aria-hidden="true"><use href="#i-{shape}"/></svg>'
        f'<span class="tip">{tip}</span></a>'
    )


def _tally(group: Iterable[Mark]) -> str:
    counts: dict[str, int] = {}
    for each in group:
        counts[each.status] = counts.get(each.status, 0) + each.count
    return ", ".join(
        f"{count} {formatting.status_word(status)}" for status, count in sorted(counts.items())
    )


def describe(mark: Mark, text: TimeText) -> list[str]:
    """Return the known facts about a due time, one on each line."""
    word = formatting.status_word(mark.status)
    due = f"due {text(mark.due, 'second')}"
    if mark.due_to is not None:
        due = f"{mark.count} due times, {text(mark.due, 'full')} to {text(mark.due_to, 'full')}"
    lines = [word, due]
    if mark.started_at is not None:
        took = mark.duration_seconds
        started = f"started {text(mark.started_at, 'second')}"
        lines.append(started + (f", took {formatting.duration(took)}" if took is not None else ""))
    if mark.reason:
        lines.append(mark.reason)
    if mark.cost_usd is not None:
        lines.append(formatting.money(mark.cost_usd))
    if mark.delivery != "not_requested":
        lines.append(f"delivery {formatting.status_word(mark.delivery)}")
    return lines


def axis(within: Timeline, text: TimeText, hours: int = 6) -> Markup:
    """Return the labels along the timeline, one for each ``hours`` hours.

    Omit labels near the ends of the timeline and near its middle, which is now.
    """
    at = within.start.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    parts = list[str]()
    while at < within.end:
        label = text(at, "clock")
        if int(label[:2]) % hours == 0 and label.endswith(":00"):
            if label == "00:00":
                label = text(at, "day")
            where = place(at, within.start, within.end)
            if 20 < where < 960 and abs(where - 500) > (80 if " " in label else 45):
                # On a narrow screen, a date near an end would leave the timeline, and one label
                # near its middle would touch that of now.
                is_date = " " in label
                end = " early" if is_date and where < 120 else ""
                end = " late" if is_date and where > 880 else end
                end = " near" if abs(where - 500) < 120 else end
                parts.append(f'<span class="p{where}{end}">{escape(label)}</span>')
        at += timedelta(minutes=15)  # in some zones, an hour begins at a quarter of an hour of UTC
    return Markup("".join(parts))


def strip(days: Sequence[DayStrip]) -> Markup:
    """Return one bar for each day. The bar of a day on which no run ended is short."""
    width, height = 4, 20
    bars = list[str]()
    good = bad = 0
    for number, each in enumerate(days):
        status = max(each.counts, key=lambda name: _SEVERITY.get(name, 0), default="")
        for name, count in each.counts.items():
            if name in FAILURES or name == Status.MISSED:
                bad += count
            elif name == Status.SUCCEEDED:
                good += count
        tall = height if status else 3
        bars.append(
            f'<rect x="{number * (width + 1)}" y="{height - tall}" width="{width}" '
            f'height="{tall}" rx="1" class="f-{status or "none"}"/>'
        )
    label = f"Last {len(days)} days: {good} succeeded, {bad} failed or missed"
    size = f'width="{len(days) * (width + 1)}" height="{height}"'
    return Markup(
        f'<svg class="strip" {size} role="img" aria-label="{label}"><title>{label}</title>'
        f"{''.join(bars)}</svg>"
    )


def bars(
    values: Sequence[tuple[str, float | None]], label: str, shown: Callable[[float | None], str]
) -> Markup:
    """Return a bar chart of named values, as wide as there is space.

    ``shown`` is a function that returns the text of a value. If all values are None, return an
    empty text.
    """
    known = [value for _, value in values if value is not None]
    if not known:
        return Markup("")
    top, step = max(known), 1_000 / len(values)
    drawn = "".join(
        f'<rect x="{number * step + step / 20:.1f}" y="{100 - tall:.1f}" '
        f'width="{step * 0.9:.1f}" height="{tall:.1f}">'
        f"<title>{escape(name)}: {escape(shown(value))}</title></rect>"
        for number, (name, value) in enumerate(values)
        for tall in (90 * value / top if value and top > 0 else 0.0,)
    )
    return _chart("bars", label, shown(top), (values[0][0], values[-1][0]), drawn)


def durations(points: Sequence[tuple[datetime, float, str]], label: str, text: TimeText) -> Markup:
    """Return a chart with a dot for each run.

    ``points`` has the due time, the duration in seconds and the status of each run, oldest first.
    Without points, return an empty text.
    """
    if not points:
        return Markup("")
    top = max(*(seconds for _, seconds, _ in points), 0.1)
    step = 1_000 / len(points)
    # A line of no length with a round cap is a dot that is round at any width.
    drawn = "".join(
        f'<path d="M{number * step + step / 2:.1f} {96 - 88 * seconds / top:.1f}h0" '
        f'class="s-{escape(status)}"><title>{escape(text(due, "full"))}: '
        f"{escape(formatting.duration(seconds))}, {escape(formatting.status_word(status))}"
        "</title></path>"
        for number, (due, seconds, status) in enumerate(points)
    )
    ends = (text(points[0][0], "day"), text(points[-1][0], "day"))
    return _chart("dots", label, formatting.duration(top), ends, drawn)


def _chart(kind: str, label: str, top: str, ends: tuple[str, str], drawn: str) -> Markup:
    """Return a chart whose shapes are stretched to its width, and whose labels are not.

    ``drawn`` has the shapes in a space of 1,000 by 100. ``top`` is the text of the highest value,
    and ``ends`` are those of the first and the last one.
    """
    first, last = ends
    return Markup(
        '<div class="chart {}" role="img" aria-label="{}"><span class="top">{}</span>'
        '<svg viewBox="0 0 1000 100" preserveAspectRatio="none">{}</svg>'
        "<span>{}</span><span>{}</span></div>"
    ).format(kind, label, top, Markup(drawn), first, last)
