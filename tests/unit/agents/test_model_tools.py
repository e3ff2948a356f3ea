"""Tools that a model is offered, and the limits under which it may go on calling them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from daybook.agents.base import Tool
from daybook.errors import AgentFailed, AgentTimeout, InvalidInput
from tests.providers import Answer, Provider
from tests.unit.agents.asking import PROTOCOLS, agent, request

pytestmark = pytest.mark.anyio

protocols = pytest.mark.parametrize("protocol", PROTOCOLS)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@dataclass
class Weather:
    """A tool that keeps how it was called."""

    says: str = "rain"
    called: list[dict[str, Any]] = field(default_factory=list)

    async def call(self, arguments: dict[str, Any]) -> str:
        self.called.append(arguments)
        return self.says

    @property
    def tool(self) -> Tool:
        return Tool("weather", "Tells the weather.", SCHEMA, self.call)


def calling(city: str = "Rome", **given: Any) -> Answer:
    return Answer("", tool="weather", arguments={"city": city}, **given)


@protocols
async def test_a_model_calls_a_tool_and_reads_what_it_says(here: Provider, protocol: str) -> None:
    weather = Weather()
    here.script = [calling(input_tokens=10, output_tokens=5), Answer("Take an umbrella.")]
    reply = await agent(here, protocol).answer(request(tools=(weather.tool,)))

    assert reply.text == "Take an umbrella."
    assert weather.called == [{"city": "Rome"}]
    first, second = here.requests
    assert first.tools == second.tools == ["weather"]
    assert second.prompt == "rain"
    assert reply.usage is not None
    assert (reply.usage["requests"], reply.usage["tool_calls"]) == (2, 1)
    assert reply.usage["input_tokens"] == 20


async def test_what_a_tool_refuses_is_told_to_the_model_which_may_do_better(
    here: Provider,
) -> None:
    called = []

    async def call(arguments: dict[str, Any]) -> str:
        called.append(arguments["city"])
        if arguments["city"] != "Rome":
            raise InvalidInput("city", "is not known", "legal: Rome")
        return "sun"

    here.script = [calling("Atlantis"), calling("Rome"), "Sun."]
    tool = Tool("weather", "", SCHEMA, call)
    assert (await agent(here).answer(request(tools=(tool,)))).text == "Sun."
    assert called == ["Atlantis", "Rome"]
    assert "city: is not known (legal: Rome)" in here.requests[1].prompt


async def test_a_tool_that_breaks_is_told_by_its_kind_alone(here: Provider) -> None:
    async def call(arguments: dict[str, Any]) -> str:
        raise RuntimeError("password hunter2")

    here.script = [calling(), "Sorry."]
    tool = Tool("weather", "", SCHEMA, call)
    assert (await agent(here).answer(request(tools=(tool,)))).text == "Sorry."
    assert "RuntimeError" in here.requests[1].prompt
    assert "hunter2" not in str(here.requests[1].body)


async def test_a_tool_that_it_does_not_have_is_told_and_nothing_is_called(here: Provider) -> None:
    weather = Weather()
    here.script = [Answer("", tool="launch"), "Never mind."]
    assert (await agent(here).answer(request(tools=(weather.tool,)))).text == "Never mind."
    assert "launch" in here.requests[1].prompt
    assert weather.called == []


async def test_a_loop_of_calls_ends_at_the_token_limit_and_is_told_with_what_it_took(
    here: Provider,
) -> None:
    weather = Weather()
    here.script = [calling(input_tokens=100, output_tokens=20)]
    with pytest.raises(AgentFailed) as caught:
        await agent(here).answer(request(tools=(weather.tool,), tokens=300))

    # 120 and 240 are within 300; the third answer makes 360, and its call is not made.
    assert str(caught.value) == (
        "stopped: the token limit is reached: 300 were left, and 3 requests took 360"
    )
    assert len(here.requests) == 3
    assert len(weather.called) == 2
    assert caught.value.usage is not None
    assert (caught.value.usage["input_tokens"], caught.value.usage["output_tokens"]) == (300, 60)


async def test_at_exactly_the_limit_no_further_request_is_sent(here: Provider) -> None:
    here.script = [calling(input_tokens=100, output_tokens=20)]
    with pytest.raises(AgentFailed, match="240 were left, and 2 requests took 240"):
        await agent(here).answer(request(tools=(Weather().tool,), tokens=240))
    assert len(here.requests) == 2


async def test_an_answer_within_the_limit_is_one(here: Provider) -> None:
    here.script = [Answer("Fine.", input_tokens=100, output_tokens=20)]
    assert (await agent(here).answer(request(tokens=120))).text == "Fine."
    with pytest.raises(AgentFailed, match="119 were left, and 1 request took 120"):
        await agent(here).answer(request(tokens=119))


async def test_with_nothing_left_nothing_is_sent(here: Provider) -> None:
    with pytest.raises(AgentFailed, match="token limit is reached"):
        await agent(here).answer(request(tokens=0))
    assert here.requests == []


async def test_a_provider_that_tells_no_tokens_is_not_asked_again_under_a_limit(
    here: Provider,
) -> None:
    here.script = [calling(usage=False)]
    with pytest.raises(AgentFailed, match="cannot be enforced"):
        await agent(here).answer(request(tools=(Weather().tool,), tokens=1_000))
    assert len(here.requests) == 1
    here.script = [Answer("At once.", usage=False)]
    assert (await agent(here).answer(request(tokens=1_000))).text == "At once."


async def test_without_a_token_limit_the_requests_are_limited(here: Provider) -> None:
    here.script = [calling()]
    with pytest.raises(AgentFailed, match=r"reached its request limit.* request_limit of 50$"):
        await agent(here).answer(request(tools=(Weather().tool,)))
    assert len(here.requests) == 50
    with pytest.raises(AgentFailed, match="reached its request limit"):
        await agent(here, request_limit=3).answer(request(tools=(Weather().tool,)))
    assert len(here.requests) == 53


async def test_the_time_of_the_attempt_is_that_of_its_tools_too(here: Provider) -> None:
    ended = []

    async def call(arguments: dict[str, Any]) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        return ""

    here.script = [calling()]
    with pytest.raises(AgentTimeout) as caught:
        await agent(here).answer(request(tools=(Tool("weather", "", SCHEMA, call),), timeout=2.0))
    assert str(caught.value) == (
        "no answer within 2 s while calling weather; Daybook ended the agent"
    )
    assert ended == [True]
    assert caught.value.usage is not None
    assert caught.value.usage["requests"] == 1


async def test_a_tool_without_a_type_in_its_schema_takes_an_object(here: Provider) -> None:
    weather = Weather()
    here.script = [Answer("", tool="weather"), "Fine."]
    await agent(here).answer(request(tools=(Tool("weather", "", {}, weather.call),)))
    assert here.requests[0].body["tools"][0]["function"]["parameters"]["type"] == "object"
    assert weather.called == [{}]
