"""Runs of the flow at the session's server, called directly and by a process as a worker's.

Each test has a home, so a ledger, of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daybook.home import Home
from tests.calling import Asked
from tests.conftest import PrefectServer
from tests.floor import Floor, laid
from tests.providers import provider


@pytest.fixture
async def floor(
    prefect_server: PrefectServer, daybook_home: Home, tmp_path: Path
) -> AsyncIterator[Floor]:
    async with laid(tmp_path) as floor:
        yield floor


@pytest.fixture
async def asked(floor: Floor) -> AsyncIterator[Asked]:
    with provider() as here:
        yield Asked(floor, here)
