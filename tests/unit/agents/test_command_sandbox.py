"""Command agents in a sandbox: what their programs find there, and the errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daybook.agents.base import AgentReply, AgentRequest, McpServers, ProgramFolder
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.agents.program_sandbox import ProgramSandbox
from daybook.errors import AgentFailed, AgentMisconfigured, InvalidInput
from daybook.http.guard import Guard, Rule
from tests.unit.processes.sandboxed import needs_bubblewrap

pytestmark = [pytest.mark.anyio, needs_bubblewrap]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's home, with a work directory and a program in `~/.local/bin`."""
    home = tmp_path / "user"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DAYBOOK_HOME", str(home / ".daybook"))
    monkeypatch.setenv("PATH", f"{home}/.local/bin:/usr/bin:/bin")
    for folder in ("work", ".local/bin", ".tool", ".daybook"):
        (home / folder).mkdir(parents=True)
    program = home / ".local/bin/tool"
    program.write_text("#!/bin/sh\necho it runs\n")
    program.chmod(0o755)
    return home


async def ask(*command: str, request: dict[str, Any] | None = None, **settings: Any) -> AgentReply:
    """Ask an agent in the sandbox `workspace`; ``request`` has further fields of the request."""
    agent = CommandAgent("robot", CommandSettings(command=list(command), **settings))
    sandbox = ProgramSandbox("workspace", Guard.from_settings(Rule.OPERATOR))
    given = {"sandbox": sandbox, **(request or {})}
    return await agent.answer(AgentRequest("Hi", 60.0, "flow:1", **given))


async def test_a_program_finds_its_tool_servers_skills_and_login(home: Path) -> None:
    skill = ProgramFolder("names", "1", {"SKILL.md": b"Use names."})
    script = (
        "cat $0; echo; cat .claude/skills/names/SKILL.md; echo; pwd; echo 1 > ~/.tool/new; ls -A ~"
    )
    given = {"servers": McpServers({"mcpServers": {}}), "folders": (skill,)}
    reply = await ask(
        *("sh", "-c", script, "{mcp_config}"),
        request=given,
        work_dir="~/work",
        sandbox_writable=["~/.tool"],
    )
    lines = reply.text.splitlines()
    assert lines[1:] == ["Use names.", str(home / "work"), ".tool", "work"]
    assert "mcpServers" in lines[0]
    assert (home / ".tool/new").exists()


async def test_a_hidden_program_is_an_error_with_the_option(home: Path) -> None:
    with pytest.raises(InvalidInput, match=r"add --sandbox-readable .*/.local/bin to its agent"):
        await ask("tool")
    assert (await ask("tool", sandbox_readable=["~/.local/bin"])).text == "it runs"


async def test_a_hidden_interpreter_is_an_error_with_the_option(home: Path) -> None:
    interpreter = home / ".tool" / "sh"
    interpreter.symlink_to("/bin/sh")
    (home / ".local/bin/tool").write_text(f"#!{interpreter}\necho it runs\n")
    with pytest.raises(AgentMisconfigured, match=r"hides what it needs, see --sandbox-readable"):
        await ask("tool", sandbox_readable=["~/.local/bin"])


async def test_a_list_of_hosts_does_not_allow_private_addresses(home: Path) -> None:
    get = "import urllib.request as u; u.urlopen('http://10.1.2.3:8888/')"
    asked = await ask("sh", "-c", f'python3 -c "{get}" || true', sandbox_hosts=["10.1.2.3:8888"])
    (warning,) = asked.warnings
    assert "10.1.2.3:8888" in warning and "public addresses only" in warning


async def test_a_killed_program_is_an_error_with_the_signal(home: Path) -> None:
    with pytest.raises(AgentFailed, match=r"sh exited with code 137 \(SIGKILL\)"):
        await ask("sh", "-c", "kill -9 $$")
