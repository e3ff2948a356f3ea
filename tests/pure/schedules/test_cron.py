"""Cron expressions: which are valid, and the text of each refusal (requirement 2)."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pytest
from prefect._vendor import croniter as vendored
from prefect.client.schemas.schedules import CronSchedule

from daybook.errors import InvalidInput
from daybook.prefect import projection
from daybook.schedules import cron
from daybook.schedules.due import due_times
from daybook.schedules.schedule import Cron

START = datetime(2024, 1, 1, 0, 0, 30, tzinfo=UTC)

LEGAL = [
    "0 9 * * 1-5",
    "*/15 9-17 * * mon-fri",
    "0 0 1 * *",
    "0 0 L * *",
    "0 0 15,L * *",
    "0 0 * * L5",
    "0 0 * * l7",
    "0 0 * * 1#2",
    "0 0 * * 7#1",
    "0 0 * * sun#5",
    "0 0 * * mon#1,wed#3",
    "0 0 ? * 3",
    "0 0 13 * 5",
    "0 0 13 * ?",
    "0 22-2 * * *",
    "0 0 * * sat-sun",
    "0 0 * * 5-7",
    "0 0 * * 1-7/2",
    "0 0 * * 0-7",
    "0 0 * * 7-2",
    "0 0 28-2 * *",
    "0 0 * nov-feb *",
    "5/15 * * * *",
    "0 0 */2 * 1",
    "0 0 1-31 * 1",
    "0 0 29 2 *",
    "0 0 * feb 1#5",
    "00 09 * * *",
    "0 0 31 * *",
    "0 0 5-31/5 2-11/3 *",
    "1,2,3,30-40/5,*/20 * * * *",
    *cron.ALIASES,
]


@pytest.mark.floor("A", "Cron takes five fields")
@pytest.mark.floor("B", "Cron takes @hourly, @daily and the like")
@pytest.mark.floor("C", "cron_expr takes five fields")
@pytest.mark.parametrize("expr", LEGAL)
def test_a_valid_expression_means_the_same_to_prefect(expr: str) -> None:
    """In UTC, our due times equal those of the croniter in Prefect."""
    assert cron.canonical(expr) == expr
    actual = list(islice(due_times(Cron(expr=expr, timezone="UTC"), after=START), 40))
    croniter: Any = vendored.croniter  # type: ignore[attr-defined]
    theirs = croniter(expr, START.replace(tzinfo=None))
    assert [instant.replace(tzinfo=None) for instant in actual] == [
        theirs.get_next(datetime) for _ in actual
    ]


def test_canonical_text_has_single_spaces_and_lower_case_aliases() -> None:
    assert cron.canonical("  0   9\t*  * MON-FRI ") == "0 9 * * MON-FRI"
    assert cron.canonical(" @Daily ") == "@daily"


FIELDS = (
    'write five fields "minute hour day-of-month month weekday", six with seconds first, or one of '
    "@hourly @daily @midnight @weekly @monthly @yearly @annually"
)


@pytest.mark.floor("A", "An invalid cron expression is refused")
@pytest.mark.floor("B", "An invalid cron expression is refused")
@pytest.mark.floor("C", "An invalid cron_expr is refused")
@pytest.mark.parametrize(
    ("expr", "problem", "legal"),
    [
        (
            "0 0 9 * * 1-5 2027",
            "has seven fields, and a field for the year is not supported",
            FIELDS,
        ),
        ("0 9 * *", '"0 9 * *" has 4 fields', FIELDS),
        ("", '"" has 0 fields', FIELDS),
        (
            "@often",
            'unknown name "@often"',
            "use one of @hourly @daily @midnight @weekly @monthly @yearly @annually",
        ),
        (
            "H 9 * * *",
            'minute "H" is not valid',
            "H and R (hashed or random times) are not supported",
        ),
        (
            "R(0-5) 9 * * *",
            'minute "R(0-5)" is not valid',
            "H and R (hashed or random times) are not supported",
        ),
        (
            "0 h/2 * * *",
            'hour "h/2" is not valid',
            "H and R (hashed or random times) are not supported",
        ),
        (
            "0 0 30 2 *",
            '"0 0 30 2 *" never fires: month 2 has no day 30',
            "use a day that exists in the month",
        ),
        (
            "0 0 31 4,6 1",
            '"0 0 31 4,6 1" never fires: month 4,6 has no day 31',
            "use a day that exists in the month",
        ),
        (
            "0 9 * * 1–5",
            'weekday "1–5" is not valid',
            'it has another dash in place of the hyphen: write "1-5"',
        ),
        (
            "0 9—17 * * *",
            'hour "9—17" is not valid',
            'it has another dash in place of the hyphen: write "9-17"',
        ),
        ("60 * * * *", 'minute "60" is not valid', "use 0 to 59"),
        ("60 * * * * *", 'second "60" is not valid', "use 0 to 59"),
        ("0 24 * * *", 'hour "24" is not valid', "use 0 to 23"),
        ("0 0 0 * *", 'day of month "0" is not valid', "use 1 to 31"),
        ("0 0 * 13 *", 'month "13" is not valid', "use 1 to 12 or jan to dec"),
        ("0 0 * * 8", 'weekday "8" is not valid', "use 0 to 7 or sun to sat"),
        ("0 0 * * montag", 'weekday "montag" is not valid', "use 0 to 7 or sun to sat"),
        ("0 0 * * mon-", 'weekday "mon-" is not valid', "use 0 to 7 or sun to sat"),
        ("٣ * * * *", 'minute "٣" is not valid', "use 0 to 59"),
        (",0 * * * *", 'minute ",0" is not valid', "use 0 to 59"),
        ("-5 * * * *", 'minute "-5" is not valid', "use 0 to 59"),
        ("? * * * *", 'minute "?" is not valid', "use 0 to 59"),
        ("*/0 * * * *", 'minute "*/0" is not valid', "use a step of 1 to 60"),
        (
            "*/90 * * * *",
            'minute "*/90" is not valid',
            'use a step of 1 to 60; for a longer interval use "every 90m"',
        ),
        ("5-5 * * * *", 'minute "5-5" is not valid', 'the range has only one value: use "5"'),
        ("*,5 * * * *", 'minute "*,5" is not valid', "* cannot be part of a list"),
        (
            "0 22-2/2 * * *",
            'hour "22-2/2" is not valid',
            "a range that wraps around cannot have a step: list the values",
        ),
        (
            "0 0 * * 1/2",
            'weekday "1/2" is not valid',
            'a step needs a range: use "1-sat/2"',
        ),
        (
            "0 0 15W * *",
            'day of month "15W" is not valid',
            "W (the nearest weekday) is not supported",
        ),
        (
            "0 0 L,1-5 * *",
            'day of month "L,1-5" is not valid',
            "combine L only with single days",
        ),
        (
            "0 0 * * 1#6",
            'weekday "1#6" is not valid',
            "use a weekday, # and 1 to 5, such as mon#2",
        ),
        ("0 0 * * 5L", 'weekday "5L" is not valid', "use 0 to 7 or sun to sat"),
        (
            "0 0 * * 1#2,3",
            'weekday "1#2,3" is not valid',
            "# and L cannot be mixed with plain weekdays",
        ),
        (
            "0 0 1 * 1#2",
            'weekday "1#2" cannot be combined with day of month "1"',
            "use * for the day of month, or create two jobs",
        ),
        (
            "0 0 */1 * 1",
            'together, day of month "*/1" and weekday "1" match every day',
            "use * for both",
        ),
        (
            "0 0 */2 * 0-6",
            'together, day of month "*/2" and weekday "0-6" match every day',
            "use * for both",
        ),
    ],
)
def test_an_invalid_expression_is_refused_with_advice(expr: str, problem: str, legal: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        cron.canonical(expr)
    assert str(caught.value) == f"cron: {problem} ({legal})"
    with pytest.raises(InvalidInput, match=r"^schedule: "):
        cron.canonical(expr, "schedule")


@pytest.mark.parametrize(
    ("expr", "real_time"),
    [
        ("*/15 2 * * *", True),
        ("30 * * * *", True),
        ("0 */2 * * *", True),
        ("5,*/20 2 * * *", True),
        ("@hourly", True),
        ("@daily", False),
        ("0-59/15 2 * * *", False),
        ("* 30 2 * * *", False),
        ("0 * 2 * * *", True),
        ("30 2 */2 * *", False),
    ],
)
def test_expressions_with_a_wildcard_minute_or_hour_are_in_real_time(
    expr: str, real_time: bool
) -> None:
    assert cron.read_fields(expr).real_time is real_time


@pytest.mark.parametrize("weekday", ["7", "5-7", "1,7", "7#1", "L7", "0-7", "sun", "mon#2"])
def test_a_weekday_of_six_fields_means_the_same_to_prefect(weekday: str) -> None:
    schedule = Cron(expr=cron.canonical(f"0 30 9 * * {weekday}"), timezone="UTC")
    actual = list(islice(due_times(schedule, after=START), 20))
    text = CronSchedule(cron=projection.to_prefect_cron(schedule.expr), timezone="UTC").cron
    croniter: Any = vendored.croniter  # type: ignore[attr-defined]
    theirs = croniter(text, START.replace(tzinfo=None))
    assert [instant.replace(tzinfo=None) for instant in actual] == [
        theirs.get_next(datetime) for _ in actual
    ]


@pytest.mark.parametrize("expr", ["59/5 * * * *", "0 23/2 * * *", "0 0 31/2 * *", "0 0 1 12/2 *"])
def test_a_step_from_the_last_value_is_refused(expr: str) -> None:
    with pytest.raises(InvalidInput, match="the range has only one value"):
        cron.canonical(expr)
    assert not cron.read_fields(expr).seconds  # it is read, if an earlier version has stored it
