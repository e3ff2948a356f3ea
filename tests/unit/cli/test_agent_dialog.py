"""The dialog of `daybook agents add` without arguments."""

from __future__ import annotations

import getpass
import sys
from typing import Any

import pytest

from daybook import api
from daybook.agents.candidates import AgentCandidate, Found
from daybook.agents.providers import FoundKey
from daybook.api.agents import Offer, SavedAgent
from tests.unit.cli.conftest import InterruptedTerminal, Terminal

pytestmark = pytest.mark.usefixtures("stored")

KEY = "k-12345678"
CLAUDE = AgentCandidate(
    "Claude Code", "claude 2.1.3 is on the PATH", "command", {"command": ["/c"]}
)
LOCAL = AgentCandidate("llama3", "Ollama answers", "model", {"model": "llama3"}, hint="it is slow")
MODELS = ["openai:gpt-6-luna", "google:gemini-3.8-flash"]

Added = list[tuple[str, str, dict[str, Any], bool]]


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Added:
    """Return the calls of `api.agents.add`; the machine has two agents, and no agent `default`."""
    calls: Added = []

    async def add(name: str, kind: str, fields: Any, *, replace: bool = False) -> SavedAgent:
        calls.append((name, kind, dict(fields), replace))
        shown = {**fields, "api_key": "********" if "api_key" in fields else ""}
        return SavedAgent(
            name=name, kind=kind, type="x", settings=shown, problem=None, jobs=[], notes=[]
        )

    monkeypatch.setattr(api.agents, "add", add)
    offers(monkeypatch)
    return calls


def offers(monkeypatch: pytest.MonkeyPatch, *, found: Any = None, is_free: bool = True) -> None:
    async def offer() -> Offer:
        return Offer(found or Found([CLAUDE, LOCAL], []), MODELS, is_default_free=is_free)

    monkeypatch.setattr(api.agents, "offer", offer)


@pytest.fixture
def types(daybook: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the command for a user who types the given text."""

    def run(text: str, *tokens: str) -> Any:
        monkeypatch.setattr(sys, "stdin", Terminal(text))
        return daybook("agents", "add", *tokens)

    return run


def test_the_first_candidate_becomes_the_agent_default_after_two_empty_answers(
    types: Any, added: Added
) -> None:
    result = types("\n\n")
    assert result.code == 0, result.err
    assert added == [("default", "command", {"command": ["/c"]}, True)]
    assert result.err.splitlines()[:4] == [
        "  1  Claude Code (claude 2.1.3 is on the PATH)",
        "  2  llama3 (Ollama answers)",
        "  3  openai:gpt-6-luna (asks for your key)",
        "  4  google:gemini-3.8-flash (asks for your key)",
    ]
    assert "Agent [1]: Name [default]: " in result.err
    assert "Try it: daybook agents test default" in result.err


def test_with_json_the_dialog_is_on_stderr(types: Any, added: Added) -> None:
    assert types("\n\n", "--json").json["name"] == "default"
    assert len(added) == 1


def test_another_candidate_gets_another_name_and_replaces_nothing(types: Any, added: Added) -> None:
    result = types("2\nlocal\n")
    assert added == [("local", "model", {"model": "llama3"}, False)]
    assert "! it is slow" in result.err


def test_the_key_of_a_provider_is_read_from_a_hidden_prompt(
    types: Any, added: Added, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getpass, "getpass", lambda _: f" {KEY} ")
    result = types("4\n\n")
    assert added == [("default", "model", {"model": MODELS[1], "api_key": KEY}, True)]
    assert KEY not in result.out + result.err


def test_a_default_agent_that_answers_is_never_the_suggested_name(
    types: Any, added: Added, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers(monkeypatch, is_free=False)
    result = types("1\n\n")
    assert (result.code, added) == (2, [])
    assert "Name: " in result.err and "nothing was typed" in result.err
    types("1\ndefault\n")
    assert added == [("default", "command", {"command": ["/c"]}, False)]


def test_a_machine_without_agents_offers_models_for_which_a_key_is_typed(
    types: Any, added: Added, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = FoundKey("ANTHROPIC_API_KEY", "anthropic:x", KEY, "anthropic")
    offers(monkeypatch, found=Found([], [key]))
    monkeypatch.setattr(getpass, "getpass", lambda _: KEY)
    result = types("\n\n")
    assert added == [("default", "model", {"model": MODELS[0], "api_key": KEY}, True)]
    assert result.err.startswith("This machine has no provider's key")
    assert "! ANTHROPIC_API_KEY is set, but the SDK of its provider is not installed" in result.err


@pytest.mark.parametrize("answer", ["0", "5", "-1", "one", "1.0", "²", "1 2"])
def test_a_number_that_is_not_in_the_list_is_refused(types: Any, added: Added, answer: str) -> None:
    result = types(f"{answer}\nname\n")
    assert (result.code, added) == (2, [])
    assert f'"{answer}" is not in the list (write 1 to 4)' in result.err


def test_the_end_of_the_input_and_ctrl_c_add_nothing(
    types: Any, added: Added, daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert types("").code == 2
    assert types("1\n").code == 2
    monkeypatch.setattr(sys, "stdin", InterruptedTerminal("1\nname\n"))
    assert daybook("agents", "add").code == 130
    assert added == []


@pytest.mark.parametrize("tokens", [["--offline"], ["--model", "a:b"], ["--replace"]])
def test_with_any_option_the_name_is_required(types: Any, added: Added, tokens: list[str]) -> None:
    result = types("\n\n", *tokens)
    assert (result.code, added) == (2, [])
    assert "NAME is missing (see `daybook agents add --help`)" in result.err


def test_without_a_terminal_the_name_is_required(daybook: Any, added: Added) -> None:
    result = daybook("agents", "add")
    assert (result.code, added) == (2, [])
    assert "NAME is missing (see `daybook agents add --help`)" in result.err
