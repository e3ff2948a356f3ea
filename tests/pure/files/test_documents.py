"""YAML and JSON documents: data as YAML 1.2 has it, positions, limits, and text for people."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from daybook.errors import Position
from daybook.files.documents import MAX_DEPTH, read, to_yaml
from tests import rows

_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | _TEXTS
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def test_scalars_are_those_of_yaml_1_2() -> None:
    texts_ = ["on", "no", "yes", "12:30:00", "2027-01-15T14:30:00+01:00", "2026-12-25", "1_000"]
    for text, trying in rows.each(texts_):
        with trying:
            assert read(f"a: {text}").data == {"a": text}
    given_ = "[true, null, ~, 1, -2, 007, 1.5, 1e3, 'no', \"1\"]"
    assert read(given_).data == [True, None, None, 1, -2, 7, 1.5, 1000.0, "no", "1"]
    assert read("on: x\nyes: {off: 1}").data == {"on": "x", "yes": {"off": 1}}


def test_a_text_that_is_an_octal_integer_in_yaml_1_2_is_quoted() -> None:
    assert to_yaml({"a": "0o17", "b": "0o18"}) == "a: '0o17'\nb: 0o18\n"


def test_each_value_and_key_has_its_position() -> None:
    document = read("jobs:\n  - name: a\n    prompt: |\n      x\n  - {name: é, tags: [b, c]}\n")
    assert document.position(("jobs", 0, "name")) == Position(2, 11)
    assert document.position(("jobs", 0, "name"), of_key=True) == Position(2, 5)
    assert document.position(("jobs", 0, "prompt")) == Position(3, 13)
    assert document.position(("jobs", 1, "tags", 1)) == Position(5, 25)
    assert document.position(("jobs", 0, "url")) == Position(2, 5)


def test_json_is_read_with_tabs_escapes_and_surrogate_pairs() -> None:
    data = {"jobs": [{"name": 'a\t"/\u00e9\U0001f600', "n": 1e3, "deep": [[], {}]}]}
    for text in (json.dumps(data, indent="\t"), json.dumps(data, ensure_ascii=False)):
        document = read(text)
        assert (document.data, document.problems) == (data, [])
    assert read('{\n\t"a": 1}').position(("a",)) == Position(2, 7)


def test_an_alias_is_its_value() -> None:
    assert read("a: &x {b: 1}\nc: *x").data == {"a": {"b": 1}, "c": {"b": 1}}


BOMB = "a0: &a0 [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{','.join([f'*a{n}'] * 9)}]\n" for n in range(9)
)
PROBLEMS: list[tuple[str, Position, str]] = [
    ("a: b: c", Position(1, 5), "is not YAML"),
    ("a:\n  - b\n c: 1", Position(3, 2), "is not YAML"),
    ("a: 'open", Position(1, 9), "is not YAML"),
    ("a: \x01", Position(1, 4), "is not YAML"),
    ('{"a": 1,, "b": 2}', Position(1, 9), "is not YAML"),
    ("a: 1\nb: 2\na: 3", Position(3, 1), "is already given in line 1"),
    ("? [a]\n: 1", Position(1, 3), "a key is not a text"),
    ("a: &x {b: 1}\nc: {<<: *x}", Position(2, 5), "<< is not supported"),
    ("a: !!python/object:os.system x", Position(1, 4), "the tag"),
    ("a: !secret x", Position(1, 4), "the tag !secret is not supported"),
    ("a: !x {b: 1}", Position(1, 4), "the tag !x is not supported"),
    ("a: .nan", Position(1, 4), "is not finite"),
    (f"a: {'9' * 5000}", Position(1, 4), "is not a number"),
    ("a: *x", Position(1, 4), "the alias *x has no value yet"),
    ("a: &x [*x]", Position(1, 8), "the alias *x has no value yet"),
    ("a: 1\n---\nb: 2", Position(2, 1), "has a second document"),
    ("[" * 100_000, Position(1, MAX_DEPTH + 1), "is nested too deeply"),
    (BOMB, Position(7, 10), "has too many values"),
]


def test_each_problem_has_its_position() -> None:
    for (text, position, problem), trying in rows.each(PROBLEMS):
        with trying:
            found = read(text).problems
            assert [each.position for each in found] == [position]
            assert problem in found[0].problem
            assert found[0].hint


@given(_PLAIN)
def test_what_is_written_is_read_as_the_same_data(data: Any) -> None:
    written = to_yaml({"a": data})
    assert read(written).data == {"a": data}
    assert read(written).problems == []
    assert yaml.safe_load(written) == {"a": data}  # as other programs read it


@pytest.mark.parametrize("text", ["1e3", "0888", "no", "12:30", "", "~", "- x", "a: b", "#x"])
def test_a_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    assert to_yaml({"a": text}).startswith(("a: '", 'a: "'))
