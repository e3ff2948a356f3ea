"""The diff of a change as HTML: hostile text is escaped, hidden characters are visible, bounds."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

import pytest

from daybook.features.repositories import diff_view, highlighting
from daybook.features.repositories.diff_view import ShownFile, show
from daybook.features.repositories.hidden_characters import visible
from daybook.features.repositories.highlighting import LEXERS, Highlighter, lexer_of

HOSTILE = "</td></tr></table><script>alert(1)</script><img src=x onerror='x' class=\"y\">&lt;"


def patch(path: str, *texts: str) -> str:
    """Return the patch of a file, whose lines begin with their signs."""
    old = sum(each[0] != "+" for each in texts)
    new = sum(each[0] != "-" for each in texts)
    header = f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n"
    return f"{header}@@ -1,{old} +1,{new} @@\n" + "".join(f"{each}\n" for each in texts)


def only(text: str, *, is_split: bool = False) -> ShownFile:
    (file,) = show(text, is_split=is_split).files
    return file


def cells(rows: str) -> list[str]:
    """Return the texts of the cells with code, as a browser shows them."""
    found = re.findall(r'<td class="c[^"]*">(.*?)</td>', rows)
    return [html.unescape(re.sub(r"<[^>]*>", "", each)) for each in found]


def tags(text: str) -> set[str]:
    return set(re.findall(r"<(/?\w+)", text))


OURS = {"tr", "/tr", "th", "/th", "td", "/td", "span", "/span"}


@pytest.mark.parametrize("name", ["x.py", "x.html", "x.txt", "x.md", "x.js"])
@pytest.mark.parametrize("is_split", [False, True])
def test_hostile_lines_are_only_text(name: str, is_split: bool) -> None:
    texts = (f" {HOSTILE}", f"-a {HOSTILE} b", f"+a {HOSTILE} c", f"+{HOSTILE!r}")
    text = patch(name, *texts).replace(" @@\n", f" @@ {HOSTILE}\n")
    shown = only(text, is_split=is_split)
    assert tags(shown.rows) == OURS
    found = cells(shown.rows)
    expected = [each[1:] for each in texts]
    if is_split:
        expected = [expected[0], *expected[:3], "", expected[3]]
    assert found == expected


def test_hostile_names_are_only_text() -> None:
    text = patch(HOSTILE.replace("/", "_"), "+x").replace(
        "--- ", "old mode 100644<b>\nnew mode 1<i>755\n--- ", 1
    )
    shown = only(text)
    assert tags(shown.path) == set()
    assert html.unescape(shown.path) == HOSTILE.replace("/", "_")
    assert tags("".join(shown.notes)) == set()
    renamed = "diff --git a/x b/y\nrename from <b>\nrename to <i>\u202e\tz\n"
    shown = only(renamed)
    assert tags("".join(shown.notes)) == {"code", "/code"}
    assert shown.path == ('&lt;i&gt;<span class="u">U+202E</span><span class="u">^I</span>z')


def test_hidden_characters_are_named() -> None:
    shown = only(patch("x.py", "+a = '\u202e\x00\x1b[2J\u2028\u200b\U000e0041'\tb"))
    assert cells(shown.rows) == ["a = 'U+202E^@^[[2JU+2028U+200BU+E0041'\tb"]
    assert shown.rows.count('<span class="u">') == 6
    assert visible("a\x1b]0;x\x07\u202eb ⚠\ufe0f é 漢") == "a⟨^[⟩]0;x⟨^G⟩⟨U+202E⟩b ⚠\ufe0f é 漢"
    assert visible("x\ufe0f") == "x⟨U+FE0F⟩"


def test_a_carriage_return_is_visible_unless_each_line_has_one() -> None:
    assert cells(only(patch("x", " a\r", "-b\r", "+c\r")).rows) == ["a", "b", "c"]
    assert "CR LF" in only(patch("x", " a\r", "+c\r")).notes[0]
    assert cells(only(patch("x", " a\r", "-b\r", "+c")).rows) == ["a^M", "b^M", "c"]


def test_the_numbers_signs_and_marks_of_lines() -> None:
    text = patch("x", " same", "-x = old", "+x = new", "+more")
    assert re.findall(r"<td[^>]*>(.*?)</td>", only(text).rows) == [
        *("1", "1", "", "same"),
        *("2", "", "−", 'x = <span class="w">old</span>'),
        *("", "2", "+", 'x = <span class="w">new</span>'),
        *("", "3", "+", "more"),
    ]
    assert re.findall(r"<td[^>]*>(.*?)</td>", only(text, is_split=True).rows) == [
        *("1", "", "same", "1", "", "same"),
        *("2", "−", 'x = <span class="w">old</span>', "2", "+", 'x = <span class="w">new</span>'),
        *("", "", "", "3", "+", "more"),
    ]


def test_a_string_of_several_lines_is_highlighted_on_both_sides() -> None:
    rows = only(patch("x.py", ' """', "-old text", "+new text", ' """', " if x: pass")).rows
    assert rows.count('<span class="ss w">') == 2
    assert '<span class="sk">if</span> x: <span class="sk">pass</span>' in rows


def test_long_lines_are_cut_and_say_so() -> None:
    shown = only(patch("x.py", "+" + "x" * 1_500, "+" + "\x00" * 1_000, "+end"))
    first, second, third = cells(shown.rows)
    assert first == "x" * 1_000 + "… 500 more characters"
    assert second == "^@" * diff_view.MAX_HIDDEN_CHARACTERS + "… 900 more characters"
    assert third == "end"


def test_small_files_are_shown_before_large_ones_and_generated_files_last() -> None:
    many = [f"+{each}" for each in range(diff_view.MAX_LINES)]
    text = patch("a.lock", *many[:10]) + patch("b.txt", *many) + patch("c.txt", *many[:20])
    shown = show(text)
    assert [
        (str(each.path), each.rows.count("<td class"), each.left_out) for each in shown.files
    ] == [
        ("a.lock", 0, 10),
        ("b.txt", 4 * (diff_view.MAX_LINES - 20), 20),
        ("c.txt", 4 * 20, 0),
    ]
    assert [each.is_folded for each in shown.files] == [True, False, False]
    assert shown.left_out_lines == 30
    assert shown.insertions == diff_view.MAX_LINES + 30


def test_the_page_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff_view, "MAX_CHARACTERS", 5_000)
    monkeypatch.setattr(diff_view, "MAX_FILES", 2)
    shown = show("".join(patch(f"{each}.txt", "+" + "y" * 2_000) for each in range(4)))
    assert [each.left_out for each in shown.files] == [0, 0]
    assert shown.left_out_files == 2
    monkeypatch.setattr(diff_view, "MAX_CHARACTERS", 1_500)
    assert [each.left_out for each in show(patch("x", "+" + "y" * 2_000) * 2).files] == [0, 1]


def test_a_file_without_lines_is_named() -> None:
    binary = only("diff --git a/x b/x\nindex 1..2 100644\nBinary files a/x and b/x differ\n")
    assert (binary.rows, binary.notes) == ("", ("binary",))
    mode = only("diff --git a/x b/x\nold mode 100644\nnew mode 100755\n")
    assert mode.notes == ("mode 100644 → 100755",)
    program = only("diff --git a/x b/x\nnew file mode 100755\nindex 0..1\n")
    assert (program.state, program.notes) == ("new", ("may be executed",))


def test_the_end_of_a_file_without_a_line_break_is_visible() -> None:
    shown = only(patch("x", "-a", "\\ No newline at end of file", "+a"))
    assert cells(shown.rows) == ["ano line break at the end of the file", "a"]


def highlighted(lexer: str, lines: Iterable[str]) -> list[str]:
    return ["".join(part for _, part in each) for each in Highlighter().tokens(lexer, [*lines])]


TEXTS = (
    ["", "  ", "\t", "x = 'unclosed", '"""', "/* open", "<!-- <a href='", "${`${", "\\", "\x00\r"],
    ["#!/bin/sh", "def f(a): return {'b': [1, 2.5e3, None]}  # c", "", "", "@x", "<b>&amp;</b>"],
    ["- a: &b *c", "| x | y |", "```py", "class A { int b = 0; }", "SELECT 'x''y' FROM t;", ""],
)


def test_no_lexer_changes_the_text() -> None:
    for lexer in LEXERS:
        for text in TEXTS:
            assert highlighted(lexer, text) == text, lexer


def test_every_lexer_has_classes_for_some_text() -> None:
    text = [line for each in TEXTS[1:] for line in each]
    plain = [
        lexer
        for lexer in LEXERS
        if not any(name for line in Highlighter().tokens(lexer, text) for name, _ in line)
    ]
    assert plain == []


def test_lexers_are_found_by_the_name_of_a_file() -> None:
    names = ("a/b.py", "Makefile", "x.test.ts", "CMakeLists.txt", "noext", ".bashrc", "a.PY")
    found = [lexer_of(each) for each in names]
    assert found == ["python", "make", "typescript", "cmake", "", "bash", ""]


def test_highlighting_stops_at_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "if x: pass"
    text = patch("a.py", f"+{line}") + patch("b.py", f"+{line}")
    assert [each.rows.count("sk") for each in show(text).files] == [2, 2]
    monkeypatch.setattr(highlighting, "MAX_CHARACTERS", len(line) + 5)
    assert [each.rows.count("sk") for each in show(text).files] == [2, 0]
    monkeypatch.setattr(highlighting, "MAX_SECONDS", -1.0)
    assert [each.rows.count("sk") for each in show(text).files] == [0, 0]
    assert Highlighter().tokens("python", [line]) == [[("", line)]]
