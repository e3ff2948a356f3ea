"""A model that records each of its requests in the journal, and the texts of its steps.

The model records a request and its whole response. While a response arrives, the journal shows its
text (`agents.streamed_model`).

Importing this module imports pydantic-ai.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from daybook.agents import failures, pictures
from daybook.agents.base import AgentRequest
from daybook.agents.estimates import estimated_tokens
from daybook.agents.journal import (
    Journal,
    PlannedStep,
    StepPosition,
    StepReply,
    arguments_text,
    digest_of,
)
from daybook.agents.measured_model import MeasuredModel
from daybook.agents.streamed_model import StreamedModel
from daybook.errors import AgentError
from daybook.json_text import JsonObject
from daybook.policies.compression import CHARACTERS_PER_TOKEN
from daybook.runs.usage import Amount

_PER_ATTEMPT_SETTINGS = ("timeout", "max_retries", "extra_headers")
"""Settings that may differ between two attempts at the same request."""

_PER_ATTEMPT_FIELDS = ("timestamp", "run_id", "conversation_id", "instructions")
"""Fields of a message that its digest omits, because they may differ between two attempts.

`instructions` is a fact of its own.
"""

_REJECT_TIMEOUT_SECONDS = 10.0

Priced = Callable[[ModelResponse], Mapping[str, Any]]
"""Function that returns the usage of a response, in the format of `ledger.states.Usage`."""
Translate = Callable[[Exception], AgentError]
"""Function that translates an error of pydantic-ai into an agent error."""


class Steps:
    """Positions of the steps of one answer."""

    def __init__(self, journal: Journal, request: AgentRequest) -> None:
        self.journal = journal
        self._agent, self._question = request.fallback, request.question
        self._requests = 0
        self._calls: list[str] = []
        self.replayed_requests = self.replayed_calls = 0
        """Numbers of requests and successful calls for which an earlier attempt has paid."""
        self.last_answered: tuple[PlannedStep, StepReply] | None = None
        """The last answered request and its reply; None if a tool was called after it."""

    def next_request(self) -> StepPosition:
        """Return the position of the next request."""
        self._requests += 1
        self._calls = []
        return StepPosition(self._agent, self._question, self._requests)

    def answered(self, response: ModelResponse) -> None:
        """Store the order of the response's tool calls for `next_call`."""
        self._calls = [part.tool_call_id for part in _tool_calls(response)]

    def next_call(self, call_id: str | None) -> StepPosition:
        """Return the position of this call of the last response, in any order of execution."""
        index = self._calls.index(call_id) if call_id in self._calls else len(self._calls)
        if index < len(self._calls):
            # If two calls have this id, the next search finds the second one.
            self._calls[index] = ""
        return StepPosition(self._agent, self._question, self._requests, index + 1)

    async def reject_last(self, error: str) -> None:
        """Record that the last response was useless, so that the next attempt asks again.

        Do nothing if a tool was called after the response.
        """
        if self.last_answered is None:
            return
        step, reply = self.last_answered
        with suppress(TimeoutError):  # the ledger is unreachable
            async with asyncio.timeout(_REJECT_TIMEOUT_SECONDS):
                await self.journal.finish(step, replace(reply, error=error, value=None))


class JournaledModel(WrapperModel):
    """Model that records each request as a step, or returns the reply of an earlier attempt."""

    def __init__(
        self, wrapped: MeasuredModel, steps: Steps, priced: Priced, translate: Translate
    ) -> None:
        super().__init__(wrapped)
        self._measured = wrapped
        self._steps, self._priced, self._translate = steps, priced, translate
        self._tools: dict[str, str] | None = None

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        journal, position = self._steps.journal, self._steps.next_request()
        if self._tools is None:  # all requests of an answer have the same tools
            self._tools = {
                tool.name: digest_of([tool.description, tool.parameters_json_schema])[:16]
                for tool in model_request_parameters.function_tools
            }
        facts = {
            "model": f"{self.system}:{self.model_name}",
            **_facts(messages, model_settings, is_first=position.request == 1),
            "tools": self._tools,
        }
        text = _text_of(messages[-1])
        estimate = self._estimate(messages, model_settings, model_request_parameters)
        step = PlannedStep(
            position, "request", self.model_name, facts, text, repeatable=True, estimate=estimate
        )
        recorded = await journal.start(step)
        if recorded is not None:
            self._steps.replayed_requests += 1
            response = _decoded(recorded.value)
            await self._answered(response)
            return response
        try:
            response = await self._respond(step, messages, model_settings, model_request_parameters)
        except Exception as error:
            failed, may_cost = self._translate(error), not failures.is_free(error)
            await journal.finish(step, StepReply(error=str(failed), may_cost=may_cost))
            raise
        reply = StepReply(
            _text_of(response), usage=self._priced(response), value=_encoded(response)
        )
        await journal.finish(step, reply)
        self._steps.last_answered = step, reply
        await self._answered(response)
        return response

    async def _respond(
        self,
        step: PlannedStep,
        messages: list[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Return the model's response, whose text the journal shows while it arrives.

        A stream may omit the usage. So if a budget limits the run, use no such stream.
        """
        journal, measured = self._steps.journal, self._measured
        if not isinstance(measured, StreamedModel) or (
            measured.may_omit_usage and await journal.is_limited()
        ):
            return await measured.request(messages, settings, parameters)
        return await measured.respond(
            lambda text: journal.show(step, text), messages, settings, parameters
        )

    async def _answered(self, response: ModelResponse) -> None:
        """Store the response's tool calls, and record the calls that no tool gets as failed steps.

        The model reads an error of pydantic-ai in place of the reply to such a call.
        """
        self._steps.answered(response)
        journal = self._steps.journal
        for call in _tool_calls(response):
            if not (error := self._unservable(call)):
                continue
            arguments = call.args if isinstance(call.args, str) else call.args_as_dict()
            facts = {"tool": call.tool_name, "arguments": arguments}
            at, text = self._steps.next_call(call.tool_call_id), _arguments_text(call)
            step = PlannedStep(at, "tool", call.tool_name, facts, text, repeatable=True)
            if await journal.start(step) is None:
                await journal.finish(step, StepReply(error=error, value=error))

    def _unservable(self, call: ToolCallPart) -> str:
        """Return why no tool can get ``call``; empty if a tool can."""
        if call.tool_name not in (self._tools or {}):
            return "the agent has no tool of this name"
        try:
            call.args_as_dict(raise_if_invalid=True)
        except (ValueError, AssertionError):
            return "the arguments are not a JSON object"
        return ""

    def _estimate(
        self,
        messages: Sequence[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
    ) -> Amount:
        """Return the probable usage of the next request."""
        responses = [each for each in messages if isinstance(each, ModelResponse)]
        answered = [
            (each.usage.input_tokens, each.usage.output_tokens)
            for each in responses
            if each.usage.input_tokens
        ]
        if answered and responses[-1].usage.input_tokens:
            lengths = [_length_of(messages[-1])]
        else:
            lengths = [_length_of(each) for each in messages]
            lengths.append(len(getattr(messages[-1], "instructions", None) or ""))
            lengths += [
                len(tool.description or "") + len(str(tool.parameters_json_schema))
                for tool in parameters.function_tools
            ]
            answered = []
        tokens = estimated_tokens(lengths, answered, (settings or {}).get("max_tokens"))
        expected = ModelResponse(
            parts=[],
            usage=RequestUsage(input_tokens=tokens[0], output_tokens=tokens[1]),
            model_name=self.model_name,
            provider_name=self.system,
            provider_url=self.base_url,
        )
        return Amount.of(self._priced(expected))


def _encoded(response: ModelResponse) -> Any:
    return ModelMessagesTypeAdapter.dump_python([response], mode="json")


def _decoded(value: Any) -> ModelResponse:
    """Return the response of an earlier attempt.

    Set its usage to zero: that attempt has counted it.
    """
    (response,) = ModelMessagesTypeAdapter.validate_python(value)
    assert isinstance(response, ModelResponse)
    response.usage = RequestUsage()
    return response


def _facts(
    messages: Sequence[ModelMessage], settings: ModelSettings | None, *, is_first: bool
) -> JsonObject:
    """Return the facts that identify a request, by name, except its model and tools.

    For later requests of an answer, include only the last message, because the earlier steps
    determine the other messages.
    """
    given = {k: v for k, v in (settings or {}).items() if k not in _PER_ATTEMPT_SETTINGS}
    compared = [*messages] if is_first else [*messages[-1:]]
    return {
        "settings": digest_of(given),
        "instructions": digest_of(getattr(messages[-1], "instructions", None) or ""),
        "messages": digest_of(_plain(ModelMessagesTypeAdapter.dump_python(compared, mode="json"))),
        "count": len(messages),
    }


def _plain(value: Any) -> Any:
    """Return a dumped message without its `_PER_ATTEMPT_FIELDS`."""
    match value:
        case dict():
            return {k: _plain(v) for k, v in value.items() if k not in _PER_ATTEMPT_FIELDS}
        case list():
            return [_plain(each) for each in value]
        case _:
            return value


def _text_of(message: ModelMessage) -> str:
    """Return a message as text for people, with the tool calls of a response."""
    if isinstance(message, ModelResponse):
        texts = [part.content for part in message.parts if isinstance(part, TextPart)]
        return "\n".join([*filter(None, texts), *map(call_text, _tool_calls(message))])
    assert isinstance(message, ModelRequest)
    return "\n".join(
        each if isinstance(each, str) else str(each)
        for each in _contents(message)
        if not isinstance(each, BinaryContent)
    )


def _contents(message: ModelRequest) -> Iterator[object]:
    """Yield the contents of a request's parts; a prompt with pictures has several."""
    for part in message.parts:
        content = getattr(part, "content", "")
        yield from content if isinstance(content, list) else [content]


def _length_of(message: ModelMessage) -> int:
    """Return the length of a message in characters; a picture counts by its expected tokens."""
    contents = _contents(message) if isinstance(message, ModelRequest) else ()
    count = sum(isinstance(each, BinaryContent) for each in contents)
    return len(_text_of(message)) + count * pictures.TOKENS * CHARACTERS_PER_TOKEN


def call_text(call: ToolCallPart) -> str:
    """Return a tool call as text for people."""
    return f"{call.tool_name}({_arguments_text(call)})"


def _arguments_text(call: ToolCallPart) -> str:
    return arguments_text(call.args_as_dict() if call.args else {})


def _tool_calls(response: ModelResponse) -> list[ToolCallPart]:
    return [part for part in response.parts if isinstance(part, ToolCallPart)]
