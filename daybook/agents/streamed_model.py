"""A model that streams its responses, so that their text can be shown while it arrives.

::

    stream ──► the provider says that the response is complete ──► the response
      ├──────► the stream ends without that ──► the error of a cut connection
      └──────► the provider refuses streams ──► the same request without a stream

A broken stream may look like a complete one: some connections just end. So a streamed response
counts only if the provider has sent the reason why it ended, or the mark of its end.

Importing this module imports pydantic-ai.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import (
    CompletedStreamedResponse,
    Model,
    ModelRequestParameters,
    StreamedResponse,
)
from pydantic_ai.settings import ModelSettings

from daybook.agents.measured_model import MeasuredModel
from daybook.agents.showing import showing
from daybook.errors import AgentError

FAMILIES = ("CompatibleChatModel", "OpenAIResponsesModel", "AnthropicModel", "GoogleModel")
"""Classes of the models that Daybook streams: those whose broken streams the tests recognize."""

_REFUSALS = (400, 404, 405, 415, 422, 501)
"""Statuses with which a provider refuses a stream. After any other, the request is not repeated."""

_ABOUT_STREAMS = re.compile(r"\bstream", re.IGNORECASE)

_UNSTREAMED = "~unstreamed"
"""End of the idempotency key of a request that repeats a refused one without a stream."""

Show = Callable[[str], Awaitable[None]]
"""Function that gets the text of a response so far."""


class StreamedModel(MeasuredModel):
    """Model that shows the text of a response while it arrives.

    ``incomplete`` returns the error to raise for a stream that ends too early. ``may_omit_usage``
    is true if the provider may report its usage only without a stream. After a refused stream, or a
    stream without a usage, the following requests use no stream. ``warnings`` names the latter.
    """

    def __init__(
        self, wrapped: Model, incomplete: Callable[[], AgentError], *, may_omit_usage: bool
    ) -> None:
        super().__init__(wrapped)
        self.may_omit_usage = may_omit_usage
        self._incomplete = incomplete
        self._uses_streams = True
        self._has_omitted_usage = False

    @property
    def warnings(self) -> tuple[str, ...]:
        own = (
            f"the stream of {self.system} had no token usage; to get it, edit the agent with "
            "--no-stream"
        )
        given = tuple(getattr(self.wrapped, "warnings", ()))
        return (*given, own) if self._has_omitted_usage else given

    async def respond(
        self,
        show: Show,
        messages: list[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Return the response to a request with these arguments of `request`."""
        if not self._uses_streams:
            return await self.request(messages, settings, parameters)
        try:
            return await self._stream(show, messages, settings, parameters)
        except ModelHTTPError as error:
            if not self._refuses_streams(error, messages):
                raise
        self._uses_streams = False
        return await self.request(messages, _with_other_key(settings), parameters)

    async def _stream(self, show: Show, *asked: Any) -> ModelResponse:
        async def show_text(_: None, text: str) -> None:
            await show(text)

        async with (
            self.wrapped.request_stream(*asked) as arriving,
            showing(lambda: (None, arriving.get().text or ""), show_text),
        ):
            async for _ in arriving:
                pass
        is_whole = isinstance(arriving, CompletedStreamedResponse)
        if not is_whole and not _is_complete(arriving):
            raise self._incomplete()
        measured = self.measured(arriving.get())
        self._uses_streams = not measured.usage.unmeasured_requests
        self._has_omitted_usage = not (self._uses_streams or is_whole)
        return measured

    def _refuses_streams(self, error: ModelHTTPError, messages: Sequence[ModelMessage]) -> bool:
        """Return whether ``error`` is about the stream, and not about the model or the prompt."""
        if error.in_stream or error.status_code not in _REFUSALS:
            return False
        texts = [*_texts_of(messages), self.model_name, *re.split("[/:]", self.model_name)]
        known = sorted(filter(_ABOUT_STREAMS.search, texts), key=len, reverse=True)
        said = "\n".join(_texts_in(error.body))
        for each in known:
            said = re.sub(re.escape(each), "", said, flags=re.IGNORECASE)
        return bool(_ABOUT_STREAMS.search(said))


def _is_complete(arriving: StreamedResponse) -> bool:
    """Return whether the provider has sent the reason why the response ended.

    Without that reason, pydantic-ai invents one for a server that is compatible with OpenAI. So of
    such a stream, which has an ``end``, only the server's own reason counts, or its mark.
    """
    response, mark = arriving.get(), getattr(arriving, "end", None)
    said = bool((response.provider_details or {}).get("finish_reason"))
    if mark is None:
        said = said or bool(response.finish_reason)
    else:
        said = said or mark.has_arrived or response.finish_reason == "content_filter"
    return response.state == "complete" and said


def _with_other_key(settings: ModelSettings | None) -> ModelSettings | None:
    """Return the settings with an idempotency key of another request."""
    headers = dict((settings or {}).get("extra_headers") or {})
    if settings is None or "Idempotency-Key" not in headers:
        return settings
    headers["Idempotency-Key"] += _UNSTREAMED
    return {**settings, "extra_headers": headers}


def _texts_of(messages: Sequence[ModelMessage]) -> Iterator[str]:
    """Yield the texts that a request with these messages contains."""
    for message in messages:
        yield getattr(message, "instructions", None) or ""
        yield from _texts_in([getattr(part, "content", "") for part in message.parts])


def _texts_in(value: object) -> Iterable[str]:
    """Yield the texts in a value of JSON, without the names of its fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_in(each)
