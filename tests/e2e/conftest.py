"""Fixture for command lines at the session's Prefect."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from daybook.agents import documents
from daybook.home import Home
from daybook.operations import setup
from tests.at_prefect import with_client
from tests.commands import DaybookJson, json_commands
from tests.e2e.browsers import started_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with started_chromium() as browser:
        yield browser


@pytest.fixture
def prepared(prefect_server: Any, daybook_home: Home) -> Home:
    """Return a home at a Prefect with what `setup.prepare` creates there.

    A file overrides this fixture if its commands need more in Prefect, or less.
    """
    with_client(setup.prepare)
    return daybook_home


@pytest.fixture
def without_added_agents(prepared: Home) -> Iterator[None]:
    """Remove the agents that the test adds."""
    before = with_client(documents.names)
    yield
    for name in with_client(documents.names).keys() - before.keys():
        with_client(partial(documents.remove, name=name))


@pytest.fixture
def daybook_json(prepared: Home, capsys: pytest.CaptureFixture[str]) -> Iterator[DaybookJson]:
    """Yield a function that runs `daybook … --json` and returns its output; remove all jobs."""
    with json_commands(capsys) as carry_out:
        yield carry_out
