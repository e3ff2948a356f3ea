"""Payload of a request to a hook: JSON from outside, which a run uses as data.

``{{payload}}`` is the whole payload. ``{{payload.pull_request.title}}`` is the value at a path of
keys and, in lists, of positions. `fill` inserts values only into the strings of a JSON template, so
a payload can change neither the structure of a body nor the names of parameters. An inserted value
is never searched for variables or secrets. `daybook.jobs.prompts` has the variables in prompts.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qs

from daybook import json_text
from daybook.errors import InvalidInput

PAYLOAD = "payload"
"""Name of the variable, and key of the payload in `daybook.ledger.tables.RunRow.found`."""

_FORM = b"payload="
"""Beginning of a form with a payload. No JSON begins with it."""

_VARIABLE = re.compile(r"\{\{\s*+(payload(?:\.[\w-]+)*+)\s*+\}\}")


def is_payload(variable: str) -> bool:
    """Return whether the variable is `payload` or a path in the payload."""
    return variable == PAYLOAD or variable.startswith(f"{PAYLOAD}.")


def value_at(payload: Any, variable: str) -> Any:
    """Return the value of a variable such as `payload.commits.0.id`; None if it has no value."""
    value = payload
    for key in variable.split(".")[1:]:
        match value:
            case dict():
                value = value.get(key)
            case list() if key.isascii() and key.isdigit() and len(key) < 10:
                value = value[int(key)] if int(key) < len(value) else None
            case _:
                return None
    return value


def as_text(value: Any) -> str:
    """Return a string unchanged, None as an empty string, and any other value as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def is_used(template: Any) -> bool:
    """Return whether a string in a JSON value contains a variable of the payload."""
    match template:
        case str():
            return _VARIABLE.search(template) is not None
        case dict():
            return any(map(is_used, template.values()))
        case list():
            return any(map(is_used, template))
        case _:
            return False


def fill(template: Any, payload: Any) -> Any:
    """Return the JSON value with the variables in its strings replaced; keys stay unchanged.

    A string that consists of one variable becomes the value itself, or null if it has no value.
    """
    match template:
        case str():
            if alone := _VARIABLE.fullmatch(template):
                return value_at(payload, alone[1])
            return _VARIABLE.sub(lambda found: as_text(value_at(payload, found[1])), template)
        case dict():
            return {name: fill(each, payload) for name, each in template.items()}
        case list():
            return [fill(each, payload) for each in template]
        case _:
            return template


def check_body(body: str, content_type: str) -> None:
    """Raise `InvalidInput` if the variables in a webhook's body could change its structure.

    A body with variables must be a JSON object or list, a single variable, or text
    (``content_type`` is `text/…`).
    """
    is_text = content_type.strip().lower().startswith("text/")
    if is_text or not is_used(body) or _VARIABLE.fullmatch(body.strip()) or _as_json(body):
        return
    raise InvalidInput(
        "body",
        "contains {{payload}}, but is not JSON",
        "write JSON with the variable in a string, {{payload}} alone, or a Content-Type: text/plain"
        " header",
    )


def fill_body(body: str, payload: Any) -> str:
    """Return a body that `check_body` accepts, with its variables replaced."""
    if not is_used(body):
        return body
    if (template := _as_json(body)) is not None:
        return json.dumps(fill(template, payload), ensure_ascii=False)
    return _VARIABLE.sub(lambda found: as_text(value_at(payload, found[1])), body)


def read(body: bytes) -> Any:
    """Return the payload in the body of a request.

    The body is JSON, or a form whose only field ``payload`` is JSON, which is GitHub's default.
    Raise `InvalidInput` if it is neither, or if `json_text.read` refuses the JSON.
    """
    try:
        if not body.startswith(_FORM):
            return json_text.read(body)
        fields = parse_qs(body.decode(), errors="strict", max_num_fields=1)
        return json_text.read(fields.get(PAYLOAD, [""])[0])
    except ValueError as error:
        hint = "send JSON in UTF-8, or a form with JSON in the field payload"
        raise InvalidInput("body", f"is not JSON: {error}", hint) from None


def as_body(payload: Any) -> bytes:
    """Return the body of a request with this payload."""
    return json.dumps(payload, ensure_ascii=False, allow_nan=False).encode()


def _as_json(body: str) -> Any:
    """Return ``body`` as a JSON object or list, or None if it is neither."""
    try:
        value = json_text.read(body)
    except ValueError:
        return None
    return value if isinstance(value, dict | list) else None
