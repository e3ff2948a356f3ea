"""What a person does with notebooks: by operations, by commands, and on the page."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from daybook import owners
from daybook.errors import Ambiguous, ChangedMeanwhile, InvalidInput, NotFound
from daybook.features.memory import operations
from daybook.features.memory.notebooks import MAX_BYTES
from daybook.home import Home
from daybook.ledger import transfer
from daybook.ledger.engine import Ledger, sharing
from daybook.owners import Actor
from tests.commands import Daybook
from tests.unit.features.attempts import Started, attempt
from tests.world import World

anyio = pytest.mark.anyio


@anyio
@pytest.mark.dialect
async def test_a_person_edits_what_a_run_has_written_and_nothing_is_lost(
    world: World, running: Started
) -> None:
    granted = await running()
    async with attempt(granted, "memory") as call:
        await call("memory_append", text="tea")
        shown = await operations.show("brief")
        assert (shown.text, shown.written_by) == ("tea", f"run {granted.run_id[:12]}")

        written = await operations.write("brief", "coffee", base=1)
        assert (written.version, written.size) == (2, 6)
        assert await call("memory_read") == "coffee"
        await call("memory_append", text="milk")
    with pytest.raises(ChangedMeanwhile):
        await operations.write("brief", "water", base=2)
    assert (await operations.show("brief", version=1)).text == "tea"
    assert [each.number for each in await operations.history("brief")] == [3, 2, 1]
    assert (await operations.write("brief", "coffee\nmilk")).version == 3  # nothing changes


@anyio
async def test_a_notebook_is_found_by_its_name_its_job_and_their_ids(world: World) -> None:
    job = await world.jobs.add("brief")
    with sharing(world.ledger):
        assert await operations.list_notebooks() == []
        assert (await operations.show("brief")).text == ""
        assert await operations.history(job.id) == []
        with pytest.raises(NotFound):
            await operations.remove("brief")
        written = await operations.write("brief", "tea")
        house = await operations.create("house")
        assert (
            (await operations.show(job.id)).id
            == written.id
            == (await operations.show(written.id[:8])).id
        )
        assert [each.name for each in await operations.list_notebooks()] == ["brief", "house"]
        await operations.create("other")
        await world.jobs.add("other")
        with pytest.raises(Ambiguous):
            await operations.show("other")
        with pytest.raises(NotFound):
            await operations.show("brief", version=7)
        await operations.remove(house.id)
        assert [each.name for each in await operations.list_notebooks()] == ["brief", "other"]


@anyio
@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("house", "user"),
        ("", "user"),
        ("cafe", "user"),
        ("a", "plugin"),
        ("a", "agent:"),
        ("a", "x"),
    ],
)
async def test_an_invalid_notebook_is_not_created(world: World, name: str, owner: str) -> None:
    with sharing(world.ledger):
        await operations.create("house")
        with pytest.raises(InvalidInput):
            await operations.create(name, owner)
        assert len(await operations.list_notebooks()) == 1


@anyio
async def test_an_agent_cannot_use_the_operations(world: World) -> None:
    with sharing(world.ledger):
        await operations.create("house")
        with owners.acting_as(Actor("agent:brief", via="mcp")):
            for call in (
                operations.list_notebooks,
                lambda: operations.show("house"),
                lambda: operations.history("house"),
                lambda: operations.create("x"),
                lambda: operations.write("house", "x"),
                lambda: operations.remove("house"),
            ):
                with pytest.raises(InvalidInput, match="an agent cannot"):
                    await call()
        assert (await operations.show("house")).version == 0


@anyio
async def test_a_copy_of_the_ledger_has_the_notebooks(world: World, tmp_path: Path) -> None:
    with sharing(world.ledger):
        await operations.create("house")
        await operations.write("house", "tea")
    await transfer.snapshot(world.ledger, tmp_path / "copy.db")
    async with Ledger(transfer.sqlite_address(tmp_path / "copy.db")) as copy:
        with sharing(copy):
            assert (await operations.show("house")).text == "tea"


def test_the_commands_write_show_and_remove_a_notebook(
    daybook_home: Home, daybook: Daybook, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no notebooks" in daybook("memory", "list").err
    assert daybook("memory", "create", "house").out.startswith("Created the notebook house")
    for text in ("tea\n", "tea\nmilk\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert daybook("memory", "edit", "house").code == 0
    assert daybook("memory", "show", "house").out == "tea\nmilk\n"
    assert daybook("memory", "show", "house", "--version", "1").out == "tea\n"
    listed = daybook("memory", "list", "--json").json
    assert [(each["name"], each["version"], each["size"]) for each in listed] == [("house", 2, 9)]
    history = daybook("memory", "history", "house").out.splitlines()
    assert [line.split()[0] for line in history] == ["VERSION", "2", "1"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("x" * (MAX_BYTES + 1)))
    too_long = daybook("memory", "edit", "house")
    assert too_long.code == 2 and "too long" in too_long.err
    assert daybook("memory", "remove", "house").code == 0
    assert daybook("memory", "show", "house").code == 3


def test_the_editor_gets_the_text_and_a_refused_one_is_kept(
    daybook_home: Home, daybook: Daybook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daybook("memory", "create", "house")
    monkeypatch.setattr(sys, "stdin", io.StringIO("tea\n"))
    daybook("memory", "edit", "house")
    program = tmp_path / "editor.py"
    program.write_text(
        "import pathlib, sys\nfile = pathlib.Path(sys.argv[1])\n"
        "file.write_text(file.read_text() * int(sys.argv[0].endswith('.py') and 2))\n"
    )
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"'{sys.executable}' '{program}'")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert daybook("memory", "edit", "house").code == 0
    assert daybook("memory", "show", "house").out == "tea\ntea\n"

    program.write_text("import sys\nopen(sys.argv[1], 'w').write('x' * 1_000_001)\n")
    refused = daybook("memory", "edit", "house")
    assert refused.code == 2
    kept = Path(refused.err.partition("Your text is in ")[2].splitlines()[0])
    assert len(kept.read_text()) == 1_000_001
    kept.unlink()
    assert daybook("memory", "show", "house").out == "tea\ntea\n"
