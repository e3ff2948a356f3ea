"""The options of `daybook agents add` for model agents, without Prefect."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from daybook.agents import providers
from daybook.agents.command import CommandSettings
from daybook.agents.model_settings import ModelSettings
from daybook.api.agents import AgentDetails
from daybook.cli import agents
from daybook.cli.agent_options import AgentOptions, missing_key_note
from daybook.errors import InvalidInput

KEY = "sk-secret-1234567890"


def test_each_setting_has_an_option_and_no_key_is_one() -> None:
    names = set(AgentOptions.__annotations__)
    settings = ModelSettings.model_fields.keys() | CommandSettings.model_fields.keys()
    assert settings - names == {"options", "api_key"}
    assert {"key_env", "key_stdin"} < names


def test_options_become_settings_without_those_not_given() -> None:
    assert AgentOptions(model="openai:x").settings() == {"model": "openai:x"}
    given = AgentOptions(model="x", base_url="http://h/v1", temperature=0.0, max_tokens=9)
    assert given.settings() == {
        "model": "x",
        "base_url": "http://h/v1",
        "options": {"temperature": 0.0, "max_tokens": 9},
    }
    assert AgentOptions().settings() == {}


@pytest.mark.parametrize("limit", [0, -1])
def test_a_request_limit_below_1_is_refused(limit: int) -> None:
    with pytest.raises(InvalidInput, match="use 1 or more") as caught:
        AgentOptions(model="a:b", request_limit=limit).settings()
    assert caught.value.field == "request_limit"
    assert AgentOptions(model="a:b", request_limit=1).settings()["request_limit"] == 1


def test_model_options_are_shown_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    options = {"temperature": 0.2, "max_tokens": 9}
    settings = {"model": "a:b", "options": options, "api_key": ""}
    agent = AgentDetails(
        name="x", kind="model", type="daybook-model-agent", settings=settings, problem=None, jobs=[]
    )
    agents._print_agent(agent)
    assert "options  temperature 0.2, max tokens 9\n" in capsys.readouterr().out


def test_the_key_is_read_from_the_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    assert AgentOptions(model="a:b", key_env="MY_KEY").settings()["api_key"] == KEY


def test_the_key_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{KEY}\n"))
    assert AgentOptions(model="a:b", key_stdin=True).settings()["api_key"] == KEY


def test_a_key_that_is_no_text_is_refused_without_its_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), encoding="utf-8"))
    with pytest.raises(InvalidInput, match=r"^key_stdin: is not UTF-8 text$"):
        AgentOptions(model="a:b", key_stdin=True).settings()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (AgentOptions(model="a:b", key_env=KEY), "key_env"),  # the key, not a name
        (AgentOptions(model="a:b", key_stdin=True), "key_stdin"),
        (AgentOptions(model="a:b", key_env="HOME", key_stdin=True), "key_env and key_stdin"),
    ],
)
def test_a_missing_key_is_refused_without_repeating_the_value(
    options: AgentOptions, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(InvalidInput) as caught:
        options.settings()
    assert caught.value.field == field
    assert KEY not in str(caught.value)


def test_an_unset_variable_is_named() -> None:
    with pytest.raises(InvalidInput, match="key_env: NOT_SET is unset or empty"):
        AgentOptions(model="a:b", key_env="NOT_SET").settings()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "openai:x"}, "OPENAI_API_KEY"),
        ({"model": "openai-chat:x"}, "OPENAI_API_KEY"),
        ({"model": "google:x"}, "GOOGLE_API_KEY"),
        ({"model": "groq:x"}, "the provider's variable"),
        ({"model": "x", "base_url": "http://h/v1"}, "none is sent"),
    ],
)
def test_the_note_for_a_missing_key_names_its_variable(given: dict[str, str], words: str) -> None:
    assert words in missing_key_note(given)


def test_the_note_names_the_variable_of_each_default_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, model in providers.DEFAULT_MODELS.items():
        if variable != "GEMINI_API_KEY":  # the second variable of Google
            assert f"set {variable} in" in missing_key_note({"model": model})
    monkeypatch.setitem(providers.DEFAULT_MODELS, "GROQ_API_KEY", "groq:llama")
    assert "set GROQ_API_KEY in" in missing_key_note({"model": "groq:x"})


def test_options_win_over_an_agent_spec(tmp_path: Path) -> None:
    file = tmp_path / "reader.yaml"
    file.write_text(
        "model: openai:x\ninstructions: Read.\ncapabilities: [WebFetch]\n"
        "model_settings: {temperature: 0.5, seed: 7}\n"
    )
    assert agents.with_spec(AgentOptions(temperature=0.0).settings(), str(file)) == {
        "model": "openai:x",
        "system_prompt": "Read.",
        "options": {"temperature": 0.0, "seed": 7},
        "tools": ["web.fetch"],
    }
    given = AgentOptions(model="openai:y", system_prompt="Write.", tools=["search"]).settings()
    read = agents.with_spec(given, str(file))
    assert (read["model"], read["system_prompt"], read["tools"]) == (
        "openai:y",
        "Write.",
        ["search"],
    )


def test_a_spec_needs_a_file_and_a_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"spec: .*missing.yaml cannot be read"):
        agents.with_spec({}, str(tmp_path / "missing.yaml"))
    (tmp_path / "reader.json").write_text('{"instructions": "Read."}')
    with pytest.raises(InvalidInput, match=r"spec: has no model \(add one to it, or use --model\)"):
        agents.with_spec({}, str(tmp_path / "reader.json"))
    read = agents.with_spec({"model": "openai:x"}, str(tmp_path / "reader.json"))
    assert read == {"model": "openai:x", "system_prompt": "Read."}
