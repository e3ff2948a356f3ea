"""Copies of the files that a run has written: one for each path, bounded, without secrets."""

from __future__ import annotations

import hashlib
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

import daybook
from daybook import owners, redaction
from daybook.api import run_files
from daybook.delivery import channels, outbox, outgoing
from daybook.delivery.attachments import WrittenFile
from daybook.delivery.dispatcher import dispatch
from daybook.delivery.outbox import QueueKind
from daybook.errors import FenceRefused, InvalidInput, NotFound
from daybook.features.work_tools import commands, kept_files, run_tools
from daybook.features.work_tools.tables import WrittenFileRow
from daybook.ledger import transfer
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import OutboxRow
from daybook.ledger.views import RunFile
from daybook.names import Id
from daybook.owners import Actor
from daybook.prefect import unmirrored
from daybook.runs import retention
from daybook.runs.retention import RetentionLimits
from tests.unit.features.attempts import Started, attempt
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]

TOKEN = "dbt_" + "Ab" * 21 + "C"


async def shown(run_id: str) -> list[tuple[str, int, str]]:
    return [(each.path, each.size, each.not_kept) for each in await run_files.of_run(Id(run_id))]


async def test_a_run_keeps_each_file_as_it_was_after_its_last_write(
    world: World, running: Started, work: Path
) -> None:
    granted = await running()
    async with attempt(granted, "files", work_dir=str(work)) as answering:
        await answering("files_write", path="b.txt", content="one")
        world.passes(seconds=1)
        await answering("files_write", path="a/x.md", content="Grüße", create_folders=True)
        world.passes(seconds=1)
        await answering("files_edit", path="./b.txt", old="one", new="one more")
    (work / "b.txt").write_text("changed since")

    assert await shown(granted.run_id) == [("a/x.md", 7, ""), ("b.txt", 8, "")]
    kept = await run_files.read(Id(granted.run_id), "b.txt")
    assert kept.content == b"one more"
    assert kept.digest == hashlib.sha256(b"one more").hexdigest()


@pytest.mark.dialect
async def test_a_repeated_write_adds_no_second_file(world: World, running: Started) -> None:
    granted = await running()
    for _ in range(2):
        async with world.ledger.write() as session:
            await kept_files.record(session, world.ledger, granted.run_id, "a", b"\x00\xff")
    async with world.ledger.read() as session:
        assert await kept_files.content(session, granted.run_id, "a") == b"\x00\xff"
    assert await shown(granted.run_id) == [("a", 2, "")]


async def test_a_process_without_its_claim_keeps_nothing(
    world: World, running: Started, work: Path
) -> None:
    granted = await running()
    async with attempt(granted, "files", work_dir=str(work)) as answering:
        await world.runs.finish(granted, Status.SUCCEEDED)
        with pytest.raises(FenceRefused):
            await answering("files_write", path="a.txt", content="late")
    assert await shown(granted.run_id) == []


async def test_files_with_secrets_and_files_beyond_the_limit_are_named_but_not_kept(
    running: Started, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_remembered", {"hunter2-secret": "[key]"})
    granted = await running()
    half = "x" * (kept_files.MAX_KEPT_BYTES // 2)
    async with attempt(granted, "files", work_dir=str(work)) as answering:
        await answering("files_write", path="1-key.txt", content="the key is hunter2-secret.")
        await answering("files_write", path="2-token.txt", content=f"the token is {TOKEN}")
        await answering("files_write", path="3.txt", content=half)
        await answering("files_write", path="3.txt", content=half)
        await answering("files_write", path="4.txt", content=half)
        await answering("files_write", path="5.txt", content="x")
        await answering("files_write", path="6.txt", content="")
    found = {each.path: each for each in await run_files.of_run(Id(granted.run_id))}
    reasons = {path: each.not_kept for path, each in found.items() if each.not_kept}
    assert reasons == {
        "1-key.txt": kept_files.SECRET,
        "2-token.txt": kept_files.SECRET,
        "5.txt": kept_files.TOO_LARGE,
    }
    assert (work / "1-key.txt").read_text() == "the key is hunter2-secret."
    with pytest.raises(NotFound):
        await run_files.read(Id(granted.run_id), "1-key.txt")
    async with attempt(granted, "files", work_dir=str(work)) as answering:
        await answering("files_write", path="3.txt", content="hunter2-secret")
        await answering("files_write", path="5.txt", content="x")
    found = {each.path: each for each in await run_files.of_run(Id(granted.run_id))}
    assert (found["3.txt"].not_kept, found["5.txt"].not_kept) == (kept_files.SECRET, "")


async def test_only_the_message_about_the_outcome_carries_the_files(
    world: World, running: Started, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[tuple[str, str, list[tuple[str, bytes | None, str]]]] = []

    async def send(
        _: object, row: OutboxRow, url: object, files: list[WrittenFile], lines: object
    ) -> None:
        found = [(each.path, each.content, each.reason) for each in files]
        messages.append((row.purpose, row.event, found))

    monkeypatch.setattr(channels, "send", send)
    for name, attaches in (("with", True), ("without", False)):
        notify = {"channel": "team", "attach_files": attaches}
        granted = await running(name, notify=notify)
        async with attempt(granted, "files", work_dir=str(work)) as answering:
            await answering("files_write", path="a.txt", content="first")
            await answering("files_write", path="a.txt", content="last")
            await answering("files_write", path=f"{name}.txt", content=f"uses {TOKEN}")
        async with world.ledger.write() as session:
            for purpose in (outbox.MESSAGE, outbox.ALERT):
                await outbox.enqueue_message(
                    session,
                    key=f"{name}:{purpose}",
                    purpose=purpose,
                    event="progress" if purpose == outbox.MESSAGE else "failed",
                    channel="team",
                    subject="s",
                    body="b",
                    run_id=granted.run_id,
                    now=world.clock.now(),
                )
        await world.runs.finish(granted, Status.SUCCEEDED, output="Done.")
    sender = outgoing.ChannelSender(cast(Any, None), world.ledger, None)
    sent = await dispatch(world.ledger, "keeper", {QueueKind.CHANNEL: sender})

    assert sent.delivered == 6
    assert [each for each in messages if each[2]] == [
        (
            "message",
            "completed",
            [("a.txt", b"last", ""), ("with.txt", None, "it contains a secret")],
        )
    ]


async def test_an_agent_sees_the_files_of_its_own_runs_only(running: Started, work: Path) -> None:
    granted = await running("theirs", owner="agent:ana")
    async with attempt(granted, "files", work_dir=str(work)) as answering:
        await answering("files_write", path="a.txt", content="mine")
    with owners.acting_as(Actor("agent:ana")):
        assert (await run_files.read("theirs", "a.txt")).content == b"mine"
    with owners.acting_as(Actor("agent:bob")):
        for ref in ("theirs", granted.run_id):
            with pytest.raises(NotFound):
                await run_files.of_run(ref)
            with pytest.raises(NotFound):
                await run_files.read(ref, "a.txt")


@pytest.mark.dialect
async def test_files_are_deleted_with_the_texts_of_steps_and_with_their_run(
    world: World, running: Started, work: Path
) -> None:
    old, live, gone = [await running(name) for name in ("old", "live", "gone")]
    for each in (old, live, gone):
        async with attempt(each, "files", work_dir=str(work)) as answering:
            await answering("files_write", path="a.txt", content="x")
    for each in (old, gone):
        await world.runs.finish(each, Status.SUCCEEDED)
    world.passes(days=31)
    keep = RetentionLimits(timedelta(days=365), None, texts=timedelta(days=30))
    assert await kept_files.delete_old(world.ledger, RetentionLimits(None, None)) == 0
    assert await kept_files.delete_old(world.ledger, keep) == 2
    assert await kept_files.delete_old(world.ledger, keep) == 0
    assert [await shown(each.run_id) for each in (old, live)] == [[], [("a.txt", 1, "")]]


async def test_a_deleted_run_leaves_no_file(world: World, running: Started, work: Path) -> None:
    granted = await running()
    async with attempt(granted, "files", work_dir=str(work)) as answering:
        await answering("files_write", path="a.txt", content="x")
    await world.runs.finish(granted, Status.SUCCEEDED)
    await unmirrored.clear_marks(world.ledger, [granted.run_id])
    world.passes(days=400)
    keep = RetentionLimits(timedelta(days=365), None)
    assert granted.job is not None
    assert await retention.prune_runs(world.ledger, granted.job.id, keep) == (1, 0)
    assert await kept_files.delete_old(world.ledger, keep) == 1


async def test_a_copy_of_a_ledger_has_few_files_in_memory_at_a_time(
    world: World, running: Started, tmp_path: Path
) -> None:
    granted, size, count = await running(), 2**18, 200
    async with world.ledger.write() as session:
        for number in range(count):
            row = {"run_id": granted.run_id, "path": f"{number}", "written_at": world.clock.now()}
            kept = {"size": size, "digest": "", "not_kept": "", "content": bytes(size)}
            await session.execute(insert(WrittenFileRow).values(row | kept))
    async with Ledger(transfer.sqlite_address(tmp_path / "copy.db")) as copy:
        async with world.ledger.read() as source, copy.write() as target:
            tracemalloc.start()
            try:
                await transfer.copy_rows(source, target)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        async with copy.read() as session:
            assert len(await kept_files.of_run(session, granted.run_id)) == count
    assert peak < size * count / 2


async def test_files_are_saved_in_a_new_folder_only(
    running: Started, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    granted = await running()
    async with attempt(granted, "files", work_dir=str(work)) as answering:
        await answering("files_write", path="a/b.txt", content="Hm.", create_folders=True)
        await answering("files_write", path="token.txt", content=TOKEN)
    saved = tmp_path / "saved"
    assert await commands.files_(granted.run_id, save=saved) == 0
    assert [each.read_text() for each in saved.rglob("*") if each.is_file()] == ["Hm."]
    printed = capsys.readouterr()
    assert "token.txt is not saved: it contains a secret" in printed.err
    assert TOKEN not in printed.out + printed.err
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "link").symlink_to(outside)
    for folder in (saved, tmp_path / "link", tmp_path / "no" / "folder"):
        with pytest.raises(InvalidInput, match="name a new folder"):
            await commands.files_(granted.run_id, save=folder)
    assert list(outside.iterdir()) == []


async def test_a_file_whose_path_became_a_folder_does_not_prevent_the_saving_of_others(
    world: World,
    running: Started,
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    granted = await running()
    async with attempt(granted, "files", work_dir=str(work)) as answering:
        await answering("files_write", path="a", content="a file")
        await answering("files_write", path="b/c", content="a folder", create_folders=True)
        world.passes(seconds=1)
        (work / "a").unlink()
        (work / "b" / "c").unlink()
        (work / "b").rmdir()
        await answering("files_write", path="a/x", content="a folder", create_folders=True)
        await answering("files_write", path="b", content="a file")
    saved = tmp_path / "saved"
    assert await commands.files_(granted.run_id, save=saved) == 0
    assert (saved / "a" / "x").read_text() == "a folder"
    assert (saved / "b").read_text() == "a file"
    printed = capsys.readouterr().err
    assert "! a is not saved: " in printed and "! b/c is not saved: " in printed


async def test_saved_files_are_of_one_run_even_if_another_run_of_the_job_begins(
    world: World, running: Started, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = await running("brief")
    async with attempt(granted, "files", work_dir=str(work)) as answering:
        await answering("files_write", path="a.txt", content="first")
    listed = kept_files.of_run

    async def and_another_run_begins(session: AsyncSession, run_id: str) -> list[RunFile]:
        monkeypatch.setattr(kept_files, "of_run", listed)
        found = await listed(session, run_id)
        await world.runs.finish(granted, Status.SUCCEEDED)
        world.passes(seconds=1)
        await running("brief")
        return found

    monkeypatch.setattr(kept_files, "of_run", and_another_run_begins)
    assert await commands.files_("brief", save=tmp_path / "saved") == 0
    assert (tmp_path / "saved" / "a.txt").read_text() == "first"


async def test_a_client_reads_a_file_in_parts(running: Started, work: Path) -> None:
    (tool,) = run_tools.TOOLS
    granted = await running("brief")
    assert await tool.call({"run": "brief"}) == "This run has written no file with its tools."
    text = "".join(f"{number} " for number in range(9_000))
    async with attempt(granted, "files", work_dir=str(work)) as answering:
        await answering("files_write", path="long.txt", content=text)
        await answering("files_write", path="short.txt", content="x")
        await answering("files_write", path="token.txt", content=TOKEN)
    lines = (await tool.call({"run": granted.run_id})).splitlines()
    digest = hashlib.sha256(b"x").hexdigest()
    assert f"- short.txt: 1 bytes, SHA-256 {digest}, kept: yes" in lines
    assert lines[2].endswith("kept: no: it contains a secret")
    assert await tool.call({"run": "brief", "path": "short.txt"}) == "x"
    parts, start = "", 0
    while start < len(text):
        answer = await tool.call({"run": "brief", "path": "long.txt", "start": start})
        head, _, part = answer.partition("\n")
        parts, start = parts + part, start + len(part)
        assert head.startswith("Characters ") and head.endswith(f"start={start}") == (
            start < len(text)
        )
    assert parts == text


async def test_a_client_lists_many_files_in_parts(world: World, running: Started) -> None:
    (tool,) = run_tools.TOOLS
    granted, names = await running(), [f"{number:04}.txt" for number in range(200)]
    async with world.ledger.write() as session:
        for each in names:
            await kept_files.record(session, world.ledger, granted.run_id, each, b"")
    first = await tool.call({"run": granted.run_id})
    assert len(first) < run_tools.MAX_PART_CHARACTERS + 200
    start = int(first.partition("\n")[0].rpartition("start=")[2])
    second = await tool.call({"run": granted.run_id, "start": start})
    listed = first.partition("\n")[2] + second.partition("\n")[2]
    assert [line[2:10] for line in listed.splitlines()] == names


async def test_a_program_reads_a_file_as_bytes(running: Started, work: Path) -> None:
    granted = await running("brief")
    async with attempt(granted, "files", work_dir=str(work)) as answering:
        await answering("files_write", path="a.txt", content="Grüße")
    client = daybook.Client()
    assert (await client.file_of("brief", "a.txt")).content == "Grüße".encode()
    assert [each.path for each in (await client.run_of(granted.run_id)).files] == ["a.txt"]
