"""The commands and tools for changes: list, show with the diff, land, discard, worktrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from daybook.cli import output
from daybook.errors import InvalidInput
from daybook.features.repositories import commands, operations
from daybook.features.repositories.tools import MAX_PART_CHARACTERS, TOOLS, details
from daybook.runs.claim_requests import Granted
from tests.unit.features.attempts import Started
from tests.unit.features.repositories.projects import at, changed, commit, user_repository
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]

TOOL = {each.name: each for each in TOOLS}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return user_repository(tmp_path / "project", a="one\n")


@pytest.fixture
async def granted(world: World, running: Started, project: Path) -> Granted:
    """Return a run whose change waits."""
    found = await running("Nightly fix", repo=str(project), ref="main")
    await changed(world, found, a="two\n", b="\u202e\x1b[2J\n-- x\n")
    return found


async def test_the_commands_show_and_land_a_change(
    granted: Granted, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = granted.run_id[:12]
    assert await commands.review_() == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[1].split("  ")[:3] == [run, "Nightly fix", "waits for a person"]

    assert await commands.review_("Nightly fix") == 0
    shown = capsys.readouterr()
    assert "2 files changed (+3 −1)" in shown.out
    assert shown.out.endswith("+⟨U+202E⟩⟨^[⟩[2J\n+-- x\n")
    assert f"daybook land {run}" in shown.err

    assert await commands.worktrees_() == 0
    assert f"worktrees/{granted.run_id}" in capsys.readouterr().out

    assert await commands.land_(run) == 0
    assert capsys.readouterr().out.startswith("Nightly fix: landed on main as ")
    assert at(project, "show", "main:a.txt") == "two"


async def test_a_change_that_does_not_land_is_an_error(
    granted: Granted, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at(project, "switch", "-q", "main")
    commit(project, a="three\n")
    at(project, "switch", "-q", "mine")
    assert await commands.land_(granted.run_id) == 1
    assert "main has changed the same lines of a.txt" in capsys.readouterr().out
    assert await commands.discard_(granted.run_id, note="Not now.") == 0
    assert "discarded" in capsys.readouterr().out
    assert (await operations.show(granted.run_id)).note == "Not now."


async def test_a_terminal_gets_colours_by_the_kind_of_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed = list[tuple[str, str]]()
    monkeypatch.setattr(output, "line", lambda text, style="": printed.append((style, text)))
    commands._print_patch("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n y\n--- a\n+++ b\n")
    assert printed == [
        ("bold", "diff --git a/x b/x\n--- a/x\n+++ b/x"),
        ("cyan", "@@ -1 +1 @@"),
        ("", " y"),
        ("red", "--- a"),
        ("green", "+++ b"),
    ]


async def test_the_tools_show_a_patch_in_parts_and_decide(granted: Granted, project: Path) -> None:
    run = granted.run_id[:12]
    listed = await TOOL["change_list"].call({"which": "waiting"})
    assert listed.startswith(f"- {run}: Nightly fix, 2 files changed (+3 −1) for main")
    shown = await TOOL["change_show"].call({"change": run})
    assert "+two" in shown
    long = (await operations.show(run)).model_copy(update={"patch": "x" * 30_000})
    first = details(long, 0)
    assert first.endswith("start=20000:\n" + "x" * MAX_PART_CHARACTERS)
    assert details(long, MAX_PART_CHARACTERS).endswith("of 30,000:\n" + "x" * 10_000)

    with pytest.raises(InvalidInput, match="is blank"):
        await TOOL["change_decide"].call({"change": run, "decision": "ask"})
    landed = await TOOL["change_decide"].call({"change": run, "decision": "land"})
    assert f"landed on main as {at(project, 'rev-parse', 'main')[:12]}" in landed
    with pytest.raises(InvalidInput, match="it is landed"):
        await TOOL["change_decide"].call({"change": run, "decision": "discard"})
    assert await TOOL["change_list"].call({"which": "waiting"}) == "There are no changes."
