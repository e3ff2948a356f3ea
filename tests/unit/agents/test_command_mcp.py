"""The file in which a program finds its MCP servers: what stands in it, and who may read it."""

from __future__ import annotations

import json
import os
import stat
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from daybook.agents.base import AgentReply, AgentRequest, McpServers
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.errors import AgentFailed, AgentTimeout

pytestmark = pytest.mark.anyio

Script = Callable[[str], list[str]]

SERVERS = McpServers(
    {"mcpServers": {"search": {"type": "http", "url": "https://s/mcp", "headers": {"X": "v4lue"}}}},
    {"SEARCH_TOKEN": "token-of-search", "SEARCH_MODE": "thorough"},
    frozenset({"v4lue"}),
)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Gives the command that runs some lines of Python with the path of the file."""

    def write(lines: str) -> list[str]:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(lines))
        return [sys.executable, "-I", "-S", str(path), "--config={mcp_config}"]

    return write


async def ask(
    command: list[str], servers: McpServers | None = SERVERS, timeout: float = 20.0, **settings: Any
) -> AgentReply:
    agent = CommandAgent("robot", CommandSettings(command=command, **settings))
    return await agent.answer(AgentRequest("Hi", timeout, "flow:1", servers=servers))


def there(path: str) -> bool:
    return os.path.exists(path)


TELLS = """
import json, os, sys
path = sys.argv[1].partition("=")[2]
folder = os.path.dirname(path)
print(json.dumps([path, os.stat(path).st_mode, os.stat(folder).st_mode, os.listdir(".")]))
"""


async def test_the_file_is_the_users_alone_outside_of_the_work_folder_and_removed(
    script: Script, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    reply = await ask(script(TELLS), work_dir=str(work))
    path, mode, folder_mode, beside = json.loads(reply.text)
    assert (stat.S_IMODE(mode), stat.S_IMODE(folder_mode)) == (0o600, 0o700)
    assert beside == []
    assert not there(os.path.dirname(path))


READS = """
import sys
print(open(sys.argv[1].partition("=")[2]).read())
"""


async def test_it_holds_what_clients_read_and_nothing_of_it_comes_back_in_the_answer(
    script: Script,
) -> None:
    reply = await ask(script(READS))
    wanted = {"type": "http", "url": "https://s/mcp", "headers": {"X": "********"}}
    assert json.loads(reply.text) == {"mcpServers": {"search": wanted}}


async def test_without_servers_it_is_one_that_names_none(script: Script) -> None:
    assert json.loads((await ask(script(READS), None)).text) == {"mcpServers": {}}


@pytest.mark.parametrize(
    ("lines", "error"),
    [("sys.exit(3)", AgentFailed), ("import signal; signal.pause()", AgentTimeout)],
)
async def test_it_is_removed_however_the_program_ends_and_no_secret_is_in_the_error(
    script: Script, lines: str, error: type[Exception], tmp_path: Path
) -> None:
    told = tmp_path / "told"
    program = f"""
        import sys
        path = sys.argv[1].partition("=")[2]
        open({str(told)!r}, "w").write(path)
        print("v4lue token-of-search thorough", flush=True)
        print("v4lue token-of-search thorough", file=sys.stderr, flush=True)
        {lines}
    """
    with pytest.raises(error) as caught:
        await ask(script(program), timeout=5.0)
    assert not there(told.read_text())
    said = str(caught.value) + getattr(caught.value, "output", "")
    assert "******** [SEARCH_TOKEN] thorough" in said
    assert "v4lue" not in said
    assert "token-of-search" not in said


@pytest.mark.parametrize(
    ("command", "tools", "words"),
    [
        (["claude", "-p"], ["search"], "need {mcp_config} in an argument"),
        (["claude", "{mcp_config}"], ["search.find"], "a program gets all of them; write search"),
        (["claude", "{mcp_config}"], ["a b"], "is not a tool name"),
    ],
)
def test_tools_that_a_program_cannot_be_given_are_refused(
    command: list[str], tools: list[str], words: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        CommandSettings(command=command, tools=tools)
    assert words in str(caught.value)
    usable = CommandSettings(command=["claude", "{mcp_config}"], tools=["search", "daybook"])
    assert usable.tools == ["search", "daybook"]
