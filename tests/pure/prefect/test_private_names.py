"""Patches of Prefect's private names: the names still exist and the patch works."""

from __future__ import annotations

import asyncio
import zoneinfo
from collections.abc import Callable
from datetime import timedelta

import pytest
from burner_redis import BurnerRedis  # type: ignore[import-untyped]
from burner_redis.pubsub import PubSub  # type: ignore[import-untyped]
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


@pytest.mark.anyio
async def test_a_message_ends_a_long_wait_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("__init__", "_queue_get"):  # restored after the test
        monkeypatch.setattr(PubSub, name, getattr(PubSub, name))
    assert private_names.wait_for_messages(timedelta(hours=1))
    broker = BurnerRedis()
    subscriber = broker.pubsub()
    await subscriber.psubscribe("cancel:*")
    assert (await subscriber.get_message(timeout=0.1))["type"] == "psubscribe"
    assert await subscriber.get_message(timeout=0.0) is None

    waiting = asyncio.create_task(subscriber.get_message(timeout=0.001))
    await asyncio.wait({waiting}, timeout=0.05)
    assert not waiting.done()
    await broker.publish("cancel:one", b"task")
    assert (await waiting)["data"] == b"task"
