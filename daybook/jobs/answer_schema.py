"""JSON schema of a structured answer: validation of the schema and of answers.

A schema must be self-contained: Daybook resolves every `$ref` when it validates the job, and only
with an empty registry. Otherwise `jsonschema` would fetch an external reference from a URL that the
job chose, after the answer was paid for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daybook.errors import InvalidInput
from daybook.short_text import clip

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from referencing.jsonschema import SchemaResource

_FIELD = "output_schema"
_REFERENCE_KEYWORDS = ("$ref", "$dynamicRef")
_MAX_MESSAGE_LENGTH = 500  # characters of a validation message, which repeats part of the answer


def check(schema: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` for a schema that cannot validate an answer."""
    if not schema:
        raise InvalidInput(_FIELD, "is missing", "a structured answer needs a JSON schema")
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    root = DRAFT202012.create_resource(schema)
    try:
        _check_form(schema)
        _check_references(root, Registry().resolver_with_root(root), set())
        _validator(schema).is_valid(None)
    except RecursionError:
        raise InvalidInput(_FIELD, "refers to itself endlessly, or is nested too deeply") from None


def mismatch(schema: Mapping[str, Any], value: Any) -> str:
    """Return where and how ``value`` violates the schema, or "" if ``value`` is valid.

    The schema must have passed `check`.
    """
    from jsonschema.exceptions import best_match

    try:
        error = best_match(_validator(schema).iter_errors(value))
    except RecursionError:
        return "is nested too deeply to be checked"
    if error is None:
        return ""
    message = f"does not match the schema at {error.json_path}: {error.message}"
    return clip(message, _MAX_MESSAGE_LENGTH)


def _validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    from jsonschema import Draft202012Validator  # slow to import, and seldom needed
    from referencing import Registry

    return Draft202012Validator(dict(schema), registry=Registry())


def _check_form(schema: Any) -> None:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InvalidInput(_FIELD, f"is not a valid JSON schema: {error.message}") from error


def _check_references(resource: SchemaResource, resolver: Any, seen: set[int]) -> None:
    """Resolve the references in a schema and, recursively, in the targets of the references.

    ``seen`` holds the `id` of each schema that was visited; visited schemas are not visited again.
    """
    schema = resource.contents
    if not isinstance(schema, Mapping) or id(schema) in seen:
        return
    seen.add(id(schema))
    for word in _REFERENCE_KEYWORDS:
        if word in schema:
            _check_reference(str(schema[word]), resolver, seen)
    for inner in resource.subresources():
        _check_references(inner, resolver.in_subresource(inner), seen)


def _check_reference(reference: str, resolver: Any, seen: set[int]) -> None:
    from referencing.jsonschema import DRAFT202012

    try:
        target = resolver.lookup(reference)
    except Exception:  # errors of `referencing`, and any error from a pointer into a number
        raise InvalidInput(
            _FIELD,
            f'"{reference}" points outside the schema, or to nothing',
            "references are not fetched; define it under $defs and refer to it as #/$defs/<name>",
        ) from None
    if id(target.contents) not in seen:
        # A pointer may lead to a value that is not a subschema and so has not been checked.
        _check_form(target.contents)
        _check_references(DRAFT202012.create_resource(target.contents), target.resolver, seen)
