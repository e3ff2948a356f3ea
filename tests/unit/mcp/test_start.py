"""How the server starts: without Prefect, without a database, and with stdout for itself."""

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
heavy = {"prefect", "sqlalchemy", "fastmcp", "pydantic_ai"} & set(sys.modules)
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
toolbox.BY_NAME["noisy"] = Tool("noisy", "", {}, noisy)
sys.exit(main(["mcp"]))
"""


def talked(program: str, *messages: dict[str, object]) -> tuple[list[str], str]:
    """What it answered, a line for each message with an id, and what stood on stderr.

    Its input is closed when it has answered: it ends then, whatever it is at.
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
        said = [server.stdout.readline() for each in messages if "id" in each]
        rest, errors = server.communicate()
    assert server.returncode == 0, errors
    return said + rest.splitlines(), errors


def test_the_start_needs_neither_prefect_nor_a_database(daybook_home: Home) -> None:
    said, errors = talked(
        TELL,
        {"id": 1, "method": "initialize", "params": HELLO},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list"},
    )
    assert errors.splitlines()[-1] == "imported:"
    first, second = map(json.loads, said)
    assert first["result"]["serverInfo"]["name"] == "daybook"
    assert first["result"]["instructions"]
    assert len(second["result"]["tools"]) == 20


def test_what_anything_prints_is_not_the_protocols(daybook_home: Home) -> None:
    lines, errors = talked(
        NOISY,
        {"id": 1, "method": "initialize", "params": HELLO},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "noisy", "arguments": {}}},
    )
    answers = [json.loads(line) for line in lines]
    assert [each["id"] for each in answers] == [1, 2]
    assert answers[1]["result"]["content"][0]["text"] == "done"
    for said in ("printed", "written", "said by a child"):
        assert said in errors


@pytest.mark.parametrize("line", one_in(5, ["no json", "", '{"jsonrpc": "2.0"}', "[]", "\x00"]))
def test_what_is_no_message_ends_nothing(daybook_home: Home, line: str) -> None:
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
        while answer.get("id") != 1:  # it may say of the other line that it is none
            answer = json.loads(server.stdout.readline())
        server.communicate()
    assert server.returncode == 0
