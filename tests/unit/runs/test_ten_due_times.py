"""Overlap, catch-up and class combined: the outcomes of ten due times, as in the docs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from docs import generate

from daybook import repository
from tests.databases import Sqlite
from tests.unit.runs import ten_due_times
from tests.unit.runs.ten_due_times import CASES, TAKES, Became, Case

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Found:
    """Outcomes of the cases in one ledger on SQLite; each case is simulated once, on demand."""

    def __init__(self, file: Path) -> None:
        self._address = Sqlite(file).address
        self._known: dict[Case, list[Became]] = {}

    async def __call__(self, case: Case) -> list[Became]:
        if case not in self._known:
            day = len(self._known)
            self._known[case] = await ten_due_times.outcomes(self._address, case, day)
        return self._known[case]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return the outcomes on SQLite; the tests of each rule run on both databases."""
    return Found(tmp_path_factory.mktemp("ledger") / "ledger.db")


async def _of(found: Found, case: Case) -> str:
    return " ".join(map(str, await found(case))).replace(", cancelled", "x")


GONE = "missed missed missed missed"

REASONED = [
    ("skip", "none", f"12:10 skipped 12:30 skipped {GONE} 13:30 skipped"),
    ("skip", "latest", "12:10 skipped 12:30 skipped missed missed missed 13:25 skipped 13:40"),
    # Catch-up runs come first; of the due times in between, one is left.
    ("skip", "all", "12:10 skipped 12:30 skipped 13:25 13:40 13:55 14:10 14:25 skipped"),
    ("queue_one", "none", f"12:10 12:25 12:40 13:25 {GONE} 13:40 13:55"),
    ("queue_one", "latest", "12:10 12:25 12:40 13:25 missed missed missed 13:40 skipped 13:55"),
    ("queue_one", "all", "12:10 12:25 12:40 13:25 13:40 13:55 14:10 14:25 14:40 14:55"),
    ("queue_all", "none", f"12:10 12:25 12:40 13:25 {GONE} 13:40 13:55"),
    ("queue_all", "latest", "12:10 12:25 12:40 13:25 missed missed missed 13:40 13:55 14:10"),
    ("queue_all", "all", "12:10 12:25 12:40 13:25 13:40 13:55 14:10 14:25 14:40 14:55"),
    ("cancel_running", "none", f"12:10x 12:20x 12:30x 12:40 {GONE} 13:30x 13:40"),
    (
        "cancel_running",
        "latest",
        "12:10x 12:20x 12:30x 12:40 missed missed missed 13:25x 13:30x 13:40",
    ),
    # Of the two due times in between, the later one replaces the other.
    ("cancel_running", "all", "12:10x 12:20x 12:30x 12:40 13:25 13:40 13:55 14:10 skipped 14:25"),
    ("allow", "none", f"12:10 12:20 12:30 12:40 {GONE} 13:30 13:40"),
    ("allow", "latest", "12:10 12:20 12:30 12:40 missed missed missed 13:25 13:30 13:40"),
    # A catch-up run waits for the active runs; a run that is on time starts beside them.
    ("allow", "all", "12:10 12:20 12:30 12:40 13:25 13:55 14:10 14:25 13:30 13:40"),
]
"""Reasoned by hand from the rules; `x` is cancelled."""


@pytest.mark.parametrize(("overlap", "catch_up", "expected"), REASONED)
async def test_ten_due_times_have_the_outcomes_that_the_rules_imply(
    found: Found, overlap: str, catch_up: str, expected: str
) -> None:
    assert await _of(found, Case(overlap, catch_up, full=False)) == expected


FULL = [
    # Three waited for the class; when the first of them began, the others overlapped with it.
    ("skip", "none", f"12:35 skipped skipped skipped {GONE} 13:30 skipped"),
    ("queue_one", "none", f"12:35 13:25 skipped skipped {GONE} 13:40 13:55"),
    ("queue_all", "none", f"12:35 13:25 13:40 13:55 {GONE} 14:10 14:25"),
    ("cancel_running", "none", f"skipped skipped 12:35x 12:40 {GONE} 13:30x 13:40"),
    # The class allows one run at a time, whatever the job allows.
    ("allow", "none", f"12:35 13:25 13:40 13:55 {GONE} 14:10 14:25"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("overlap", "catch_up", "expected"), FULL)
async def test_a_run_that_waits_for_a_slot_of_its_class_is_not_missed(
    found: Found, overlap: str, catch_up: str, expected: str
) -> None:
    assert await _of(found, Case(overlap, catch_up, full=True)) == expected


def _worked(became: Sequence[Became]) -> list[tuple[float, float]]:
    spans = [(each.began, each.ended) for each in became if each.began is not None]
    return sorted((begin.total_seconds(), end.total_seconds()) for begin, end in spans)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if case.full else ()) for case in CASES],
    ids=str,
)
async def test_in_every_case_each_due_time_has_one_row_and_only_allow_overlaps(
    found: Found, case: Case
) -> None:
    became = await found(case)
    assert len(became) == 10  # each due time has its one row
    assert all(each.began is None or each.began >= each.due for each in became)
    assert all(
        each.ended - each.began == TAKES
        for each in became
        if each.status == "succeeded" and each.began is not None
    )
    if case.overlap != "allow" or case.full:
        assert all(end <= begin for (_, end), (begin, _) in pairwise(_worked(became)))
    if case.catch_up == "all":
        assert "missed" not in {each.status for each in became}


@pytest.mark.slow
async def test_the_policies_page_in_the_docs_is_up_to_date(found: Found) -> None:
    """If the page differs, `make docs` regenerates it."""
    cases = {case: await found(case) for case in CASES}
    page = repository.root() / "docs" / "guides" / "policies.md"
    assert page.read_text() == generate.policies_page(cases)
