"""The start of the MCP server over stdio: no heavy imports, and stdout for the protocol only."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from daybook.home import Home
from tests.costs import one_in

TELL = """
import sys
from daybook.cli.main import main
code = main(["mcp"])
heavy = {"prefect", "sqlalchemy", "pydantic_settings", "fastmcp", "pydantic_ai"}
heavy &= set(sys.modules)
print("imported:", *sorted(heavy), file=sys.stderr)
sys.exit(code)
"""
HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "a test's", "version": "1"},
}
NOISY = """
import os, subprocess, sys
from daybook.agents.base import Tool
from daybook.cli.main import main
from daybook import toolbox
async def noisy(given):
    print("printed")
    os.write(1, b"written\\n")
    subprocess.run(["echo", "said by a child"])
    return "done"
toolbox.by_name()["noisy"] = Tool("noisy", "", {}, noisy)
sys.exit(main(["mcp"]))
"""


def talked(program: str, *messages: dict[str, object]) -> tuple[list[str], str]:
    """Send messages to a server; return its lines on stdout, and its stderr.

    The input is closed after an answer to each message with an id, which ends the server.
    """
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for each in messages:
            server.stdin.write(json.dumps({"jsonrpc": "2.0", **each}) + "\n")
        server.stdin.flush()
        output = [server.stdout.readline() for each in messages if "id" in each]
        rest, errors = server.communicate()
    assert server.returncode == 0, errors
    return output + rest.splitlines(), errors


def test_the_server_lists_its_tools_without_importing_prefect_or_a_database(
    daybook_home: Home,
) -> None:
    output, errors = talked(
        TELL,
        {"id": 1, "method": "initialize", "params": HELLO},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list"},
    )
    assert errors.splitlines()[-1] == "imported:"
    first, second = map(json.loads, output)
    assert first["result"]["serverInfo"]["name"] == "daybook"
    assert first["result"]["instructions"]
    assert len(second["result"]["tools"]) == 20


def test_output_of_a_tool_or_its_children_goes_to_stderr(daybook_home: Home) -> None:
    lines, errors = talked(
        NOISY,
        {"id": 1, "method": "initialize", "params": HELLO},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "noisy", "arguments": {}}},
    )
    answers = [json.loads(line) for line in lines]
    assert [each["id"] for each in answers] == [1, 2]
    assert answers[1]["result"]["content"][0]["text"] == "done"
    for text in ("printed", "written", "said by a child"):
        assert text in errors


@pytest.mark.parametrize("line", one_in(5, ["no json", "", '{"jsonrpc": "2.0"}', "[]", "\x00"]))
def test_an_invalid_message_does_not_end_the_server(daybook_home: Home, line: str) -> None:
    hello = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO})
    with subprocess.Popen(
        [sys.executable, "-m", "daybook", "mcp"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(f"{line}\n{hello}\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        while answer.get("id") != 1:  # it may first report the invalid line
            answer = json.loads(server.stdout.readline())
        server.communicate()
    assert server.returncode == 0
