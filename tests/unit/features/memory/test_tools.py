"""Tools with which the runs of a job keep notes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.errors import (
    FenceRefused,
    InvalidInput,
    LedgerUnreachable,
    UnknownName,
)
from daybook.execution import builtin_tools, held_writes
from daybook.features.memory import notebooks, operations
from daybook.features.memory.notebooks import MAX_BYTES, MAX_VERSIONS
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from tests.unit.features.attempts import Started, attempt
from tests.world import World

pytestmark = pytest.mark.anyio


@pytest.mark.dialect
async def test_a_later_run_reads_what_an_earlier_one_has_written(
    world: World, running: Started
) -> None:
    first = await running()
    async with attempt(first, "memory") as call:
        assert await call("memory_read") == "The notebook is empty."
        await call("memory_append", text="Ann likes tea.")
        await call("memory_append", text="Ben likes Käse 🧀.\n")
        answer = await call("memory_replace", old="tea", new="coffee")
        assert answer == "Version 3 of the notebook has 40 bytes."
    await world.runs.finish(first, Status.SUCCEEDED)

    async with attempt(await running(), "memory") as call:
        text = await call("memory_read")
        assert text == "Ann likes coffee.\nBen likes Käse 🧀.\n"
        assert len(text.encode()) == 40
        await call("memory_append", text="Cleo")
        assert (await call("memory_read")).splitlines()[2] == "Cleo"
    versions = await operations.history("brief")
    assert [(each.number, each.run_id == first.run_id) for each in versions] == [
        *[(4, False), (3, True), (2, True), (1, True)],
    ]


async def test_a_long_text_is_read_in_parts(running: Started) -> None:
    words = " ".join(f"word{number}" for number in range(5_000))
    async with attempt(await running(), "memory") as call:
        await call("memory_append", text=words)
        parts, start = "", 0
        while start < len(words):
            head, _, part = (await call("memory_read", start=start)).partition("\n")
            parts, start = parts + part, start + len(part)
            assert (f"start={start}" in head) == (start < len(words))
        assert parts == words


async def test_a_search_finds_the_lines_with_all_words(running: Started) -> None:
    lines = [f"line {number}: tea" for number in range(200)]
    lines[70] = "Ann prefers GREEN tea " + "x" * 5_000
    async with attempt(await running(), "memory") as call:
        assert await call("memory_search", words="tea") == "The notebook is empty."
        await call("memory_append", text="\n".join(lines))
        (found,) = (await call("memory_search", words="green TEA")).splitlines()
        start = int(found.partition("start=")[2].partition(")")[0])
        assert found.startswith("line 71 ") and len(found) < 400
        assert "\n".join(lines)[start:].startswith("Ann prefers")
        assert "No line" in await call("memory_search", words="green coffee")
        many = (await call("memory_search", words="tea")).splitlines()
        assert many[-1] == "and 150 more lines; use more words"


@pytest.mark.parametrize(
    ("tool", "arguments", "field"),
    [
        ("append", {}, "text"),
        ("append", {"text": ""}, "text"),
        ("append", {"text": 7}, "text"),
        ("append", {"text": "x" * 100_000_000}, "text"),
        ("append", {"text": "é" * (MAX_BYTES // 2)}, "text"),
        ("replace", {"old": "tea", "new": "x" * 100_000_000}, "text"),
        ("replace", {"old": "", "new": "x"}, "old"),
        ("replace", {"old": "coffee", "new": "x"}, "old"),
        ("replace", {"old": "a", "new": "x"}, "old"),
        ("replace", {"old": "tea"}, "new"),
        ("read", {"start": -1}, "start"),
        ("read", {"start": 9}, "start"),
        ("read", {"start": True}, "start"),
        ("read", {"notebook": 7}, "notebook"),
        ("search", {"words": " "}, "words"),
        ("search", {"words": "x" * 1_000}, "words"),
    ],
)
async def test_an_invalid_call_changes_nothing(
    running: Started, tool: str, arguments: dict[str, Any], field: str
) -> None:
    async with attempt(await running(), "memory") as call:
        await call("memory_append", text="tea and a")
        with pytest.raises(InvalidInput) as refused:
            await call(f"memory_{tool}", **arguments)
        assert refused.value.field == field and len(str(refused.value)) < 300
        assert await call("memory_read") == "tea and a"


async def test_a_notebook_has_at_most_a_million_bytes(running: Started) -> None:
    async with attempt(await running(), "memory") as call:
        await call("memory_append", text="é" * (MAX_BYTES // 2 - 1) + "\n")
        await call("memory_append", text="x")
        with pytest.raises(InvalidInput, match="too long"):
            await call("memory_append", text="y")
    assert (await operations.show("brief")).size == MAX_BYTES


async def test_an_unstorable_text_is_stored_as_other_texts_are(running: Started) -> None:
    async with attempt(await running(), "memory") as call:
        await call("memory_append", text="a\x00b\ud800c")
        await call("memory_replace", old="\x00b", new="-")
        assert await call("memory_read") == "a-\ufffdc"


async def test_a_repeated_call_writes_once_and_answers_the_same(running: Started) -> None:
    granted = await running()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("append", {"text": "tea"}),
        ("append", {"text": "tea"}),
        ("replace", {"old": "tea\n", "new": "milk and "}),
    ]
    answers: list[list[str]] = []
    for _ in range(2):  # the second attempt has no journal, and repeats all
        async with attempt(granted, "memory") as call:
            answers.append([await call(f"memory_{name}", **given) for name, given in calls])
            assert await call("memory_read") == "milk and tea"
    assert answers[0] == answers[1]
    assert (await operations.show("brief")).version == 3


async def test_a_call_that_an_earlier_attempt_made_uses_up_its_key(running: Started) -> None:
    granted = await running()
    async with attempt(granted, "memory") as call:
        await call("memory_append", text="tea")
    async with attempt(granted, "memory") as call:
        call.tools["memory_append"].skipped({"text": "tea"})
        await call("memory_append", text="tea")
        assert await call("memory_read") == "tea\ntea"


async def test_another_run_with_the_same_occurrence_writes_anew(
    world: World, running: Started
) -> None:
    """The request of a run may come again after the retention has deleted the run."""
    first = await running()
    async with attempt(first, "memory") as call:
        await call("memory_append", text="tea")
    await world.runs.finish(first, Status.SUCCEEDED)
    second = replace(await running(), occurrence=first.occurrence)
    async with attempt(second, "memory") as call:
        await call("memory_append", text="tea")
        assert await call("memory_read") == "tea\ntea"


@pytest.mark.dialect
async def test_a_process_without_the_claim_writes_nothing(world: World, running: Started) -> None:
    granted = await running()
    async with attempt(replace(granted, fence=granted.fence - 1), "memory") as call:
        with pytest.raises(FenceRefused):
            await call("memory_append", text="tea")
    await world.runs.finish(granted, Status.SUCCEEDED)
    async with attempt(granted, "memory") as call:
        with pytest.raises(FenceRefused):
            await call("memory_append", text="tea")
    assert await operations.list_notebooks() == []


async def test_an_unreachable_ledger_delays_a_write(
    running: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first commit loses only its answer, and the text is written once."""
    granted, write, lost = await running(), Ledger.write, ["the answer"]

    @asynccontextmanager
    async def losing(ledger: Ledger, within: timedelta | None = None) -> AsyncIterator[Any]:
        async with write(ledger, within) as session:
            yield session
        if lost:
            raise LedgerUnreachable("here", lost.pop())

    entering, away = Ledger.__aenter__, ["away"]

    async def opening(ledger: Ledger) -> Ledger:
        if away:
            raise LedgerUnreachable("here", away.pop())
        return await entering(ledger)

    monkeypatch.setattr(Ledger, "__aenter__", opening)
    monkeypatch.setattr(Ledger, "write", losing)
    monkeypatch.setattr(held_writes, "RETRY_DELAY", timedelta(0))
    async with attempt(granted, "memory") as call:
        await call("memory_append", text="tea")
        assert (await call("memory_read"), lost) == ("tea", [])


async def test_parallel_calls_of_two_jobs_lose_nothing(running: Started) -> None:
    await operations.create("house")
    runs = [await running(f"job{number}") for number in range(3)]

    async def write(name: str, granted: Any) -> None:
        async with attempt(granted, "memory") as call:
            for number in range(4):
                await call("memory_append", text=f"{name}.{number}", notebook="house")

    await asyncio.gather(*(write(str(name), granted) for name, granted in enumerate(runs)))
    lines = (await operations.show("house")).text.splitlines()
    assert sorted(lines) == sorted(f"{name}.{number}" for name in range(3) for number in range(4))


@pytest.mark.parametrize("tool", ["read", "append", "search", "replace"])
async def test_a_notebook_of_another_owner_does_not_exist_for_a_job(
    world: World, running: Started, tool: str
) -> None:
    async with attempt(await running("secret"), "memory") as call:
        await call("memory_append", text="tea")
    await operations.create("house")
    await operations.create("of-other", "agent:other")
    await operations.create("of-helper", "agent:helper")
    own = await operations.show("secret")
    arguments = {"read": {}, "append": {"text": "x"}, "search": {"words": "tea"}}.get(
        tool, {"old": "", "new": "x"}
    )
    async with attempt(await running("helped", "agent:helper"), "memory") as call:
        for name in ("house", "of-other", "secret", own.id, str(own.job_id)):
            with pytest.raises(UnknownName) as refused:
                await call(f"memory_{tool}", notebook=name, **arguments)
            assert refused.value.known == ["of-helper"]
        await call(f"memory_{tool}", notebook="of-helper", **arguments)
        assert await call("memory_read") == "The notebook is empty."


async def test_a_run_without_a_job_has_no_notebook(running: Started) -> None:
    granted = replace(await running(), job=None)
    async with attempt(granted, "memory") as call:
        with pytest.raises(InvalidInput, match="add a job"):
            await call("memory_append", text="x")


async def test_the_texts_of_the_last_50_versions_are_kept(world: World, running: Started) -> None:
    granted = await running()
    async with attempt(granted, "memory") as call:
        for number in range(MAX_VERSIONS + 2):
            await call("memory_append", text=str(number))
    kept = [each.number for each in await operations.history("brief") if each.is_kept]
    assert kept == list(range(MAX_VERSIONS + 2, 2, -1))

    # A further attempt may still repeat the first call.
    assert await notebooks.delete_old_versions(world.ledger) == 0
    async with attempt(granted, "memory") as call:
        assert "Version 1 " in await call("memory_append", text="0")
    await world.runs.finish(granted, Status.SUCCEEDED)
    assert await notebooks.delete_old_versions(world.ledger) == 2
    assert [each.number for each in await operations.history("brief")] == kept


async def test_a_notebook_is_deleted_after_its_job(world: World, running: Started) -> None:
    await operations.create("house")
    async with attempt(await running(), "memory") as call:
        await call("memory_append", text="tea")
    assert await notebooks.delete_notebooks(world.ledger) == 0
    async with world.ledger.write() as session:
        notebook = await notebooks.of_job(session, (await world.jobs.get("brief")).id)
        assert notebook is not None
        notebook.job_id = "0" * 32  # as if the retention had deleted the job
        session.add(notebook)
    assert await notebooks.delete_notebooks(world.ledger) == 1
    assert [each.name for each in await operations.list_notebooks()] == ["house"]


async def test_a_tool_outside_of_a_call_of_an_agent_does_not_write(running: Started) -> None:
    with pytest.raises(AssertionError):
        builtin_tools.call_key()
