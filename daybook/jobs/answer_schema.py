"""The schema of a structured answer: which are legal, what an answer lacks (requirement 28).

A schema is complete in itself. Each `$ref` is resolved when the job is made, and in an empty
registry always: what stands elsewhere would be fetched, from an address that the job chose, after
the answer was paid for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daybook.errors import InvalidInput

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from referencing.jsonschema import SchemaResource

_FIELD = "output_schema"
_REFERENCES = ("$ref", "$dynamicRef")
_LONGEST = 500  # characters of what is wrong with an answer: it repeats a part of that


def check(schema: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` for a schema by which no answer could be judged."""
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
        raise InvalidInput(_FIELD, "refers to itself without end, or is nested too deep") from None


def mismatch(schema: Mapping[str, Any], value: Any) -> str:
    """What in ``value`` does not fit the schema, and where; empty when all of it fits.

    The schema is one that `check` has let pass.
    """
    from jsonschema.exceptions import best_match

    try:
        found = best_match(_validator(schema).iter_errors(value))
    except RecursionError:
        return "is nested deeper than the schema can be applied"
    if found is None:
        return ""
    told = f"does not fit the schema at {found.json_path}: {found.message}"
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]} …"


def _validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    from jsonschema import Draft202012Validator  # heavy, and seldom needed
    from referencing import Registry

    return Draft202012Validator(dict(schema), registry=Registry())


def _check_form(schema: Any) -> None:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InvalidInput(_FIELD, f"is no JSON schema: {error.message}") from error


def _check_references(resource: SchemaResource, resolver: Any, seen: set[int]) -> None:
    """Resolve the references in a schema and in what they lead to; ``seen`` are done already."""
    schema = resource.contents
    if not isinstance(schema, Mapping) or id(schema) in seen:
        return
    seen.add(id(schema))
    for word in _REFERENCES:
        if word in schema:
            _check_reference(str(schema[word]), resolver, seen)
    for inner in resource.subresources():
        _check_references(inner, resolver.in_subresource(inner), seen)


def _check_reference(reference: str, resolver: Any, seen: set[int]) -> None:
    from referencing.jsonschema import DRAFT202012

    try:
        found = resolver.lookup(reference)
    except Exception:  # its own errors, and what following a pointer into a number raises
        raise InvalidInput(
            _FIELD,
            f'"{reference}" leads out of the schema, or nowhere',
            "nothing is fetched: put it under $defs, and refer to it as #/$defs/<name>",
        ) from None
    if id(found.contents) not in seen:
        # A pointer may lead to a place where nobody expects a schema, and so has not read one.
        _check_form(found.contents)
        _check_references(DRAFT202012.create_resource(found.contents), found.resolver, seen)
