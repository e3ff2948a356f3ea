"""Fixtures: a ledger for each test and kind of database, with a clock that the test moves."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from prefect.settings import Settings
from pydantic import BaseModel

from daybook.api import runs
from daybook.delivery.views import RunDetails
from daybook.jobs.store import StoredJob
from daybook.ledger import engine
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.testing import ManualClock
from tests import databases
from tests.world import World, in_database

_View = TypeVar("_View", bound=BaseModel)


_copy = Settings.copy_with_update
_COPIES = dict[Any, tuple[Settings, Settings]]()


def _copy_once(
    settings: Settings, updates: Mapping[Any, Any] | None = None, **given: Any
) -> Settings:
    """Return the settings of `temporary_settings`, which Prefect needs 50 ms to build."""
    variables = [each for each in os.environ.items() if each[0].startswith("PREFECT_")]
    changes = [(getattr(name, "name", name), value) for name, value in (updates or {}).items()]
    if any(given.values()):
        return _copy(settings, updates, **given)
    key = (id(settings), tuple(changes), tuple(sorted(variables)))
    if key not in _COPIES:
        _COPIES[key] = settings, _copy(settings, updates)
    return _COPIES[key][1]


Settings.copy_with_update = _copy_once  # type: ignore[method-assign,assignment]


def view(model: type[_View], /, **fields: Any) -> _View:
    """Return a result of the API with only these fields."""
    return model.model_construct(**fields)


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock at 12:00:00.25 UTC, a quarter of a second after a full hour."""
    return ManualClock(ManualClock().now() + timedelta(milliseconds=250))


@pytest.fixture(params=databases.KINDS)
async def world(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[World]:
    async with in_database(request, clock) as world:
        yield world


@pytest.fixture
def runs_are_requested_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request of a run write the ledger, and create no run in Prefect."""

    async def request_only(
        ledger: Ledger,
        stored: StoredJob | None,
        request: Callable[[Ledger], Awaitable[RunRow]],
        *_: Any,
    ) -> RunDetails:
        return await runs._view(ledger, (await request(ledger)).id)

    monkeypatch.setattr(runs, "_run", request_only)


@pytest.fixture
def shared_ledger(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the operations use the test's ledger: a test does not run in its fixtures' context."""
    monkeypatch.setattr(engine, "_shared", ContextVar("shared", default=world.ledger))
