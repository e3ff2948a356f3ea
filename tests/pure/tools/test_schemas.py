"""Validation of tool parameters against schemas, including those of untrusted servers."""

from __future__ import annotations

from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.http.secrets import FilledSecrets
from daybook.redaction import HIDDEN
from daybook.tools import schemas
from daybook.tools.base import PYTHON, ToolInfo

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SLOW = "(a+)+$"


def mismatch(schema: dict[str, Any], params: dict[str, Any], source: str = "search") -> str:
    return schemas.mismatch(ToolInfo("search.find", "", schema, source), params)


def with_property(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": schema}}


@pytest.mark.parametrize(
    ("schema", "params", "expected"),
    [
        ({"required": ["x"]}, {}, "the tool's schema: 'x' is a required property"),
        (with_property({"type": "integer"}), {"x": "5"}, "at $.x: '5' is not of type"),
        ({"additionalProperties": False}, {"x": 1}, "'x' was unexpected"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"required": ["y"]}}}, {}, "'y' is a required"),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "required": ["y"]},
            {},
            "'y' is a required",
        ),
    ],
    ids=["missing", "of another type", "unknown", "by reference", "of an older dialect"],
)
def test_a_mismatch_is_reported_with_its_location(
    schema: dict[str, Any], params: dict[str, Any], expected: str
) -> None:
    assert expected in mismatch(schema, params)


def test_a_secret_is_hidden_before_the_report_is_cut() -> None:
    secret = "hunter-2" * 100
    info = ToolInfo("search.find", "", with_property({"type": "integer"}), "search")
    message = schemas.mismatch(info, {"x": secret}, FilledSecrets({secret}).hide)
    assert message.endswith(f"at $.x: '{HIDDEN}' is not of type 'integer'")


def test_a_very_long_schema_of_a_server_is_refused_but_not_of_a_python_tool() -> None:
    schema = with_property({"type": "integer", "description": "x" * schemas.MAX_SCHEMA_CHARACTERS})
    with pytest.raises(InvalidInput, match="it is longer than 200,000 characters"):
        mismatch(schema, {})
    assert mismatch(schema, {"x": 1}, PYTHON) == ""


def test_an_empty_schema_accepts_any_object() -> None:
    assert mismatch({}, {"x": 1}) == ""


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "#"},
        {"type": "nonsense"},
        {"properties": []},
        {
            "$ref": "#/$defs/d0",
            "$defs": {
                **{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)},
                "d40": {},
            },
        },
    ],
    ids=["http", "file", "nowhere", "itself", "no type", "no properties", "doubling"],
)
def test_a_schema_that_cannot_be_applied_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(
        InvalidInput, match=r'the schema of "search\.find" cannot be applied'
    ) as caught:
        mismatch(schema, {})
    assert caught.value.field == "tool"
    assert len(str(caught.value)) < 2 * schemas.MAX_PROBLEM_CHARACTERS


@pytest.mark.parametrize(
    "schema",
    [
        with_property({"pattern": SLOW}),
        with_property({"$schema": DIALECT, "pattern": SLOW}),
        {"patternProperties": {SLOW: False}},
        {"patternProperties": {SLOW: {}}, "additionalProperties": False},
        {"propertyNames": {"pattern": SLOW}},
        {"patternProperties": {SLOW: {}}, "unevaluatedProperties": False},
    ],
    ids=["a value", "a dialect of its own", "names", "the others", "all names", "what is left"],
)
def test_regular_expressions_in_a_servers_schema_are_not_evaluated(schema: dict[str, Any]) -> None:
    """Each of these expressions would take exponential time."""
    slow = "a" * 60 + "b"
    assert mismatch(schema, {"x": slow, slow: 1}) == ""


def test_regular_expressions_in_a_python_tools_schema_are_evaluated() -> None:
    found = mismatch(with_property({"type": "string", "pattern": "^a$"}), {"x": "b"}, PYTHON)
    assert "'b' does not match '^a$'" in found


def test_a_text_with_a_secret_reference_is_not_checked() -> None:
    schema = with_property({"type": "string", "maxLength": 3})
    assert mismatch(schema, {"x": "{{secret:ops}}"}) == ""
    assert "is too long" in mismatch(schema, {"x": "long"})


def test_a_parameter_named_like_a_schema_keyword_is_checked() -> None:
    schema = {"properties": {"$schema": {"type": "integer"}, "pattern": {"type": "integer"}}}
    assert "$.pattern" in mismatch(schema, {"pattern": "x"})
    assert "$schema" in mismatch(schema, {"$schema": "x"})
