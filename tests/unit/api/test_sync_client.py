"""The synchronous client: the methods of the other one, and errors with one traceback."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable

import pytest

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
    with pytest.raises(DaybookError) as caught:
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


def test_the_sync_client_has_the_methods_of_the_client_and_blocks(daybook_home: Home) -> None:
    client, sync = daybook.Client(), daybook.SyncClient()
    for name in (each for each in vars(daybook.Client) if not each.startswith("_")):
        method, twin = getattr(client, name), getattr(sync, name)
        assert inspect.getdoc(method)
        if name == "sessions":  # test_client_operations.py covers its operations
            assert isinstance(twin, type(method)) and type(twin) is not type(method)
            continue
        assert inspect.getdoc(twin) == inspect.getdoc(method)
        assert inspect.signature(twin) == inspect.signature(method)
        assert "self" not in inspect.signature(twin).parameters
        assert inspect.iscoroutinefunction(method) and not inspect.iscoroutinefunction(twin)
