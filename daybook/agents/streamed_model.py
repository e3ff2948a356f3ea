"""A model that streams its responses, so that their text can be shown while it arrives.

::

    stream ──► the provider says that the response is complete ──► the response
      ├──────► the stream ends without that ──► the error of a cut connection
      └──────► the provider refuses streams ──► the same request without a stream

A broken stream may look like a complete one: some connections just end. So a streamed response
counts only if the provider has sent the reason why it ended.

Importing this module imports pydantic-ai.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import CompletedStreamedResponse, Model

from daybook.agents.measured_model import MeasuredModel
from daybook.agents.showing import showing
from daybook.errors import AgentError

FAMILIES = ("CompatibleChatModel", "OpenAIResponsesModel", "AnthropicModel", "GoogleModel")
"""Classes of the models that Daybook streams: those whose broken streams the tests recognize."""

_ABOUT_STREAMS = re.compile(r"\bstream", re.IGNORECASE)

Show = Callable[[str], Awaitable[None]]
"""Function that gets the text of a response so far."""


def may_omit_usage(model: Model) -> bool:
    """Return whether the provider may report its usage only without a stream.

    Servers that are compatible with OpenAI may ignore the option `include_usage`.
    """
    return type(model).__name__ == "CompatibleChatModel"


class StreamedModel(MeasuredModel):
    """Model that shows the text of a response while it arrives.

    ``incomplete`` returns the error to raise for a stream that ends too early. After a refused
    stream, or a stream without a usage, the following requests use no stream.
    """

    def __init__(self, wrapped: Model, incomplete: Callable[[], AgentError]) -> None:
        super().__init__(wrapped)
        self._incomplete = incomplete
        self._uses_streams = True

    async def respond(self, show: Show, *asked: Any) -> ModelResponse:
        """Return the response to a request with these arguments of `request`."""
        if not self._uses_streams:
            return await self.request(*asked)
        try:
            return await self._stream(show, *asked)
        except ModelHTTPError as error:
            if error.in_stream or not _ABOUT_STREAMS.search(f"{error.body} {error}"):
                raise
        self._uses_streams = False
        return await self.request(*asked)

    async def _stream(self, show: Show, *asked: Any) -> ModelResponse:
        async with (
            self.wrapped.request_stream(*asked) as arriving,
            showing(lambda: arriving.get().text or "", show),
        ):
            async for _ in arriving:
                pass
        response = arriving.get()
        if not isinstance(arriving, CompletedStreamedResponse) and not _is_complete(response):
            raise self._incomplete()
        measured = self.measured(response)
        self._uses_streams = not measured.usage.unmeasured_requests
        return measured


def _is_complete(response: ModelResponse) -> bool:
    """Return whether the provider has sent the reason why the response ended."""
    said = (response.provider_details or {}).get("finish_reason")
    return response.state == "complete" and bool(said or response.finish_reason)
