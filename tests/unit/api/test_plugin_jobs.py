"""Jobs of plugins: agents cannot save them."""

from __future__ import annotations

import pytest

import daybook
from daybook.errors import InvalidInput
from daybook.home import Home

pytestmark = pytest.mark.anyio


async def test_an_agent_cannot_save_jobs_of_a_plugin(daybook_home: Home) -> None:
    client = daybook.Client(agent="scout")
    with pytest.raises(InvalidInput, match="agent: cannot save a plugin's jobs"):
        await client.plugin_job("feeds", "news", runtime_name="rss", schedule="every 1s")
    with daybook.context(agent="scout"), pytest.raises(InvalidInput, match="agent: cannot save"):
        await daybook.Client().plugin_job("feeds", "news", runtime_name="rss", schedule="@daily")
    assert await client.list() == []
