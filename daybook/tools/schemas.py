"""Validation of params against a tool's JSON schema, which is not trusted.

- Daybook fetches no document, and refuses a schema that refers to another document.
- A regular expression can take forever, and so can a schema that refers to itself in many places.
  So Daybook ignores the regular expressions of a server's schema, and limits the number of
  references.
- If a string refers to a secret, Daybook validates the string only after it has filled in the
  secret.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from daybook.errors import InvalidInput
from daybook.http import secrets
from daybook.json_text import JsonObject
from daybook.short_text import clip
from daybook.tools.base import PYTHON, ToolInfo

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MAX_PROBLEM_CHARACTERS = 500
"""Maximum length of a text from the params or the schema in the message of an error."""
_short = partial(clip, longest=MAX_PROBLEM_CHARACTERS)

MAX_SCHEMA_CHARACTERS = 200_000
"""Maximum length of a server's schema. Validation with a schema of this length takes a second."""

MAX_REFERENCES = 10_000
"""Maximum number of references followed in one validation of one tool's params."""

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_BY_PATTERN = ("pattern", "patternProperties", "unevaluatedProperties")


def mismatch(info: ToolInfo, params: Mapping[str, Any], hide: Callable[[str], str] = str) -> str:
    """Return the main mismatch of ``params`` and the schema of a tool; "" if they match.

    ``hide`` replaces secrets in the message. Raise `InvalidInput`, which names `tool`, if its
    schema cannot be applied.
    """
    from jsonschema.exceptions import SchemaError, best_match

    try:
        validator = _validator(info)
        problem = best_match(
            each for each in validator.iter_errors(params) if not _is_unresolved_secret(each)
        )
    except SchemaError as error:
        raise _unusable(info, f"it is not a JSON schema: {_short(hide(error.message))}") from None
    except RecursionError:
        raise _unusable(info, "it is nested too deeply, or refers to itself endlessly") from None
    except _LimitExceeded as error:
        raise _unusable(info, str(error)) from None
    except Exception as error:  # the schema is malformed, or refers to a part that does not exist
        raise _unusable(info, f"{type(error).__name__}: {_short(hide(str(error)))}") from None
    if problem is None:
        return ""
    where = "" if problem.json_path == "$" else f" at {_short(problem.json_path)}"
    return f"do not match the tool's schema{where}: {_short(hide(problem.message))}"


class _LimitExceeded(Exception):
    """The schema exceeds a limit."""


def _validator(info: ToolInfo) -> Validator:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema: Any = info.schema or {"type": "object"}
    validator_class: Any = validator_for(schema, default=Draft202012Validator)
    if info.source != PYTHON and len(json.dumps(schema)) > MAX_SCHEMA_CHARACTERS:
        raise _LimitExceeded(f"it is longer than {MAX_SCHEMA_CHARACTERS:,} characters")
    validator_class.check_schema(schema)
    if info.source != PYTHON:
        # A subschema that names its own dialect would select a validator without limits.
        validator_class, schema = _bounded_validator(validator_class), _without_dialects(schema)
    validator: Validator = validator_class(schema, registry=Registry())
    return validator


def _bounded_validator(known: Any) -> Any:
    """Return the class ``known`` without regular expressions, and with a limit on references."""
    from jsonschema.validators import extend

    remaining = MAX_REFERENCES

    def bounded_keyword(word: str) -> Any:
        keyword = known.VALIDATORS[word]

        def bounded(validator: Any, *given: Any) -> Any:
            nonlocal remaining
            remaining -= 1
            if remaining < 0:
                raise _LimitExceeded("it refers to itself too often")
            return keyword(validator, *given)

        return bounded

    def additional_properties(validator: Any, others: Any, instance: Any, schema: Any) -> Any:
        # Without the patterns, it is unknown which properties are additional.
        if "patternProperties" in schema:
            return ()
        return known.VALIDATORS["additionalProperties"](validator, others, instance, schema)

    changed: JsonObject = {
        word: bounded_keyword(word) for word in _REFERENCES if word in known.VALIDATORS
    }
    changed |= dict.fromkeys(_BY_PATTERN, lambda *_: ())
    changed["additionalProperties"] = additional_properties
    return extend(known, changed)  # type: ignore[no-untyped-call]


def _without_dialects(schema: Any) -> Any:
    match schema:
        case dict():
            return {
                name: _without_dialects(each)
                for name, each in schema.items()
                if not (name == "$schema" and isinstance(each, str))
            }
        case list():
            return [_without_dialects(each) for each in schema]
        case _:
            return schema


def _is_unresolved_secret(error: Any) -> bool:
    """Return whether the value that does not match is a string with a reference to a secret."""
    return isinstance(error.instance, str) and bool(secrets.references("params", error.instance))


def _unusable(info: ToolInfo, why: str) -> InvalidInput:
    return InvalidInput("tool", f'the schema of "{info.name}" cannot be applied: {why}')
