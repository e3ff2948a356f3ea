"""Built-in channels: a file in `out/`, the console, the inbox."""

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


async def test_each_message_appends_an_entry_to_the_file(daybook_home: Home) -> None:
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
async def test_concurrent_senders_write_whole_entries_to_the_file(daybook_home: Home) -> None:
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
    events = [each for each in lines if each.startswith(("begin", "end"))]
    assert len(events) == 120
    for begin, end in zip(events[::2], events[1::2], strict=True):
        assert begin.removeprefix("begin") == end.removeprefix("end")
    assert set(map(len, (each for each in lines if each.startswith("x")))) == {200_000}


@pytest.mark.parametrize(
    "name", ["../x.md", "/etc/x", "a/b", "..", ".hidden", "a\0b", "a\nb", "ä" * 101, "a\\b"]
)
async def test_an_invalid_file_name_is_refused_and_nothing_is_written(
    daybook_home: Home, name: str
) -> None:
    with pytest.raises(InvalidInput, match="not a valid file name") as refused:
        await channels.check(None, "file", name)
    assert refused.value.field == "chat_id"
    with pytest.raises(NotDelivered, match="not a valid file name") as failed:
        await channels.send(None, row("file", chat_id=name))
    assert not failed.value.temporary
    assert not (daybook_home.path / "out").exists()


async def test_the_file_channel_does_not_follow_a_symlink(
    daybook_home: Home, tmp_path: Path
) -> None:
    (daybook_home.path / "out").mkdir()
    elsewhere = tmp_path / "elsewhere"
    (daybook_home.path / "out" / "x.md").symlink_to(elsewhere)
    with pytest.raises(NotDelivered, match=r"x\.md: "):
        await channels.send(None, row("file", chat_id="x.md"))
    assert not elsewhere.exists()


async def test_the_file_channel_does_not_block_on_a_named_pipe(daybook_home: Home) -> None:
    (daybook_home.path / "out").mkdir()
    os.mkfifo(daybook_home.path / "out" / "x.md")
    with pytest.raises(NotDelivered, match=r"x\.md: "):
        await channels.send(None, row("file", chat_id="x.md"))


async def test_an_unusable_out_folder_is_a_temporary_failure(daybook_home: Home) -> None:
    (daybook_home.path / "out").write_text("")
    with pytest.raises(NotDelivered, match="out") as failed:
        await channels.send(None, row("file"))
    assert failed.value.temporary


async def test_the_console_channel_prints_and_escapes_control_characters(
    daybook_home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    message = row("console", "All is \x1b[31mwell\x1b[0m\x07.\n\tünd so.")
    await channels.send(None, message)
    output = capfd.readouterr().out
    assert output.startswith("## ")
    assert output.endswith(
        "morning-brief: succeeded\n\nAll is \\x1b[31mwell\\x1b[0m\\x07.\n\tünd so.\n\n"
    )


async def test_a_closed_standard_output_is_a_temporary_failure(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(NotDelivered, match="standard output") as failed:
            await channels.send(None, row("console"))
        assert failed.value.temporary


async def test_sending_to_the_inbox_succeeds(daybook_home: Home) -> None:
    await channels.send(None, row("inbox"))


@pytest.mark.parametrize("name", ["file", "console"])
async def test_an_agents_job_cannot_use_the_file_or_console_channel(
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
    )  # the agent did not choose it
    await channels.check(None, name, "", owner="file")
    await channels.check(None, "inbox", "", owner="agent:researcher")


async def test_an_unknown_channel_error_lists_only_channels_that_the_owner_may_use(
    daybook_home: Home,
) -> None:
    for owner, known in (("user", ["console", "file", "inbox"]), ("agent:researcher", ["inbox"])):
        with pytest.raises(UnknownName) as refused:
            await channels.check(None, "slack", "", owner=owner)
        assert refused.value.known == known


async def test_a_message_outside_the_agents_limits_is_not_sent(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits also apply to runs that were never claimed, such as one missed after an edit in
    Prefect.
    """
    monkeypatch.setenv("DAYBOOK_LIMITS", '{"channels": ["team"], "chats": ["7"]}')
    with pytest.raises(NotDelivered, match='channel: "inbox" is not allowed') as refused:
        await channels.send(None, row("inbox", owner="agent:researcher"))
    assert not refused.value.temporary
    with pytest.raises(NotDelivered, match='chat_id: "8" is not allowed'):
        await channels.send(None, row("team", chat_id="8", owner="agent:researcher"))
    await channels.send(None, row("inbox"))  # the operator's job
    await channels.send(None, row("inbox", owner="agent:researcher", purpose="alert"))
