"""When the history of a session is compressed: a setting of a job, or else of its agent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from daybook.errors import InvalidInput
from daybook.jobs.markers import Marker
from daybook.validation import raising_pydantic_error

KEPT_MESSAGES = 20
"""Number of the last messages of a session that a model always gets in full.

A session that is not compressed gives a model these messages only.
"""
CHARACTERS_PER_TOKEN = 4
"""Estimate for the length of texts: each provider counts tokens in its own way."""

_MESSAGES = range(30, 1_001)
_TOKENS = range(1_000, 1_000_001)


def estimate_tokens(lengths: Iterable[int]) -> int:
    """Return the estimated number of tokens of texts with these lengths in characters."""
    return sum(-(-length // CHARACTERS_PER_TOKEN) for length in lengths)


def _checked(field: str, value: int, legal: range) -> int:
    if value and value not in legal:
        with raising_pydantic_error():
            hint = f"use {legal.start:,} to {legal.stop - 1:,}, or 0 for never"
            raise InvalidInput(field, f"{value:,} is out of range", hint)
    return value


def _messages(value: int) -> int:
    return _checked("summarize_after_messages", value, _MESSAGES)


def _tokens(value: int) -> int:
    return _checked("summarize_after_tokens", value, _TOKENS)


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


@dataclass(frozen=True)
class Compression:
    """The limits above which older messages are summarized; 0 is no limit, and false if both are.

    ``messages`` and ``tokens`` count what no summary covers yet.
    """

    messages: int = 0
    tokens: int = 0

    def __bool__(self) -> bool:
        return bool(self.messages or self.tokens)

    def is_exceeded(self, lengths: Sequence[int]) -> bool:
        """Return whether messages with these lengths, in characters, exceed a limit."""
        if self.messages and len(lengths) > self.messages:
            return True
        return bool(self.tokens) and estimate_tokens(lengths) > self.tokens
