"""A model that makes the calls of a test."""

from __future__ import annotations

from typing import Any

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


def plays(*calls: tuple[str, dict[str, Any]]) -> tuple[FunctionModel, list[str]]:
    """It makes these calls, one a turn, and answers with the names of its tools; and what it read
    of each call.
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
