"""What a failed request to a model means for the run: the rule of `promise.md`, 4.

======================================================  =====================
429, 503 and any other 5xx, 408, 529, overloaded        `AgentTemporary`
refused, unreachable, cut connection, cut answer        `AgentTemporary`
no answer in time                                       `AgentTimeout`
401, 403: the key; 404: the model or the address        `AgentMisconfigured`
402, quota: the account; 400, 422, other 4xx            `AgentFailed`
context window, content filter, max_tokens, no answer   `AgentFailed`
======================================================  =====================
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from daybook.errors import AgentError, AgentFailed, AgentMisconfigured, AgentTemporary, AgentTimeout

if TYPE_CHECKING:
    from pydantic_ai.exceptions import ModelAPIError, ModelConnectionError
    from pydantic_ai.models import Model

# A category of pydantic-ai, before the one that it is a case of; what is raised, and the words.
_CATEGORIES: tuple[tuple[str, type[AgentError], str], ...] = (
    ("ModelRateLimitError", AgentTemporary, "{provider} limits our requests"),
    ("ModelOverloadedError", AgentTemporary, "{provider} is overloaded"),
    ("ModelUnavailableError", AgentTemporary, "{provider} is not available"),
    ("ModelServerError", AgentTemporary, "{provider} failed"),
    ("ModelQuotaExceededError", AgentFailed, "the quota or credit at {provider} is used up"),
    (
        "ModelContextWindowExceededError",
        AgentFailed,
        "the prompt with its history is longer than {model} takes",
    ),
    (
        "ModelNotFoundError",
        AgentMisconfigured,
        'agent "{agent}": {provider} has no model "{model}", or {address} is the wrong address',
    ),
)
_INCOMPLETE = "the connection to {address} ended before the whole answer had come"
_WORDS = 500  # characters of the provider's own words that a message keeps


def translated(
    error: Exception, agent: str, model: Model, timeout: float, secrets: Iterable[str]
) -> AgentError:
    """The error to raise for ``error``; in its words every one of ``secrets`` is replaced."""
    if isinstance(error, AgentError):
        return error
    from pydantic_ai import exceptions as e

    if isinstance(error, e.ModelRequestTimeout):
        return AgentTimeout(timeout)
    where = _Words(agent, model, list(secrets))
    if isinstance(error, e.ModelAPIError):
        return _of_api(error, where, timeout)
    if isinstance(error, e.UsageLimitExceeded):
        return AgentFailed(where.say("the request limit of this agent is reached", error))
    if isinstance(error, e.ContentFilterError):
        return AgentFailed(where.say("the content filter of {provider} stopped the answer"))
    if isinstance(error, e.OutputTokenLimitExceeded):
        return AgentFailed(
            where.say("max_tokens were used up before the model had said anything; raise them")
        )
    if isinstance(error, e.UserError):
        return AgentMisconfigured(where.say('agent "{agent}" cannot be used', error))
    if str(error).startswith("Streamed response ended without"):
        return AgentTemporary(where.say(_INCOMPLETE))
    return AgentFailed(where.say("{model} did not answer as it should", error))


def incomplete(agent: str, model: Model) -> AgentTemporary:
    """The error for an answer of which only the beginning came."""
    return AgentTemporary(_Words(agent, model, []).say(_INCOMPLETE))


def no_answer(
    agent: str, model: Model, text: str, reason: str, secrets: Iterable[str]
) -> AgentFailed:
    """The error for a response that is sound as HTTP, and in which there is no answer.

    ``text`` is how far it came, ``reason`` the provider's own word for its end, if it said one.
    """
    sentence = "{provider} ended the answer early" if reason else "{address} gave no answer"
    return AgentFailed(_Words(agent, model, list(secrets)).say(sentence, reason), text)


def no_tools(agent: str, tool: str) -> AgentFailed:
    """Return the error for a model that called ``tool`` although the request offered no tools."""
    named = tool if tool.isprintable() and len(tool) <= 100 else repr(tool)[:100]
    return AgentFailed(
        f'agent "{agent}" tried to call the tool "{named}" instead of answering; '
        "this request offers no tools"
    )


def _of_api(error: ModelAPIError, where: _Words, timeout: float) -> AgentError:
    from pydantic_ai import exceptions as e

    if isinstance(error, e.ModelConnectionError):
        return _of_connection(error, where, timeout)
    status = error.status_code if isinstance(error, e.ModelHTTPError) else None
    code = f" ({status})" if status else ""
    for name, kind, sentence in _CATEGORIES:
        if isinstance(error, getattr(e, name)):
            return _made(kind, where.say(sentence + code, error), error)
    if isinstance(error, e.ModelAuthenticationError):
        # Refused with 401, its words often repeat a part of the key.
        sentence = '{provider} refused the key of agent "{agent}"' + code
        return AgentMisconfigured(where.say(sentence, error if status == 403 else None))
    if status:
        kind = AgentTemporary if status == 408 else AgentFailed
        return _made(kind, where.say("{provider} refused the request" + code, error), error)
    if isinstance(error.__cause__, ValueError):  # the JSON stops in the middle
        return AgentTemporary(where.say(_INCOMPLETE))
    return AgentFailed(where.say("{address} did not answer as such an API does", error))


def _of_connection(error: ModelConnectionError, where: _Words, timeout: float) -> AgentError:
    from pydantic_ai.exceptions import ModelTimeoutError

    if error.phase in ("connect", "pool"):
        return AgentTemporary(where.say("{address} cannot be reached", _root(error)))
    if isinstance(error, ModelTimeoutError):
        return AgentTimeout(timeout)
    return AgentTemporary(where.say(_INCOMPLETE))


def _root(error: BaseException) -> BaseException:
    """What the system said, below the words of three libraries."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return error


def _made(kind: type[AgentError], words: str, error: ModelAPIError) -> AgentError:
    if not issubclass(kind, AgentTemporary):
        return kind(words)
    wait = error.retry_after
    return kind(words if wait is None else f"{words}; it asks to wait {wait:g} s", wait)


class _Words:
    """Makes the sentences, with the names that stand in them."""

    def __init__(self, agent: str, model: Model, secrets: list[str]) -> None:
        self._names = {
            "agent": agent,
            "model": model.model_name,
            "provider": model.system,
            "address": _address(model),
        }
        self._secrets = sorted(secrets, key=len, reverse=True)  # one may contain another

    def say(self, sentence: str, error: BaseException | str | None = None) -> str:
        """``sentence`` with its names, and then what the other side said."""
        said = sentence.format_map(self._names)
        theirs = _theirs(error) if isinstance(error, BaseException) else error or ""
        theirs = " ".join(theirs.split())
        for secret in self._secrets:
            said, theirs = said.replace(secret, "[key]"), theirs.replace(secret, "[key]")
        return f"{said}: {theirs[:_WORDS]}" if theirs else said


def _address(model: Model) -> str:
    try:
        parts = urlsplit(str(model.base_url or ""))
    except Exception:  # some models have none, and say so by an error
        parts = urlsplit("")
    if not parts.hostname:
        return model.system
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def _theirs(error: BaseException) -> str:
    """The provider's message, out of the forms in which the APIs wrap it."""
    body: Any = getattr(error, "body", None)
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, Mapping) else inner
        return message if isinstance(message, str) else json.dumps(body, default=str)
    said = str(body or getattr(error, "message", "") or error)
    return said.partition(". Consider raising the ")[0]  # that is not for our reader
