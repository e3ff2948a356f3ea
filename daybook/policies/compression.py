"""Limits on the history of a session that a model gets: settings of a job or of its agent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Protocol

from pydantic import AfterValidator, Field

from daybook.errors import InvalidInput
from daybook.markers import Marker
from daybook.validation import raising_pydantic_error

KEPT_MESSAGES = 20
"""Number of the last messages of a session that a model gets in full, within the limit in tokens.

If a session is not compressed, a model gets only these messages.
"""
DEFAULT_HISTORY_TOKENS = 50_000
"""Maximum tokens of the history that a model gets, unless the job or its agent sets a limit."""
CHARACTERS_PER_TOKEN = 4
"""Estimated length of a token, because each provider counts tokens in its own way."""

_MESSAGES = range(30, 1_001)
_TOKENS = range(1_000, 1_000_001)
MIN_LIMIT_TOKENS = _TOKENS.start
"""Lowest legal limit in tokens; a session with fewer tokens exceeds no limit in tokens."""


def estimate_tokens(lengths: Iterable[int]) -> int:
    """Return the estimated number of tokens of texts with these lengths in characters."""
    return sum(-(-length // CHARACTERS_PER_TOKEN) for length in lengths)


def _checked(field: str, value: int, legal: range, zero: str = "never") -> int:
    if value and value not in legal:
        with raising_pydantic_error():
            hint = f"use {legal.start:,} to {legal.stop - 1:,}, or 0 for {zero}"
            raise InvalidInput(field, f"{value:,} is out of range", hint)
    return value


def _messages(value: int) -> int:
    return _checked("summarize_after_messages", value, _MESSAGES)


def _tokens(value: int) -> int:
    return _checked("summarize_after_tokens", value, _TOKENS)


def _history(value: int) -> int:
    return _checked("history_tokens", value, _TOKENS, f"{DEFAULT_HISTORY_TOKENS:,}")


SummarizeAfterMessages = Annotated[
    int,
    AfterValidator(_messages),
    Marker(is_continued=True),
    Field(
        title="Summarize after messages",
        description="Number of messages of the session above which older ones are replaced by a "
        f"summary: {_MESSAGES.start} to {_MESSAGES.stop - 1}. The last {KEPT_MESSAGES} always stay "
        "in full. 0: never.",
    ),
]
SummarizeAfterTokens = Annotated[
    int,
    AfterValidator(_tokens),
    Marker(is_continued=True),
    Field(
        title="Summarize after tokens",
        description="The same limit in tokens, estimated as a quarter of the characters: 1000 or "
        "more. 0: none.",
    ),
]


HistoryTokens = Annotated[
    int,
    AfterValidator(_history),
    Marker(is_continued=True),
    Field(
        title="History tokens",
        description="Maximum number of tokens of the session that a model gets with a prompt, "
        "estimated as a quarter of the characters: 1000 or more. Older messages are left out, or "
        f"summarized if one of the limits above is set. 0: {DEFAULT_HISTORY_TOKENS:,}.",
    ),
]


class _Limited(Protocol):
    """Settings with the three limits."""

    @property
    def summarize_after_messages(self) -> int: ...

    @property
    def summarize_after_tokens(self) -> int: ...

    @property
    def history_tokens(self) -> int: ...


@dataclass(frozen=True)
class Compression:
    """The limits above which older messages are summarized, and the limit on the history.

    ``messages`` and ``tokens`` limit the messages that no summary covers yet; 0 means no limit, and
    without both limits the object is false. ``history`` is the maximum number of tokens that a
    model gets, including the summary; 0 means `DEFAULT_HISTORY_TOKENS`.
    """

    messages: int = 0
    tokens: int = 0
    history: int = 0

    @classmethod
    def of(cls, given: _Limited) -> Compression:
        """Return the limits in the settings of a job or an agent."""
        return cls(
            given.summarize_after_messages, given.summarize_after_tokens, given.history_tokens
        )

    def __bool__(self) -> bool:
        return bool(self.messages or self.tokens)

    @property
    def most_tokens(self) -> int:
        """Return the maximum number of tokens of the session that a model gets."""
        return self.history or DEFAULT_HISTORY_TOKENS

    def over(self, other: Compression) -> Compression:
        """Return a job's limits, completed by those of its agent, ``other``.

        The agent's ``messages`` and ``tokens`` apply only if the job sets neither.
        """
        return replace(self or other, history=self.history or other.history)

    def is_exceeded(self, lengths: Sequence[int]) -> bool:
        """Return whether messages with these lengths, in characters, exceed a limit."""
        if self.messages and len(lengths) > self.messages:
            return True
        return bool(self.tokens) and estimate_tokens(lengths) > self.tokens


def first_within(messages: Sequence[tuple[bool, int]], most_tokens: int) -> int:
    """Return the index from which the last ``messages`` have at most ``most_tokens`` tokens.

    Each message is a pair: whether a user wrote it, and its length in characters. The message at
    the index is a user's, so a prompt stays with its answer. If no such message fits, the index is
    the number of messages.
    """
    first, left = len(messages), most_tokens
    for index in reversed(range(len(messages))):
        is_user, length = messages[index]
        left -= estimate_tokens([length])
        if left < 0:
            break
        first = index if is_user else first
    return first
