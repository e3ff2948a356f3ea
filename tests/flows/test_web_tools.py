"""A model agent that reads the web while it answers, at a real Prefect and a local site."""

from __future__ import annotations

import pytest
from prefect.exceptions import FailedRun

from tests.calling import ModelAgent, calls
from tests.providers import Answer
from tests.receiver import answer, serving
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]

PAGE = b"<title>Prices</title><p>The lamp costs <a href='/lamp'>12.50</a>.</p>"


async def test_a_model_reads_a_page_and_the_call_is_a_step(
    model_agent: ModelAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALLOWED_HOSTS", "127.0.0.1")
    await model_agent.given("web")
    async with serving() as site:
        site.steps = [answer(200, PAGE, {"Content-Type": "text/html"})]
        result = await model_agent.run(
            calls("web_fetch", url=f"{site.address}/list"), Answer("It costs 12.50.")
        )

    assert (result["status"], result["output"]) == ("succeeded", "It costs 12.50.")
    first, second = model_agent.fake_provider.requests
    assert first.tools == ["web_fetch", "web_search"]
    assert "Title: Prices" in second.prompt
    assert f"[12.50]({site.address}/lamp)" in second.prompt
    assert [each.path for each in site.requests] == ["/list"]


async def test_a_job_narrows_its_agents_tools_and_one_that_names_none_fails(
    model_agent: ModelAgent,
) -> None:
    await model_agent.given("web")
    await model_agent.run(Answer("Hello."), policy={"only_tools": ["web.search"]})
    assert model_agent.fake_provider.requests[0].tools == ["web_search"]
    model_agent.fake_provider.requests.clear()

    with pytest.raises(FailedRun, match='only_tools: "mail" names no tool of agent'):
        await model_agent.run(Answer("Hello."), policy={"only_tools": ["mail"]})
    assert model_agent.fake_provider.requests == []
