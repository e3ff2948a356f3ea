"""A published third-party MCP server, started as its users start it."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest

from daybook.http.guard import Guard, Rule
from daybook.ledger.states import Status
from daybook.tools import calls, catalog
from daybook.tools.base import CallResult
from tests.contract.tools.conftest import Saved

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        importlib.util.find_spec("mcp_server_time") is None,
        reason="service absent: mcp-server-time",
    ),
]

COMMAND = [sys.executable, "-m", "mcp_server_time", "--local-timezone", "Europe/Berlin"]


async def call(tool: str, **params: Any) -> CallResult:
    saved = Saved({"time": {"command": COMMAND}})
    prepared = await calls.prepare(
        f"time.{tool}", params, "request:x:1", saved, saved, Guard(Rule.OPERATOR)
    )
    return await calls.call(prepared, timeout=60)


async def test_the_tools_of_a_published_server_are_listed() -> None:
    found, absent = await catalog.list_tools(Saved({"time": {"command": COMMAND}}))
    assert {"time.convert_time", "time.get_current_time"} <= {each.name for each in found}
    assert absent == {}


async def test_the_answer_of_a_published_server_is_the_result() -> None:
    params = {"source_timezone": "Asia/Tokyo", "time": "09:30", "target_timezone": "UTC"}
    outcome = (await call("convert_time", **params)).outcome
    assert outcome.status is Status.SUCCEEDED
    assert outcome.result["params"] == params
    assert outcome.result["result"]["target"]["datetime"].endswith("T00:30:00+00:00")
    assert "T00:30:00+00:00" in str(outcome.output)


@pytest.mark.slow
async def test_an_error_of_a_published_server_fails_the_run() -> None:
    called = await call("get_current_time", timezone="Europe/Nowhere")
    assert (called.outcome.status, called.temporary) == (Status.FAILED, False)
    assert "Europe/Nowhere" in str(called.outcome.error)
