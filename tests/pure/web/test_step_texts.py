"""The texts of steps on a run's page: arguments one by one, and JSON with indentation."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybook.agents.journal import arguments_text
from daybook.web import step_texts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,20}", fullmatch=True), JSON, min_size=1))
def test_each_argument_of_a_call_is_read_back(arguments: dict[str, Any]) -> None:
    found = step_texts.arguments(arguments_text(arguments))
    shown = [
        (name, value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False))
        for name, value in arguments.items()
    ]
    assert found == shown


@pytest.mark.parametrize("length", range(9, 44))
def test_a_cut_argument_shows_its_beginning(length: int) -> None:
    written = arguments_text({"n": 1, "content": 'a\n"b" 😀' + "\\u1234 " * 4})
    cut = f"{written[:length]}\n… (1,234 more characters)"
    if length >= len('n=1, content="'):
        (_, number), (name, value) = step_texts.arguments(cut)
        start, _, note = value.rpartition("\n")
        assert (number, name, note) == ("1", "content", "… (1,234 more characters)")
        assert ('a\n"b" 😀' + "\\u1234 " * 4).startswith(start)
    else:
        assert "".join(value for _, value in step_texts.arguments(cut)).endswith("characters)")


@pytest.mark.parametrize(
    "text",
    ["ls -la a=b", "make\n… (7 more characters)", "make x=y\n… (7 more characters)", "=", "[1]x"],
)
def test_any_other_input_is_shown_as_it_is(text: str) -> None:
    assert step_texts.inputs(text, "tool") == [("", text)]


def test_an_input_that_is_a_json_object_has_an_argument_for_each_field() -> None:
    assert step_texts.arguments('{"to": "a", "n": [1]}') == [("to", "a"), ("n", "[\n  1\n]")]


def test_a_list_is_one_text() -> None:
    assert step_texts.inputs("[1]", "tool") == [("", "[1]")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [('{"a":[1]}', '{\n  "a": [\n    1\n  ]\n}'), ("[1", "[1"), ("7", "7"), ("[" * 2_000,) * 2],
)
def test_only_a_json_object_or_list_gets_indentation(text: str, shown: str) -> None:
    assert step_texts.readable(text) == shown


@pytest.mark.parametrize(
    "text", ['{"\\ud83d": "\\ud800"}', 'path="\\udfff"', 'path="\\ud83d\n… (9 more characters)']
)
def test_half_of_a_surrogate_pair_does_not_prevent_the_page(text: str) -> None:
    texts = [step_texts.readable(text), *sum(step_texts.inputs(text, "tool"), ())]
    assert "�" in "".join(texts)
    for each in texts:
        each.encode()


@pytest.mark.parametrize(
    ("kind", "given", "output", "shown"),
    [
        ("tool", 'path="a"', "done", 'path="a"'),
        ("request", "Do it.", "I\nread", "I read"),
        ("request", "Do it.", None, "Do it."),
        ("request", None, None, ""),
    ],
)
def test_a_folded_step_shows_what_it_did(
    kind: str, given: str | None, output: str | None, shown: str
) -> None:
    assert step_texts.preview(given, kind, output) == shown


PATCH = """\
diff --git a/shop.py b/shop.py
--- a/shop.py
+++ b/shop.py
@@ -1,3 +1,3 @@ def price():
 def price():
--- <b>comment of SQL
-    return 0
+    return "<i>"

@@ -9 +9 @@
-old
+new
- after the patch
"""


def test_only_lines_of_a_hunk_are_removed_or_added() -> None:
    assert step_texts.form(PATCH) == "patch"
    html = str(step_texts.patch(PATCH))
    assert re.findall("<del>(.*?)</del>", html) == [
        "-- &lt;b&gt;comment of SQL",
        "    return 0",
        "old",
    ]
    assert re.findall("<ins>(.*?)</ins>", html) == ["    return &#34;&lt;i&gt;&#34;", "new"]
    assert "<span>--- a/shop.py</span><span>+++ b/shop.py</span>" in html
    assert "<span>- after the patch</span>" in html


@pytest.mark.parametrize(
    "text",
    [
        "# Harbour\n\nIt is **closed**.",
        "- [Ferry](https://ferry.example/)\n- none",
        "a | b\n--- | ---\n1 | 2",
        "| a | b |\n|---|:-:|\n| 1 | 2 |",
    ],
)
def test_a_text_with_marks_of_markdown_is_markdown(text: str) -> None:
    assert step_texts.form(text) == "markdown"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# A comment\njobs:\n- a\n- b",
        "def power(**kwargs):  # a**b**c\n    return 2**3",
        "total 4\n-rw-r--r-- 1 me me 12 Jan 1 notes.md",
        '["**a**", "# b"]',
        "@@ -1 +1 @@ is the header of a hunk",
        'web_fetch(url="https://ferry.example/")',
        "see [1](https://a.example/)",
    ],
)
def test_the_output_of_a_program_is_a_text(text: str) -> None:
    assert step_texts.form(text) == ""
