"""Job variables of a job, checked against the base job template of its work pool."""

from __future__ import annotations

from typing import Any

from daybook.errors import InvalidInput, UnknownName
from daybook.json_text import JsonObject

FIELD = "job_variables"


def check(variables: JsonObject, template: JsonObject) -> None:
    """Raise `InvalidInput` if a template has no such variable, or if it refuses the value.

    Prefect ignores a variable that it does not know. A template without a list of variables is not
    checked, and whether required variables are missing is not either: they may have defaults.
    """
    schema: dict[str, Any] = template.get("variables") or {}
    known = schema.get("properties")
    if not variables or not isinstance(known, dict):
        return
    for name in variables:
        if name not in known:
            raise UnknownName(FIELD, name, known)
    from prefect.utilities.schema_tools import validate

    try:
        errors = validate(
            variables, schema, preprocess=True, ignore_required=True, allow_none_with_default=True
        )
    except Exception:  # the template itself is invalid, which Prefect reports
        return
    for error in errors:
        path = ".".join(map(str, error.absolute_path)) or FIELD
        problem = f'"{path}" does not fit the pool\'s template: {error.message}'
        raise InvalidInput(
            FIELD, problem, 'write numbers and lists as JSON, such as {"backoff_limit": 1}'
        )
