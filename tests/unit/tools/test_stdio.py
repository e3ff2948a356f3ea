"""MCP servers that are local programs: start, environment, calls and end.

The program is a short script that implements as much of the protocol as the test needs.
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
from daybook.http.secrets import Secret
from daybook.ledger.states import Status
from daybook.redaction import HIDDEN
from daybook.tools import calls, catalog, stdio
from daybook.tools.base import CallResult
from daybook.tools.connection import Connection
from daybook.tools.server_settings import ToolServerSettings
from daybook.tools.stdio import ProgramWire
from tests.contract.tools.conftest import ReportPipe, Saved, runs
from tests.timings import expire_timeout

pytestmark = pytest.mark.anyio

# says(fields): answer the current request. Each test sets the code that runs at the start (BEFORE),
# after the list of tools (LISTED) and in a call (CALLED); the rest is standard behaviour.
PROGRAM = """
import json, os, signal, sys
tools = [{"name": "reindex", "inputSchema": {"type": "object"}}]
BEFORE
def says(fields):
    print(json.dumps({"jsonrpc": "2.0", "id": number, **fields}), flush=True)
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
        says({"result": {"tools": tools}})
        LISTED
    elif method == "tools/call":
        called(message["params"])
    elif number is not None:
        says({"error": {"code": -32601, "message": "no such method"}})
"""

Saves = Callable[..., Saved]


@pytest.fixture
def saved(tmp_path: Path) -> Saves:
    """Return a function that saves a server `search`, which is such a program."""

    def saves(called: str = "pass", before: str = "", listed: str = "pass", **more: Any) -> Saved:
        script = tmp_path / "program.py"
        program = PROGRAM.replace("BEFORE", before).replace("CALLED", called)
        script.write_text(program.replace("LISTED", listed))
        command = [sys.executable, "-I", "-S", str(script)]
        return Saved({"search": {"command": command, **more}})

    return saves


@pytest.fixture
def report_pipe(tmp_path: Path) -> Any:
    pipe = ReportPipe(tmp_path / "report")
    yield pipe
    pipe.close()


async def prepared(saved: Saved) -> calls.PreparedCall:
    guard = Guard(Rule.AGENT)
    return await calls.prepare("search.reindex", {}, "request:x:1", saved, saved, guard)


async def call(saved: Saved, **more: Any) -> CallResult:
    return await calls.call(await prepared(saved), timeout=60, **more)


async def test_output_that_is_no_protocol_message_is_ignored(saved: Saves) -> None:
    called = await call(saved('print("done soon"); print(); text("done")', 'print("Welcome!")'))
    assert (called.outcome.status, called.outcome.output) == (Status.SUCCEEDED, "done")


async def test_a_program_that_fails_at_its_start_is_retried(saved: Saves) -> None:
    called = await call(saved(before='sys.exit("no licence")'))
    assert (called.outcome.status, called.temporary) == (Status.FAILED, True)
    assert "exited with code 1; it printed: no licence" in str(called.outcome.error)


async def test_a_secret_is_hidden_before_the_error_output_is_cut(saved: Saves) -> None:
    """The kept part of the output begins in the middle of the secret."""
    secret = "hunter-2" * 200
    cries = 'sys.stderr.write(params["arguments"]["key"] + "." * 500); sys.stderr.flush()'
    servers = saved(f"{cries}; os._exit(3)")
    servers.stored_secrets["ops"] = Secret("ops", secret, ("tool:search.reindex",))
    params = {"key": "{{secret:ops}}"}
    guard = Guard(Rule.AGENT)
    ready = await calls.prepare("search.reindex", params, "request:x:1", servers, servers, guard)
    called = await calls.call(ready, timeout=60)
    assert str(called.outcome.error).endswith(f"it printed: {HIDDEN}{'.' * 500}")


async def test_endless_messages_before_the_list_of_tools_are_refused(saved: Saves) -> None:
    """Each message is below the limit; all of them together exceed it."""
    chat = {"jsonrpc": "2.0", "method": "notifications/message"}
    before = f"print(json.dumps({chat} | {{'params': {{'level': 'info', 'data': 'x' * 2**20}}}}))\n"
    with pytest.raises(InvalidInput, match="its list of tools is longer than 4,194,304 bytes"):
        await prepared(saved(before=before * 5))


async def test_a_call_that_cannot_be_encoded_counts_as_not_sent(saved: Saves) -> None:
    ready = await prepared(saved('text("done")'))
    called = await calls.call(replace(ready, values={"x": "\ud800"}), timeout=60)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, True)


async def test_half_of_a_surrogate_pair_in_an_answer_becomes_a_question_mark(saved: Saves) -> None:
    called = await call(saved('text("cut at \\ud83d")'))
    assert (called.outcome.status, called.outcome.output) == (Status.SUCCEEDED, "cut at ?")


async def test_a_call_to_a_program_that_has_ended_is_retried(saved: Saves) -> None:
    """Its end does not disturb other tasks that wait meanwhile."""
    ready = await prepared(saved(listed="os._exit(4)"))
    assert ready.connection is not None
    keeper = ready.connection._keeper
    assert keeper is not None
    await _until_closed(ready.connection)
    called = await calls.call(ready, timeout=60)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, True)
    assert "exited with code 4" in str(called.outcome.error)


async def _until_closed(there: Connection) -> None:
    """Wait until the session has noticed that the program has ended."""
    from mcp.shared.exceptions import MCPError

    assert there._session is not None
    with pytest.raises(MCPError):
        while True:
            await there._session.list_tools()


@pytest.mark.parametrize("code", [-32000, -32001, -32700])
async def test_a_protocol_error_from_the_program_is_a_failure_that_is_not_retried(
    saved: Saves, code: int
) -> None:
    source = f'says({{"error": {{"code": {code}, "message": "the index is gone"}}}})'
    called = await call(saved(source), idempotent=True)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, False)
    assert called.outcome.error == "the index is gone"


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        ("os._exit(0)", "exited with code 0"),
        ("os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        (
            'print("{No credit", flush=True); os._exit(2)',
            "exited with code 2; it printed to standard output: {No credit",
        ),
        ("os.close(1); signal.pause()", "the connection ended"),
    ],
    ids=["an exit", "a signal", "half an answer", "its output is closed"],
)
async def test_a_program_that_dies_during_a_call_leaves_the_run_unknown(
    saved: Saves, monkeypatch: pytest.MonkeyPatch, called: str, expected: str
) -> None:
    # Not for a program that exits: its exit code must be known.
    monkeypatch.setattr(stdio, "EXIT_GRACE_SECONDS", 0.2 if "pause" in called else 30.0)
    outcome = (await call(saved(called))).outcome
    assert outcome.status is Status.UNKNOWN
    assert expected in str(outcome.error)


async def test_a_program_that_does_not_answer_while_opening_is_ended(
    saved: Saves, report_pipe: ReportPipe
) -> None:
    says = f"open({str(report_pipe.path)!r}, 'a').write(str(os.getpid()) + ' here\\n')"
    settings = saved(before=f"{says}; signal.pause()").settings["search"]
    wire = ProgramWire("search", ToolServerSettings.model_validate(settings))
    there = Connection("search", wire)
    opening = asyncio.ensure_future(there.open(within=60.0))
    pid, _ = await report_pipe.line()
    await expire_timeout(60.0)
    with pytest.raises(ToolUnreachable, match="did not answer within 60 s"):
        await opening
    assert not runs(pid)


async def test_a_cancellation_while_a_program_starts_leaves_no_process(
    saved: Saves, report_pipe: ReportPipe
) -> None:
    says = f"open({str(report_pipe.path)!r}, 'a').write(str(os.getpid()) + ' here\\n')"
    opening = asyncio.ensure_future(prepared(saved(before=f"{says}; signal.pause()")))
    pid, _ = await report_pipe.line()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not runs(pid)


async def test_a_program_gets_only_the_listed_environment_variables(
    saved: Saves, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_API_KEY", "DAYBOOK_HOME", "SEARCH_KEY", "OTHER_KEY"):
        monkeypatch.setenv(name, "a-value-of-some-length")
    given = saved('text(" ".join(sorted(os.environ)))', environment=["PATH", "SEARCH_KEY"])
    names = set(str((await call(given)).outcome.output).split()) - {"LC_CTYPE"}  # Python's own
    assert names == {"PATH", "SEARCH_KEY"}


async def test_values_of_environment_variables_are_hidden_in_errors(
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


async def test_secrets_of_a_program_are_hidden_in_the_names_and_descriptions_of_its_tools(
    saved: Saves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_KEY", "a-value-of-some-length")
    given = saved(
        before="key = os.environ['SEARCH_KEY']; fields = {'q': {'default': key}}; "
        "tools[0] |= {'description': f'Uses {key}.', 'inputSchema': "
        "{'type': 'object', 'properties': fields}}; tools.append(tools[0] | {'name': key})",
        environment=["PATH", "SEARCH_KEY"],
    )
    (tool,) = await catalog.list_server_tools("search", given)
    assert tool.name == "search.reindex"
    assert tool.description == "Uses [SEARCH_KEY]."
    assert tool.schema["properties"] == {"q": {"default": "[SEARCH_KEY]"}}


async def test_the_end_of_a_long_error_output_is_kept(saved: Saves) -> None:
    given = saved('print("x" * 10**6 + "the end", file=sys.stderr); os._exit(1)')
    error = str((await call(given)).outcome.error)
    assert error.endswith("the end")
    assert len(error) < 3_000


async def test_a_program_runs_in_an_empty_folder_that_is_removed_afterwards(saved: Saves) -> None:
    called = await call(saved('text(os.getcwd() + " " + str(os.listdir()))'))
    folder, listed = str(called.outcome.output).split()
    assert listed == "[]"
    assert not Path(folder).exists()  # noqa: ASYNC240 - at once


async def test_a_program_runs_in_its_work_dir_if_one_is_set(saved: Saves, tmp_path: Path) -> None:
    called = await call(saved("text(os.getcwd())", work_dir=str(tmp_path)))
    assert called.outcome.output == str(tmp_path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"command": ["no-such-program"]}, 'there is no program "no-such-program"'),
        ({"command": [__file__]}, "is not an executable file"),
        ({"command": ["cat"], "work_dir": "/no/such/folder"}, "is not a folder on this machine"),
    ],
    ids=["no program", "no executable", "no folder"],
)
async def test_a_program_that_cannot_be_started_is_refused(
    settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidInput, match=expected):
        await prepared(Saved({"search": settings}))


async def test_a_server_with_invalid_settings_does_not_hide_the_others(saved: Saves) -> None:
    servers = saved()
    servers.settings["broken"] = {"command": ["no-such-program"]}
    servers.settings["odd"] = {"command": [], "url": ""}
    found, absent = await catalog.list_tools(servers)
    assert "search.reindex" in {each.name for each in found}
    assert set(absent) >= {"broken", "odd"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "set either command or url"),
        ({"command": ["a"], "url": "https://a.example"}, "set either command or url"),
        ({"command": [" "]}, "is blank"),
        ({"command": ["a", "{{secret:ops}}"]}, "contains a secret, but"),
        ({"command": ["a"], "environment": ["PREFECT_API_KEY"]}, "cannot be passed on"),
        ({"command": ["a"], "environment": ["KEY=value"]}, "is not the name of a variable"),
        ({"command": ["a"], "headers": {"X": "y"}}, "headers are for a url"),
        ({"command": ["a"], "work_dir": "here"}, "is relative"),
        ({"url": "ftp://a.example"}, "is not supported"),
        ({"url": "http://169.254.169.254/"}, "no job may reach it"),
        ({"url": "https://user:word@a.example/"}, "contains a user name or password"),
        ({"url": "https://a.example/#x"}, "a job names the tool"),
        ({"url": "https://a.example", "headers": {"Authorization": "Bearer abc1"}}, "a secret"),
        ({"url": "https://a.example", "headers": {"Mcp-Session-Id": "1"}}, "is set by Daybook"),
        ({"url": "https://a.example", "headers": {"Idempotency-Key": "1"}}, "is set by Daybook"),
        ({"url": "https://a.example", "commands": ["a"]}, "unknown field"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], expected: str) -> None:
    from daybook.tools import server_blocks

    with pytest.raises(InvalidInput, match=expected) as caught:
        server_blocks.STORE.validate(settings)
    assert "word" not in str(caught.value).replace("password", "")
