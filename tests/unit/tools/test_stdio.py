"""Programs as servers: how they start, what they see, and what becomes of them.

The program is a few lines that speak as much of the protocol as the test needs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daybook.errors import InvalidInput, ToolUnreachable
from daybook.http.guard import Guard, Rule
from daybook.http.secrets import HIDDEN, Secret
from daybook.ledger.states import Status
from daybook.tools import calls, catalog
from daybook.tools.base import CallResult
from daybook.tools.connection import Connection
from daybook.tools.server_blocks import ToolServerSettings
from daybook.tools.stdio import ProgramWire
from tests.contract.tools.conftest import Saved, Told, runs

pytestmark = pytest.mark.anyio

# says(told): the answer to the request at hand. Until the call the program does what is usual; what
# it does then, and before all of it, is the test's.
PROGRAM = """
import json, os, signal, sys
BEFORE
def says(told):
    print(json.dumps({"jsonrpc": "2.0", "id": number, **told}), flush=True)
def text(said):
    says({"result": {"content": [{"type": "text", "text": said}]}})
def called(params):
    CALLED
for line in sys.stdin:
    message = json.loads(line)
    number, method = message.get("id"), message["method"]
    if method == "initialize":
        says({"result": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
            "serverInfo": {"name": "scripted", "version": "1"}}})
    elif method == "tools/list":
        says({"result": {"tools": [{"name": "reindex", "inputSchema": {"type": "object"}}]}})
        LISTED
    elif method == "tools/call":
        called(message["params"])
    elif number is not None:
        says({"error": {"code": -32601, "message": "no such method"}})
"""

Saves = Callable[..., Saved]


@pytest.fixture
def saved(tmp_path: Path) -> Saves:
    """A saved server `search` that is such a program."""

    def saves(called: str = "pass", before: str = "", listed: str = "pass", **more: Any) -> Saved:
        script = tmp_path / "program.py"
        program = PROGRAM.replace("BEFORE", before).replace("CALLED", called)
        script.write_text(program.replace("LISTED", listed))
        command = [sys.executable, "-I", "-S", str(script)]
        return Saved({"search": {"command": command, **more}})

    return saves


@pytest.fixture
def told(tmp_path: Path) -> Any:
    told = Told(tmp_path / "told")
    yield told
    told.close()


async def prepared(saved: Saved) -> calls.PreparedCall:
    guard = Guard(Rule.AGENT)
    return await calls.prepare("search.reindex", {}, "request:x:1", saved, saved, guard)


async def call(saved: Saved, **more: Any) -> CallResult:
    return await calls.call(await prepared(saved), timeout=60, **more)


async def test_what_is_no_message_is_passed_over(saved: Saves) -> None:
    called = await call(saved('print("done soon"); print(); text("done")', 'print("Welcome!")'))
    assert (called.outcome.status, called.outcome.output) == (Status.SUCCEEDED, "done")


async def test_one_that_does_not_start_is_tried_again(saved: Saves) -> None:
    called = await call(saved(before='sys.exit("no licence")'))
    assert (called.outcome.status, called.temporary) == (Status.FAILED, True)
    assert "exited with code 1; it said: no licence" in str(called.outcome.error)


async def test_a_secret_is_hidden_before_its_last_words_are_cut(saved: Saves) -> None:
    """They begin in the middle of the secret."""
    secret = "hunter-2" * 200
    cries = 'sys.stderr.write(params["arguments"]["key"] + "." * 500); sys.stderr.flush()'
    servers = saved(f"{cries}; os._exit(3)")
    servers.kept["ops"] = Secret("ops", secret, ("tool:search.reindex",))
    params = {"key": "{{secret:ops}}"}
    guard = Guard(Rule.AGENT)
    ready = await calls.prepare("search.reindex", params, "request:x:1", servers, servers, guard)
    called = await calls.call(ready, timeout=60)
    assert str(called.outcome.error).endswith(f"it said: {HIDDEN}{'.' * 500}")


async def test_endless_tools_are_not_listened_to(saved: Saves) -> None:
    """Each message is short; all of them together are not."""
    chat = {"jsonrpc": "2.0", "method": "notifications/message"}
    before = f"print(json.dumps({chat} | {{'params': {{'level': 'info', 'data': 'x' * 2**20}}}}))\n"
    with pytest.raises(InvalidInput, match="its list of tools is longer than 4,194,304 bytes"):
        await prepared(saved(before=before * 5))


async def test_what_cannot_be_written_was_not_sent(saved: Saves) -> None:
    ready = await prepared(saved('text("done")'))
    called = await calls.call(replace(ready, values={"x": "\ud800"}), timeout=60)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, True)


async def test_one_that_is_gone_when_it_is_called_is_tried_again(saved: Saves) -> None:
    """And its end disturbs nobody who waits for something else meanwhile."""
    ready = await prepared(saved(listed="os._exit(4)"))
    assert ready.connection is not None
    keeper = ready.connection._keeper
    assert keeper is not None
    await _until_closed(ready.connection)
    called = await calls.call(ready, timeout=60)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, True)
    assert "exited with code 4" in str(called.outcome.error)


async def _until_closed(there: Connection) -> None:
    """Until the session knows that the program says no more."""
    from mcp.shared.exceptions import MCPError

    assert there._session is not None
    with pytest.raises(MCPError):
        while True:
            await there._session.list_tools()


@pytest.mark.parametrize("code", [-32000, -32001, -32700])
async def test_an_error_of_the_programs_is_a_failure(saved: Saves, code: int) -> None:
    told = f'says({{"error": {{"code": {code}, "message": "the index is gone"}}}})'
    called = await call(saved(told), idempotent=True)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, False)
    assert called.outcome.error == "the index is gone"


@pytest.mark.parametrize(
    ("called", "said"),
    [
        ("os._exit(0)", "exited with code 0"),
        ("os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ('print("{"); os._exit(2)', "exited with code 2"),
        ("os.close(1); signal.pause()", "the connection ended"),
    ],
    ids=["an exit", "a signal", "half an answer", "its output is closed"],
)
async def test_one_that_dies_at_work_leaves_it_unknown(
    saved: Saves, called: str, said: str
) -> None:
    outcome = (await call(saved(called))).outcome
    assert outcome.status is Status.UNKNOWN
    assert said in str(outcome.error)


async def test_one_that_says_nothing_is_ended(saved: Saves, told: Told) -> None:
    says = f"open({str(told.path)!r}, 'a').write(str(os.getpid()) + ' here\\n')"
    settings = saved(before=f"{says}; signal.pause()").settings["search"]
    wire = ProgramWire("search", ToolServerSettings.model_validate(settings))
    there = Connection("search", wire)
    opening = asyncio.ensure_future(there.open(within=5.0))
    with pytest.raises(ToolUnreachable, match="did not answer within 5 s"):
        await opening
    pid, _ = await told.line()
    assert not runs(pid)


async def test_a_cancel_while_it_starts_leaves_nothing(saved: Saves, told: Told) -> None:
    says = f"open({str(told.path)!r}, 'a').write(str(os.getpid()) + ' here\\n')"
    opening = asyncio.ensure_future(prepared(saved(before=f"{says}; signal.pause()")))
    pid, _ = await told.line()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not runs(pid)


async def test_it_sees_what_the_operator_names_and_no_key_of_ours(
    saved: Saves, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_API_KEY", "DAYBOOK_HOME", "SEARCH_KEY", "OTHER_KEY"):
        monkeypatch.setenv(name, "a-value-of-some-length")
    given = saved('text(" ".join(sorted(os.environ)))', environment=["PATH", "SEARCH_KEY"])
    seen = set(str((await call(given)).outcome.output).split()) - {"LC_CTYPE"}  # Python's own
    assert seen == {"PATH", "SEARCH_KEY"}


async def test_what_it_says_of_its_variables_is_hidden_in_errors(
    saved: Saves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_KEY", "a-value-of-some-length")
    given = saved(
        'print(os.environ["SEARCH_KEY"], file=sys.stderr); os._exit(1)',
        environment=["PATH", "SEARCH_KEY"],
    )
    error = str((await call(given)).outcome.error)
    assert "[SEARCH_KEY]" in error
    assert "a-value" not in error


async def test_the_end_of_what_it_says_is_kept(saved: Saves) -> None:
    given = saved('print("x" * 10**6 + "the end", file=sys.stderr); os._exit(1)')
    error = str((await call(given)).outcome.error)
    assert error.endswith("the end")
    assert len(error) < 3_000


async def test_it_runs_in_an_empty_folder_that_is_removed(saved: Saves) -> None:
    called = await call(saved('text(os.getcwd() + " " + str(os.listdir()))'))
    folder, listed = str(called.outcome.output).split()
    assert listed == "[]"
    assert not Path(folder).exists()  # noqa: ASYNC240 - at once


async def test_or_where_the_operator_says(saved: Saves, tmp_path: Path) -> None:
    called = await call(saved("text(os.getcwd())", work_dir=str(tmp_path)))
    assert called.outcome.output == str(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"command": ["no-such-program"]}, 'there is no program "no-such-program"'),
        ({"command": [__file__]}, "is not an executable file"),
        ({"command": ["cat"], "work_dir": "/no/such/folder"}, "is not a folder on this machine"),
    ],
    ids=["no program", "no executable", "no folder"],
)
async def test_what_cannot_be_started_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        await prepared(Saved({"search": settings}))


async def test_one_bad_server_hides_no_other(saved: Saves) -> None:
    servers = saved()
    servers.settings["broken"] = {"command": ["no-such-program"]}
    servers.settings["odd"] = {"command": [], "url": ""}
    found, absent = await catalog.list_tools(servers)
    assert "search.reindex" in {each.name for each in found}
    assert set(absent) >= {"broken", "odd"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "set either command or url"),
        ({"command": ["a"], "url": "https://a.example"}, "set either command or url"),
        ({"command": [" "]}, "is blank"),
        ({"command": ["a", "{{secret:ops}}"]}, "cannot contain a secret"),
        ({"command": ["a"], "environment": ["PREFECT_API_KEY"]}, "cannot be passed on"),
        ({"command": ["a"], "environment": ["KEY=value"]}, "is not the name of a variable"),
        ({"command": ["a"], "headers": {"X": "y"}}, "headers are for a url"),
        ({"command": ["a"], "work_dir": "here"}, "is relative"),
        ({"url": "ftp://a.example"}, "is not supported"),
        ({"url": "http://169.254.169.254/"}, "no job may reach it"),
        ({"url": "https://user:word@a.example/"}, "contains a user name or password"),
        ({"url": "https://a.example/#x"}, "the job names the tool"),
        ({"url": "https://a.example", "headers": {"Authorization": "Bearer abc1"}}, "a secret"),
        ({"url": "https://a.example", "headers": {"Mcp-Session-Id": "1"}}, "is set by Daybook"),
        ({"url": "https://a.example", "headers": {"Idempotency-Key": "1"}}, "is set by Daybook"),
        ({"url": "https://a.example", "commands": ["a"]}, "unknown field"),
    ],
)
def test_settings_that_are_not_legal_are_refused(settings: dict[str, Any], said: str) -> None:
    from daybook.tools import server_blocks

    with pytest.raises(InvalidInput, match=said) as caught:
        server_blocks.STORE.validate(settings)
    assert "word" not in str(caught.value).replace("password", "")
