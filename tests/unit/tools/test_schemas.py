"""Schemas of servers that nobody trusts, and params that do not fit them."""

from __future__ import annotations

from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.http.secrets import HIDDEN, FilledSecrets
from daybook.tools import schemas
from daybook.tools.base import PYTHON, ToolInfo

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SLOW = "(a+)+$"


def mismatch(schema: dict[str, Any], params: dict[str, Any], source: str = "search") -> str:
    return schemas.mismatch(ToolInfo("search.find", "", schema, source), params)


def with_property(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": schema}}


@pytest.mark.parametrize(
    ("schema", "params", "said"),
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
def test_what_does_not_fit_is_told(
    schema: dict[str, Any], params: dict[str, Any], said: str
) -> None:
    assert said in mismatch(schema, params)


def test_a_secret_is_hidden_before_the_words_are_cut() -> None:
    secret = "hunter-2" * 100
    info = ToolInfo("search.find", "", with_property({"type": "integer"}), "search")
    said = schemas.mismatch(info, {"x": secret}, FilledSecrets({secret}).hide)
    assert said.endswith(f"at $.x: '{HIDDEN}' is not of type 'integer'")


def test_a_schema_of_a_server_that_is_longer_than_anybody_needs_is_not_applied() -> None:
    schema = with_property({"type": "integer", "description": "x" * schemas.LONGEST_SCHEMA})
    with pytest.raises(InvalidInput, match="it is longer than 200,000 characters"):
        mismatch(schema, {})
    assert mismatch(schema, {"x": 1}, PYTHON) == ""


def test_no_schema_takes_any_object() -> None:
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
def test_one_that_cannot_be_applied_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(
        InvalidInput, match=r'the schema of "search\.find" cannot be applied'
    ) as caught:
        mismatch(schema, {})
    assert caught.value.field == "tool"
    assert len(str(caught.value)) < 2 * schemas.LONGEST


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
def test_its_regular_expressions_are_left_to_the_server(schema: dict[str, Any]) -> None:
    """Each of these would take longer than anybody lives."""
    slow = "a" * 60 + "b"
    assert mismatch(schema, {"x": slow, slow: 1}) == ""


def test_those_of_a_python_tool_are_applied() -> None:
    found = mismatch(with_property({"type": "string", "pattern": "^a$"}), {"x": "b"}, PYTHON)
    assert "'b' does not match '^a$'" in found


def test_a_text_with_a_reference_is_judged_later() -> None:
    schema = with_property({"type": "string", "maxLength": 3})
    assert mismatch(schema, {"x": "{{secret:ops}}"}) == ""
    assert "is too long" in mismatch(schema, {"x": "long"})


def test_a_param_that_is_called_like_a_word_of_schemas_is_a_param() -> None:
    schema = {"properties": {"$schema": {"type": "integer"}, "pattern": {"type": "integer"}}}
    assert "$.pattern" in mismatch(schema, {"pattern": "x"})
    assert "$schema" in mismatch(schema, {"$schema": "x"})
