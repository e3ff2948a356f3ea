"""Patches of Prefect's private names: the names still exist and the patch works."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable

import pytest
from prefect.client.schemas.schedules import CronSchedule
from prefect.types import _datetime
from pydantic import ValidationError

from daybook.prefect import private_names


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Count the reads of the time zone database, starting without Daybook's patch."""
    found: list[None] = []

    def counted(own: Callable[[], set[str]] = zoneinfo.available_timezones) -> set[str]:
        found.append(None)
        return own()

    monkeypatch.setattr(zoneinfo, "available_timezones", counted)
    monkeypatch.setattr(_datetime, "available_timezones", counted)
    private_names._time_zones.cache_clear()
    return found


def test_the_time_zones_are_read_only_once(walks: list[None]) -> None:
    CronSchedule(cron="0 9 * * *", timezone="Europe/Berlin")
    before = len(walks)
    assert before >= 1  # without the patch; if this fails, the patch is no longer needed
    for _ in range(2):
        assert private_names.cache_time_zones()
    for name in ("Europe/Berlin", "Asia/Tokyo", "UTC"):
        assert CronSchedule(cron="0 9 * * *", timezone=name).timezone == name
    with pytest.raises(ValidationError, match="Mars/Base"):
        CronSchedule(cron="0 9 * * *", timezone="Mars/Base")
    assert len(walks) == before + 1


def test_a_prefect_version_with_another_function_is_not_patched(
    walks: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other() -> set[str]:
        return {"Europe/Berlin"}

    monkeypatch.setattr(_datetime, "available_timezones", other)
    assert not private_names.cache_time_zones()
    assert vars(_datetime)["available_timezones"] is other
