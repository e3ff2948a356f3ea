"""Translation of a model API's errors into agent errors, which decide whether the run may retry.

If the job has retries left, Daybook retries refused and cut connections, timeouts, 429, 503 and any
other 5xx (promise 4).

======================================================  =====================
429, 503 and any other 5xx, 408, 529, overloaded        `AgentTemporary`
refused, unreachable, cut connection, cut answer        `AgentTemporary`
no answer in time                                       `AgentTimeout`
401, 403: the key; 404: the model or the address        `AgentMisconfigured`
402, quota or credit used up: the account               `AgentMisconfigured`
a setting of the agent that pydantic-ai refuses         `AgentMisconfigured`
400, 422, other 4xx                                     `AgentFailed`
context window, content filter, max_tokens, no answer   `AgentFailed`
request limit reached, invalid answer                   `AgentFailed`
======================================================  =====================
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from daybook.agents import providers
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import AgentError, AgentFailed, AgentMisconfigured, AgentTemporary, AgentTimeout
from daybook.http.request import retry_after
from daybook.redaction import redact

if TYPE_CHECKING:
    from pydantic_ai.exceptions import ModelAPIError, ModelConnectionError
    from pydantic_ai.models import Model

# Each row has an error class of pydantic-ai (subclasses before their base), the error to raise, and
# its message.
_CATEGORIES: tuple[tuple[str, type[AgentError], str], ...] = (
    ("ModelRateLimitError", AgentTemporary, "{provider} rate-limits Daybook's requests"),
    ("ModelOverloadedError", AgentTemporary, "{provider} is overloaded"),
    ("ModelUnavailableError", AgentTemporary, "{provider} is not available"),
    ("ModelServerError", AgentTemporary, "{provider} failed"),
    (
        "ModelQuotaExceededError",
        AgentMisconfigured,
        "the quota or credit at {provider} is used up",
    ),
    (
        "ModelContextWindowExceededError",
        AgentFailed,
        "the prompt and its history exceed the context window of {model}",
    ),
    (
        "ModelNotFoundError",
        AgentMisconfigured,
        'agent "{agent}": {provider} has no model "{model}", or {address} is the wrong address',
    ),
)
_INCOMPLETE = "the connection to {address} ended before the answer was complete"
_MAX_QUOTED_CHARACTERS = 500  # maximum number of characters of the provider's own message


def translate_error(
    error: Exception, agent: str, model: Model, timeout: float, secrets: Iterable[str]
) -> AgentError:
    """Return the agent error to raise for ``error``. Its message contains none of ``secrets``."""
    if isinstance(error, AgentError):
        return error
    from pydantic_ai import exceptions as e

    if isinstance(error, e.ModelRequestTimeout):
        return AgentTimeout(timeout)
    messages = _Messages(agent, model, list(secrets))
    if isinstance(error, e.ModelAPIError):
        return _from_api_error(error, messages, timeout)
    if isinstance(error, e.UsageLimitExceeded):
        return AgentFailed(messages.say("the agent reached its request limit", error))
    if isinstance(error, e.ContentFilterError):
        return AgentFailed(messages.say("the content filter of {provider} stopped the answer"))
    if isinstance(error, e.OutputTokenLimitExceeded):
        return AgentFailed(
            messages.say("the model used up max_tokens before it answered; raise max_tokens")
        )
    if isinstance(error, e.UserError):
        return AgentMisconfigured(messages.say('agent "{agent}" cannot be used', error))
    if str(error).startswith("Streamed response ended without"):
        return AgentTemporary(messages.say(_INCOMPLETE))
    return AgentFailed(messages.say("{model} gave an invalid answer", _invalid_field(error)))


def _invalid_field(error: Exception) -> Exception | str:
    """Return a sentence about the field of a response that is invalid; otherwise ``error``."""
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return error
    first = cause.errors()[0]
    return f"its field {'.'.join(map(str, first['loc']))} is invalid ({first['msg']})"


def is_free(error: Exception) -> bool:
    """Return whether the provider cannot charge for the request that failed with ``error``.

    It cannot if no connection was made, or if the response has an error status. It may charge for a
    stream that ends with an error, and for a response that cannot be read.
    """
    from pydantic_ai import exceptions as e

    if isinstance(error, e.ModelConnectionError):
        return error.phase in ("connect", "pool")
    if isinstance(error, e.ModelHTTPError):
        return not error.in_stream
    return isinstance(error, e.UserError)


def incomplete_answer_error(agent: str, model: Model) -> AgentTemporary:
    """Return the error for an answer whose connection ended too early."""
    return AgentTemporary(_Messages(agent, model, []).say(_INCOMPLETE))


def no_answer_error(
    agent: str, model: Model, text: str, reason: str, secrets: Iterable[str]
) -> AgentFailed:
    """Return the error for a response that is valid HTTP but contains no answer.

    ``text`` is the part that arrived, ``reason`` the provider's reason, or "".
    """
    if reason:
        return AgentFailed(early_end(agent, model, reason, secrets), text)
    return AgentFailed(_Messages(agent, model, []).say("{address} gave no answer"), text)


def early_end(agent: str, model: Model, reason: str, secrets: Iterable[str]) -> str:
    """Return a message with the provider's ``reason`` for an answer that is not complete."""
    return _Messages(agent, model, list(secrets)).say("{provider} ended the answer early", reason)


def unexpected_tool_call_error(agent: str, tool: str) -> AgentFailed:
    """Return the error for a model that called ``tool`` although the request offered no tools."""
    named = tool if tool.isprintable() and len(tool) <= 100 else repr(tool)[:100]
    return AgentFailed(
        f'agent "{agent}" tried to call the tool "{named}" instead of answering; '
        "this request offers no tools"
    )


def _from_api_error(error: ModelAPIError, messages: _Messages, timeout: float) -> AgentError:
    from pydantic_ai import exceptions as e

    if isinstance(error, e.ModelConnectionError):
        return _from_connection_error(error, messages, timeout)
    status = error.status_code if isinstance(error, e.ModelHTTPError) else None
    code = f" ({status})" if status else ""
    for name, kind, sentence in _CATEGORIES:
        if isinstance(error, getattr(e, name)):
            return _made(kind, messages.say(sentence + code, error), error)
    if isinstance(error, e.ModelAuthenticationError):
        if messages.has_no_key:
            sentence = '{address} asks for a key, and agent "{agent}" has none'
            return AgentMisconfigured(messages.say(f"{sentence}{code}; add it with --key-stdin"))
        # The message of a 401 often repeats a part of the key.
        sentence = '{provider} refused the key of agent "{agent}"' + code
        return AgentMisconfigured(messages.say(sentence, error if status == 403 else None))
    if status:
        kind = AgentTemporary if status == 408 else AgentFailed
        return _made(kind, messages.say("{provider} refused the request" + code, error), error)
    if isinstance(error.__cause__, ValueError):  # the JSON of the response is not complete
        return AgentTemporary(messages.say(_INCOMPLETE))
    return AgentFailed(messages.say("{address} did not answer like a model API", error))


def _from_connection_error(
    error: ModelConnectionError, messages: _Messages, timeout: float
) -> AgentError:
    from pydantic_ai.exceptions import ModelTimeoutError

    if error.phase in ("connect", "pool"):
        # The exceptions of three libraries wrap the operating system's error.
        cause: BaseException = error
        while (below := cause.__cause__ or cause.__context__) is not None:
            cause = below
        return AgentTemporary(messages.say("{address} cannot be reached", cause))
    if isinstance(error, ModelTimeoutError):
        return AgentTimeout(timeout)
    return AgentTemporary(messages.say(_INCOMPLETE))


def _made(kind: type[AgentError], words: str, error: ModelAPIError) -> AgentError:
    if not issubclass(kind, AgentTemporary):
        return kind(words)
    wait, headers = error.retry_after, getattr(error, "headers", None) or {}
    if wait is None:  # pydantic-ai reads only whole seconds
        wait = retry_after(headers.get("retry-after", ""), SYSTEM_CLOCK.now())
    return kind(words if wait is None else f"{words}; it asks to retry after {wait:g} s", wait)


class _Messages:
    """Builder of error messages, with the names of the agent, model, provider and address."""

    def __init__(self, agent: str, model: Model, secrets: list[str]) -> None:
        self._names = {
            "agent": agent,
            "model": model.model_name,
            "provider": model.system,
            "address": _address(model),
        }
        self._secrets = dict.fromkeys(secrets, "[key]")
        self.has_no_key = providers.has_no_key(model)

    def say(self, sentence: str, error: BaseException | str | None = None) -> str:
        """Return ``sentence`` with the names filled in.

        Append the provider's message, if there is one.
        """
        message = sentence.format_map(self._names)
        quoted = _provider_message(error) if isinstance(error, BaseException) else error or ""
        quoted = " ".join(quoted.split())
        message, quoted = redact(message, self._secrets), redact(quoted, self._secrets)
        return f"{message}: {quoted[:_MAX_QUOTED_CHARACTERS]}" if quoted else message


def _address(model: Model) -> str:
    try:
        parts = urlsplit(str(model.base_url or ""))
    except Exception:  # some models have no base URL, and raise an error
        parts = urlsplit("")
    if not parts.hostname:
        return model.system
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def _provider_message(error: BaseException) -> str:
    """Return the provider's message from the body of its response, in any of the usual formats."""
    body: Any = getattr(error, "body", None)
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, Mapping) else inner
        return message if isinstance(message, str) else json.dumps(body, default=str)
    message_text = str(body or getattr(error, "message", "") or error)
    # Remove the advice at the end, which is for developers and not for users.
    return message_text.partition(". Consider raising the ")[0]
