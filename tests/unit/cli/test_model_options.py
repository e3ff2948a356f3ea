"""How a model agent is written on the command line; nothing here needs a Prefect."""

from __future__ import annotations

import io

import pytest

from daybook.agents import providers
from daybook.cli import agents
from daybook.cli.model_options import ModelOptions
from daybook.errors import InvalidInput

KEY = "sk-secret-1234567890"


def test_options_become_settings_and_what_was_not_given_stays_out() -> None:
    assert ModelOptions(model="openai:x").settings() == {"model": "openai:x"}
    given = ModelOptions(model="x", base_url="http://h/v1", temperature=0.0, max_tokens=9)
    assert given.settings() == {
        "model": "x",
        "base_url": "http://h/v1",
        "options": {"temperature": 0.0, "max_tokens": 9},
    }
    assert ModelOptions().settings() == {}


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_no_request_is_refused(limit: int) -> None:
    with pytest.raises(InvalidInput, match="use 1 or more") as caught:
        ModelOptions(model="a:b", request_limit=limit).settings()
    assert caught.value.field == "request_limit"
    assert ModelOptions(model="a:b", request_limit=1).settings()["request_limit"] == 1


def test_options_are_shown_as_words(capsys: pytest.CaptureFixture[str]) -> None:
    options = {"temperature": 0.2, "max_tokens": 9}
    settings = {"model": "a:b", "options": options, "api_key": ""}
    agents._print_agent({"name": "x", "kind": "model", "settings": settings, "problem": None})
    assert "options  temperature 0.2, max tokens 9\n" in capsys.readouterr().out


def test_the_key_comes_out_of_the_variable_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    assert ModelOptions(model="a:b", key_env="MY_KEY").settings()["api_key"] == KEY


def test_the_key_comes_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{KEY}\n"))
    assert ModelOptions(model="a:b", key_stdin=True).settings()["api_key"] == KEY


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (ModelOptions(model="a:b", key_env=KEY), "key_env"),  # the key in the name's place
        (ModelOptions(model="a:b", key_stdin=True), "key_stdin"),
        (ModelOptions(model="a:b", key_env="HOME", key_stdin=True), "key_env and key_stdin"),
    ],
)
def test_a_key_that_is_not_there_is_refused_and_not_repeated(
    options: ModelOptions, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(InvalidInput) as caught:
        options.settings()
    assert caught.value.field == field
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ModelOptions(model="openai:x"), "OPENAI_API_KEY"),
        (ModelOptions(model="openai-chat:x"), "OPENAI_API_KEY"),
        (ModelOptions(model="google:x"), "GOOGLE_API_KEY"),
        (ModelOptions(model="groq:x"), "the provider's variable"),
        (ModelOptions(model="x", base_url="http://h/v1"), "none is sent"),
    ],
)
def test_without_a_key_it_is_said_where_one_is_looked_for(
    options: ModelOptions, words: str
) -> None:
    assert words in options.missing_key_note()


def test_a_provider_of_the_first_start_is_known_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, model in providers.DEFAULT_MODELS.items():
        if variable != "GEMINI_API_KEY":  # the other one for Google
            assert f"set {variable} in" in ModelOptions(model=model).missing_key_note()
    monkeypatch.setitem(providers.DEFAULT_MODELS, "GROQ_API_KEY", "groq:llama")
    assert "set GROQ_API_KEY in" in ModelOptions(model="groq:x").missing_key_note()
