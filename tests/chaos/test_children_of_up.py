"""The children of `daybook up` that hang or are killed, and a machine that is suspended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.timing import TIMING
from tests.e2e.first_light import Up
from tests.servers import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

PATIENCE_SECONDS = 120.0
WATCHFUL = replace(TIMING, probe_interval=timedelta(seconds=2), max_silence=timedelta(seconds=15))


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    variables = WATCHFUL.environment() | {"DAYBOOK_WEB_PORT": str(free_port())}
    running = Up(
        tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("empty"), variables=variables
    )
    try:
        running.until(lambda lines: lines[-1:] == ["Ready."] or "Ready" in str(lines), within=180)
        yield running
    finally:
        running.end()


def children(up: Up) -> dict[str, int]:
    """Return the pids of the children in `up.json`."""
    return {each["name"]: each["pid"] for each in up.facts()["children"]}


def wait_for(up: Up, line: str) -> None:
    up.until(lambda lines: any(line in each for each in lines), within=PATIENCE_SECONDS)


def replaced(up: Up, name: str, pid: int) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while children(up).get(name, pid) == pid:
        assert time.monotonic() < end, f"the {name} was not started again"
        up.process.poll()
