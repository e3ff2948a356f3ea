"""Whether params fit the schema of a tool. The schema is another's, and not trusted.

- Nothing is fetched: a reference that leads out of the schema makes it one that cannot be applied.
- A regular expression can take for ever, and so can a schema that refers to itself in many places:
  those of a server are left to the server, and references are followed a bounded number of times.
- A text with a reference to a secret is judged when the secret is in its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from daybook.errors import InvalidInput
from daybook.http import secrets
from daybook.tools.base import PYTHON, ToolInfo

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

LONGEST = 500
"""Characters of what is wrong: the words repeat a part of the params and of the schema."""

LONGEST_SCHEMA = 200_000
"""Characters of a server's schema that is applied: to look at so many takes a second."""

MOST_REFERENCES = 10_000
"""How many references are followed for one look at one tool's params."""

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_BY_PATTERN = ("pattern", "patternProperties", "unevaluatedProperties")


def mismatch(info: ToolInfo, params: Mapping[str, Any], hide: Callable[[str], str] = str) -> str:
    """What in ``params`` does not fit, and where; empty when all of it fits.

    ``hide`` takes the secrets out of words that may repeat them. Raises `InvalidInput` for ``tool``
    where its schema cannot be applied.
    """
    from jsonschema.exceptions import SchemaError, best_match

    try:
        validator = _validator(info)
        found = best_match(each for each in validator.iter_errors(params) if not _secret(each))
    except SchemaError as error:
        raise _unusable(info, f"it is no JSON schema: {_short(hide(error.message))}") from None
    except RecursionError:
        raise _unusable(info, "it is nested too deep, or refers to itself without end") from None
    except _TooMuch as error:
        raise _unusable(info, str(error)) from None
    except Exception as error:  # of a reference that leads nowhere, or of a schema that is odd
        raise _unusable(info, f"{type(error).__name__}: {_short(hide(str(error)))}") from None
    if found is None:
        return ""
    where = "" if found.json_path == "$" else f" at {_short(found.json_path)}"
    return f"do not fit the tool's schema{where}: {_short(hide(found.message))}"


class _TooMuch(Exception):
    """There is more in it than is looked at."""


def _validator(info: ToolInfo) -> Validator:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema: Any = info.schema or {"type": "object"}
    known: Any = validator_for(schema, default=Draft202012Validator)
    if info.source != PYTHON and len(json.dumps(schema)) > LONGEST_SCHEMA:
        raise _TooMuch(f"it is longer than {LONGEST_SCHEMA:,} characters")
    known.check_schema(schema)
    if info.source != PYTHON:
        # With a dialect of its own a part of the schema would be applied by the usual validator.
        known, schema = _careful(known), _without_dialects(schema)
    validator: Validator = known(schema, registry=Registry())
    return validator


def _careful(known: Any) -> Any:
    """``known`` without regular expressions, and with a bound on references."""
    from jsonschema.validators import extend

    left = MOST_REFERENCES

    def follows(word: str) -> Any:
        applied = known.VALIDATORS[word]

        def bounded(validator: Any, *given: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise _TooMuch("it refers to itself too often")
            return applied(validator, *given)

        return bounded

    def no_others(validator: Any, others: Any, instance: Any, schema: Any) -> Any:
        # Which properties are the others, the patterns say.
        if "patternProperties" in schema:
            return ()
        return known.VALIDATORS["additionalProperties"](validator, others, instance, schema)

    changed: dict[str, Any] = {
        word: follows(word) for word in _REFERENCES if word in known.VALIDATORS
    }
    changed |= dict.fromkeys(_BY_PATTERN, lambda *_: ())
    changed["additionalProperties"] = no_others
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


def _secret(error: Any) -> bool:
    """Whether what does not fit is a text that still refers to a secret."""
    return isinstance(error.instance, str) and bool(secrets.references("params", error.instance))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _unusable(info: ToolInfo, why: str) -> InvalidInput:
    return InvalidInput("tool", f'the schema of "{info.name}" cannot be applied: {why}')
