"""Chat model of an API that is compatible with OpenAI's, at a base URL.

Gateways such as OpenRouter report an error of the provider behind them in the body of a response
whose own status is 200, with the provider's status as the error's `code`. This module imports
pydantic-ai, so import it only when a model is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic_ai import exceptions as e
from pydantic_ai.models.openai import OpenAIChatModel

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

_CATEGORIES: dict[int, Any] = {
    401: e.ModelAuthenticationError,
    402: e.ModelQuotaExceededError,
    403: e.ModelAuthenticationError,
    404: e.ModelNotFoundError,
    429: e.ModelRateLimitError,
    503: e.ModelUnavailableError,
    529: e.ModelOverloadedError,
}
_UNKNOWN_STATUS = 502
"""Status of an error whose `code` is no HTTP status of an error."""


class CompatibleChatModel(OpenAIChatModel):
    """Chat model that raises an error in the body of a response like an error with that status."""

    def _validate_completion(self, response: ChatCompletion) -> Any:
        error = (response.model_extra or {}).get("error")
        if isinstance(error, Mapping) and not response.choices:
            code = error.get("code")
            status = code if isinstance(code, int) and 400 <= code < 600 else _UNKNOWN_STATUS
            category = _CATEGORIES.get(status, e.ModelServerError if status >= 500 else None)
            raise e.ModelHTTPError.for_category(
                category, status_code=status, model_name=self.model_name, body={"error": {**error}}
            )
        return super()._validate_completion(response)
