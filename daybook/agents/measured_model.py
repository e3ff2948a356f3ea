"""A model whose responses without tokens count as responses of unknown usage.

A response has at least one token. Some servers report zeros because they do not count.

Importing this module imports pydantic-ai.
"""

from __future__ import annotations

from typing import Any

from pydantic_ai.messages import ModelResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.usage import RequestUsage


class MeasuredModel(WrapperModel):
    """Model that replaces a usage of 0 tokens by an unknown usage."""

    async def request(self, *args: Any, **options: Any) -> ModelResponse:
        return self.measured(await super().request(*args, **options))

    def measured(self, response: ModelResponse) -> ModelResponse:
        """Return ``response`` with an unknown usage if the usage is 0 tokens."""
        used = response.usage
        if not (used.input_tokens or used.output_tokens or used.unmeasured_requests):
            response.usage = RequestUsage(unmeasured_requests=1)
        return response
