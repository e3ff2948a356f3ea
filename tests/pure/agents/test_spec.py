"""Agent specs of pydantic-ai, as settings of a model agent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.agent.spec import AgentSpec
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from daybook.agents import spec
from daybook.agents.model_settings import ModelSettings
from daybook.errors import InvalidInput
from tests import rows

TOOLS = {"WebFetch": "web.fetch", "WebSearch": "web.search"}

READER = """
# yaml-language-server: $schema=./reader_schema.json
model: anthropic:claude-haiku-5-5
name: reader
description: Reads {{pages}}.
instructions:
  - Read the page.
  - Answer in one sentence.
model_settings:
  temperature: 0.2
  max_tokens: 500
end_strategy: graceful
capabilities:
  - WebFetch
  - Thinking: high
"""

SETTINGS: dict[str, Any] = {
    "model": "anthropic:claude-haiku-5-5",
    "system_prompt": "Read the page.\n\nAnswer in one sentence.",
    "options": {"temperature": 0.2, "max_tokens": 500, "thinking": "high"},
    "tools": ["web.fetch"],
}


def test_a_spec_becomes_the_settings_of_a_model_agent() -> None:
    assert spec.read(READER, TOOLS) == SETTINGS
    ModelSettings.model_validate(SETTINGS)
    assert spec.read("model: openai:x", TOOLS) == {"model": "openai:x"}
    assert spec.read("instructions: Read.\nretries: null", TOOLS) == {"system_prompt": "Read."}


def test_a_spec_that_pydantic_ai_has_written_is_read() -> None:
    given = AgentSpec(model="openai:x", instructions="Read.", model_settings={"seed": 7})
    written = given.model_dump_json(by_alias=True, exclude_defaults=True)
    expected = {"model": "openai:x", "system_prompt": "Read.", "options": {"seed": 7}}
    assert spec.read(written, TOOLS) == expected


@pytest.mark.anyio
async def test_several_instructions_are_joined_as_pydantic_ai_joins_them() -> None:
    sent = list[str | None]()

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        sent.append(info.instructions)
        return ModelResponse([TextPart("Done.")])

    agent = Agent(FunctionModel(answer), instructions=["Read the page.", "Answer in one sentence."])
    await agent.run("Go")
    assert sent == [SETTINGS["system_prompt"]]


def test_a_capability_may_be_written_in_each_of_its_forms() -> None:
    forms: dict[str, Any] = {
        "Thinking": True,
        '{"Thinking": "low"}': "low",
        '{"Thinking": {"effort": "low"}}': "low",
        '{"name": "Thinking", "arguments": {"effort": false}}': False,
    }
    for (form, effort), row in rows.each(forms.items()):
        with row:
            text = form if form.startswith("{") else json.dumps(form)
            read = spec.read(f'{{"capabilities": [{text}, "WebSearch", "WebSearch"]}}', TOOLS)
            assert read == {"options": {"thinking": effort}, "tools": ["web.search"]}


REFUSED = {
    "[1]": "spec: is no object (write fields such as model",
    "": "spec: is no object",
    "model: [": "is not YAML",
    "model: !!python/object:os.system x": "spec: line 1",
    "model: 3": 'spec: "model" is not valid: Input should be a valid string',
    "moodel: openai:x": 'spec: "moodel" has no counterpart in Daybook (remove it)',
    "output_schema: {type: object}": '"output_schema" has no counterpart in Daybook (give it to',
    "deps_schema: {type: object}": '"deps_schema" has no counterpart',
    "retries: 3": '"retries" has no counterpart in Daybook (give a job --retries',
    "tool_timeout: 3": '"tool_timeout" has no counterpart',
    "metadata: {a: b}": '"metadata" has no counterpart',
    "end_strategy: early": '"end_strategy" has no counterpart',
    "instructions: Hello {{name}}": '"instructions" is a template (write it without {{…}})',
    "instructions: [Hello, 'Hi {{name}}']": '"instructions" is a template',
    "model_settings: {temperature: 0.2, timeout: 3}": '"model_settings.timeout" has no counterpart',
    "model_settings: {extra_headers: {a: b}}": '"model_settings.extra_headers" has no counterpart',
    "capabilities: [MCP: {url: 'https://a.b/mcp'}]": "Daybook has no counterpart of MCP (use "
    "Thinking, WebFetch, WebSearch, or give the agent tools with --tool)",
    "capabilities: [my_module.Own]": "Daybook has no counterpart of my_module.Own",
    "capabilities: [WebFetch: {enable_citations: true}]": "WebFetch cannot have arguments",
    "capabilities: [Thinking: {effort: low, id: x}]": "Daybook has no counterpart of Thinking",
    "capabilities: [{a: 1, b: 2}]": '"capabilities',
}


def test_whatever_daybook_does_not_have_is_refused_by_name() -> None:
    for (text, words), row in rows.each(REFUSED.items()):
        with row:
            with pytest.raises(InvalidInput) as caught:
                spec.read(text, TOOLS)
            assert words in str(caught.value)
