"""The probes for the first agent, with real programs on a PATH and real servers on localhost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from daybook.agents import candidates
from daybook.agents.candidates import MACHINE_VARIABLE, Found
from tests.receiver import Receiver, answer, drip, hang, head, raw, redirect, serving

pytestmark = pytest.mark.anyio

MODELS = {
    "Ollama": {"models": [{"name": "llama3:8b", "capabilities": ["completion", "tools"]}]},
    "LM Studio": {"data": [{"id": "qwen3-4b", "type": "llm"}]},
    "llama.cpp": {"data": [{"id": "a.gguf", "owned_by": "llamacpp"}]},
}
LIMITS = {name: getattr(candidates, name) for name in ("PROGRAM_SECONDS", "SERVER_SECONDS")}
PATHS = {
    "Ollama": ["/api/tags"],
    "LM Studio": ["/api/v0/models"],
    "llama.cpp": ["/v1/models"],
}


class StubMachine:
    """A folder of programs, and servers on free ports."""

    def __init__(self, folder: Path, servers: dict[str, Receiver]) -> None:
        self.folder, self.servers = folder, servers
        self.log = folder.parent / "calls"

    def has(self, name: str, body: str) -> None:
        """Add a program that logs its arguments, input and environment, and then runs ``body``."""
        file = self.folder / name
        record = f"{{ echo \"{name} $*\"; cat; env; }} >> '{self.log}'"
        file.write_text(f"#!/bin/sh\n{record}\n{body}\n")
        file.chmod(0o755)

    def lists(self, title: str, body: bytes | None = None) -> None:
        """Let a server list its models, or send another body."""
        self.servers[title].steps = [answer(200, body or json.dumps(MODELS[title]).encode())]

    async def find(self) -> Found:
        return await candidates.find(candidates.this_machine())


@pytest.fixture
async def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StubMachine]:
    """Yield a machine without programs, whose servers answer 404; this process looks at it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for limit in LIMITS:
        monkeypatch.setattr(candidates, limit, 60.0)  # for a loaded machine
    async with AsyncExitStack() as stack:
        servers = {
            each.title: await stack.enter_async_context(serving()) for each in candidates.SERVERS
        }
        for each in servers.values():
            each.steps = [answer(404)]
        ports = {title: each.port for title, each in servers.items()}
        path = f"{folder}{os.pathsep}{os.defpath}"  # the programs are scripts of the shell
        monkeypatch.setenv(MACHINE_VARIABLE, json.dumps({"path": path, "ports": ports}))
        yield StubMachine(folder, servers)


def titles(found: Found) -> list[str]:
    return [each.title for each in found.candidates]


async def test_programs_and_servers_are_found_with_their_addresses(machine: StubMachine) -> None:
    machine.has("claude", "echo '2.1.3 (Claude Code)'")
    machine.has("opencode", "echo 1.15.5")
    for title in MODELS:
        machine.lists(title)
    found = await machine.find()
    assert titles(found) == ["Claude Code", "opencode", "llama3:8b", "qwen3-4b", "a.gguf"]
    claude, _, local, *_ = found.candidates
    assert claude.settings["command"][0] == str(machine.folder / "claude")
    assert local.settings["base_url"] == f"{machine.servers['Ollama'].address}/v1"


async def test_only_the_version_and_the_lists_of_models_are_requested(
    machine: StubMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k-12345678")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    for each in candidates.PROGRAMS:
        machine.has(each.name, "echo 1.0")
    for title in MODELS:
        machine.lists(title)
    assert len(titles(await machine.find())) == 1 + len(candidates.PROGRAMS) + len(MODELS)
    called = machine.log.read_text()
    calls = [line for line in called.splitlines() if line.endswith("--version")]
    assert sorted(calls) == [
        "claude --version",
        "codex --version",
        "gemini --version",
        "opencode --version",
    ]
    assert "k-12345678" not in called and "_API_KEY" not in called
    for title, server in machine.servers.items():
        assert [each.path for each in server.requests] == PATHS[title]
        assert {each.method for each in server.requests} == {"GET"}
        assert not any(each.body for each in server.requests)
        assert not any("authorization" in each.headers for each in server.requests)
        assert "k-12345678" not in str(server.requests)


async def test_hanging_programs_and_servers_end_within_the_limit(
    machine: StubMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, usual in LIMITS.items():
        monkeypatch.setattr(candidates, limit, usual)
    forever = "exec tail -f /dev/null"
    machine.has("claude", f"trap '' TERM; echo $$ > '{machine.folder}/pid'; {forever}")
    machine.has("codex", forever)
    machine.servers["Ollama"].steps = [hang]
    machine.servers["LM Studio"].steps = [drip(head() + b"{")]
    began = time.monotonic()
    assert titles(await machine.find()) == []
    took = time.monotonic() - began
    assert max(LIMITS.values()) <= took < 2 * sum(LIMITS.values())  # not one after the other
    with pytest.raises(ProcessLookupError):  # it ignores SIGTERM
        os.kill(int((machine.folder / "pid").read_text()), 0)
    await machine.servers["Ollama"].left.wait()


@pytest.mark.parametrize(
    "body",
    ["echo 2.1.3; exit 1", "echo 2.1.3 >&2", "kill -9 $$", "echo hello"],
)
async def test_a_program_that_fails_is_not_found(machine: StubMachine, body: str) -> None:
    machine.has("claude", body)
    assert titles(await machine.find()) == []


async def test_a_program_that_cannot_be_started_is_not_found(machine: StubMachine) -> None:
    for name, text in {"claude": "#!/no/such/interpreter\n", "codex": "no script\n"}.items():
        (machine.folder / name).write_text(text)
        (machine.folder / name).chmod(0o755)
    (machine.folder / "gemini").write_text("#!/bin/sh\necho 1.0\n")  # not executable
    (machine.folder / "opencode").mkdir()
    assert titles(await machine.find()) == []


async def test_what_is_no_list_of_models_is_not_found(machine: StubMachine) -> None:
    elsewhere = machine.servers["llama.cpp"]
    machine.lists("llama.cpp")
    longest = json.dumps(MODELS["Ollama"]).encode().ljust(candidates.MAX_LIST_BYTES)
    machine.lists("Ollama", longest)
    assert "llama3:8b" in titles(await machine.find())
    for step in (
        redirect(f"{elsewhere.address}/v1/models"),
        answer(200, longest + b" "),
        answer(500, json.dumps(MODELS["Ollama"]).encode()),
        answer(200, b"<html>It works!</html>"),
        answer(200, b"\xff{}"),
        raw(b"not HTTP\r\n\r\n"),
        raw(b""),
    ):
        machine.servers["Ollama"].steps = [step]
        elsewhere.requests.clear()
        assert titles(await machine.find()) == ["a.gguf"]
        assert len(elsewhere.requests) == 1  # that of its own probe, and no redirected one


async def test_an_older_lm_studio_has_only_the_compatible_list(machine: StubMachine) -> None:
    server = machine.servers["LM Studio"]
    unexpected = answer(200, b'{"error": "Unexpected endpoint or method."}')
    server.steps = [unexpected, answer(200, json.dumps(MODELS["LM Studio"]).encode())]
    assert titles(await machine.find()) == ["qwen3-4b"]
    assert [each.path for each in server.requests] == ["/api/v0/models", "/v1/models"]


async def test_a_closed_port_is_no_server(
    machine: StubMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MACHINE_VARIABLE, json.dumps({"path": "", "ports": {"Ollama": 1}}))
    assert titles(await machine.find()) == []


def test_without_the_variable_of_tests_the_usual_path_and_ports_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(MACHINE_VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "claude").write_text("#!/bin/sh\n")
    (tmp_path / "claude").chmod(0o755)
    usual = candidates.this_machine()
    assert usual.which("claude") == str(tmp_path / "claude")
    assert usual.ports == {"Ollama": 11434, "LM Studio": 1234, "llama.cpp": 8080}


def test_a_test_process_finds_no_agent_of_the_developers_machine() -> None:
    machine = candidates.this_machine()
    assert machine.which("sh") is None
    assert not machine.ports
