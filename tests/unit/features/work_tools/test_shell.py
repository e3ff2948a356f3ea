"""The tool `shell.run`, with real processes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from daybook.agents.base import Tool
from daybook.errors import DaybookError, InvalidInput
from daybook.features.work_tools import shell
from daybook.home import Home
from daybook.processes import group, proc
from daybook.processes.sandboxes import bubblewrap
from daybook.processes.sandboxes.bubblewrap import SandboxUnavailable
from tests.unit.features.work_tools.conftest import tools
from tests.waiting import becomes_true

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_ALLOW_SHELL", "true")


@pytest.fixture
async def run(work: Path, allowed: None) -> Tool:
    return (await tools("shell", work))["shell.run"]


async def answer(run: Tool, command: str, **more: Any) -> tuple[str, str]:
    """Return how the command ended, and its output."""
    how, _, output = (await run.call({"command": command, **more})).partition("\n")
    return how, output


async def test_in_a_sandbox_it_needs_no_permission_and_writes_only_in_its_folder(
    work: Path, daybook_home: Home
) -> None:
    run = (await tools("shell", work, sandbox="workspace"))["shell.run"]
    daybook_home.ledger_key.write_text("secret")
    outside = work.parent / "outside.txt"
    _, output = await answer(
        run, f"echo x > {outside}; cat {daybook_home.ledger_key}; echo $XDG_CACHE_HOME; pwd > a.txt"
    )
    assert not outside.exists()
    assert "secret" not in output
    assert output.endswith(f"{daybook_home.path}/caches/none/workspace")
    assert (work / "a.txt").read_text() == f"{work}\n"


async def test_a_host_that_the_sandbox_refuses_is_named(work: Path) -> None:
    hosts = ("api.example.org",)
    run = (await tools("shell", work, sandbox="workspace", sandbox_hosts=hosts))["shell.run"]
    ask = "import urllib.request as r; r.urlopen('http://other.example.org/')"
    how, output = await answer(run, f'python3 -c "{ask}"')
    assert "exited with code 1" in how
    assert "the sandbox refused other.example.org:80 (" in output
    assert "--sandbox-host other.example.org:80" in output
    assert await answer(run, "echo ok") == ("It exited with code 0.", "ok")


async def test_a_listed_host_with_a_private_address_is_refused(work: Path) -> None:
    hosts = ("127.0.0.2:8765",)
    run = (await tools("shell", work, sandbox="workspace", sandbox_hosts=hosts))["shell.run"]
    ask = "import urllib.request as r; r.urlopen('http://127.0.0.2:8765/')"
    _, output = await answer(run, f'python3 -c "{ask}"')
    assert "HTTP Error 403" in output
    assert "DAYBOOK_ALLOWED_HOSTS" in output


async def test_without_a_program_that_builds_it_there_is_no_shell(
    work: Path, allowed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bubblewrap, "PLACES", ("/nonexistent/bwrap",))
    with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
        await tools("shell", work, sandbox="strict")


async def test_the_operator_has_to_allow_it(work: Path) -> None:
    with pytest.raises(InvalidInput, match=r"not allowed.*DAYBOOK_ALLOW_SHELL"):
        await tools("shell", work)


@pytest.mark.usefixtures("allowed")
async def test_without_a_work_directory_each_call_is_refused(tmp_path: Path) -> None:
    (tool,) = (await tools("shell.run", None)).values()
    with pytest.raises(InvalidInput, match=r"no work directory.*sets it with --work-dir"):
        await tool.call({"command": f"touch {tmp_path}/ran"})
    assert not (tmp_path / "ran").exists()


async def test_a_call_is_an_effect(run: Tool) -> None:
    assert (run.is_repeatable, run.destructive, run.open_world) == (False, True, True)
    assert run.can_leak


async def test_a_command_runs_in_the_work_directory_without_input(run: Tool, work: Path) -> None:
    how, output = await answer(run, "pwd; cat; echo error >&2; echo 'it''s' \"$0\"; exit 3")
    assert how == "It exited with code 3."
    assert output.splitlines() == [os.fspath(work), "error", "its /bin/sh"]
    assert await answer(run, "true") == ("It exited with code 0.", "(no output)")
    assert (await answer(run, "kill -9 $$"))[0] == "It was ended by SIGKILL."
    assert (await answer(run, "if"))[0] == "It exited with code 2."


async def test_a_command_gets_no_secret_of_the_environment(
    run: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "PREFECT_API_AUTH_STRING", "DAYBOOK_LEDGER_URL", "MY_TOKEN"):
        monkeypatch.setenv(name, "secret-value")
    _, output = await answer(run, "env")
    names = {line.partition("=")[0] for line in output.splitlines()}
    assert "secret-value" not in output
    assert "PATH" in names
    assert not any(name.startswith(("DAYBOOK", "PREFECT")) for name in names)


async def test_of_a_long_output_the_beginning_and_the_end_are_kept(run: Tool) -> None:
    _, output = await answer(run, "echo first; yes 0123456789 | head -c 33000000; echo last")
    assert output.startswith("first\n0123456789\n") and output.endswith("\nlast")
    left_out = len("first\n") + 33_000_000 + len("last\n") - shell.MAX_OUTPUT_BYTES
    assert f"[… {left_out:,} bytes left out …]" in output
    assert len(output) < shell.MAX_OUTPUT_BYTES + 100
    _, output = await answer(run, r"printf 'a\377b\0c'")
    assert output == "a\ufffdb\0c"


async def test_a_command_that_takes_too_long_is_stopped_with_its_children(
    run: Tool, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "TERM_GRACE_SECONDS", 0.01)
    monkeypatch.setattr(shell, "_seconds", lambda arguments, most: 0.3)
    command = "trap '' TERM; sleep 600 & echo $! > child; echo begun; wait"
    how, output = await answer(run, command)
    assert (how, output) == ("It was stopped after 0.3 s, and was ended by SIGKILL.", "begun")
    assert proc.find(int((work / "child").read_text())) is None


async def test_processes_in_the_background_end_with_the_command(run: Tool, work: Path) -> None:
    how, output = await answer(run, "sleep 600 & echo $! > child; echo done")
    assert (how, output) == ("It exited with code 0.", "done")
    assert proc.find(int((work / "child").read_text())) is None


async def test_the_end_of_the_attempt_ends_the_command(run: Tool, work: Path) -> None:
    command = {"command": "echo $$ > child; exec sleep 600"}
    call = asyncio.ensure_future(run.call(command))

    async def has_begun() -> bool:
        return "child" in os.listdir(work) and bool((work / "child").read_text())

    assert await becomes_true(has_begun, 20)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert proc.find(int((work / "child").read_text())) is None


async def test_no_command_has_more_time_than_an_attempt(work: Path, allowed: None) -> None:
    run = (await tools("shell", work, seconds=7.0))["shell.run"]
    limits = run.schema["properties"]["timeout_seconds"]
    assert (limits["maximum"], limits["default"]) == (7, 7)
    assert shell._seconds({"timeout_seconds": 100}, 7) == 7
    assert shell._seconds({}, 1_000) == shell.DEFAULT_SECONDS


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"command": ""},
        {"command": " "},
        {"command": 7},
        {"command": "echo \0"},
        {"command": "echo \ud800"},
        {"command": "x" * 10_001},
        {"command": "echo > made", "timeout_seconds": 0},
        {"command": "echo > made", "timeout_seconds": "1"},
        {"command": "echo > made", "timeout_seconds": True},
    ],
)
async def test_invalid_calls_start_nothing(
    run: Tool, work: Path, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput):
        await run.call(arguments)
    assert os.listdir(work) == []


async def test_a_work_directory_that_is_gone_is_an_error_of_the_call(run: Tool, work: Path) -> None:
    os.rmdir(work)
    with pytest.raises(DaybookError, match="No such file or directory"):
        await run.call({"command": "true"})
