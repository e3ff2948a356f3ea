"""Tool names that a model sees, and the selection of tools by an allow-list."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daybook import owners
from daybook.agents import base
from daybook.agents.base import Tool
from daybook.errors import AgentMisconfigured, InvalidInput, UnknownName
from daybook.execution import agent_tools, builtin_tools
from daybook.execution.agent_tools import ToolSelection, legal_names
from daybook.execution.builtin_tools import ToolContext
from daybook.feature import Feature, features
from daybook.home import Home
from daybook.http.secrets import Secret, SecretStore
from daybook.owners import Actor
from daybook.processes import group
from daybook.runs.claim_requests import Granted
from daybook.tools import stdio
from daybook.tools.pool import PreloadedSecrets
from daybook.tools.server_blocks import ToolServer
from daybook.tools.server_settings import ToolServerSettings

LEGAL = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")


def test_a_plain_name_joins_server_and_tool() -> None:
    assert legal_names(["search.find", "note"]) == {"search.find": "search_find", "note": "note"}


def test_colliding_names_get_a_stable_suffix() -> None:
    both = ["a.b_c", "a_b.c", "other.x"]
    names = legal_names(both)
    assert len(set(names.values())) == 3
    assert all(LEGAL.match(each) for each in names.values())
    assert names["a.b_c"].startswith("a_b_c_")
    assert names["other.x"] == "other_x"
    assert legal_names(both[::-1]) == names


def test_a_tool_never_gets_the_name_of_a_daybook_tool() -> None:
    (name,) = legal_names(["cron_list"], taken=["cron_list"]).values()
    assert name != "cron_list"
    assert LEGAL.match(name)


@pytest.mark.parametrize("full", ["s." + "x" * 128, "s.größe/ä#1", "s.a\udcffb"])
def test_a_name_that_providers_refuse_is_made_legal(full: str) -> None:
    (name,) = legal_names([full]).values()
    assert LEGAL.match(name)


def test_two_long_names_with_the_same_prefix_stay_different() -> None:
    long = [f"server.{'x' * 100}{end}" for end in "ab"]
    assert len(set(legal_names(long).values())) == 2


class Saved:
    """Saved tool servers without secrets."""

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


CONTEXT = ToolContext(cast("Granted", None), "brief", secrets=cast("SecretStore", None))
OWN = [Tool("cron_list", "", {}, _whose, read_only=True), Tool("cron_add", "", {}, _whose)]


async def test_entries_select_tools_of_servers_and_of_daybook_without_duplicates() -> None:
    entries = ["search.find", "search.get_*", "search.find", "daybook.cron_l*", "daybook.cron_list"]
    found = await agent_tools.find("brief", entries, Saved("search", "crm"), lambda: OWN, CONTEXT)
    assert [(each.server.name, each.patterns) for each in found.servers] == [
        ("search", ("find", "get_*"))
    ]
    assert [each.name for each in found.own] == ["cron_list"]


@pytest.mark.parametrize("entry", ["seerch", "search2.find", "find", "daybook.launch"])
async def test_an_entry_that_matches_no_tool_is_refused_and_named(entry: str) -> None:
    with pytest.raises(UnknownName, match=entry):
        await agent_tools.find("brief", [entry], Saved("search"), lambda: OWN, CONTEXT)


async def test_the_entry_daybook_selects_daybooks_tools_even_if_a_server_has_that_name() -> None:
    found = await agent_tools.find("brief", ["daybook"], Saved("daybook"), lambda: OWN, CONTEXT)
    assert found.servers == ()
    assert [each.name for each in found.own] == ["cron_list", "cron_add"]


async def test_daybooks_tools_act_as_the_actor_of_the_run() -> None:
    selection = await agent_tools.find("brief", ["daybook"], Saved(), lambda: OWN, CONTEXT)
    actor = Actor("agent:brief", "ana", "run")
    async with agent_tools.open_tools(selection, "flow:1", actor, 5.0) as tools:
        assert [await each.call({}) for each in tools] == ["agent:brief ana run"] * 2
        assert [each.read_only for each in tools] == [True, False]
    assert owners.current_actor() == Actor()


@pytest.mark.parametrize("limit", ["MAX_TOOLS", "MAX_DEFINITION_CHARACTERS"])
async def test_daybooks_own_tools_count_towards_the_limits(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [Tool(name, "Ten chars.", {}, _whose) for name in ("cron_list", "cron_add")]
    selection = await agent_tools.find("brief", ["daybook"], Saved(), lambda: own, CONTEXT)
    monkeypatch.setattr(agent_tools, limit, 1)
    with pytest.raises(AgentMisconfigured, match="but the limit is 1"):
        async with agent_tools.open_tools(selection, "flow:1", Actor(), 5.0):
            pass


async def test_without_an_allow_list_there_are_no_tools() -> None:
    selection = await agent_tools.find("brief", [], Saved("search"), lambda: OWN, CONTEXT)
    async with agent_tools.open_tools(selection, "flow:1", Actor(), 5.0) as tools:
        assert tools == ()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("", "is not a tool name"),
        ("a b", "is not a tool name"),
        ("https://x/mcp#t", "is a URL"),
    ],
)
def test_an_invalid_entry_is_refused_when_it_is_stored(entry: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        base.check_tool_entries([entry])


def test_more_than_50_entries_are_refused() -> None:
    assert len(base.check_tool_entries(["a"] * 50)) == 50
    with pytest.raises(ValueError, match="50"):
        base.check_tool_entries(["a"] * 51)


async def test_a_python_tool_and_a_server_with_the_same_name_are_refused_as_ambiguous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "ambiguous-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ambiguous\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[daybook.tools]\nsearch.find = ambiguous:find\n")
    (tmp_path / "ambiguous.py").write_text("def find(what: str) -> str: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidInput, match="ambiguous"):
        await agent_tools.find("brief", ["search.find"], Saved("search"), tuple, CONTEXT)
    found = await agent_tools.find("brief", ["search.find"], Saved("crm"), tuple, CONTEXT)
    assert [each.name for each in found.python] == ["search.find"]
    await agent_tools.check(["search.find", "crm.send", "daybook.anything"], Saved("crm"))
    with pytest.raises(UnknownName, match="post"):
        await agent_tools.check(["post.send"], Saved("crm"))


STUBBORN = """
import json, signal, sys
signal.signal(signal.SIGTERM, lambda *_: None)
for line in sys.stdin:
    message = json.loads(line)
    number, result = message.get("id"), {"tools": []}
    if message["method"] == "initialize":
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
            "serverInfo": {"name": "scripted", "version": "1"}}
    if number is not None:
        print(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}), flush=True)
while True:
    signal.pause()
"""


async def test_all_servers_are_terminated_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ignores SIGTERM until it is killed: all of them share one `TERM_GRACE_SECONDS`."""
    monkeypatch.setattr(stdio, "EXIT_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(group, "TERM_GRACE_SECONDS", 0.6)
    script = tmp_path / "program.py"
    script.write_text(STUBBORN)
    settings = ToolServerSettings(command=[sys.executable, "-I", "-S", str(script)])
    servers = tuple(
        agent_tools.ServerTools(ToolServer(f"s{n}", settings), ("*",), PreloadedSecrets())
        for n in range(4)
    )
    loop = asyncio.get_running_loop()
    async with agent_tools.open_tools(
        agent_tools.ToolSelection("brief", servers), "flow:1", Actor(), 60.0
    ):
        began = loop.time()
    # One after the other would take at least 4 × GRACE on any machine.
    assert loop.time() - began < 4 * group.TERM_GRACE_SECONDS


# --- tools of features


async def _answered(arguments: dict[str, Any]) -> str:
    return f"answered {arguments}"


WEB = Tool("fetch", "", {}, _answered, read_only=True, is_untrusted=True, can_leak=True)
SHELL = Tool("run", "", {}, _answered, can_leak=True)


@asynccontextmanager
async def opened(**given: Any) -> AsyncIterator[dict[str, Tool]]:
    selection = ToolSelection("brief", builtin={"web.fetch": WEB, "shell.run": SHELL}, **given)
    async with agent_tools.open_tools(selection, "flow:1", Actor(), 5.0) as tools:
        yield {each.name: each for each in tools}


async def test_an_entry_names_a_feature_s_tools_or_one_of_them(daybook_home: Home) -> None:
    entries = ["web.f*", "daybook.cron_list"]
    context = replace(
        CONTEXT, granted=cast("Granted", SimpleNamespace(job=None, run_id="1")), secrets=NONE
    )
    found = await agent_tools.find("brief", entries, Saved(), lambda: OWN, context)
    assert list(found.builtin) == ["web.fetch"]
    with pytest.raises(UnknownName, match=r"web\.fech"):
        await agent_tools.find("brief", ["web.fech"], Saved(), lambda: OWN, context)
    with pytest.raises(InvalidInput, match="ambiguous: it is a tool of Daybook and of the saved"):
        await agent_tools.check(["web"], Saved("web"))


class NoSecrets:
    async def read(self, name: str) -> Secret:
        raise UnknownName("secret", name, [])


NONE = NoSecrets()


async def test_a_job_narrows_the_tools_of_its_agent() -> None:
    async with opened() as tools:
        assert list(tools) == ["web_fetch", "shell_run"]
    async with opened(only=("web",)) as tools:
        assert list(tools) == ["web_fetch"]
    mail = ("only_tools", "mail")
    with pytest.raises(AgentMisconfigured, match='only_tools: "mail" names no tool of agent'):
        async with opened(only=("web", "mail"), expected=(mail,)):
            pass
    async with opened(only=("mail",)) as tools:  # a fallback agent may have none of them
        assert tools == {}


@pytest.mark.parametrize("how", ["call", "skipped"])
async def test_a_call_waits_for_a_person_after_the_run_has_read_the_web(how: str) -> None:
    async with opened(approve_after_web=("shell",)) as tools:
        web, shell = tools["web_fetch"], tools["shell_run"]
        assert not shell.needs_approval()
        if how == "call":
            await web.call({"url": "http://a"})
        else:  # an earlier attempt made the call
            web.skipped({"url": "http://a"})
        assert (shell.needs_approval(), web.needs_approval()) == (True, False)
    async with opened() as tools:
        await tools["web_fetch"].call({})
        assert not tools["shell_run"].needs_approval()


async def test_jobs_that_a_run_adds_after_it_has_read_the_web_need_the_same_approvals() -> None:
    async def approvals(arguments: dict[str, Any]) -> str:
        return " ".join(owners.current_actor().approve)

    add = Tool("cron_add", "", {}, approvals)
    selection = ToolSelection(
        "brief", own=(add,), builtin={"web.fetch": WEB}, approve_after_web=("shell", "notify")
    )
    actor = Actor("agent:brief", via="run", approve=("mail",))
    async with agent_tools.open_tools(selection, "flow:1", actor, 5.0) as opened_tools:
        tools = {each.name: each for each in opened_tools}
        assert await tools["cron_add"].call({}) == "mail"
        await tools["web_fetch"].call({})
        assert await tools["cron_add"].call({}) == "mail shell notify"


MAIL = Tool("read", "", {}, _answered, read_only=True, is_untrusted=True, is_private=True)


@pytest.mark.parametrize("how", ["call", "skipped"])
async def test_after_mail_a_person_approves_what_can_send_it_elsewhere(how: str) -> None:
    """In every job, and in the jobs that the run adds."""

    async def approvals(arguments: dict[str, Any]) -> str:
        return " ".join(owners.current_actor().approve)

    add = Tool("cron_add", "", {}, approvals)
    builtin = {"web.fetch": WEB, "shell.run": SHELL, "mail.read": MAIL}
    selection = ToolSelection("brief", own=(add,), builtin=builtin)
    async with agent_tools.open_tools(selection, "flow:1", Actor(), 5.0) as opened_tools:
        tools = {each.name: each for each in opened_tools}
        await tools["web_fetch"].call({})
        assert not any(each.needs_approval() for each in tools.values())
        if how == "call":
            await tools["mail_read"].call({})
        else:  # an earlier attempt made the call
            tools["mail_read"].skipped({})
        waiting = [name for name, each in tools.items() if each.needs_approval()]
        assert waiting == ["web_fetch", "shell_run"]
        assert await tools["cron_add"].call({}) == "web.fetch shell.run webhook"


def test_a_feature_of_another_distribution_does_not_replace_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = next(each for each in features() if each.name == "web_tools")
    foreign = Feature(package="other.package", agent_tools=(("web", "tools:web"),))
    failures: dict[str, str] = {}
    monkeypatch.setattr(builtin_tools, "failures", failures)
    monkeypatch.setattr(builtin_tools, "features", lambda: (own, foreign))
    assert builtin_tools.words()["web"] is own
    assert list(failures) == ["tools web of package"]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OSError("gone"), r'"tides" cannot be used \(OSError: gone\)'),
        (TimeoutError(), '"tides" did not give its tools within 60 s'),
    ],
)
async def test_tools_that_fail_are_named(
    monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str
) -> None:
    async def fails(context: ToolContext) -> list[Tool]:
        raise error

    foreign = Feature(package="other.package", agent_tools=(("tides", "tools:tides"),))
    monkeypatch.setattr(builtin_tools, "features", lambda: (foreign,))
    monkeypatch.setattr(Feature, "load", lambda *_: fails)
    with pytest.raises(InvalidInput, match=problem):
        await builtin_tools.find("tides", CONTEXT)
