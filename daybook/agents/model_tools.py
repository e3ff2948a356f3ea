"""The tools of a request as a model sees them: a toolset of pydantic-ai.

If a tool refuses or fails, the model receives the message and may continue: only its limits of
requests and tokens and the attempt's timeout end that. Calls are made one after the other, in the
order in which the model requested them: most tools do not support parallel calls.

Imports pydantic-ai.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.tools import RunContext, ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from daybook.agents.base import Tool
from daybook.errors import DaybookError

log = logging.getLogger(__name__)

_OBJECT = SchemaValidator(core_schema.dict_schema(keys_schema=core_schema.str_schema()))


class OfferedTools(AbstractToolset[Any]):
    """Toolset of one request. ``at_work`` is the tool being called; empty if none is.

    ``again`` is how often a model may send arguments that are not an object; ``before`` is called
    before each call of a tool.
    """

    def __init__(
        self, tools: Sequence[Tool], again: int, before: Callable[[], None] = lambda: None
    ) -> None:
        self.at_work = ""
        self._before = before
        self._tools = {tool.name: tool for tool in tools}
        self._again = again

    @property
    def id(self) -> str:
        return "offered"

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        return {
            tool.name: ToolsetTool(
                toolset=self,
                tool_def=ToolDefinition(
                    name=tool.name,
                    description=tool.description,
                    parameters_json_schema={**tool.schema, "type": "object"},
                    sequential=True,
                ),
                max_retries=self._again,
                args_validator=_OBJECT,
            )
            for tool in self._tools.values()
        }

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        self.at_work = name
        self._before()
        try:
            text = await self._tools[name].call(tool_args)
        except DaybookError as error:
            text, failed = str(error), True
        except Exception as error:
            log.exception("the tool %s failed", name, extra={"action": "tool_failed"})
            text, failed = f"the tool failed with an internal error ({type(error).__name__})", True
        else:
            failed = False
        self.at_work = ""  # kept if the call was cancelled, so that the error can name the tool
        if failed:
            raise ToolFailed(text)
        return text
