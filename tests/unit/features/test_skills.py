"""Skills: folders with a `SKILL.md` that agents load when they need them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pydantic_ai
import pytest
from pydantic import ValidationError

from daybook.agents import presets
from daybook.agents.base import Tool
from daybook.agents.command import CommandSettings
from daybook.errors import InvalidInput, UnknownName
from daybook.execution import builtin_tools, program_folders
from daybook.execution.builtin_tools import ToolContext
from daybook.features.skills import folder, operations
from daybook.features.skills.folder import SkillFolder

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]

HEAD = "---\nname: release-notes\ndescription: Write release notes.\n---\n"


def made(path: Path, text: str = HEAD + "\n# Steps\n1. Read.\n") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "SKILL.md").write_text(text)
    return path


@pytest.fixture
def skill(tmp_path: Path) -> Path:
    made(tmp_path / "release-notes")
    more = tmp_path / "release-notes" / "references"
    more.mkdir()
    (more / "style.md").write_text("Be short.")
    (more / "logo.png").write_bytes(b"\x89PNG\x00")
    return tmp_path / "release-notes"


async def tools(entry: str = "skills") -> dict[str, Tool]:
    context = ToolContext(None, "brief", secrets=None)  # type: ignore[arg-type]
    return await builtin_tools.find(entry, context)


async def test_a_skill_is_added_shown_replaced_and_removed(skill: Path) -> None:
    added = await operations.add(str(skill))
    assert (added.name, added.description) == ("release-notes", "Write release notes.")
    assert await operations.list_skills() == [added]
    shown = await operations.show("release-notes")
    assert [each.path for each in shown.files] == [
        "SKILL.md",
        "references/logo.png",
        "references/style.md",
    ]
    assert shown.text == "# Steps\n1. Read.\n"

    (skill / "references" / "style.md").unlink()
    with pytest.raises(InvalidInput, match="exists already"):
        await operations.add(str(skill))
    assert (await operations.show("release-notes")).digest == added.digest
    replaced = await operations.add(str(skill), replace=True)
    assert replaced.digest != added.digest
    assert len((await operations.show("release-notes")).files) == 2

    await operations.remove("release-notes")
    assert await operations.list_skills() == []
    with pytest.raises(UnknownName):
        await operations.show("release-notes")


async def test_a_model_sees_names_and_loads_the_text_and_then_a_file(skill: Path) -> None:
    added = await operations.add(str(skill))
    await operations.add(str(made(skill.parent / "b", HEAD.replace("release-notes", "other"))))

    found = await tools()
    assert list(found) == ["skills.other", "skills.release-notes"]
    tool = (await tools("skills.release-*"))["skills.release-notes"]
    assert "Write release notes." in tool.description
    assert tool.read_only
    text = await tool.call({})
    assert text.splitlines()[:2] == [
        f"Skill release-notes, version {added.digest[:12]}",
        "Files: references/logo.png, references/style.md",
    ]
    assert text.endswith("\n\n# Steps\n1. Read.\n")
    assert (await tool.call({"file": "references/style.md"})).endswith("\n\nBe short.")
    with pytest.raises(InvalidInput, match=r"use one of: SKILL\.md"):
        await tool.call({"file": "../ledger.db"})
    with pytest.raises(InvalidInput, match="no text"):
        await tool.call({"file": "references/logo.png"})


async def test_a_long_file_is_loaded_in_parts(skill: Path) -> None:
    words = " ".join(map(str, range(9_000)))
    (skill / "long.md").write_text(words)
    await operations.add(str(skill))
    (tool,) = (await tools()).values()
    first = await tool.call({"file": "long.md"})
    assert f"Next part: start=20000 of {len(words):,}" in first
    second = await tool.call({"file": "long.md", "start": 20_000})
    last = await tool.call({"file": "long.md", "start": 40_000})
    assert "".join(each.partition("\n\n")[2] for each in (first, second, last)) == words


async def test_an_entry_for_a_missing_skill_fails_and_all_of_none_is_none(skill: Path) -> None:
    assert await tools() == {}
    with pytest.raises(UnknownName, match=r"skills\.release"):
        await tools("skills.release")


def _repository(path: Path) -> str:
    """Make a git repository with a skill, and return its address."""
    made(path / "skills" / "release-notes")
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "x"],
    ):
        subprocess.run(["git", "-C", str(path), *command], check=True)
    return path.as_uri()


async def test_a_skill_comes_from_a_folder_of_a_git_repository(tmp_path: Path) -> None:
    address = _repository(tmp_path / "repository")

    added = await operations.add(address, folder="skills/release-notes")

    assert (added.name, added.source) == ("release-notes", address)
    for where in ("../..", "/etc"):
        with pytest.raises(InvalidInput, match="leaves the repository"):
            await operations.add(address, folder=where)
    with pytest.raises(InvalidInput, match="git cannot clone it"):
        await operations.add(f"{address}-elsewhere")


@pytest.mark.parametrize("source", ["", " ", "--upload-pack=touch /tmp/x", "ext::sh -c id"])
async def test_a_source_that_is_neither_folder_nor_address_is_refused(source: str) -> None:
    with pytest.raises(InvalidInput):
        await operations.add(source)
    assert await operations.list_skills() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# No head", "has no head"),
        ("---\nname: a\n", "has no head"),
        ("---\nname: [\n---\n", "no YAML"),
        ("---\n- a\n---\n", "name is no text"),
        ("---\nname: Release Notes\ndescription: x\n---\n", "not valid"),
        ("---\nname: a--b\ndescription: x\n---\n", "not valid"),
        ("---\nname: ../a\ndescription: x\n---\n", "not valid"),
        (f"---\nname: {'a' * 51}\ndescription: x\n---\n", "not valid"),
        ("---\nname: a\n---\n", "no description"),
        ("---\nname: a\ndescription: '  '\n---\n", "no description"),
        ("---\nname: a\ndescription: 7\n---\n", "no description"),
        (f"---\nname: a\ndescription: {'x' * 1025}\n---\n", "too long"),
        ("---\nname: a\ndescription: " + "[" * 10_000 + "\n---\n", "no YAML"),
    ],
)
def test_an_invalid_skill_is_refused_with_its_problem(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        folder.read(made(tmp_path, text))


def test_links_out_of_the_folder_are_refused_and_links_inside_are_followed(skill: Path) -> None:
    secrets = skill.parent / ".ssh"
    secrets.mkdir()
    (secrets / "id_rsa").write_text("key")
    (skill / "again.md").symlink_to("references/style.md")
    assert folder.read(skill).files["again.md"] == b"Be short."

    for target in (secrets / "id_rsa", secrets, Path("/etc/hosts"), Path("missing")):
        link = skill / "link"
        link.symlink_to(target)
        with pytest.raises(InvalidInput):
            folder.read(skill)
        link.unlink()
    (skill / "loop").symlink_to(skill / "references")
    with pytest.raises(InvalidInput, match="loop is no file"):
        folder.read(skill)


def test_files_that_are_no_files_and_too_much_are_refused(
    skill: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(skill / "pipe")
    with pytest.raises(InvalidInput, match="pipe is no file"):
        folder.read(skill)
    (skill / "pipe").unlink()
    monkeypatch.setattr(folder, "MAX_BYTES", 1_000)
    (skill / "large").write_bytes(b"x" * 1_001)
    with pytest.raises(InvalidInput, match="more than 1,000 bytes"):
        folder.read(skill)
    (skill / "large").unlink()
    monkeypatch.setattr(folder, "MAX_FILES", 2)
    with pytest.raises(InvalidInput, match="more than 2 files"):
        folder.read(skill)


def test_the_digest_tells_paths_and_contents_apart() -> None:
    one = SkillFolder("a", "b", {"x": b"1", "y": b"2"})
    assert one.digest == SkillFolder("c", "d", {"y": b"2", "x": b"1"}).digest
    others = [{"x": b"2", "y": b"1"}, {"x": b"12"}, {"xy": b"1", "": b"2"}, {}]
    assert len({SkillFolder("a", "b", each).digest for each in others} | {one.digest}) == 5


def test_published_skills_are_read() -> None:
    published = Path(pydantic_ai.__file__).parent / ".agents" / "skills"
    read = [folder.read(each) for each in sorted(published.iterdir()) if each.is_dir()]
    assert [each.name for each in read] == sorted(
        each.name for each in published.iterdir() if each.is_dir()
    )


async def test_programs_get_the_skills_that_their_entries_name(skill: Path) -> None:
    added = await operations.add(str(skill))
    await operations.add(str(made(skill.parent / "b", HEAD.replace("release-notes", "other"))))

    (found,) = await program_folders.find(["search", "skills.release-*"])
    assert (found.name, found.digest) == ("release-notes", added.digest)
    assert found.files["references/logo.png"] == b"\x89PNG\x00"
    both = await program_folders.find(["skills.other", "skills"])
    assert [each.name for each in both] == ["other", "release-notes"]
    with pytest.raises(UnknownName, match="gone"):
        await program_folders.find(["skills.gone"])
    for each in await operations.list_skills():
        await operations.remove(each.name)
    assert await program_folders.find(["skills"]) == ()


def test_a_program_with_skills_needs_no_file_for_servers() -> None:
    tools = ["skills", "skills.release-*"]
    assert CommandSettings(command=["codex"], tools=tools).tools == tools
    assert "{mcp_config}" not in str(presets.apply("claude-code", {"tools": tools}))
    assert "{mcp_config}" in str(presets.apply("claude-code", {"tools": [*tools, "search"]}))
    with pytest.raises(ValidationError, match=r"need \{mcp_config\}"):
        CommandSettings(command=["codex"], tools=[*tools, "search"])
