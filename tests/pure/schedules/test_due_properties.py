"""Random expressions, zones and starts: `due` against a brute-force oracle and against `cronsim`.

The tests are derandomized, but that does not fix their cases: Hypothesis also draws constants from
our loaded modules. So the cases change if the file runs alone, with others, or after an edit
elsewhere. A failure's message ends with the shrunk case and a line that replays it in a Python
shell; pin the case with `example`. To try other cases, remove `derandomize` from `CASES` below and
use ``--hypothesis-seed=N``.

The tests do not compare with `cronsim` where it follows another rule (`_cronsim_agrees`):

- Six fields: `cronsim` treats them as real time; requirement 7 decides by minute and hour.
- Day of month and weekday, if one of them begins with `*` (`*/2`): `cronsim` joins them by AND, as
  Debian does; requirement 2 says OR, as Prefect does.
- `5,*/20` in minute or hour: `cronsim` checks the first character of the field, Daybook each item.
- Ranges that wrap around (`22-2`), and `L5`, for which it writes `5L`: `cronsim` cannot read them.
- Real-time expressions in zones that change by half an hour, or not at a full hour: `cronsim` steps
  by whole hours, or back to the start of the hour, which may not exist. So it loses due times (Lord
  Howe, `* 0 * * *`; Casey on 2020-10-04, `* */2 * * *`) or never ends.
- Real-time expressions after a jump over midnight (Amman, 1985-04-01): `cronsim` enters the next
  day at a midnight that no clock shows, and returns it, or steps on from there by whole hours.
- A start inside a repeated hour: `cronsim` may return a time of the first pass, which is already
  past. The tests drop those answers.
"""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import HealthCheck, assume, example, given, note, settings
from hypothesis import strategies as st

from daybook.errors import InvalidInput
from daybook.schedules import cron
from daybook.schedules.due import between, due_times, is_due
from daybook.schedules.schedule import Cron
from tests.costs import examples
from tests.pure.schedules import oracle

pytestmark = [
    # Hypothesis checks whether the process's random state changes while it draws. Other threads of
    # the process, such as Prefect's, may change it.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]

EXAMPLES = examples(3_000, share=30)
CASES = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

ZONES = [
    "UTC",
    "America/New_York",
    "America/St_Johns",
    "America/Santiago",
    "America/Havana",
    "America/Sao_Paulo",
    "America/Caracas",
    "America/Asuncion",
    "America/Nuuk",
    "America/Scoresbysund",
    "Antarctica/Troll",
    "Antarctica/Casey",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Amman",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Asia/Pyongyang",
    "Asia/Tehran",
    "Atlantic/Azores",
    "Australia/Adelaide",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "Europe/Berlin",
    "Europe/Dublin",
    "Europe/Istanbul",
    "Europe/Lisbon",
    "Europe/London",
    "Europe/Volgograd",
    "Pacific/Apia",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "Pacific/Kwajalein",
]
FIRST_YEAR, LAST_YEAR = 1985, 2040


@cache
def changes(zone: str) -> list[datetime]:
    return oracle.changes(zone, FIRST_YEAR, LAST_YEAR)


@st.composite
def field(draw: st.DrawFn, low: int, high: int, names: tuple[str, ...] = ()) -> str:
    """Draw a cron field that `daybook.schedules.cron` accepts, often with `*` and small numbers."""
    items = []
    for _ in range(draw(COUNTS)):
        value = draw(st.integers(low, min(low + 4, high) if draw(st.booleans()) else high))
        match draw(SHAPES):
            case "*":
                return "*"
            case "value":
                items.append(names[value - low] if names else str(value))
            case "every":
                items.append(f"*/{draw(st.integers(1, high))}")
            case "range":
                other = draw(st.integers(low, high - 1))
                items.append(f"{value}-{other + (other >= value)}")
            case "stepped":
                step = draw(st.integers(2, 7))
                items.append(
                    f"{low}-{value}/{step}" if value > low else f"{value + 1}-{high}/{step}"
                )
            case "from":
                items.append(f"{value}/{draw(st.integers(2, 7))}" if high > 7 else f"{value}")
    return ",".join(items)


COUNTS = st.sampled_from([1, 1, 1, 2, 3])
SHAPES = st.sampled_from(["*", "*", "value", "value", "value", "every", "range", "stepped", "from"])
DAYS_OF_MONTH = st.one_of(
    st.just("*"), st.just("*"), field(1, 31), st.sampled_from(["L", "15,L", "?"])
)
WEEKDAYS = st.one_of(
    st.just("*"),
    st.just("*"),
    field(0, 6),
    field(0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
    st.sampled_from(["7", "5-7", "1-7/2", "L5", "L0", "1#2", "sun#5", "1#1,3#3", "sat-sun", "0-7"]),
)
MONTHS = st.one_of(st.just("*"), st.just("*"), st.just("*"), field(1, 12))


@st.composite
def expressions(draw: st.DrawFn, seconds: bool | None = None) -> str:
    if draw(st.integers(0, 30)) == 0:
        return draw(st.sampled_from(sorted(cron.ALIASES)))
    parts = [
        draw(field(0, 59)),
        draw(field(0, 23)),
        draw(DAYS_OF_MONTH),
        draw(MONTHS),
        draw(WEEKDAYS),
    ]
    if draw(st.booleans()):  # most changes happen in the small hours, any day
        parts[1] = draw(st.sampled_from(["0", "1", "2", "3", "23", "*", "*/2", "1,2", "0-3"]))
        parts[2:] = ["*", "*", "*"]
    if draw(st.integers(0, 3)) == 0 if seconds is None else seconds:
        parts.insert(0, draw(field(0, 59)))
    return " ".join(parts)


@st.composite
def starts(draw: st.DrawFn, zone: str) -> datetime:
    """Draw a start, usually within hours of a change of the zone's offset."""
    jitter = timedelta(seconds=draw(st.integers(-3 * 3_600, 3 * 3_600)))
    near = draw(st.integers(0, 7)) > 0
    if changes(zone) and near:
        change: datetime = draw(st.sampled_from(changes(zone)))
        return change + jitter
    day = draw(st.integers(0, (LAST_YEAR - FIRST_YEAR) * 365))
    return datetime(FIRST_YEAR, 1, 2, tzinfo=UTC) + timedelta(days=day) + jitter


def accepted(expr: str) -> Cron:
    try:
        return Cron(expr=cron.canonical(expr), timezone="UTC")
    except InvalidInput:
        assume(False)
        raise


@st.composite
def cases(draw: st.DrawFn) -> tuple[Cron, datetime, timedelta]:
    """Draw a schedule, a start, and the duration that the oracle searches."""
    zone = draw(st.sampled_from(ZONES))
    expr = draw(expressions())
    schedule = accepted(expr).model_copy(update={"timezone": zone})
    start = draw(starts(zone))
    if len(expr.split()) < 6:
        return schedule, start, timedelta(hours=draw(st.sampled_from([1, 2, 3, 3, 3, 3, 3, 14])))
    if changes(zone):  # the oracle tries each second: stay close to the change
        near = min(changes(zone), key=lambda instant: abs(instant - start))
        start = near + timedelta(seconds=draw(st.integers(-470, 60)))
    return schedule, start, timedelta(minutes=8)


def pinned(expr: str, zone: str, start: str) -> tuple[Cron, datetime, timedelta]:
    schedule = Cron(expr=expr, timezone=zone)
    return schedule, datetime.fromisoformat(start), timedelta(hours=3)


@CASES
@pytest.mark.timeout(400)
@example(pinned("* 0 1-2 * *", "Asia/Amman", "1985-03-31T21:59:58Z"))
@example(pinned("* 0 * * */5", "Asia/Amman", "1986-04-03T21:59:58Z"))
@example(pinned("*/7 1 * * 5", "Asia/Amman", "1986-04-03T21:30:00Z"))
@given(cases())
def test_due_times_equal_those_of_the_oracle_and_of_cronsim(
    case: tuple[Cron, datetime, timedelta],
) -> None:
    schedule, start, window = case
    expr, zone = schedule.expr, schedule.timezone
    note(
        f"replay: list(itertools.islice(due_times(Cron(expr={expr!r}, timezone={zone!r}), "
        f"after=datetime.fromisoformat({start.isoformat()!r})), 20))"
    )
    expected = oracle.due(expr, zone, start, start + window)
    assert list(between(schedule, start, start + window)) == expected
    for instant in expected[:2]:
        assert is_due(schedule, instant)
        assert next(due_times(schedule, after=instant, inclusive=True)) == instant
    if _cronsim_agrees(expr, zone):
        theirs = _cronsim(expr, zone, start)
        actual = itertools.islice(due_times(schedule, after=start), len(theirs))
        assert list(actual) == theirs
        TALLY["cronsim"] += bool(theirs)
    TALLY["due" if expected else "none"] += 1


@pytest.mark.hypothesis
def test_enough_random_cases_had_due_times_and_were_compared_with_cronsim() -> None:
    """Runs after the property test, in the same process."""
    if not TALLY:
        pytest.skip("the property did not run in this process")
    assert TALLY["due"] + TALLY["none"] >= EXAMPLES
    assert TALLY["due"] >= 0.3 * EXAMPLES
    assert TALLY["cronsim"] >= 0.4 * EXAMPLES


TALLY: Counter[str] = Counter()


def _cronsim_agrees(expr: str, zone: str) -> bool:
    if cron.read_fields(expr).real_time and _changes_oddly(zone):
        return False
    expr = cron.ALIASES.get(expr, expr)
    words = expr.split()
    if len(words) != 5 or "l" in words[4].lower():
        return False
    day, weekday = words[2], words[4]
    restricted = not cron.read_fields(expr).day.free and not cron.read_fields(expr).weekday.free
    if restricted and (day.startswith("*") or weekday.startswith("*")):
        return False
    return words[0].startswith("*") == ("*" in words[0]) and words[1].startswith("*") == (
        "*" in words[1]
    )


@cache
def _changes_oddly(zone: str) -> bool:
    """Return whether the zone's offset changes by a fraction of an hour, or not at a full hour."""
    tz = ZoneInfo(zone)
    for change in changes(zone):
        before = (change - timedelta(seconds=1)).astimezone(tz).utcoffset()
        after = change.astimezone(tz).utcoffset()
        assert before is not None and after is not None
        if (after - before) % timedelta(hours=1) or change.astimezone(tz).minute:
            return True
    return False


@cache
def _over_midnight(zone: str) -> list[datetime]:
    """Return the instants at which the clocks jumped over a midnight or a day."""
    tz = ZoneInfo(zone)
    found = []
    for change in changes(zone):
        before, after = (change - timedelta(seconds=1)).astimezone(tz), change.astimezone(tz)
        # If the clocks show a midnight, it is the one that begins the day after `before`.
        shown = datetime.combine(before.date() + timedelta(days=1), time())
        if after.replace(tzinfo=None) > shown:
            found.append(change)
    return found


def _cronsim(expr: str, zone: str, start: datetime) -> list[datetime]:
    """Return the first four answers of `cronsim`, or fewer if it does not know them."""
    plain = cron.ALIASES.get(expr, expr).replace("?", "*")
    try:
        simulated = CronSim(plain, start.astimezone(ZoneInfo(zone)))
    except CronSimError:
        return []
    theirs = (instant.astimezone(UTC) for instant in simulated)
    known = itertools.islice((instant for instant in theirs if instant > start), 4)
    if not cron.read_fields(expr).real_time:
        return list(known)
    jumps = (jump for jump in _over_midnight(zone) if jump > start)
    until = next(jumps, datetime(LAST_YEAR, 1, 1, tzinfo=UTC))  # not searched any later
    return [instant for instant in known if instant < until]


@settings(CASES, max_examples=examples(300))
@given(expr=expressions(seconds=False), day=st.dates(date(1990, 1, 1), date(2150, 1, 1)))
def test_matching_days_equal_those_of_a_calendar(expr: str, day: date) -> None:
    """Compare days of month, months and weekdays over two years, too long for steps of a minute."""
    parts = cron.ALIASES.get(expr, expr).split()
    expr = " ".join(["0", "12", *parts[2:]])
    schedule = accepted(expr)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    found = between(schedule, noon - timedelta(seconds=1), noon + timedelta(days=730))
    expected = oracle.days(expr, noon.date(), 731)
    assert [instant.date() for instant in found] == expected
