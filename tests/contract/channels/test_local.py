"""The channels that need nobody else: a file under `out/`, the console, the inbox."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daybook.delivery import channels
from daybook.delivery.channels import NotDelivered
from daybook.errors import InvalidInput, UnknownName
from daybook.home import Home
from tests.contract.channels.conftest import LONG, row

pytestmark = pytest.mark.anyio


async def test_a_file_grows_by_an_entry_a_message(daybook_home: Home) -> None:
    first = row("file", "All is well.", chat_id="brief.md")
    await channels.send(None, first)
    await channels.send(None, row("file", LONG, chat_id="brief.md", subject="second"))

    out = daybook_home.path / "out"
    assert [each.name for each in out.iterdir()] == ["brief.md"]
    at = first.created_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    text = (out / "brief.md").read_text()
    assert text.startswith(f"## {at} · morning-brief: succeeded\n\nAll is well.\n\n## ")
    assert text.endswith(f" · second\n\n{LONG}\n\n")
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert stat.S_IMODE((out / "brief.md").stat().st_mode) == 0o600


@pytest.mark.slow
async def test_senders_at_a_time_leave_whole_entries(daybook_home: Home) -> None:
    program = """
import asyncio, sys
from daybook.delivery import channels
from tests.contract.channels.conftest import row
async def main():
    for number in range(20):
        body = f"begin {sys.argv[1]} {number}\\n" + "x" * 200_000 + f"\\nend {sys.argv[1]} {number}"
        await channels.send(None, row("file", body, chat_id="all.md"))
asyncio.run(main())
"""
    senders = [
        subprocess.Popen([sys.executable, "-c", program, name])  # noqa: ASYNC220 - a short fork
        for name in "abc"
    ]
    assert [each.wait(60) for each in senders] == [0, 0, 0]

    lines = (daybook_home.path / "out" / "all.md").read_text().split("\n")
    told = [each for each in lines if each.startswith(("begin", "end"))]
    assert len(told) == 120
    for begin, end in zip(told[::2], told[1::2], strict=True):
        assert begin.removeprefix("begin") == end.removeprefix("end")
    assert set(map(len, (each for each in lines if each.startswith("x")))) == {200_000}


@pytest.mark.parametrize(
    "name", ["../x.md", "/etc/x", "a/b", "..", ".hidden", "a\0b", "a\nb", "ä" * 101, "a\\b"]
)
async def test_a_name_leads_nowhere_else(daybook_home: Home, name: str) -> None:
    with pytest.raises(InvalidInput, match="not a valid file name") as refused:
        await channels.check(None, "file", name)
    assert refused.value.field == "chat_id"
    with pytest.raises(NotDelivered, match="not a valid file name") as failed:
        await channels.send(None, row("file", chat_id=name))
    assert not failed.value.temporary
    assert not (daybook_home.path / "out").exists()


async def test_a_link_in_the_folder_is_not_followed(daybook_home: Home, tmp_path: Path) -> None:
    (daybook_home.path / "out").mkdir()
    elsewhere = tmp_path / "elsewhere"
    (daybook_home.path / "out" / "x.md").symlink_to(elsewhere)
    with pytest.raises(NotDelivered, match=r"x\.md: "):
        await channels.send(None, row("file", chat_id="x.md"))
    assert not elsewhere.exists()


async def test_a_pipe_in_the_folder_holds_nobody_up(daybook_home: Home) -> None:
    (daybook_home.path / "out").mkdir()
    os.mkfifo(daybook_home.path / "out" / "x.md")
    with pytest.raises(NotDelivered, match=r"x\.md: "):
        await channels.send(None, row("file", chat_id="x.md"))


async def test_a_folder_that_is_a_file_is_a_failure(daybook_home: Home) -> None:
    (daybook_home.path / "out").write_text("")
    with pytest.raises(NotDelivered, match="out") as failed:
        await channels.send(None, row("file"))
    assert failed.value.temporary


async def test_the_console_is_the_output_of_who_sends(
    daybook_home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    message = row("console", "All is \x1b[31mwell\x1b[0m\x07.\n\tünd so.")
    await channels.send(None, message)
    said = capfd.readouterr().out
    assert said.startswith("## ")
    assert said.endswith(
        "morning-brief: succeeded\n\nAll is \\x1b[31mwell\\x1b[0m\\x07.\n\tünd so.\n\n"
    )


async def test_a_closed_console_is_a_failure(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(NotDelivered, match="standard output") as failed:
            await channels.send(None, row("console"))
        assert failed.value.temporary


async def test_the_inbox_has_it_already(daybook_home: Home) -> None:
    await channels.send(None, row("inbox"))


@pytest.mark.parametrize("name", ["file", "console"])
async def test_what_is_the_operators_is_no_agents(
    daybook_home: Home, name: str, capfd: Any
) -> None:
    with pytest.raises(InvalidInput, match="reserved for the operator") as refused:
        await channels.check(None, name, "", owner="agent:researcher")
    assert refused.value.field == "channel"
    with pytest.raises(NotDelivered, match="reserved for the operator") as failed:
        await channels.send(None, row(name, owner="agent:researcher"))
    assert not failed.value.temporary
    assert capfd.readouterr().out == ""
    assert not (daybook_home.path / "out").exists()
    await channels.send(
        None, row(name, owner="agent:researcher", purpose="alert")
    )  # no choice of it
    await channels.check(None, name, "", owner="file")
    await channels.check(None, "inbox", "", owner="agent:researcher")


async def test_an_agent_is_told_the_channels_that_it_may_have(daybook_home: Home) -> None:
    for owner, known in (("user", ["console", "file", "inbox"]), ("agent:researcher", ["inbox"])):
        with pytest.raises(UnknownName) as refused:
            await channels.check(None, "slack", "", owner=owner)
        assert refused.value.known == known


async def test_what_an_agents_limits_do_not_have_is_not_told(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of what never came to a claim: a due time that was missed, after an edit in Prefect."""
    monkeypatch.setenv("DAYBOOK_LIMITS", '{"channels": ["team"], "chats": ["7"]}')
    with pytest.raises(NotDelivered, match='channel: "inbox" is not allowed') as refused:
        await channels.send(None, row("inbox", owner="agent:researcher"))
    assert not refused.value.temporary
    with pytest.raises(NotDelivered, match='chat_id: "8" is not allowed'):
        await channels.send(None, row("team", chat_id="8", owner="agent:researcher"))
    await channels.send(None, row("inbox"))  # the operator's job
    await channels.send(None, row("inbox", owner="agent:researcher", purpose="alert"))
