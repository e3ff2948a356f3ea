"""The conversation in docs/guides/mcp.md, with a scripted model that calls tools by pydantic-ai.

The test repeats the conversation and compares it with the page, except for ids, instants and
durations. `WRITE_DOCS=1` in the environment rewrites the page.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import (
    ModelMessage,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from daybook.agents import documents
from daybook.jobs import store
from tests.e2e.mcp.clients import Where
from tests.e2e.mcp.conftest import Place
from tests.providers import KEY, Answer, Provider, provider

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "mcp.md"
BEGIN, END = "<!-- the conversation -->\n", "<!-- its end -->\n"

NAME = "pull-requests"
PROMPT = "Summarise the open pull requests of our repository in three sentences."
SUMMARY = (
    "Two pull requests are open. One fixes the parser and waits for a review. "
    "The other one updates the documentation and is ready."
)
ADD = {
    "prompt": PROMPT,
    "timezone": "Europe/Berlin",
    "name": NAME,
    "channel": "inbox",
    "agent": "assistant",
}


def calls(tool: str, /, **arguments: Any) -> Answer:
    return Answer("", tool=tool, arguments=arguments, finish="tool_calls")


# The person's message, and the model's steps; a text without a tool call ends the turn. The
# summary answers another request: the run's prompt, which the worker sends to the same server.
TURNS: tuple[tuple[str, tuple[Answer, ...]], ...] = (
    (
        "Every weekday at nine, summarise our open pull requests and put it into my inbox. "
        "I am in Berlin.",
        (
            calls("cron_add", **ADD, schedule="every weekday"),
            calls("cron_add", **ADD, schedule="every weekday at 9:00"),
            Answer("It is scheduled: weekdays at 09:00 in Berlin, into your inbox."),
        ),
    ),
    (
        "What have you scheduled?",
        (calls("cron_list"), Answer("One job: pull-requests, on weekdays at 09:00.")),
    ),
    (
        "Half an hour earlier, please.",
        (
            calls("cron_update", job_id=NAME, schedule="30 8 * * 1-5"),
            Answer("It is at 08:30 from now on."),
        ),
    ),
    (
        "I am on holiday: pause it.",
        (
            calls("cron_disable", job_id=NAME, note="on holiday"),
            Answer("It is paused until you say otherwise."),
        ),
    ),
    (
        "Run it once now.",
        (
            calls("cron_trigger", job_id=NAME),
            Answer(SUMMARY),
            Answer("It ran, and the summary is in your inbox."),
        ),
    ),
    (
        "What did it say?",
        (
            calls("cron_runs", job_id=NAME, limit=1),
            Answer("Two are open: a repair of the parser, and an update of the documentation."),
        ),
    ),
    (
        "I do not need it any more.",
        (calls("cron_remove", job_id=NAME), Answer("It is removed.")),
    ),
)

DOCUMENTED = (TURNS[0], TURNS[2], TURNS[4])
"""The turns that the page shows: a job is added, changed and run."""


@pytest.fixture
def model() -> Iterator[Provider]:
    with provider() as fake_provider:
        yield fake_provider


def toolset(where: Where) -> MCPToolset[None]:
    if where.url:
        return MCPToolset(where.url, headers={"Authorization": f"Bearer {where.token}"})
    command, *arguments = where.command
    return MCPToolset(StdioTransport(command, arguments, env=where.variables, keep_alive=False))


def respond(prompt: str, messages: list[ModelMessage]) -> str:
    """Return one turn in the page's format."""
    lines = [f"**You:** {prompt}\n"]
    for part in (part for message in messages for part in message.parts):
        match part:
            case ToolCallPart():
                lines.append(f"```\n{part.tool_name} {json.dumps(part.args_as_dict())}\n```\n")
            case ToolReturnPart():
                lines.append(f"```text\n{part.content}\n```\n")
            case RetryPromptPart():
                lines.append(f"```text\n{part.content}\n```\n")
            case TextPart() if part.content:
                lines.append(f"**Model:** {part.content}\n")
            case _:
                pass
    return "\n".join(lines)


def masked(text: str) -> str:
    """Replace ids, instants and durations, which differ each time."""
    text = re.sub(r"\w+day (\d{4}-\d\d-\d\d) (\d\d:\d\d)(:\d\d)? (\+\d\d:\d\d)", "<instant>", text)
    text = re.sub(
        r"\b[0-9a-f]{32}\b|\b(?<=run )[0-9a-f]{8}\b|\b(?<=id )[0-9a-f]{8}\b", "<id>", text
    )
    return re.sub(r"took [\d.]+ s", "took <time>", text)


@pytest.mark.parametrize("how", ["stdio", "http"])
async def test_a_model_manages_a_job_as_in_the_documented_conversation(
    place: Place, model: Provider, how: str
) -> None:
    client = place.world.client
    at = {"model": "openai:gpt-6-luna", "base_url": model.address, "api_key": KEY}
    await documents.add(client, "assistant", "model", at, replace=True)
    where = await place.over(how, "agent:assistant")
    chat = OpenAIChatModel(
        "gpt-6-luna", provider=OpenAIProvider(base_url=model.address, api_key=KEY)
    )
    model.script = [step for _, steps in TURNS for step in steps]
    page: list[str] = []
    history: list[ModelMessage] = []
    try:
        async with Agent(chat, toolsets=[toolset(where)], retries=2) as agent:
            for prompt, steps in TURNS:
                done = await agent.run(prompt, message_history=history)
                assert done.output == steps[-1].text
                history = done.all_messages()
                if (prompt, steps) in DOCUMENTED:
                    page.append(respond(prompt, done.new_messages()))
    finally:
        await documents.remove(client, "assistant")
    asked = [request for request in model.requests if request.prompt.endswith(PROMPT)]
    assert len(asked) == 1, "the run asked the model once"
    assert len(model.requests) == sum(len(steps) for _, steps in TURNS)
    assert len(model.requests[0].tools) == 20
    async with place.world.ledger.read() as session:
        assert [each for each in await store.all_jobs(session) if each.row.name == NAME] == []

    found = "\n".join(page)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    text, _, after = rest.partition(END)
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(before + BEGIN + found + END + after, encoding="utf-8")
        return
    assert masked(text) == masked(found)
