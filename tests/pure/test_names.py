"""Names of jobs (requirement 10): given names, names from prompts, free names."""

from __future__ import annotations

import pytest

from daybook import owners
from daybook.errors import InvalidInput
from daybook.names import (
    MAX_NAME_LENGTH,
    default_name,
    free_name,
    validate_capabilities,
    validate_name,
)

FAMILY = "👨‍👩‍👧‍👦"  # four people and three joiners: 7 code points


@pytest.mark.floor("E", "The name defaults to the beginning of the prompt")
@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Summarise open pull requests", "summarise-open-pull-requests"),
        ("  Summarise\n\n open\tpull  requests ", "summarise-open-pull-requests"),
        ("Summarise the pull requests opened since", "summarise-the-pull-requests-opened-since"),
        ("Summarise the pull requests opened since 9", "summarise-the-pull-requests-opened-since"),
        ("Today's news, tomorrow’s e-mail: why?", "todays-news-tomorrows-e-mail-why"),
        ("api.example.org", "api.example.org"),
        ("search.re_index", "search.re_index"),
        ("One. Two... _three_", "one-two-three"),
        ("{{due}} is here", "due-is-here"),
        ("Résumé für Ann", "résumé-für-ann"),
        ("हिन्दी में लिखो", "हिन्दी-में-लिखो"),
        ("x" * 60, "x" * 40),
        ("u\u0308" * 60, "u\u0308" * 20),
        ("x" * 39 + "u\u0308", "x" * 39),
        ("日" * 60, "日" * 40),
        (FAMILY + " 🇩🇪 ship it 👍🏽", "ship-it"),
        ("🇩🇪" * 30, "job"),
        ("\x00\x07", "job"),
        ("\u200b\u0308", "job"),
        ("a\u202eb", "ab"),
        ("a\u3164b \u115f", "ab"),
        # One character that is longer than a default name.
        ("a" + "\u0308" * 80, "a" + "\u0308" * 39),
    ],
)
def test_a_default_name_is_made_from_the_prompt(prompt: str, name: str) -> None:
    assert default_name(prompt) == name


def test_a_taken_name_gets_the_next_free_number() -> None:
    assert free_name("brief", []) == "brief"
    assert free_name("brief", {"brief"}) == "brief-2"
    assert free_name("brief", {"brief", "brief-2", "brief-3"}) == "brief-4"
    long = "x" * MAX_NAME_LENGTH
    assert free_name(long, {long}) == "x" * (MAX_NAME_LENGTH - 2) + "-2"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "name: is blank (use 1 to 100 characters)"),
        (" \n", "name: is blank (use 1 to 100 characters)"),
        ("x" * 101, "name: has 101 characters (use 1 to 100)"),
        ("a\nb", "name: has a line break or control character (write it on one line)"),
        ("a\x1b[0m", "name: has a line break or control character (write it on one line)"),
        ("brief\u202e", "name: contains a character that changes the text direction (remove it)"),
        ("\u200f", "name: contains a character that changes the text direction (remove it)"),
        *(
            (name, f"name: contains an invisible or unknown character, {code} (remove it)")
            for name, code in [
                *(("\u200b", "U+200B"), ("br\u00adief", "U+00AD"), ("brief\ufe0f", "U+FE0F")),
                *(("brief\U000e0041", "U+E0041"), ("\u2800\u200d", "U+2800")),
                # Fillers, private characters, and unassigned ones.
                *(("a\u3164b", "U+3164"), ("\u115fa", "U+115F"), ("a\uffa0", "U+FFA0")),
                *(("a\ue000", "U+E000"), ("a\U000f0000", "U+F0000"), ("a\u0378", "U+0378")),
                *(("a\ufdd0", "U+FDD0"), ("a\U0003ffff", "U+3FFFF")),
            ]
        ),
        ("\u200d \u0308", "name: has no visible character (write at least one letter or digit)"),
    ],
)
def test_an_invalid_name_is_refused_with_a_hint(name: str, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate_name(name)
    assert str(caught.value) == text


def test_a_name_loses_only_its_surrounding_spaces() -> None:
    assert validate_name("  Morning  brief ☀️ ") == "Morning  brief ☀️"
    for name in (FAMILY, "हिन्दी", "می‌خواهم", "new \U0001fae8 emoji", "\U0001faff"):
        assert validate_name(name) == name


def test_the_names_of_agents_sets_and_users_have_the_same_rule() -> None:
    for hidden in ("\u3164", "\u2800", "\u115f", "\ue000", "\u0378"):
        for check in (owners.validate_owner, owners.of_file_set, owners.validate_user_id):
            with pytest.raises(InvalidInput):
                check(f"agent:a{hidden}" if check is owners.validate_owner else f"a{hidden}")
    assert owners.validate_owner("agent:Zoë") == "agent:Zoë"
    assert owners.of_file_set("größe") == "file:größe"


def test_capabilities_are_sorted_without_duplicates() -> None:
    assert validate_capabilities(["python", " git ", "python"]) == ["git", "python"]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (["two words"], "capabilities"),
        ([""], "capabilities"),
        (["x" * 65], "preferred"),
        ([f"c{number}" for number in range(51)], "capabilities"),
    ],
)
def test_an_invalid_capability_is_refused(given: list[str], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        validate_capabilities(given, field)
    assert refused.value.field == field
