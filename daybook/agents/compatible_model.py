"""Chat model of an API that is compatible with OpenAI's.

Servers and gateways differ from OpenAI in the envelope of a response. They report an error with
status 200 (OpenRouter with the provider's status as the error's `code`, LM Studio as a text), and
they omit metadata, or send metadata of another type. An answer is paid for, so an envelope that
pydantic-ai refuses does not lose it: invalid metadata is removed, and named in ``warnings``.

In a stream, some servers give several tool calls the same index, or omit the reason why the answer
ended, which its last event `[DONE]` replaces, or call the stream a text. A server that does not
know streams sends a whole response.

This module imports pydantic-ai, so import it only when a model is built.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import httpx2
from openai.types.chat import ChatCompletion
from pydantic import ValidationError
from pydantic_ai import exceptions as e
from pydantic_ai.models import CompletedStreamedResponse
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIStreamedResponse

_CATEGORIES: dict[int, Any] = {
    401: e.ModelAuthenticationError,
    402: e.ModelQuotaExceededError,
    403: e.ModelAuthenticationError,
    404: e.ModelNotFoundError,
    429: e.ModelRateLimitError,
    503: e.ModelUnavailableError,
    529: e.ModelOverloadedError,
}
_UNKNOWN_STATUS = 0
"""Status of an error whose `code` is no HTTP status of an error."""

_ENDED = "Streamed response ended without"
"""The beginning of pydantic-ai's error for a stream that ended too early."""

_EVENT = re.compile(r"^data:", re.MULTILINE)
"""The line that each body of a stream has."""

_DEFAULTS: dict[str, Any] = {
    "id": "",
    "object": "chat.completion",
    "created": 0,
    "index": 0,
    "total_tokens": 0,
    "finish_reason": "stop",
    "role": "assistant",
}
"""Metadata that pydantic-ai requires, for a response without it; other metadata becomes None."""

_COUNTS = ("prompt_tokens", "completion_tokens")
"""Fields of a usage without which the whole usage is unknown."""

_ANSWER = ("choices", "message", "content", "tool_calls")
"""Fields that are the answer, so they cannot be replaced."""


class CompatibleChatModel(OpenAIChatModel):
    """Chat model that accepts an answer in an invalid envelope, and raises an error in a response.

    ``warnings`` names the invalid metadata of the responses.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.warnings: list[str] = []

    def _validate_completion(self, response: ChatCompletion) -> Any:
        given = response.model_dump(warnings=False)
        if not given.get("choices"):
            raise self._error_in(given)
        given["choices"] = given["choices"][:1]
        _complete_calls(given["choices"][0])
        repaired = dict[Place, None]()
        while True:
            try:
                validated = super()._validate_completion(type(response).construct(**given))
            except ValidationError as error:
                _repair(given, error, repaired, self.model_name)
            else:
                self._warn(repaired)
                return validated

    @property
    def _streamed_response_cls(self) -> type[OpenAIStreamedResponse]:
        return CompatibleStream

    async def _process_streamed_response(
        self, response: Any, model_request_parameters: Any, model_settings: Any = None
    ) -> Any:
        kind = response.response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            given = await self._whole(response.response, kind)
            if given is not None:
                return CompletedStreamedResponse(
                    self._process_response(given), model_request_parameters=model_request_parameters
                )
        end = _EndMark.of(response)
        try:
            arriving = await super()._process_streamed_response(
                response, model_request_parameters, model_settings
            )
        except e.ModelAPIError as error:
            raise _categorized(error) from error
        assert isinstance(arriving, CompatibleStream)
        arriving.end = end
        return arriving

    async def _whole(self, response: httpx2.Response, kind: str) -> ChatCompletion | str | None:
        """Return the response of a server that does not stream; None if its body is a stream."""
        try:
            given = json.loads(await response.aread())
        except httpx2.TransportError as error:
            raise e.UnexpectedModelBehavior(f"{_ENDED} its end") from error
        except ValueError as error:
            if _EVENT.search(response.text):
                return None
            if "json" not in kind:
                return response.text
            raise e.ModelAPIError(self.model_name, "its JSON is not complete") from error
        return ChatCompletion.construct(**given) if isinstance(given, dict) else str(given)

    def _error_in(self, given: Mapping[str, Any]) -> e.ModelAPIError:
        """Return the error of a response without choices, with the words of the server."""
        error = given.get("error")
        if not error:
            said = {name: value for name, value in given.items() if value}
            text = said.get("message") or said.get("detail") or said
            words = text if isinstance(text, str) else json.dumps(text, default=str)
            return e.ModelAPIError(self.model_name, f"its response has no choices: {words}")
        code = error.get("code") if isinstance(error, Mapping) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else _UNKNOWN_STATUS
        is_server_error = status >= 500 or status == _UNKNOWN_STATUS
        category = _CATEGORIES.get(status, e.ModelServerError if is_server_error else None)
        return e.ModelHTTPError.for_category(
            category, status_code=status, model_name=self.model_name, body={"error": error}
        )

    def _warn(self, repaired: Mapping[Place, None]) -> None:
        names = list(dict.fromkeys(str(place[-1]) for place in repaired))
        if names:
            warning = f"the response of {self.system} is not complete: no valid {', '.join(names)}"
            self.warnings = list(dict.fromkeys([*self.warnings, warning]))


class CompatibleStream(OpenAIStreamedResponse):
    """Stream of a `CompatibleChatModel`. ``end`` notes whether the event `[DONE]` has arrived."""

    end: _EndMark

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self.end = _EndMark()
        self._calls: dict[Any, tuple[str, int]] = {}
        """The id and the part of the last tool call with each index."""
        self._count = 0

    async def _get_event_iterator(self) -> AsyncIterator[Any]:
        try:
            async for event in super()._get_event_iterator():
                yield event
        except e.ModelAPIError as error:
            raise _categorized(error) from error

    def _map_tool_call_delta(self, choice: Any) -> Iterable[Any]:
        for call in choice.delta.tool_calls or []:
            known, part = self._calls.get(call.index, ("", -1))
            is_named = call.index is None and call.function and call.function.name
            if part < 0 or is_named or (call.id and known and call.id != known):
                known, part = "", self._count
                self._count += 1
            self._calls[call.index] = call.id or known, part
            call.index = part
            function = call.function
            if function is not None and isinstance(function.arguments, Mapping):
                function.arguments = json.dumps(function.arguments)
        return super()._map_tool_call_delta(choice)


class _EndMark:
    """Whether the event `[DONE]` of a stream has arrived."""

    def __init__(self, decoder: Any = None) -> None:
        self._decoder, self.has_arrived = decoder, False

    @classmethod
    def of(cls, stream: Any) -> _EndMark:
        """Return the mark of ``stream``, whose decoder it observes."""
        mark = cls(getattr(stream, "_decoder", None))
        if mark._decoder is not None:
            stream._decoder = mark
        return mark

    async def aiter_bytes(self, content: Any) -> AsyncIterator[Any]:
        async for event in self._decoder.aiter_bytes(content):
            self.has_arrived = self.has_arrived or event.data.startswith("[DONE]")
            yield event


def _categorized(error: e.ModelAPIError) -> e.ModelAPIError:
    """Return an error inside of a stream as `CompatibleChatModel` reports it in a response."""
    if not error.in_stream or isinstance(error, e.ModelHTTPError):
        return error
    return e.ModelHTTPError.for_category(
        e.ModelServerError,
        status_code=_UNKNOWN_STATUS,
        model_name=error.model_name,
        body={"error": getattr(error, "body", None) or str(error)},
        in_stream=True,
    )


Place = tuple[int | str, ...]
"""Keys and indexes that lead to a field of a response."""


def _complete_calls(choice: Any) -> None:
    """Add the metadata that some servers omit in tool calls, and encode arguments as text."""
    message = choice.get("message") if isinstance(choice, dict) else None
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    for call in calls if isinstance(calls, list) else []:
        if isinstance(call, dict):
            call["id"], call["type"] = call.get("id") or "", call.get("type") or "function"
            function = call.get("function")
            if isinstance(function, dict) and not isinstance(function.get("arguments"), str):
                function["arguments"] = json.dumps(function.get("arguments") or {})


def _repair(
    given: Any, error: ValidationError, repaired: dict[Place, None], model_name: str
) -> None:
    """Replace or remove the fields that ``error`` names, and add their places to ``repaired``.

    Raise `UnexpectedModelBehavior` if no field can be repaired.
    """
    places = [_place(each["loc"]) for each in error.errors()]
    places = [each for each in places if each not in repaired and _is_metadata(each[-1])]
    if ("usage",) in places:
        places = [each for each in places if each[0] != "usage" or len(each) == 1]
    if not places:
        raise e.UnexpectedModelBehavior("the answer is invalid") from error
    repaired.update(dict.fromkeys(places))
    for *path, name in places:
        container = given
        for key in path:
            container = container[key]
        container[name] = model_name if name == "model" else _DEFAULTS.get(str(name))


def _is_metadata(name: int | str) -> bool:
    return isinstance(name, str) and name not in _ANSWER


def _place(location: Place) -> Place:
    """Return the place of the field to repair: of the response, its usage, choice or message."""
    if location[:1] == ("usage",) and location[1:2] and location[1] not in _COUNTS:
        return location[:2]
    if location[:1] != ("choices",):
        return location[:1]
    return location[:4] if location[2:3] == ("message",) else location[:3]
