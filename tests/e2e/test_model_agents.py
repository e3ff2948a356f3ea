"""`daybook agents` with models, at a real Prefect and a local model provider."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from tests.commands import Daybook
from tests.costs import one_in
from tests.providers import KEY, Answer, Provider, Status, provider

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("without_added_agents")]


@pytest.fixture
def fake_provider() -> Iterator[Provider]:
    with provider() as fake_provider:
        yield fake_provider


def test_a_model_agent_takes_its_key_from_the_environment_and_is_replaced(
    daybook: Daybook, fake_provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = (
        "agents",
        "add",
        "quick",
        "--model",
        "openai:gpt-4o-mini",
        "--base-url",
        fake_provider.address,
    )
    monkeypatch.setenv("MY_KEY", KEY)
    code, out, err = daybook(*add, "--key-env", "MY_KEY", "--temperature", "0")
    assert code == 0
    assert KEY not in out + err
    assert "********" in out
    monkeypatch.delenv("MY_KEY")

    fake_provider.script = [Answer("Ready.", input_tokens=100, output_tokens=10)]
    code, out, err = daybook("agents", "test", "quick", "Are you ready?")
    assert (code, out) == (0, "Ready.\n")
    assert "gpt-4o-mini, 100 tokens in, 10 out, $0.000021" in err  # 0.15 and 0.60 $ a million
    (request,) = fake_provider.requests
    assert (request.prompt, request.key, request.body["temperature"]) == ("Are you ready?", KEY, 0)

    assert daybook(*add)[0] == 2
    code, out, err = daybook(*add, "--replace")
    assert code == 0
    assert "none is sent" in err
    code, out, err = daybook("agents", "test", "quick")
    assert (code, out) == (1, "")
    assert 'asks for a key, and agent "quick" has none (401)' in err


@pytest.mark.slow
def test_a_key_is_read_from_standard_input_and_an_error_is_json(
    daybook: Daybook, fake_provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(KEY + "\n"))
    add = ("agents", "add", "claude", "--model", "anthropic:claude-haiku-4-5", "--key-stdin")
    code, out, _ = daybook(*add, "--base-url", fake_provider.origin, "--json")
    assert code == 0
    assert json.loads(out)["settings"]["api_key"] == "********"
    fake_provider.script = [Status(529, "Full.", "overloaded_error")]
    code, out, _ = daybook("agents", "test", "claude", "--json")
    assert code == 1
    assert json.loads(out)["error"] == {
        "code": "agent_temporary",
        "message": "anthropic is overloaded (529): Full.",
    }
    assert len(fake_provider.requests) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    one_in(
        7,
        [
            (("--model", "nosuch:x"), "names no known provider"),
            (("--model", "groq:llama"), "pydantic-ai-slim[groq]"),
            (("--model", "gpt-6-luna"), "--base-url: is missing"),
            (("--model", "openai:x", "--offline"), "cannot be combined"),
            (("--model", "openai:x", "--work-dir", "/"), "--work-dir: "),
            (("--model", "openai:x", "--max-tokens", "0"), "max_tokens"),
            (("--model", "openai:x", "--key-env", "NOT_THERE"), "--key-env: "),
        ],
    ),
)
def test_an_invalid_model_agent_is_refused_and_not_stored(
    daybook: Daybook, options: tuple[str, ...], words: str
) -> None:
    code, out, err = daybook("agents", "add", "wrong", *options)
    assert (code, out) == (2, "")
    assert words in err
    assert daybook("agents", "show", "wrong")[0] == 3


@pytest.mark.slow
def test_an_agent_is_added_with_its_tools_and_an_unknown_tool_is_refused(
    daybook: Daybook, fake_provider: Provider
) -> None:
    add = (
        "agents",
        "add",
        "helper",
        "--model",
        "openai:gpt-4o-mini",
        "--base-url",
        fake_provider.address,
    )
    code, out, err = daybook(*add, "--tool", "seerch.find")
    assert (code, out) == (2, "")
    assert "seerch.find" in err
    assert "daybook" in err
    assert daybook("agents", "show", "helper")[0] == 3  # nothing was stored

    assert daybook("tools", "add", "search", "--", "true")[0] == 0
    try:
        tools = ("--tool", "search.get_*", "--tool", "daybook.cron_list")
        code, out, err = daybook(*add, *tools)
        assert code == 0
        assert "tools     search.get_* daybook.cron_list" in out
        code, out, err = daybook("agents", "show", "helper", "--json")
        assert json.loads(out)["settings"]["tools"] == ["search.get_*", "daybook.cron_list"]

        program = ("agents", "add", "program", "--tool", "search")
        code, out, err = daybook(*program, "--", "cat")
        assert code == 2
        assert "{mcp_config}" in err
        assert daybook(*program, "--", "cat", "{mcp_config}")[0] == 0
    finally:
        for agent in ("helper", "program"):
            daybook("agents", "remove", agent)
        # Other tests share this Prefect, and a server that agents use cannot be removed.
        assert daybook("tools", "remove", "search")[0] == 0
