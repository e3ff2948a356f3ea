"""Replacement of secrets in texts."""

from __future__ import annotations

import pytest

from daybook.redaction import TOKEN_PREFIX, redact, redact_tokens

TOKEN = f"{TOKEN_PREFIX}{'a' * 42}B"


def test_each_secret_is_replaced_by_its_own_text_and_the_longest_first() -> None:
    secrets = {"abcd": "[SHORT]", "abcdef": "[LONG]", "": "[EMPTY]"}
    assert redact("abcdef, abcd and xyz", secrets) == "[LONG], [SHORT] and xyz"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the key is mysecret-1", "the key is [LONG]"),
        ("the key is mysecret-12345678", "the key is [LONG]"),
        ("the key is mys", "the key is mys"),
        ("mysecret is no key", "mysecret is no key"),
        ("the key is abcde12", "the key is [LONGER]"),
        ("the key is abcde1\ufffd", "the key is [LONGER]"),
    ],
)
def test_the_start_of_a_secret_at_the_end_of_a_cut_text_is_replaced(text: str, shown: str) -> None:
    secrets = {"abcde": "[SHORT]", "mysecret-12345678": "[LONG]", "abcde123456": "[LONGER]"}
    assert redact(text, secrets, is_cut=True) == shown


def test_the_start_of_a_secret_at_the_end_of_a_whole_text_is_kept() -> None:
    assert redact("this is my", {"my secret": "[KEY]"}, is_cut=True) == "this is my"
    assert redact("this is my secre", {"my secret": "[KEY]"}) == "this is my secre"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"by {TOKEN}, it", "by dbt_…, it"),
        (f"{TOKEN}{TOKEN}x", "dbt_…dbt_…x"),
        ("dbt_project_evaluator_of_marts_and_their_sources", None),
        ("dbt_run", None),
    ],
)
def test_only_the_tokens_of_claims_are_redacted(text: str, shown: str | None) -> None:
    assert redact_tokens(text) == (text if shown is None else shown)
