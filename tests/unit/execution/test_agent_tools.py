"""The names under which a model is offered tools, and what an allow-list names."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from daybook import owners
from daybook.agents import base
from daybook.agents.base import Tool
from daybook.errors import InvalidInput, UnknownName
from daybook.execution import agent_tools
from daybook.execution.agent_tools import legal_names
from daybook.owners import Actor
from daybook.processes.group import TERM_GRACE_SECONDS
from daybook.tools.pool import PreloadedSecrets
from daybook.tools.server_blocks import ToolServer, ToolServerSettings

LEGAL = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")


def test_a_plain_name_is_its_server_and_its_tool() -> None:
    assert legal_names(["search.find", "note"]) == {"search.find": "search_find", "note": "note"}


def test_names_that_would_be_one_are_marked_and_stay_what_they_are() -> None:
    both = ["a.b_c", "a_b.c", "other.x"]
    names = legal_names(both)
    assert len(set(names.values())) == 3
    assert all(LEGAL.match(each) for each in names.values())
    assert names["a.b_c"].startswith("a_b_c_")
    assert names["other.x"] == "other_x"
    assert legal_names(both[::-1]) == names


def test_a_name_of_daybooks_own_is_not_taken_by_another() -> None:
    (name,) = legal_names(["cron_list"], taken=["cron_list"]).values()
    assert name != "cron_list"
    assert LEGAL.match(name)


@pytest.mark.parametrize("full", ["s." + "x" * 128, "s.größe/ä#1", "s.a\udcffb"])
def test_what_no_provider_takes_is_made_legal(full: str) -> None:
    (name,) = legal_names([full]).values()
    assert LEGAL.match(name)


def test_two_long_names_with_one_beginning_are_two() -> None:
    long = [f"server.{'x' * 100}{end}" for end in "ab"]
    assert len(set(legal_names(long).values())) == 2


class Saved:
    """Servers that are saved; none has a secret."""

    secrets: Any = None

    def __init__(self, *names: str) -> None:
        self._names = list(names)

    async def names(self) -> list[str]:
        return self._names

    async def read(self, name: str) -> ToolServer:
        return ToolServer(name, ToolServerSettings(command=["true"]))


async def _whose(arguments: dict[str, Any]) -> str:
    actor = owners.current_actor()
    return f"{actor.owner} {actor.user_id} {actor.via}"


OWN = [Tool("cron_list", "", {}, _whose, read_only=True), Tool("cron_add", "", {}, _whose)]


async def test_entries_name_servers_and_daybooks_own_and_twice_is_once() -> None:
    entries = ["search.find", "search.get_*", "search.find", "daybook.cron_l*", "daybook.cron_list"]
    found = await agent_tools.find("brief", entries, Saved("search", "mail"), lambda: OWN)
    assert [(each.server.name, each.patterns) for each in found.servers] == [
        ("search", ("find", "get_*"))
    ]
    assert [each.name for each in found.own] == ["cron_list"]


@pytest.mark.parametrize("entry", ["seerch", "search2.find", "find", "daybook.launch"])
async def test_an_entry_that_names_nothing_is_refused_by_its_name(entry: str) -> None:
    with pytest.raises(UnknownName, match=entry):
        await agent_tools.find("brief", [entry], Saved("search"), lambda: OWN)


async def test_daybook_is_daybooks_own_whatever_else_is_called_so() -> None:
    found = await agent_tools.find("brief", ["daybook"], Saved("daybook"), lambda: OWN)
    assert found.servers == ()
    assert [each.name for each in found.own] == ["cron_list", "cron_add"]


async def test_daybooks_own_tools_work_for_whom_the_run_is() -> None:
    offer = await agent_tools.find("brief", ["daybook"], Saved(), lambda: OWN)
    actor = Actor("agent:brief", "ana", "run")
    async with agent_tools.open_tools(offer, "flow:1", actor, 5.0) as tools:
        assert [await each.call({}) for each in tools] == ["agent:brief ana run"] * 2
        assert [each.read_only for each in tools] == [True, False]
    assert owners.current_actor() == Actor()


async def test_without_an_allow_list_nothing_is_looked_up() -> None:
    offer = await agent_tools.find("brief", [], Saved("search"), lambda: OWN)
    async with agent_tools.open_tools(offer, "flow:1", Actor(), 5.0) as tools:
        assert tools == ()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("", "is not a tool name"),
        ("a b", "is not a tool name"),
        ("https://x/mcp#t", "is an address"),
    ],
)
def test_an_entry_that_cannot_be_one_is_refused_when_it_is_written(entry: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        base.check_tool_entries([entry])


def test_more_entries_than_anybody_writes_are_refused() -> None:
    assert len(base.check_tool_entries(["a"] * 50)) == 50
    with pytest.raises(ValueError, match="50"):
        base.check_tool_entries(["a"] * 51)


async def test_a_python_tool_and_a_server_of_one_name_are_told_apart_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "ambiguous-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ambiguous\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[daybook.tools]\nsearch.find = ambiguous:find\n")
    (tmp_path / "ambiguous.py").write_text("def find(what: str) -> str: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidInput, match="ambiguous"):
        await agent_tools.find("brief", ["search.find"], Saved("search"), tuple)
    found = await agent_tools.find("brief", ["search.find"], Saved("mail"), tuple)
    assert [each.name for each in found.python] == ["search.find"]
    await agent_tools.check(["search.find", "mail.send", "daybook.anything"], Saved("mail"))
    with pytest.raises(UnknownName, match="post"):
        await agent_tools.check(["post.send"], Saved("mail"))


STUBBORN = """
import json, signal, sys
signal.signal(signal.SIGTERM, lambda *_: None)
for line in sys.stdin:
    message = json.loads(line)
    number, told = message.get("id"), {"tools": []}
    if message["method"] == "initialize":
        told = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
            "serverInfo": {"name": "scripted", "version": "1"}}
    if number is not None:
        print(json.dumps({"jsonrpc": "2.0", "id": number, "result": told}), flush=True)
while True:
    signal.pause()
"""


async def test_all_servers_are_told_to_end_before_one_of_them_is_gone(tmp_path: Path) -> None:
    """Each resists until it is killed: together that takes `TERM_GRACE_SECONDS` only once."""
    script = tmp_path / "program.py"
    script.write_text(STUBBORN)
    settings = ToolServerSettings(command=[sys.executable, "-I", "-S", str(script)])
    wanted = tuple(
        agent_tools.ServerTools(ToolServer(f"s{n}", settings), ("*",), PreloadedSecrets())
        for n in range(4)
    )
    loop = asyncio.get_running_loop()
    async with agent_tools.open_tools(
        agent_tools.ToolSelection("brief", wanted), "flow:1", Actor(), 60.0
    ):
        began = loop.time()
    # One after the other takes 4 × GRACE at least, whatever the machine does.
    assert loop.time() - began < 4 * TERM_GRACE_SECONDS
