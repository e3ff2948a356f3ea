"""Tables of cases that one test tries row by row."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import pytest

_Row = TypeVar("_Row")


def each(rows: Iterable[_Row]) -> Iterator[tuple[_Row, AbstractContextManager[None]]]:
    """Yield each row with a context for its assertions; then fail with every row that failed.

    An item of pytest costs milliseconds before its test begins, and hundreds of them cost seconds.
    Whatever a row changes, the loop creates anew for the next one.
    """
    tried, failures = 0, list[str]()
    given = list(rows)
    assert given, "the table is empty"

    @contextmanager
    def trying(row: _Row) -> Iterator[None]:
        nonlocal tried
        tried += 1
        try:
            yield
        except (Exception, pytest.fail.Exception) as error:
            if "pytest-timeout" in str(error):
                raise  # the other rows would have no time limit
            text = "".join(traceback.format_exception(error))
            failures.append(f"{row!r}\n{text}")

    for row in given:
        yield row, trying(row)
    assert tried == len(given), "the loop did not enter the context of each row"
    if failures:
        shown = "\n".join(failures)
        pytest.fail(f"{len(failures)} of {len(given)} rows failed:\n{shown}", pytrace=False)
