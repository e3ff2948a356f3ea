"""What a tool answered, as a run keeps it: a text, and JSON beside it. Both are bounded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from daybook.http.request import MAX_BODY_BYTES

if TYPE_CHECKING:
    from mcp_types import CallToolResult

Hide = Callable[[str], str]
"""Takes the secrets out of a text: before it is cut, as a part of one would not be found."""

DEEPEST = 100
"""How many lists and objects may stand in each other, so that all who write it down can."""


@dataclass(frozen=True)
class Text:
    """``kept`` is at most `MAX_BODY_BYTES` bytes long; ``remark`` says that it was cut."""

    kept: str
    remark: str = ""

    @classmethod
    def of(cls, text: str, hide: Hide) -> Text:
        text = hide(text)
        data = text.encode(errors="replace")
        if len(data) <= MAX_BODY_BYTES:
            return cls(text)
        kept = data[:MAX_BODY_BYTES].decode(errors="ignore")
        return cls(kept, f"cut: longer than the {MAX_BODY_BYTES:,} bytes that are kept")


def of_value(value: Any, hide: Hide = str) -> tuple[Text, Any]:
    """Of what a Python function returned: a text as it is, nothing as none, the rest as JSON."""
    try:
        written = to_json(value, inf_nan_mode="strings", bytes_mode="base64", fallback=repr)
        plain = from_json(written)
    except (ValueError, RecursionError):  # it holds itself, or is deeper than anybody reads
        plain = repr(value)
    if plain is None:
        return Text(""), None
    text = Text.of(plain if isinstance(plain, str) else _written(plain) or repr(value), hide)
    return text, _bounded(plain, text)


def of_mcp(answer: CallToolResult, hide: Hide = str) -> tuple[Text, Any]:
    """Of what a server answered: its texts, with what stands for the rest, and its JSON.

    Where it gave no JSON the text stands for it, and the other way round.
    """
    told = "\n".join(filter(None, map(_block, answer.content)))
    given = answer.structured_content
    if not told and given is not None:
        told = _written(given) or repr(given)
    text = Text.of(told, hide)
    return text, text.kept if given is None else _bounded(given, text)


def _block(block: Any) -> str:
    match block.type:
        case "text":
            return str(block.text)
        case "image" | "audio":
            return f"[{block.mime_type}, {len(block.data) * 3 // 4:,} bytes]"
        case "resource":
            found = block.resource
            return str(getattr(found, "text", "")) or f"[{found.uri}]"
        case "resource_link":
            return f"[{block.name}: {block.uri}]"
    return f"[{block.type}]"


def _bounded(value: Any, text: Text) -> Any:
    """``value`` where it can be kept, else the text."""
    written = _written(value)
    if written is None or len(written.encode(errors="replace")) > MAX_BODY_BYTES:
        return text.kept
    return value


def _written(value: Any) -> str | None:
    """As JSON; None for what JSON cannot say, or not in a depth that all can read."""
    level: Iterable[Any] = [value]
    for _ in range(DEEPEST + 1):
        level = [inner for each in level for inner in _inner(each)]
    if level:
        return None
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError):
        return None


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()
