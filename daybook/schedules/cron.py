"""Cron expressions: validation and parsing of their fields.

Five fields (minute, hour, day of month, month, weekday), or six with seconds first, or one of
`@hourly @daily @midnight @weekly @monthly @yearly @annually`. A field is `*`, `*/n`, a value, a
range, a range or a first value with a step, or a list of these except `*`. Weekdays 0 and 7 are
Sunday; months and weekdays have names. `?` means `*` in the two day fields. `L` is the last day of
the month, `L5` the last Friday of the month, `1#2` its second Monday.

If day of month and weekday are both restricted (neither is written `*` or `?`), they are joined by
OR. (Vixie's cron also treats `*/2` as unrestricted and joins by AND; Prefect and Daybook do not.)

An accepted expression means the same to the `croniter` package, which expands it here, and to the
croniter inside Prefect, which queues the runs. If the two differ from each other or from the plain
reading, Daybook refuses the expression with a hint on how to write it. It refuses:

- a range of one value (croniter reads `5-5` as every minute, and `59/5` too)
- `L5` or `#` next to a restricted day of month (croniter joins them by AND)
- `L5` or `#` together with plain weekdays, and `L` together with a range or a step
- a day of month and a weekday that together match every day, if one of them contains `*`
- a wrapping range with a step
- a weekday with a step and no end
- `W`, `H` and `R`
- a day that none of the given months has
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from croniter import CroniterBadDateError, CroniterError, croniter

from daybook.errors import InvalidInput

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
SYNTAX_HINT = (
    'write five fields "minute hour day-of-month month weekday", six with seconds first, '
    f"or one of {' '.join(ALIASES)}"
)
MAX_YEARS_BETWEEN_MATCHES = 50
"""Number of years without a match after which an expression counts as one that never fires.

29 February on a given weekday recurs within 40 years.
"""

MAX_TEXT_LENGTH = 500
"""Maximum length in characters of an expression, and of a text that `schedule.parse` reads.

The longest useful field, which lists every minute, has 169 characters.
"""

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_ITEM = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\w+))?", re.ASCII)
_NTH = re.compile(r"(\w+)#(\w+)", re.ASCII)


@dataclass(frozen=True)
class FieldKind:
    """One of the six fields of an expression: its name, its range, and the names of its values.

    ``first`` is the value that the first of ``names`` stands for.
    """

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    first: int = 0

    @property
    def days(self) -> bool:
        return self.name in ("day of month", "weekday")


SECOND = FieldKind("second", 0, 59)
MINUTE = FieldKind("minute", 0, 59)
HOUR = FieldKind("hour", 0, 23)
DAY = FieldKind("day of month", 1, 31)
MONTH = FieldKind("month", 1, 12, tuple(_MONTHS), first=1)
WEEKDAY = FieldKind("weekday", 0, 7, tuple(_WEEKDAYS))
_SIX = (SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY)


@dataclass(frozen=True)
class CronField:
    """One parsed field.

    ``values`` are its plain values (weekday 7 as 0). ``last`` is true if it has `L`. ``nth`` are
    its `weekday#n` pairs, with n = -1 for `L5`. ``step`` is the n of a field that is only `*/n`,
    1 for `*` and `?`, else None. ``wild`` is true if the field contains `*` or `*/n`.
    """

    text: str
    values: frozenset[int]
    last: bool = False
    nth: frozenset[tuple[int, int]] = frozenset()
    step: int | None = None
    wild: bool = False

    @property
    def free(self) -> bool:
        """Return whether the field is written as `*` or `?`."""
        return self.text in ("*", "?")


@dataclass(frozen=True)
class CronFields:
    """The six fields of an expression; ``seconds`` is true if the expression has seconds."""

    second: CronField
    minute: CronField
    hour: CronField
    day: CronField
    month: CronField
    weekday: CronField
    seconds: bool

    @property
    def real_time(self) -> bool:
        """Return whether the real-time rule of `due` applies: minute or hour has `*` or `*/n`."""
        return self.minute.wild or self.hour.wild

    @property
    def meaning(self) -> tuple[object, ...]:
        """Return a value whose equality proves, but does not require, the same due times."""
        six = (self.second, self.minute, self.hour, self.day, self.month, self.weekday)
        days = (self.day.last, self.day.free, self.weekday.nth, self.weekday.free)
        return (*(each.values for each in six), *days, self.real_time)


def canonical(text: str, field: str = "cron") -> str:
    """Return the expression with single spaces (an `@` name in lower case), if it is valid.

    Raise `InvalidInput` naming ``field`` for seven fields, more than `MAX_TEXT_LENGTH` characters,
    an expression that never fires, and everything else that the module's docstring excludes.
    """
    if len(text) > MAX_TEXT_LENGTH:
        raise InvalidInput(field, "is too long", f"use at most {MAX_TEXT_LENGTH} characters")
    expr = " ".join(text.split())
    if expr.startswith("@"):
        expr = expr.lower()
    try:
        _validate(expr)
    except InvalidInput as error:
        raise InvalidInput(field, error.problem, error.hint) from None
    return expr


@lru_cache(maxsize=1024)
def read_fields(expr: str) -> CronFields:
    """Return the fields, with `@` names expanded.

    Raise `InvalidInput` for an unknown name, a wrong number of fields, or an invalid field.
    """
    if expr.startswith("@"):
        if expr.lower() not in ALIASES:
            raise InvalidInput("cron", f'unknown name "{expr}"', f"use one of {' '.join(ALIASES)}")
        expr = ALIASES[expr.lower()]
    words = expr.split()
    if len(words) == 7:
        raise InvalidInput(
            "cron", "has seven fields, and a field for the year is not supported", SYNTAX_HINT
        )
    if len(words) not in (5, 6):
        raise InvalidInput("cron", f'"{expr}" has {len(words)} fields', SYNTAX_HINT)
    seconds = len(words) == 6
    six = words if seconds else ["0", *words]
    second, minute, hour, day, month, weekday = map(_field, six, _SIX)
    return CronFields(second, minute, hour, day, month, weekday, seconds)


@lru_cache(maxsize=1024)
def _validate(expr: str) -> None:
    fields = read_fields(expr)
    _check_days(fields)
    _check_steps(fields)
    # Prefect's croniter fails if one side of the OR never fires, so try the day of month alone.
    trials = [expr]
    if not fields.day.free and not fields.weekday.free:
        trials = [f"0 0 {fields.day.text} {fields.month.text} *"]
    for trial in trials:
        try:
            start = datetime(2000, 1, 1)  # noqa: DTZ001  wall-clock time without a zone
            croniter(
                trial,
                start,
                second_at_beginning=True,
                max_years_between_matches=MAX_YEARS_BETWEEN_MATCHES,
            ).get_next(datetime)
        except CroniterBadDateError:
            problem = f"month {fields.month.text} has no day {fields.day.text}"
            raise InvalidInput(
                "cron", f'"{expr}" never fires: {problem}', "use a day that exists in the month"
            ) from None
        except CroniterError as error:
            raise InvalidInput("cron", f'"{expr}" is not valid: {error}', SYNTAX_HINT) from None


def _check_days(fields: CronFields) -> None:
    day, weekday = fields.day, fields.weekday
    if day.free or weekday.free:
        return
    if weekday.nth:
        raise InvalidInput(
            "cron",
            f'weekday "{weekday.text}" cannot be combined with day of month "{day.text}"',
            "use * for the day of month, or create two jobs",
        )
    every_day = len(day.values) == 31 or len(weekday.values) == 7
    if every_day and (day.wild or weekday.wild):
        raise InvalidInput(
            "cron",
            f'together, day of month "{day.text}" and weekday "{weekday.text}" match every day',
            "use * for both",
        )


def _check_steps(fields: CronFields) -> None:
    """Raise `InvalidInput` for a step from the last value of a field, such as `59/5`."""
    six = (fields.second, fields.minute, fields.hour, fields.day, fields.month, fields.weekday)
    for given, kind in zip(six, _SIX, strict=True):
        for item in given.text.lower().split(","):
            start, slash, _ = item.partition("/")
            is_start = slash and start != "*" and "-" not in start
            if is_start and _value(start, given.text, kind) == kind.high:
                problem = f'the range has only one value: use "{start}"'
                raise _wrong(kind, given.text, problem)


def _field(text: str, kind: FieldKind) -> CronField:
    if text == "*" or (text == "?" and kind.days):
        return CronField(text, _span(kind, kind.low, kind.high, 1), step=1, wild=text == "*")
    values: set[int] = set()
    nth: set[tuple[int, int]] = set()
    last = wild = False
    items = text.split(",")
    for item in items:
        word = item.lower()
        if word == "l" and kind is DAY:
            last = True
        elif kind is WEEKDAY and ("#" in word or re.fullmatch(r"l\d", word)):
            nth.add(_nth(word, text))
        else:
            values |= _values(word, text, kind)
            wild = wild or word.startswith("*")
    if last and any("-" in item or "/" in item for item in items):
        raise _wrong(kind, text, "combine L only with single days")
    if nth and values:
        raise _wrong(kind, text, "# and L cannot be mixed with plain weekdays")
    step = int(text[2:]) if text.startswith("*/") and len(items) == 1 else None
    return CronField(text, frozenset(values), last, frozenset(nth), step, wild)


def _values(word: str, text: str, kind: FieldKind) -> frozenset[int]:
    _refuse_dialects(word, text, kind)
    match = _ITEM.fullmatch(word)
    if match is None:
        raise _wrong(kind, text, _bounds(kind))
    star, start, end, stride = match.groups()
    step = _step(stride, text, kind)
    if star:
        return _span(kind, kind.low, kind.high, step)
    low = _value(start, text, kind)
    if end is None:
        if stride is None:
            return _span(kind, low, low, 1)
        if kind is WEEKDAY:
            raise _wrong(kind, text, f'a step needs a range: use "{start}-sat/{stride}"')
        return _span(kind, low, kind.high, step)
    high = _value(end, text, kind)
    if kind is WEEKDAY and low == 7:
        low = 0
    if low == high:
        raise _wrong(kind, text, f'the range has only one value: use "{start}"')
    if kind is WEEKDAY and high == 0:
        high = 7
    if low < high:
        return _span(kind, low, high, step)
    if stride is not None:
        raise _wrong(kind, text, "a range that wraps around cannot have a step: list the values")
    top = 6 if kind is WEEKDAY else kind.high
    return _span(kind, low, top, 1) | _span(kind, kind.low, high, 1)


def _refuse_dialects(word: str, text: str, kind: FieldKind) -> None:
    """Raise `InvalidInput` for syntax of other cron dialects."""
    if re.match(r"[hr](\(|/|$)", word):
        raise _wrong(kind, text, "H and R (hashed or random times) are not supported")
    if word == "*":
        raise _wrong(kind, text, "* cannot be part of a list")
    if kind is DAY and "w" in word:
        raise _wrong(kind, text, "W (the nearest weekday) is not supported")


def _span(kind: FieldKind, low: int, high: int, step: int) -> frozenset[int]:
    return frozenset(
        value % 7 if kind is WEEKDAY else value for value in range(low, high + 1, step)
    )


def _value(word: str, text: str, kind: FieldKind) -> int:
    if word in kind.names:
        return kind.names.index(word) + kind.first
    if word.isdigit() and len(word) <= 2 and kind.low <= int(word) <= kind.high:
        return int(word)
    raise _wrong(kind, text, _bounds(kind))


def _step(word: str | None, text: str, kind: FieldKind) -> int:
    if word is None:
        return 1
    size = 7 if kind is WEEKDAY else kind.high - kind.low + 1
    if word.isdigit() and 1 <= int(word) <= size:
        return int(word)
    advice = f"use a step of 1 to {size}"
    if word.isdigit() and int(word) > size and kind in (SECOND, MINUTE, HOUR):
        advice += f'; for a longer interval use "every {int(word)}{kind.name[0]}"'
    raise _wrong(kind, text, advice)


def _nth(word: str, text: str) -> tuple[int, int]:
    if word.startswith("l"):
        return _value(word[1:], text, WEEKDAY) % 7, -1
    match = _NTH.fullmatch(word)
    if match is None or match[2] not in ("1", "2", "3", "4", "5"):
        raise _wrong(WEEKDAY, text, "use a weekday, # and 1 to 5, such as mon#2")
    return _value(match[1], text, WEEKDAY) % 7, int(match[2])


def _bounds(kind: FieldKind) -> str:
    names = f" or {kind.names[0]} to {kind.names[-1]}" if kind.names else ""
    return f"use {kind.low} to {kind.high}{names}"


_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"))


def with_hyphens(text: str) -> str:
    """Return the text with hyphens in place of other dashes, which editors insert."""
    return text.translate(_DASHES)


def _wrong(kind: FieldKind, text: str, legal: str) -> InvalidInput:
    if with_hyphens(text) != text:
        legal = f'it has another dash in place of the hyphen: write "{with_hyphens(text)}"'
    return InvalidInput("cron", f'{kind.name} "{text}" is not valid', legal)
