"""Tool calls of a model, and the limits of tokens, requests and time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from daybook.agents.base import Tool
from daybook.errors import AgentFailed, AgentTimeout, InvalidInput
from tests.providers import Answer, Provider
from tests.timings import expire_timeout
from tests.unit.agents.asking import PROTOCOLS, agent, request

pytestmark = pytest.mark.anyio

protocols = pytest.mark.parametrize("protocol", PROTOCOLS)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@dataclass
class Weather:
    """Tool that records the arguments of its calls."""

    says: str = "rain"
    called: list[dict[str, Any]] = field(default_factory=list)

    async def call(self, arguments: dict[str, Any]) -> str:
        self.called.append(arguments)
        return self.says

    @property
    def tool(self) -> Tool:
        return Tool("weather", "Returns the weather.", SCHEMA, self.call)


def calling(city: str = "Rome", **given: Any) -> Answer:
    return Answer("", tool="weather", arguments={"city": city}, **given)


@protocols
async def test_a_model_calls_a_tool_and_receives_its_result(
    fake_provider: Provider, protocol: str
) -> None:
    weather = Weather()
    fake_provider.script = [calling(input_tokens=10, output_tokens=5), Answer("Take an umbrella.")]
    reply = await agent(fake_provider, protocol).answer(request(tools=(weather.tool,)))

    assert reply.text == "Take an umbrella."
    assert weather.called == [{"city": "Rome"}]
    first, second = fake_provider.requests
    assert first.tools == second.tools == ["weather"]
    assert second.prompt == "rain"
    assert reply.usage is not None
    assert (reply.usage["requests"], reply.usage["tool_calls"]) == (2, 1)
    assert reply.usage["input_tokens"] == 20


async def test_a_model_receives_a_tools_refusal_and_may_call_it_again(
    fake_provider: Provider,
) -> None:
    called = []

    async def call(arguments: dict[str, Any]) -> str:
        called.append(arguments["city"])
        if arguments["city"] != "Rome":
            raise InvalidInput("city", "is not known", "legal: Rome")
        return "sun"

    fake_provider.script = [calling("Atlantis"), calling("Rome"), "Sun."]
    tool = Tool("weather", "", SCHEMA, call)
    assert (await agent(fake_provider).answer(request(tools=(tool,)))).text == "Sun."
    assert called == ["Atlantis", "Rome"]
    assert "city: is not known (legal: Rome)" in fake_provider.requests[1].prompt


async def test_a_model_receives_only_the_error_class_of_a_broken_tool(
    fake_provider: Provider,
) -> None:
    async def call(arguments: dict[str, Any]) -> str:
        raise RuntimeError("password hunter2")

    fake_provider.script = [calling(), "Sorry."]
    tool = Tool("weather", "", SCHEMA, call)
    assert (await agent(fake_provider).answer(request(tools=(tool,)))).text == "Sorry."
    assert "RuntimeError" in fake_provider.requests[1].prompt
    assert "hunter2" not in str(fake_provider.requests[1].body)


async def test_a_call_of_an_unknown_tool_is_answered_with_its_name_and_calls_nothing(
    fake_provider: Provider,
) -> None:
    weather = Weather()
    fake_provider.script = [Answer("", tool="launch"), "Never mind."]
    assert (await agent(fake_provider).answer(request(tools=(weather.tool,)))).text == "Never mind."
    assert "launch" in fake_provider.requests[1].prompt
    assert weather.called == []


async def test_a_loop_of_tool_calls_fails_at_the_token_limit_with_its_usage(
    fake_provider: Provider,
) -> None:
    weather = Weather()
    fake_provider.script = [calling(input_tokens=100, output_tokens=20)]
    with pytest.raises(AgentFailed) as caught:
        await agent(fake_provider).answer(request(tools=(weather.tool,), tokens=300))

    # 120 and 240 are within 300; the third answer makes 360, so its call is not executed.
    assert str(caught.value) == (
        "stopped: the token limit is reached; 300 tokens were left, and 3 requests used 360"
    )
    assert len(fake_provider.requests) == 3
    assert len(weather.called) == 2
    assert caught.value.usage is not None
    assert (caught.value.usage["input_tokens"], caught.value.usage["output_tokens"]) == (300, 60)


async def test_at_exactly_the_token_limit_no_further_request_is_sent(
    fake_provider: Provider,
) -> None:
    fake_provider.script = [calling(input_tokens=100, output_tokens=20)]
    with pytest.raises(AgentFailed, match="240 tokens were left, and 2 requests used 240"):
        await agent(fake_provider).answer(request(tools=(Weather().tool,), tokens=240))
    assert len(fake_provider.requests) == 2


async def test_an_answer_that_uses_exactly_the_token_limit_is_accepted(
    fake_provider: Provider,
) -> None:
    fake_provider.script = [Answer("Fine.", input_tokens=100, output_tokens=20)]
    assert (await agent(fake_provider).answer(request(tokens=120))).text == "Fine."
    with pytest.raises(AgentFailed, match="119 tokens were left, and 1 request used 120"):
        await agent(fake_provider).answer(request(tokens=119))


async def test_without_tokens_left_no_request_is_sent(fake_provider: Provider) -> None:
    with pytest.raises(AgentFailed, match="token limit is reached"):
        await agent(fake_provider).answer(request(tokens=0))
    assert fake_provider.requests == []


async def test_under_a_token_limit_missing_usage_allows_no_further_request(
    fake_provider: Provider,
) -> None:
    fake_provider.script = [calling(usage=False)]
    with pytest.raises(AgentFailed, match="cannot be enforced"):
        await agent(fake_provider).answer(request(tools=(Weather().tool,), tokens=1_000))
    assert len(fake_provider.requests) == 1
    fake_provider.script = [Answer("At once.", usage=False)]
    assert (await agent(fake_provider).answer(request(tokens=1_000))).text == "At once."


async def test_without_a_token_limit_the_number_of_requests_is_limited(
    fake_provider: Provider,
) -> None:
    fake_provider.script = [calling()]
    with pytest.raises(AgentFailed, match=r"reached its request limit.* request_limit of 50$"):
        await agent(fake_provider).answer(request(tools=(Weather().tool,)))
    assert len(fake_provider.requests) == 50
    with pytest.raises(AgentFailed, match="reached its request limit"):
        await agent(fake_provider, request_limit=3).answer(request(tools=(Weather().tool,)))
    assert len(fake_provider.requests) == 53


async def test_the_timeout_of_an_attempt_includes_its_tool_calls(fake_provider: Provider) -> None:
    began, ended = asyncio.Event(), []

    async def call(arguments: dict[str, Any]) -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        return ""

    fake_provider.script = [calling()]
    tool = Tool("weather", "", SCHEMA, call)
    answer = asyncio.create_task(agent(fake_provider).answer(request(tools=(tool,), timeout=60.0)))
    await began.wait()
    await expire_timeout(60.0)
    with pytest.raises(AgentTimeout) as caught:
        await answer
    assert str(caught.value) == (
        "no answer within 60 s while calling weather; Daybook ended the agent"
    )
    assert ended == [True]
    assert caught.value.usage is not None
    assert caught.value.usage["requests"] == 1


async def test_a_tool_whose_schema_has_no_type_takes_an_object(fake_provider: Provider) -> None:
    weather = Weather()
    fake_provider.script = [Answer("", tool="weather"), "Fine."]
    await agent(fake_provider).answer(request(tools=(Tool("weather", "", {}, weather.call),)))
    assert fake_provider.requests[0].body["tools"][0]["function"]["parameters"]["type"] == "object"
    assert weather.called == [{}]
