"""Marks of the timeline, and texts of the pages."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from daybook.api.job_pages import DayStrip
from daybook.api.timeline import Mark, Row, Timeline
from daybook.runs import daily
from daybook.schedules.zones import time_text
from daybook.web import charts, formatting

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
WITHIN = Timeline(
    start=NOW - timedelta(hours=24),
    now=NOW,
    end=NOW + timedelta(hours=24),
    rows=[],
    number=1,
    pages=1,
    matching=0,
    total=0,
    ended={},
    live={},
)


def text(instant: datetime, form: str = "full") -> str:
    return time_text(instant, BERLIN, NOW, form)


def mark(hours: float, status: str, **fields: object) -> Mark:
    given = {
        "run_id": f"run{hours}",
        "due": NOW - timedelta(hours=hours),
        "due_to": None,
        "count": 1,
        "status": status,
        "trigger": "schedule",
        "reason": "",
        "started_at": None,
        "finished_at": None,
        "delivery": "not_requested",
        "cost_usd": None,
    }
    return Mark.model_validate(given | fields)


def row(*marks: Mark, upcoming: tuple[datetime, ...] = (), more: bool = False) -> Row:
    return Row(
        job_id="job",
        name="job",
        words="every 1 hour",
        enabled=True,
        last_status=None,
        marks=list(marks),
        upcoming=list(upcoming),
        more=more,
    )


def test_a_mark_is_where_its_due_time_is_and_links_to_its_run() -> None:
    started = NOW - timedelta(hours=12) + timedelta(seconds=2)
    found = charts.marks(
        row(
            mark(
                12,
                "failed",
                started_at=started,
                finished_at=started + timedelta(seconds=12),
                cost_usd=0.25,
                delivery="delivered",
                reason="<b>",
            ),
            upcoming=(NOW + timedelta(hours=12),),
        ),
        WITHIN,
        text,
    )
    assert '<a class="mark s-failed p250" id="d-run12" href="/runs/run12">' in found
    assert '<use href="#i-failed"/>' in found
    for part in ("took 12 s", "$0.25", "delivery delivered", "&lt;b&gt;", "due Thu 26 Nov, 01:00"):
        assert part in found
    assert '<i class="due p750" title="due Fri 27 Nov, 01:00">' in found


@pytest.mark.parametrize(
    ("begin", "end", "bar"),
    [
        (0, 10, ("0", "1000")),
        (2, 4, ("200", "200")),
        (10, 10, ("990", "10")),
        (5, None, ("500", "500")),
    ],
)
def test_a_step_has_a_bar_where_it_happened(
    begin: int, end: int | None, bar: tuple[str, str]
) -> None:
    def at(seconds: int) -> datetime:
        return NOW + timedelta(seconds=seconds)

    finish = None if end is None else at(end)
    drawn = str(charts.bar("running", at(begin), finish, at(0), at(10)))
    assert re.findall(r' x="(\d+)" width="(\d+)"', drawn) == [bar]
    assert "s-running" in drawn
    assert ' x="0"' in str(charts.bar("running", at(begin), finish, at(begin), at(begin)))


def test_many_marks_become_one_an_hour_that_shows_the_worst() -> None:
    marks = [mark(number / 4, "succeeded") for number in range(1, 80)]
    marks.append(mark(10.1, "failed"))
    found = charts.marks(row(*marks), WITHIN, text)
    assert 19 <= found.count('class="mark') <= 22
    (failed,) = re.findall(r'<a class="mark s-failed.*?</a>', found)
    assert 'href="/runs/run10.1"' in failed
    assert "1 failed, 4 succeeded" in failed


def test_more_due_times_than_can_be_shown_are_a_band() -> None:
    found = charts.marks(row(upcoming=(NOW + timedelta(hours=6),), more=True), WITHIN, text)
    assert 'class="band p625"' in found


def test_a_strip_has_a_bar_for_each_day_and_says_the_counts() -> None:
    days = [DayStrip(date(2026, 11, day)) for day in (1, 2, 3)]
    days[1].counts = {"succeeded": 3, "failed": 1}
    found = charts.strip(days)
    assert found.count("<rect") == 3
    assert found.count("f-failed") == 1
    assert "3 succeeded, 1 failed or missed" in found


def test_the_axis_names_full_hours_and_new_days_of_the_zone() -> None:
    found = charts.axis(WITHIN, text)
    assert "18:00" in found
    assert "Fri 27 Nov" in found


@pytest.mark.parametrize(("hour", "moved"), [(20, ["early"]), (1, ["late"]), (12, [])])
def test_only_a_date_near_an_end_of_the_axis_is_moved_inside(hour: int, moved: list[str]) -> None:
    start = WITHIN.start.replace(hour=hour)
    ends = {"start": start, "end": start + timedelta(hours=48)}
    found = charts.axis(WITHIN.model_copy(update=ends), text)
    assert re.findall(r'class="p\d+ (\w+)">\w+ \d+ Nov<', found) == moved
    assert len(re.findall("early|late", found)) == len(moved)


def test_the_axis_of_a_zone_whose_hours_begin_at_half_past_has_labels() -> None:
    kolkata = ZoneInfo("Asia/Kolkata")
    found = charts.axis(WITHIN, lambda at, form: time_text(at, kolkata, NOW, form))
    labels = re.findall(r">([^<]+)<", found)
    # The first 18:00 is too near the start, and the second too near the middle, which is 17:30.
    assert labels == ["Thu 26 Nov", "06:00", "12:00", "Fri 27 Nov", "06:00", "12:00"]


def test_a_changed_line_is_shown_with_its_old_and_its_new_text() -> None:
    found = formatting.change("keep\n<old>\nend", "keep\nnew\nend")
    assert found == '<div class="diff"><del>&lt;old&gt;</del><ins>new</ins></div>'


def test_long_lines_that_resemble_each_other_are_compared_within_the_timeout() -> None:
    """`difflib.ndiff` takes minutes for these lines."""
    before = [f"{number} " + "write the morning brief " * 40 for number in range(200)]
    after = [f"{line}!" for line in before]
    found = formatting.change("\n".join(before), "\n".join(after))
    assert found.count("<del>") == found.count("<ins>") == 200


def test_a_page_shows_an_unknown_value_as_a_dash() -> None:
    assert [formatting.duration(None), formatting.duration(75)] == ["–", "1 min 15 s"]
    assert [formatting.money(None), formatting.money(0.0123)] == ["–", "$0.0123"]


def test_distances() -> None:
    assert formatting.distance(NOW - timedelta(minutes=3), NOW) == "3 min ago"
    assert formatting.distance(NOW + timedelta(hours=30), NOW) == "in 30 h"
    assert formatting.distance(NOW - timedelta(days=3), NOW) == "3 d ago"


def test_a_year_is_named_only_if_it_is_another_one() -> None:
    assert text(NOW) == "Thu 26 Nov, 13:00"
    assert text(datetime(2027, 1, 1, tzinfo=UTC)) == "Fri 1 Jan 2027, 01:00"


def test_the_days_end_today_in_the_zone() -> None:
    late = datetime(2026, 11, 26, 23, 30, tzinfo=UTC)
    days = daily.days(late, ZoneInfo("Asia/Tokyo"))
    assert days[-1] == date(2026, 11, 27)
    assert len(days) == daily.DAYS == len(set(days))
