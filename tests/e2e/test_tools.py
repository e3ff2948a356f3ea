"""`daybook tools` at a real Prefect, with a real program as the tool server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from daybook.agents import documents
from daybook.cli.main import main
from daybook.diagnosis.checks import ledger
from daybook.home import Home
from daybook.operations import setup
from daybook.tools.server_blocks import STORE, PrefectServers
from tests import rows
from tests.at_prefect import with_client
from tests.contract.tools.conftest import OURS, ReportPipe
from tests.providers import KEY

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(
    prefect_server: Any, daybook_home: Home, capsys: pytest.CaptureFixture[str]
) -> Iterator[Typed]:
    """Yield a function that runs `daybook tools …`; remove all servers before and after."""
    with_client(setup.prepare)

    async def forget(client: Any) -> None:
        servers = PrefectServers(client)
        for name in await servers.names():
            await STORE.remove(client, name)

    def carry_out(*tokens: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["tools", *tokens])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    with_client(forget)
    yield carry_out
    with_client(forget)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a tool server, which is a process of its own."""
    report_pipe = ReportPipe(tmp_path_factory.mktemp("server") / "report")
    with socket.create_server(("127.0.0.1", 0)) as listens:  # queues early connections
        listens.set_inheritable(True)
        words = [str(OURS), str(report_pipe.path), str(listens.fileno())]
        child = subprocess.Popen([sys.executable, *words], pass_fds=[listens.fileno()])
        yield f"http://127.0.0.1:{listens.getsockname()[1]}/mcp"
    child.kill()
    child.wait()
    report_pipe.close()


@pytest.fixture
def server_name(typed: Typed, address: str) -> str:
    code, _, error = typed("add", "ours", "--url", address)
    assert code == 0, error
    return "ours"


def test_a_tool_server_is_added_shown_tested_and_removed(typed: Typed, tmp_path: Path) -> None:
    """The server is a program that each command starts."""
    report_pipe = ReportPipe(tmp_path / "report")
    code, _, error = typed("add", "ours", "--", sys.executable, str(OURS), str(report_pipe.path))
    assert code == 0, error
    code, tested, _ = typed("test", "--json")
    assert [each["server"] for each in json.loads(tested)] == ["ours"]
    assert "ours.add" in json.loads(tested)[0]["tools"]
    code, shown, _ = typed("show", "ours")
    assert (code, "ours.add" in shown, str(OURS) in shown) == (0, True, True)
    report_pipe.close()
    assert typed("remove", "ours")[0] == 0
    code, _, error = typed("remove", "ours")
    assert (code, 'tool server "ours" not found' in error) == (3, True)
    assert typed("show", "ours")[0] == 3
    assert typed("test", "ours")[0] == 3


def test_the_tools_of_a_server_are_listed_shown_and_called(typed: Typed, server_name: str) -> None:
    code, listed, _ = typed("list")
    assert (code, "ours.add" in listed, "Add two numbers." in listed) == (0, True, True)
    code, shown, _ = typed("show", "ours.add", "--json")
    assert json.loads(shown)["schema"]["required"] == ["a"]
    assert "param a" in typed("show", "ours.add")[1]
    code, called, _ = typed("call", "ours.add", "--params", '{"a": 2, "b": 3}', "--json")
    assert (code, json.loads(called)["output"]) == (0, "5")
    assert typed("call", "ours.say", "--params", '{"text": "well"}')[:2] == (0, "well\n")
    code, out, error = typed("call", "ours.fail", "--params", '{"words": "no index"}')
    assert (code, "failed: " in error, "no index" in out) == (1, True, True)


def test_an_invalid_tools_command_is_refused_and_changes_no_server(
    typed: Typed, server_name: str
) -> None:
    pages = ("add", "pages", "--url", "https://a.example")
    invalid: list[tuple[tuple[str, ...], int, str]] = [
        (("call", "ours.add", "--params", "[1]"), 2, "params"),
        (("call", "ours.add", "--params", "{}"), 2, "'a' is a required property"),
        (("call", "ours.add", "--params", '{"a": 1, "api_key": "abc"}'), 2, "looks like a secret"),
        (("call", "ours.add", "--params", '{"a": NaN}'), 2, "is not valid JSON"),
        (("call", "ours.ad"), 3, 'tool "ours.ad" not found'),
        (("show", "nothing"), 3, 'tool "nothing" not found'),
        (("add", "time"), 2, "set either command or url"),
        (("add", "time", "--url", "https://a.example", "--", "cat"), 2, "set either"),
        ((*pages, "--env", "HOME"), 2, "env"),
        (("add", "ours", "--", "cat"), 2, "is taken"),
        (("add", "a.b", "--", "cat"), 2, "cannot be the name of a tool server"),
        ((*pages, "--header", "Authorization: Bearer abc1"), 2, "looks like a secret"),
    ]
    for (tokens, code, expected), checked in rows.each(invalid):
        with checked:
            answered, _, error = typed(*tokens)
            assert (answered, expected in error) == (code, True), error
    assert with_client(lambda client: PrefectServers(client).names()) == [server_name]


def test_an_unreachable_tool_server_is_saved_and_reported(typed: Typed) -> None:
    code, added, _ = typed("add", "gone", "--url", "http://127.0.0.1:1/mcp")
    assert (code, "it cannot be reached" in added) == (0, True)
    code, _, error = typed("list")
    assert (code, "gone: " in error) == (0, True)
    code, tested, _ = typed("test")
    assert (code, "it cannot be reached" in tested) == (1, True)


def test_a_tool_server_with_a_missing_secret_is_saved_and_reported(
    typed: Typed, server_name: str
) -> None:
    bearer = ("--header", "Authorization: Bearer {{secret:nobodys}}")
    code, added, _ = typed("add", "pages", "--url", "http://127.0.0.1:1/mcp", *bearer)
    assert (code, "`daybook secrets add nobodys`" in added) == (0, True)
    code, tested, _ = typed("test", "--json")
    assert code == 1
    problems = {each["server"]: each["problem"] for each in json.loads(tested)}
    assert problems.keys() == {server_name, "pages"}
    assert problems[server_name] is None
    assert 'unknown "nobodys"' in problems["pages"]
    (found,) = with_client(ledger.secrets)
    assert found.message == "the tool server pages uses the secret nobodys, which does not exist"


async def _add_clerk(tool: str, client: Any) -> None:
    settings = {"model": "openai:gpt-6", "api_key": KEY, "tools": ["clock", tool]}
    await documents.add(client, "clerk", "model", settings)


def test_a_tool_server_that_an_agent_or_a_job_uses_cannot_be_removed(
    typed: Typed, server_name: str
) -> None:
    for tool in ("ours", "ours.add"):
        with_client(partial(_add_clerk, tool))
        code, _, error = typed("remove", server_name)
        with_client(lambda client: documents.remove(client, "clerk"))
        assert (code, '"ours" is used by the agent clerk (edit' in error) == (2, True)
    job = ("--tool", "ours.add", "--params", '{"a": 1}', "--on-demand", "--name", "sums")
    assert main(["add", *job]) == 0
    code, _, error = typed("remove", server_name)
    assert (code, '"ours" is used by sums' in error) == (2, True)
    assert "sums" in typed("show", server_name)[1]
    assert "sums" in typed("show", "ours.add")[1]
    assert main(["remove", "sums", "--yes"]) == 0
    assert typed("remove", server_name)[0] == 0
