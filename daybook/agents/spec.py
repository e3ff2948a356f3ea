"""Agent specs of pydantic-ai: YAML or JSON files that describe an agent.

A spec becomes the settings of a model agent. pydantic-ai validates it, but accepts unknown fields,
and creates arbitrary objects from its capabilities; so `read` refuses whatever these settings do
not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from daybook.agents.model_settings import Options
from daybook.errors import InvalidInput
from daybook.files import documents
from daybook.json_text import JsonObject

IGNORED = ("$schema", "name", "description")
"""Fields that do not change what the agent does."""

_DEFAULTS = {"end_strategy": "graceful"}  # an agent without output tools has no other one

_HINTS = {
    "output_schema": "give it to the job: daybook add --output-format structured --output-schema",
    "retries": "give a job --retries, or the agent --request-limit",
    "tool_timeout": "give the job --timeout, which limits the whole answer",
    "deps_schema": "write the values into the instructions or the prompt of the job",
    "metadata": "give it to the job: daybook add --metadata",
}


def read(text: str, tools: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a model agent in a spec, of those that it has.

    ``tools`` has the entry for the setting `tools` of each known capability. Raise `InvalidInput`
    if the text is no spec, or has a field, a model setting or a capability without a counterpart.
    """
    document = documents.read(text)
    for found in document.problems:
        where = f"line {found.position.line}: {found.field}".rstrip(": ")
        raise _invalid(f"{where}: {found.problem}", found.hint)
    data = document.data
    if not isinstance(data, dict):
        raise _invalid("is no object", "write fields such as model: openai:gpt-6-luna")
    instructions = data.get("instructions")
    for each in instructions if isinstance(instructions, list) else [instructions]:
        if isinstance(each, str) and "{{" in each:  # Daybook has no values for a template
            raise _invalid('"instructions" is a template', "write it without {{…}}")
    spec = _validated({name: data[name] for name in data.keys() - {"description"}})
    settings: dict[str, Any] = {}
    options: JsonObject = {}
    for name, value in data.items():
        match name:
            case _ if name in IGNORED or value is None or value == _DEFAULTS.get(name):
                pass
            case "model":
                settings["model"] = spec.model
            case "instructions":
                texts = spec.instructions
                settings["system_prompt"] = texts if isinstance(texts, str) else "\n\n".join(texts)
            case "model_settings":
                options |= _options(spec.model_settings)
            case "capabilities":
                for each in spec.capabilities:
                    _add_capability(each, tools, settings, options)
            case _:
                hint = _HINTS.get(name, "remove it")
                raise _invalid(f'"{name}" has no counterpart in Daybook', hint)
    return settings | ({"options": options} if options else {})


def _validated(data: JsonObject) -> Any:
    from pydantic_ai.agent.spec import AgentSpec

    try:
        return AgentSpec.from_dict(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        path = ".".join(map(str, first["loc"]))
        hint = "see AgentSpec in the documentation of pydantic-ai"
        raise _invalid(f'"{path}" is not valid: {first["msg"]}', hint) from None


def _options(given: JsonObject) -> JsonObject:
    for name in given:
        if name not in Options.model_fields:
            legal = ", ".join(Options.model_fields)
            raise _invalid(f'"model_settings.{name}" has no counterpart in Daybook', f"use {legal}")
    return {name: value for name, value in given.items() if value is not None}


def _add_capability(
    spec: Any, tools: Mapping[str, str], settings: dict[str, Any], options: JsonObject
) -> None:
    """Add what a capability means to the settings. `Thinking` is an option of the model."""
    match spec.name, spec.arguments:
        case "Thinking", None:
            options["thinking"] = True
        case "Thinking", (effort,):
            options["thinking"] = effort
        case "Thinking", {"effort": effort, **others} if not others:
            options["thinking"] = effort
        case name, None if name in tools:
            settings["tools"] = list(dict.fromkeys([*settings.get("tools", []), tools[name]]))
        case name, _ if name in tools:
            raise _invalid(f'"capabilities": {name} cannot have arguments', "leave them out")
        case name, _:
            known = ", ".join(sorted(["Thinking", *tools]))
            hint = f"use {known}, or give the agent tools with --tool"
            raise _invalid(f'"capabilities": Daybook has no counterpart of {name}', hint)


def _invalid(problem: str, hint: str) -> InvalidInput:
    return InvalidInput("spec", problem, hint)
