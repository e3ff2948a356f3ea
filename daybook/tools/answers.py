"""Conversion of a tool's answer to the bounded text and JSON value that a run stores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from daybook.http.request import MAX_BODY_BYTES

if TYPE_CHECKING:
    from mcp_types import CallToolResult

HideSecrets = Callable[[str], str]
"""Function that returns a text with its secrets replaced.

Pass the whole text to the function before you shorten the text, because the function cannot
recognise a part of a secret.
"""

MAX_DEPTH = 100
"""Maximum nesting depth of lists and objects. Any program can then serialize the value."""


@dataclass(frozen=True)
class BoundedText:
    """Text of at most `MAX_BODY_BYTES` bytes (``kept``).

    If the text was shortened, ``remark`` is a note about this; otherwise it is empty.
    """

    kept: str
    remark: str = ""

    @classmethod
    def of(cls, text: str, hide: HideSecrets) -> BoundedText:
        text = hide(text)
        data = text.encode(errors="replace")
        if len(data) <= MAX_BODY_BYTES:
            return cls(text)
        kept = data[:MAX_BODY_BYTES].decode(errors="ignore")
        return cls(kept, f"cut: longer than the {MAX_BODY_BYTES:,} bytes that are kept")


def from_python(value: Any, hide: HideSecrets = str) -> tuple[BoundedText, Any]:
    """Convert the return value of a Python function to its text and a JSON value.

    The text of a string is the string itself, and the text of None is empty. The text of any other
    value is its JSON, or its `repr` if JSON cannot represent the value.
    """
    try:
        encoded = to_json(value, inf_nan_mode="strings", bytes_mode="base64", fallback=repr)
        plain = from_json(encoded)
    except (ValueError, RecursionError):  # the value contains itself, or is nested too deeply
        plain = _repr(value)
    if plain is None:
        return BoundedText(""), None
    text = BoundedText.of(
        plain if isinstance(plain, str) else _to_json(plain) or _repr(value), hide
    )
    return text, _bounded(plain, text)


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return object.__repr__(value)


def from_mcp(answer: CallToolResult, hide: HideSecrets = str) -> tuple[BoundedText, Any]:
    """Convert a server's answer to its text and a JSON value.

    In the text, a placeholder stands for content that is not text, such as an image. If the answer
    has no JSON value, its text is the value. If the answer has no text, its JSON is the text.
    """
    joined = "\n".join(filter(None, map(_block, answer.content)))
    structured = answer.structured_content
    if not joined and structured is not None:
        joined = _to_json(structured) or repr(structured)
    text = BoundedText.of(joined, hide)
    return text, text.kept if structured is None else _bounded(structured, text)


def _block(block: Any) -> str:
    match block.type:
        case "text":
            return str(block.text)
        case "image" | "audio":
            return f"[{block.mime_type}, {len(block.data) * 3 // 4:,} bytes]"
        case "resource":
            resource = block.resource
            return str(getattr(resource, "text", "")) or f"[{resource.uri}]"
        case "resource_link":
            return f"[{block.name}: {block.uri}]"
    return f"[{block.type}]"


def _bounded(value: Any, text: BoundedText) -> Any:
    """Return ``value`` if a run can store it. Otherwise return the kept part of ``text``."""
    encoded = _to_json(value)
    if encoded is None or len(encoded.encode(errors="replace")) > MAX_BODY_BYTES:
        return text.kept
    return value


def _to_json(value: Any) -> str | None:
    """Return ``value`` as JSON; None if JSON cannot represent it or it is nested too deeply."""
    level: Iterable[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for each in level for inner in _children(each)]
    if level:
        return None
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError):
        return None


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()
