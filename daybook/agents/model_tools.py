"""The toolset that offers a request's tools to a model.

If a tool refuses a call or fails, the model gets the error message. It may continue until it
reaches the limit of requests or tokens, or the attempt's timeout. The toolset makes calls one after
the other, in the order in which the model requested them, because most tools do not support
parallel calls.

Importing this module imports pydantic-ai.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.tools import RunContext, ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from daybook.agents.base import Tool
from daybook.agents.journal import PlannedStep, StepReply, arguments_text
from daybook.agents.model_steps import Steps
from daybook.errors import DaybookError
from daybook.json_text import JsonObject

log = logging.getLogger(__name__)

_OBJECT = SchemaValidator(core_schema.dict_schema(keys_schema=core_schema.str_schema()))


class OfferedTools(AbstractToolset[Any]):
    """Toolset of one request.

    ``at_work`` is the name of the tool that is being called; it is empty between calls. ``again``
    is the number of times that the model may retry a call whose arguments are not an object. The
    toolset calls ``before`` before each tool call. ``steps`` are the steps of the answer; None if
    they are not recorded. ``repeatable`` is true if every call may be repeated.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        again: int,
        before: Callable[[], None] = lambda: None,
        steps: Steps | None = None,
        *,
        repeatable: bool = False,
    ) -> None:
        self.at_work = ""
        self._before, self._steps, self._repeatable = before, steps, repeatable
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
        self, name: str, tool_args: JsonObject, ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        if self._steps is not None:
            reply = await self._call_once(self._steps, name, tool_args, ctx)
        elif self._tools[name].needs_approval():
            reply = StepReply(error="This call was not made: no person can be asked to approve it.")
        else:
            reply = await self._call(name, tool_args)
        if reply.error:
            raise ToolFailed(reply.error)
        return reply.output

    async def _call_once(
        self, steps: Steps, name: str, arguments: JsonObject, ctx: RunContext[Any]
    ) -> StepReply:
        """Call the tool, and record the call.

        If an earlier attempt made the call, return its reply.
        """
        step = self._step(steps, name, arguments, ctx)
        recorded = await steps.journal.start(step)
        if recorded is not None:
            steps.replayed_calls += 0 if recorded.error else 1
            self._tools[name].skipped(arguments)
            return replace(recorded, output=recorded.value)
        reply = await self._call(name, arguments)
        await steps.journal.finish(step, replace(reply, value=reply.error or reply.output))
        steps.last_answered = None
        return reply

    async def _call(self, name: str, arguments: JsonObject) -> StepReply:
        self.at_work = name
        self._before()
        try:
            reply = StepReply(await self._tools[name].call(arguments))
        except DaybookError as error:
            reply = StepReply(error=str(error) or type(error).__name__)
        except Exception as error:
            log.exception("the tool %s failed", name, extra={"action": "tool_failed"})
            kind = type(error).__name__
            reply = StepReply(error=f"the tool failed with an internal error ({kind})")
        # This is not reset after a cancellation, so that the error can name the tool.
        self.at_work = ""
        return reply

    def _step(
        self, steps: Steps, name: str, arguments: JsonObject, ctx: RunContext[Any]
    ) -> PlannedStep:
        tool = self._tools[name]
        return PlannedStep(
            steps.next_call(ctx.tool_call_id),
            "tool",
            name,
            {"tool": name, "arguments": arguments},
            arguments_text(arguments),
            repeatable=tool.is_repeatable or self._repeatable,
            needs_approval=tool.needs_approval(),
        )
