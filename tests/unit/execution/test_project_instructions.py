"""The `AGENTS.md` of a work directory: how it is read, and that all attempts use the first text."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from daybook.agents.base import Tool
from daybook.agents.model import ModelAgent
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import AgentTemporary
from daybook.execution import journal, project_instructions
from daybook.execution.agent_request import PreparedRequest
from daybook.execution.agent_tools import ToolSelection
from daybook.execution.answers import AgentAnswer
from daybook.execution.fallback import PreparedAgents
from daybook.execution.project_instructions import MAX_BYTES
from daybook.owners import Actor
from daybook.processes import regular_files
from tests.providers import Answer, Provider, Step, provider
from tests.providers import Status as HttpStatus
from tests.unit.agents.asking import agent, request
from tests.unit.execution.conftest import ActiveRun
from tests.unit.execution.test_journal import Mail, recorded, sends

pytestmark = pytest.mark.anyio

BUSY = HttpStatus(503, "Busy.")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    path.mkdir()
    return path.resolve()


async def loaded(project: Path) -> str:
    async with asyncio.timeout(10):  # a FIFO must not block
        return await project_instructions.load(str(project), None, 0)


# --- the file


async def test_the_first_of_the_two_files_that_has_a_text_counts(project: Path) -> None:
    assert await loaded(project) == ""
    (project / "CLAUDE.md").write_text("Use tabs.")
    head = f"Instructions of the project, from {project}"
    assert await loaded(project) == f"{head}/CLAUDE.md:\n\nUse tabs."
    (project / "AGENTS.md").write_text(" \n")
    assert await loaded(project) == f"{head}/CLAUDE.md:\n\nUse tabs."
    (project / "AGENTS.md").write_bytes("\ufeffUse spaces. Grüße\n".encode())
    assert await loaded(project) == f"{head}/AGENTS.md:\n\nUse spaces. Grüße"


async def test_a_file_that_may_not_be_read_does_not_hide_the_other(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "AGENTS.md").write_text("Use spaces.")
    (project / "CLAUDE.md").write_text("Use tabs.")
    read = regular_files.read

    def refuse(folder: int, name: str, most: int) -> Any:
        if name == "AGENTS.md":
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(folder, name, most)

    monkeypatch.setattr(regular_files, "read", refuse)
    assert (await loaded(project)).endswith("/CLAUDE.md:\n\nUse tabs.")


async def test_a_long_file_is_cut_at_a_character_and_says_so(project: Path) -> None:
    content = b"a" + "ü".encode() * MAX_BYTES
    (project / "AGENTS.md").write_bytes(content)
    text = (await loaded(project)).partition("\n\n")[2]
    shown, _, note = text.partition("\n")
    assert shown == "a" + "ü" * (MAX_BYTES // 2 - 1)  # half of a character has no room
    assert note == f"[cut here: the file has {len(content):,} bytes, of which 32,768 are shown]"


async def test_no_link_no_folder_and_no_device_is_read(project: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("SECRET")
    for make in (
        lambda path: path.symlink_to(tmp_path / "secret"),
        lambda path: path.symlink_to("missing"),
        lambda path: path.mkdir(),
        os.mkfifo,
    ):
        path = project / "AGENTS.md"
        make(path)
        assert await loaded(project) == ""
        (project / "CLAUDE.md").write_text("Use tabs.")  # the other file still counts
        assert (await loaded(project)).endswith("Use tabs.")
        (project / "CLAUDE.md").unlink()
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


async def test_a_folder_that_was_replaced_by_a_link_is_not_followed(
    project: Path, tmp_path: Path
) -> None:
    (project / "AGENTS.md").write_text("SECRET")
    link = tmp_path / "link"
    os.symlink(project, link)
    assert await loaded(link) == ""
    assert await loaded(link / "folder") == ""  # it does not exist


# --- the run


def prepared(
    fake_provider: Provider, project: Path, *tools: Tool, name: str = "brief", fallback: int = 0
) -> PreparedRequest:
    settings = agent(fake_provider, system_prompt="Be brief.").settings
    asked = request(timeout=100.0, fallback=fallback)
    selection = ToolSelection(name, own=tools)
    return PreparedRequest(ModelAgent(name, settings), asked, selection, Actor(), str(project))


async def attempted(
    active: ActiveRun,
    number: int,
    fake_provider: Provider,
    asked: PreparedRequest,
    *script: Step,
) -> AgentAnswer:
    fake_provider.script = list(script)
    with journal.recording(active.ledger, active.granted, number, SYSTEM_CLOCK):
        return await PreparedAgents({"brief": asked}).ask()


def system(fake_provider: Provider) -> list[str]:
    """Return the system prompt of each request."""
    return [
        "\n\n".join(text for role, text in each.messages if role in ("system", "developer"))
        for each in fake_provider.requests
    ]


async def test_a_model_gets_them_after_its_system_prompt_and_the_run_shows_the_file(
    active: ActiveRun, project: Path
) -> None:
    (project / "AGENTS.md").write_text("Use spaces.\n")
    with provider() as fake_provider:
        await attempted(active, 1, fake_provider, prepared(fake_provider, project), "Hello.")
        (prompt,) = system(fake_provider)
    path = f"{project}/AGENTS.md"
    assert prompt == f"Be brief.\n\nInstructions of the project, from {path}:\n\nUse spaces."
    step, asked = await recorded(active)
    assert (step.position, step.kind, step.name, step.status) == (
        "0",
        "instructions",
        "AGENTS.md",
        "succeeded",
    )
    digest = hashlib.sha256(b"Use spaces.\n").hexdigest()
    assert (step.input, step.output) == (path, f"SHA-256 {digest}, 12 bytes\n\nUse spaces.")
    assert asked.kind == "request"


async def test_a_file_that_cannot_be_read_is_a_failed_step_of_a_run_that_goes_on(
    active: ActiveRun, project: Path
) -> None:
    (project / "AGENTS.md").symlink_to("/etc/passwd")
    with provider() as fake_provider:
        answer = await attempted(
            active, 1, fake_provider, prepared(fake_provider, project), "Hello."
        )
        assert system(fake_provider) == ["Be brief."]
    step, _ = await recorded(active)
    assert step.error == f"{project}/AGENTS.md is a link, so it is not read"
    assert answer.reply.warnings == ()


def change(project: Path, before: str) -> None:
    """Write, remove or create the file, other than it was ``before``."""
    path = project / "AGENTS.md"
    path.unlink(missing_ok=True)
    if before != "removed":
        path.write_text(f"{before} and changed")


@pytest.mark.parametrize("before", ["Use spaces.", "removed", ""])
async def test_a_further_attempt_uses_the_text_of_the_first_and_pays_nothing_twice(
    active: ActiveRun, project: Path, before: str
) -> None:
    """With "", the first attempt has found no file; then there is one."""
    if before:
        (project / "AGENTS.md").write_text(before)
    mail = Mail(before=lambda: change(project, before))
    with provider() as fake_provider:
        asked = prepared(fake_provider, project, mail.tool)
        with pytest.raises(AgentTemporary):
            await attempted(active, 1, fake_provider, asked, sends("a"), BUSY)
        answer = await attempted(active, 2, fake_provider, asked, "Done.")
        texts = system(fake_provider)
    assert (answer.reply.text, mail.sent) == ("Done.", ["a"])
    # The two requests of the first attempt, and the second of these again.
    assert (len(texts), len({*texts})) == (3, 1)
    assert texts[0].endswith(before or "Be brief.")
    rows = await recorded(active)
    assert not any(each.diverged for each in rows)
    assert [each.kind for each in rows].count("instructions") == bool(before)


async def test_an_attempt_that_ended_before_its_first_request_has_chosen_the_text_too(
    active: ActiveRun, project: Path
) -> None:
    (project / "AGENTS.md").write_text("Use spaces.")
    with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK) as first:
        await project_instructions.load(str(project), first, 0)
    (project / "AGENTS.md").write_text("Use tabs.")
    with journal.recording(active.ledger, active.granted, 2, SYSTEM_CLOCK) as second:
        assert (await project_instructions.load(str(project), second, 0)).endswith("Use spaces.")
    assert len(await recorded(active)) == 1


async def test_a_fallback_agent_reads_them_itself(active: ActiveRun, project: Path) -> None:
    (project / "AGENTS.md").write_text("Use spaces.")
    with provider() as first, provider() as second:
        first.script = [BUSY]
        agents = {
            "a": prepared(first, project, name="a"),
            "b": prepared(second, project, name="b", fallback=1),
        }
        with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK):
            await PreparedAgents(agents).ask()
        assert system(first) == system(second)
    assert [each.position for each in await recorded(active)] == ["0", "1", "~1.0", "~1.1"]


async def test_an_answer_that_is_repaired_has_them_in_both_requests(
    active: ActiveRun, project: Path
) -> None:
    (project / "AGENTS.md").write_text("Use spaces.")
    given: list[Any] = [Answer("no JSON"), Answer("[1]")]
    with provider() as fake_provider:
        fake_provider.script = given
        with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK):
            await prepared(fake_provider, project).ask("json", {})
        texts = system(fake_provider)
    assert (len(texts), len({*texts})) == (2, 1)
    assert texts[0].endswith("Use spaces.")
