"""Errors of the synchronous client: one traceback instead of a chain."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

import daybook
from daybook.errors import DaybookError, InvalidInput
from daybook.home import Home


@pytest.mark.parametrize(
    "asked",
    [
        lambda client: client.get("no-such-job"),
        lambda client: client.add("Hi", schedule="soon"),
        lambda client: client.add("Hi", schedule="@daily", retries=99),
        lambda client: (client.add("Hi", schedule="@daily"), client.run("hi")),
    ],
    ids=["not-found", "refused", "out-of-range", "prefect-away"],
)
def test_an_error_has_one_traceback(
    daybook_home: Home, asked: Callable[[daybook.SyncClient], object]
) -> None:
    # Nothing listens on port 9 (discard) of a machine that runs tests.
    nowhere = temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})
    with nowhere, pytest.raises(DaybookError) as caught:
        asked(daybook.SyncClient())
    text = "".join(traceback.format_exception(caught.value))
    assert text.count("Traceback (most recent call last)") == 1
    assert "no running event loop" not in text


def test_an_unknown_field_is_an_error_for_the_type_checker_too(daybook_home: Home) -> None:
    client = daybook.SyncClient()
    with pytest.raises(InvalidInput, match="retrys"):
        client.add("Hi", schedule="@daily", retrys=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidInput, match="overlap"):
        client.add("Hi", schedule="@daily", overlap="perhaps")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="tags"):
        client.list(tags=["news"])  # type: ignore[call-arg]
