"""The first agent of machines that the tests describe: keys, programs, local servers, none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from daybook.agents import candidates, kinds, providers
from daybook.agents.candidates import AgentCandidate, Found, Machine
from tests import rows

pytestmark = pytest.mark.anyio

LIMITS = "PROGRAM_SECONDS", "SERVER_SECONDS"
HANG = object()
"""A program or a server that never answers."""
OLLAMA = "http://127.0.0.1:11434/v1"
LM_STUDIO = "http://127.0.0.1:1234/v1"
LLAMA_CPP = "http://127.0.0.1:8080/v1"
KEY = "k-12345678"

LLAMA = {"name": "llama3:8b", "model": "llama3:8b", "details": {"family": "llama"}}
EMBEDDING = {"name": "nomic-embed-text:latest", "details": {"family": "nomic-bert"}}


def ollama(*models: Mapping[str, Any]) -> dict[str, Any]:
    return {"11434/api/tags": {"models": [*models]}}


def lm_studio(*models: Mapping[str, Any]) -> dict[str, Any]:
    return {"1234/api/v0/models": {"object": "list", "data": [*models]}}


def llama_cpp(owner: str = "llamacpp") -> dict[str, Any]:
    model = {"id": "qwen3.gguf", "object": "model", "owned_by": owner}
    # The server lists each model a second time, without its owner.
    return {"8080/v1/models": {"object": "list", "data": [model], "models": [{"name": "other"}]}}


async def found(
    keys: Mapping[str, str] | None = None,
    programs: Mapping[str, object] | None = None,
    servers: Mapping[str, object] | None = None,
    *,
    only_first: bool = False,
) -> Found:
    """Return what is found on a machine.

    ``programs`` are what each prints for `--version`; ``servers`` are answers by port and path.
    """
    answers = {f"http://127.0.0.1:{each}": answer for each, answer in (servers or {}).items()}
    prints = {f"/opt/bin/{name}": printed for name, printed in (programs or {}).items()}

    async def answer(known: Mapping[str, object], asked: str) -> Any:
        if known.get(asked) is HANG:
            await asyncio.Event().wait()
        return known.get(asked)

    machine = Machine(
        environment=keys or {},
        which=lambda name: f"/opt/bin/{name}" if name in (programs or {}) else None,
        version=lambda program: answer(prints, program),
        get=lambda url: answer(answers, url),
        ports={each.title: each.port for each in candidates.SERVERS},
    )
    return await candidates.find(machine, only_first=only_first)


async def first(*machine: Any) -> AgentCandidate:
    return (await found(*machine)).candidates[0]


@pytest.mark.parametrize(
    ("variable", "model"),
    [
        ("OPENAI_API_KEY", "openai:gpt-6-luna"),
        ("ANTHROPIC_API_KEY", "anthropic:claude-haiku-5-5"),
        ("GOOGLE_API_KEY", "google:gemini-3.8-flash"),
        ("GEMINI_API_KEY", "google:gemini-3.8-flash"),
    ],
)
async def test_the_key_of_a_provider_gives_its_small_model(variable: str, model: str) -> None:
    chosen = await first({variable: KEY}, {"claude": "2.1.3"}, ollama(LLAMA))
    assert str(chosen) == f"{model} ({variable} is set; Prefect stores the key encrypted)"
    assert (chosen.kind, chosen.settings) == ("model", {"model": model, "api_key": KEY})
    assert KEY not in repr(chosen)


@pytest.mark.parametrize(
    ("name", "printed", "why", "arguments", "output"),
    [
        (
            "claude",
            "2.1.3 (Claude Code)\n",
            "Claude Code (claude 2.1.3 is on the PATH)",
            ["-p", "--output-format", "stream-json", "--verbose"],
            "claude-code",
        ),
        (
            "codex",
            "codex-cli 0.143.0\n",
            "Codex (codex 0.143.0 is on the PATH)",
            ["exec", "--json", "--skip-git-repo-check"],
            "codex",
        ),
        (
            "gemini",
            "0.49.0",
            "Gemini CLI (gemini 0.49.0 is on the PATH)",
            ["--output-format", "text"],
            "text",
        ),
        ("opencode", "v1.15.5", "opencode (opencode 1.15.5 is on the PATH)", ["run"], "text"),
    ],
)
async def test_a_program_that_prints_its_version_answers_before_a_server(
    name: str, printed: str, why: str, arguments: list[str], output: str
) -> None:
    chosen = await first({}, {name: printed}, ollama(LLAMA))
    assert str(chosen) == why
    settings: Any = kinds.find_kind(chosen.kind).validate(chosen.settings)
    assert settings.command == [f"/opt/bin/{name}", *arguments]
    assert (settings.output, settings.tools, settings.work_dir) == (output, [], "")


@pytest.mark.parametrize(
    ("servers", "model", "url", "why"),
    [
        (ollama(LLAMA), "llama3:8b", OLLAMA, "Ollama answers on 127.0.0.1:11434"),
        (
            lm_studio({"id": "qwen3-4b", "type": "llm", "capabilities": ["tool_use"]}),
            "qwen3-4b",
            LM_STUDIO,
            "LM Studio answers on 127.0.0.1:1234; the model can call tools",
        ),
        (  # before version 0.3.6
            {
                "1234/api/v0/models": {"error": "Unexpected"},
                "1234/v1/models": {"data": [{"id": "a"}]},
            },
            "a",
            LM_STUDIO,
            "LM Studio answers on 127.0.0.1:1234",
        ),
        (llama_cpp(), "qwen3.gguf", LLAMA_CPP, "llama.cpp answers on 127.0.0.1:8080"),
    ],
)
async def test_a_local_server_gives_the_model_that_it_lists(
    servers: dict[str, Any], model: str, url: str, why: str
) -> None:
    chosen = await first({}, {}, servers)
    assert str(chosen) == f"{model} ({why})"
    assert chosen.settings == {"model": model, "base_url": url}
    kinds.find_kind(chosen.kind).validate(chosen.settings)


async def test_without_key_program_and_server_there_is_no_candidate() -> None:
    assert await found() == Found([], [])


async def test_the_candidates_are_in_the_order_of_preference() -> None:
    keys = {"GEMINI_API_KEY": KEY, "GOOGLE_API_KEY": KEY, "OPENAI_API_KEY": KEY}
    programs = {"opencode": "1.1", "gemini": "1.2", "codex": "1.3", "claude": "1.4"}
    servers = {**llama_cpp(), **lm_studio({"id": "a"}), **ollama(LLAMA)}
    everything = await found(keys, programs, servers)
    assert [each.title for each in everything.candidates] == [
        "openai:gpt-6-luna",
        "google:gemini-3.8-flash",
        "Claude Code",
        "Codex",
        "Gemini CLI",
        "opencode",
        "llama3:8b",
        "a",
        "qwen3.gguf",
    ]
    # The first of two variables with the key of one provider counts.
    assert "GOOGLE_API_KEY" in everything.candidates[1].why


MACHINES: dict[str, tuple[Any, str]] = {
    "a key of OpenAI": (({"OPENAI_API_KEY": KEY},), "openai:gpt-6-luna"),
    "a key of Anthropic": (({"ANTHROPIC_API_KEY": KEY},), "anthropic:claude-haiku-5-5"),
    "a key of Google": (({"GEMINI_API_KEY": KEY},), "google:gemini-3.8-flash"),
    "Claude Code": (({}, {"claude": "2.1.3"}), "Claude Code"),
    "Codex": (({}, {"codex": "0.143.0"}), "Codex"),
    "Gemini CLI": (({}, {"gemini": "0.49.0"}), "Gemini CLI"),
    "opencode, which acts without asking": (({}, {"opencode": "1.15.5"}), ""),
    "Ollama": (({}, {}, ollama(LLAMA)), "llama3:8b"),
    "LM Studio": (({}, {}, lm_studio({"id": "qwen3-4b"})), "qwen3-4b"),
    "llama.cpp": (({}, {}, llama_cpp()), "qwen3.gguf"),
    "a program and a server": (({}, {"codex": "0.1"}, ollama(LLAMA)), "Codex"),
    "two programs": (({}, {"codex": "0.1", "claude": "2.1"}), "Claude Code"),
    "a program beside one that hangs": (({}, {"claude": HANG, "codex": "0.1"}), "Codex"),
    "a server that hangs": (({}, {}, {"11434/api/tags": HANG}), ""),
    "nothing": (({}, {}, {}), ""),
}
"""Keys, programs and servers of each machine, and the agent that `up` chooses on it."""


async def test_up_chooses_one_agent_on_each_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in LIMITS:
        monkeypatch.setattr(candidates, limit, 0.05)
    for (name, (machine, title)), trying in rows.each(MACHINES.items()):
        with trying:
            known = (await found(*machine, only_first=True)).candidates
            assert [each.title for each in known[:1]] == [title] * bool(title), name


async def test_with_a_key_up_asks_neither_a_program_nor_a_server() -> None:
    hanging = {"claude": HANG}, {"11434/api/tags": HANG}
    async with asyncio.timeout(candidates.SERVER_SECONDS / 2):
        chosen = await found({"OPENAI_API_KEY": KEY}, *hanging, only_first=True)
    assert [each.title for each in chosen.candidates] == ["openai:gpt-6-luna"]


async def test_what_hangs_does_not_answer_and_does_not_delay_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limit in LIMITS:
        monkeypatch.setattr(candidates, limit, 0.05)
    programs = {"claude": HANG, "codex": "codex-cli 1.0"}
    servers = {"11434/api/tags": HANG, "8080/v1/models": HANG, **lm_studio({"id": "a"})}
    async with asyncio.timeout(10):
        titles = [each.title for each in (await found({}, programs, servers)).candidates]
    assert titles == ["Codex", "a"]


async def test_a_key_without_its_sdk_is_a_note_and_the_next_candidate_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(providers, "_is_importable", lambda module: module != "anthropic")
    machine = await found({"ANTHROPIC_API_KEY": KEY}, {"codex": "1.0"})
    assert [each.title for each in machine.candidates] == ["Codex"]
    (note,) = machine.notes
    assert note.startswith("ANTHROPIC_API_KEY is set, but the SDK of its provider is not installed")
    assert "install" in note.rpartition(": ")[2]
    assert KEY not in note + repr(machine)
    both = await found({"ANTHROPIC_API_KEY": KEY, "GEMINI_API_KEY": KEY})
    assert [each.title for each in both.candidates] == ["google:gemini-3.8-flash"]


@pytest.mark.parametrize("printed", ["", "error: no such option", "\x1b[31m1.0", "2", "none."])
async def test_a_program_that_prints_no_version_is_no_candidate(printed: str) -> None:
    assert await found({}, {"claude": printed}) == Found([], [])


@pytest.mark.parametrize(
    "listing",
    [
        None,
        [],
        "text",
        {},
        {"models": None},
        {"models": {"name": "a"}},
        {"models": [None, "a", 7, [], {}]},
        {"models": [{"name": None}, {"name": ""}, {"name": 7}, {"name": "two words"}]},
        {"models": [{"name": "a\x1b[31m"}, {"name": "a" * 201}]},
        {"models": [EMBEDDING, {"name": "all-minilm", "details": {"family": "bert"}}]},
        {"models": [{"name": "a", "capabilities": ["embedding"]}]},
        {"data": [{"id": "a", "type": "embeddings"}, {"id": "bge-reranker-v2"}]},
        # Ollama passes its prompts on to another host.
        {"models": [{"name": "gpt-oss:120b-cloud", "remote_host": "https://ollama.com:443"}]},
    ],
)
async def test_a_server_without_a_model_for_prompts_is_no_candidate(listing: Any) -> None:
    assert await found({}, {}, {"11434/api/tags": listing}) == Found([], [])


async def test_another_server_on_the_port_of_llama_cpp_is_no_candidate() -> None:
    assert await found({}, {}, llama_cpp(owner="someone")) == Found([], [])


@pytest.mark.parametrize(
    ("models", "chosen"),
    [
        ([EMBEDDING, LLAMA], "llama3:8b"),
        ([LLAMA, {"name": "qwen3:4b", "capabilities": ["completion", "tools"]}], "qwen3:4b"),
        ([LLAMA, {"name": "other"}], "llama3:8b"),
        ([{"name": "a"}, {"name": "b", "state": "loaded"}], "b"),
        ([{"name": "a", "capabilities": ["tools"]}, {"name": "b", "state": "loaded"}], "a"),
    ],
)
async def test_a_model_that_can_call_tools_is_preferred_and_then_a_loaded_one(
    models: list[dict[str, Any]], chosen: str
) -> None:
    assert (await first({}, {}, ollama(*models))).title == chosen


async def test_no_program_gets_more_rights_than_its_defaults() -> None:
    programs = {each.name: "1.0" for each in candidates.PROGRAMS}
    arguments = [
        argument
        for each in (await found({}, programs)).candidates
        for argument in each.settings["command"][1:]
    ]
    given = ("yolo", "danger", "bypass", "approv", "permission", "sandbox", "auto", "trust", "full")
    assert not [each for each in arguments if any(word in each for word in given)]


async def test_gemini_gets_its_key_and_says_that_it_needs_a_trusted_folder() -> None:
    chosen = await first({}, {"gemini": "0.49.0"})
    assert "GEMINI_API_KEY" in chosen.settings["environment"]
    assert "daybook agents edit NAME --work-dir" in chosen.hint
