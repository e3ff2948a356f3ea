"""The MCP configuration file of a program: its content, permissions and removal."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from daybook.agents.base import AgentReply, AgentRequest, McpServers
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.errors import AgentFailed, AgentTimeout
from tests.contract.tools.conftest import ReportPipe
from tests.timings import expire_timeout

pytestmark = pytest.mark.anyio

Script = Callable[[str], list[str]]

SERVERS = McpServers(
    {"mcpServers": {"search": {"type": "http", "url": "https://s/mcp", "headers": {"X": "v4lue"}}}},
    {"SEARCH_TOKEN": "token-of-search", "SEARCH_MODE": "thorough"},
    frozenset({"v4lue"}),
)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Return a function that makes a command from lines of Python, with the path of the file."""

    def write(lines: str) -> list[str]:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(lines))
        return [sys.executable, "-I", "-S", str(path), "--config={mcp_config}"]

    return write


@pytest.fixture
def report_pipe(tmp_path: Path) -> Iterator[ReportPipe]:
    pipe = ReportPipe(tmp_path / "report")
    yield pipe
    pipe.close()


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


async def test_the_file_is_private_outside_of_the_work_folder_and_removed_afterwards(
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


async def test_the_file_lists_the_servers_and_its_secrets_are_redacted_in_the_answer(
    script: Script,
) -> None:
    reply = await ask(script(READS))
    expected = {"type": "http", "url": "https://s/mcp", "headers": {"X": "********"}}
    assert json.loads(reply.text) == {"mcpServers": {"search": expected}}


async def test_without_servers_the_file_lists_none(script: Script) -> None:
    assert json.loads((await ask(script(READS), None)).text) == {"mcpServers": {}}


@pytest.mark.parametrize(
    ("lines", "error"),
    [("sys.exit(3)", AgentFailed), ("import signal; signal.pause()", AgentTimeout)],
)
async def test_after_a_failure_the_file_is_removed_and_the_error_contains_no_secret(
    script: Script, report_pipe: ReportPipe, lines: str, error: type[Exception]
) -> None:
    program = f"""
        import os, sys
        path = sys.argv[1].partition("=")[2]
        print("v4lue token-of-search thorough", flush=True)
        print("v4lue token-of-search thorough", file=sys.stderr, flush=True)
        open({str(report_pipe.path)!r}, "w").write(f"{{os.getpid()}} {{path}}\\n")
        {lines}
    """
    answer = asyncio.create_task(ask(script(program), timeout=60.0))
    _, path = await report_pipe.line()
    if error is AgentTimeout:
        await expire_timeout(60.0)
    with pytest.raises(error) as caught:
        await answer
    assert not there(path)
    text = str(caught.value) + getattr(caught.value, "output", "")
    assert "******** [SEARCH_TOKEN] thorough" in text
    assert "v4lue" not in text
    assert "token-of-search" not in text


@pytest.mark.parametrize(
    ("command", "tools", "words"),
    [
        (["claude", "-p"], ["search"], "need {mcp_config} in an argument"),
        (
            ["claude", "{mcp_config}"],
            ["search.find"],
            "a program gets all tools of a server; use search",
        ),
        (["claude", "{mcp_config}"], ["a b"], "is not a tool name"),
    ],
)
def test_tools_that_a_program_cannot_use_are_refused(
    command: list[str], tools: list[str], words: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        CommandSettings(command=command, tools=tools)
    assert words in str(caught.value)
    usable = CommandSettings(command=["claude", "{mcp_config}"], tools=["search", "daybook"])
    assert usable.tools == ["search", "daybook"]
