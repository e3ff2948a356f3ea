"""A fake model that makes the tool calls of a test."""

from __future__ import annotations

from typing import Any

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


def plays(*calls: tuple[str, dict[str, Any]]) -> tuple[FunctionModel, list[str]]:
    """Return a model that makes one call per turn, and a list of the results it receives.

    After its last call the model answers with the names of its tools.
    """
    left, read = list(calls), list[str]()

    def turn(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        for part in messages[-1].parts if isinstance(messages[-1], ModelRequest) else ():
            if part.part_kind in ("tool-return", "retry-prompt"):
                read.append(str(part.content))
        if left:
            name, given = left.pop(0)
            return ModelResponse(parts=[ToolCallPart(name, given)])
        return ModelResponse(parts=[TextPart(" ".join(tool.name for tool in info.function_tools))])

    return FunctionModel(turn), read
