"""One home with real workers for each test, at the session's server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daybook.home import Home
from daybook.host.prefect_here import PrefectHere
from tests.conftest import PrefectServer
from tests.crew import Crew, hired


@pytest.fixture
async def crew(
    prefect_server: PrefectServer, daybook_home: Home, tmp_path: Path
) -> AsyncIterator[Crew]:
    here = PrefectHere(prefect_server.api_url, prefect_server.ui_url)
    async with hired(tmp_path, here) as crew:
        yield crew
