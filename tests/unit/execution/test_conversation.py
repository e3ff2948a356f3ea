"""The prompt of a run with its variables, and the history that it receives."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.agents.base import ChatMessage
from daybook.agents.journal import ProgramSession
from daybook.agents.pictures import Picture
from daybook.errors import InvalidInput
from daybook.execution import conversation, journal
from daybook.home import Home
from daybook.jobs.model import new_job
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow, MessageRow, RevisionRow
from daybook.policies.compression import Compression
from daybook.runs.claim_requests import Granted
from tests.world import World

pytestmark = pytest.mark.anyio

DUE = datetime(2027, 1, 15, 8, 0, 0, 250_000, tzinfo=UTC)


def granted(prompt: str, stored: StoredJob | None = None, **more: Any) -> Granted:
    more |= {"kind": "agent-prompt", "queued_at": DUE}
    return Granted("r", 1, {"prompt": prompt}, "flow:f", DUE, "direct", stored, **more)


def brief() -> StoredJob:
    job = new_job(now=DUE, name="brief", prompt="x", cron="0 9 * * *", timezone="Europe/Berlin")
    row = JobRow(
        name="brief", slug="brief", kind=job.kind, created_at=DUE, updated_at=DUE, audited_until=DUE
    )
    revision = RevisionRow(
        job_id=row.id,
        number=1,
        effective_from=DUE,
        enabled=True,
        schedule={},
        action={},
        policy={},
    )
    return StoredJob(row, revision, job)


def message(number: int, role: str, content: str) -> MessageRow:
    return MessageRow(
        session_id="s", number=number, role=role, content=content, source={}, run_id="r", at=DUE
    )


def test_the_variable_due_is_in_the_time_zone_of_the_job() -> None:
    asked = conversation.filled_prompt(granted("{{job}} of {{due}}", brief()))
    assert asked == "brief of 2027-01-15T09:00:00+01:00"


def test_a_run_without_a_job_uses_the_time_zone_setting_and_no_name(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "Asia/Kolkata")
    asked = conversation.filled_prompt(granted("[{{job}}] {{due}}"))
    assert asked == "[] 2027-01-15T13:30:00+05:30"


def test_variables_in_the_last_output_are_not_replaced(daybook_home: Home) -> None:
    given = granted("Before: {{last_output}}", last_output="{{job}} {{due}}")
    asked = conversation.filled_prompt(given)
    assert asked == "Before: {{job}} {{due}}"


@pytest.mark.floor("E", "Slash commands in a scheduled message are not interpreted")
async def test_a_slash_command_is_sent_unchanged(daybook_home: Home) -> None:
    before = (message(1, "user", "/reset"), message(2, "assistant", "/quit"))
    given = granted("/reset", history=before)
    assert conversation.filled_prompt(given) == "/reset"
    expected = (ChatMessage("user", "/reset"), ChatMessage("assistant", "/quit"))
    assert await conversation.session_history(given, Compression()) == expected


async def test_a_history_is_cut_at_a_prompt_when_it_has_too_many_tokens(
    daybook_home: Home,
) -> None:
    texts = ("q" * 2_000, "a" * 2_000) * 3
    before = tuple(
        message(number, "user" if number % 2 else "assistant", text)
        for number, text in enumerate(texts, 1)
    )
    given = granted("And now?", history=before)
    for most, kept in ((0, 6), (3_000, 6), (2_999, 4), (1_500, 2), (1_000, 2)):
        found = await conversation.session_history(given, Compression(history=most))
        assert [each.role for each in found] == ["user", "assistant"] * (kept // 2), most


@pytest.mark.parametrize(
    ("megabytes", "sent"),
    [(14, {"5": 1, "4": 2, "3": 1}), (6, {"5": 1, "4": 1}), (1, {}), (-1, {})],
)
async def test_the_newest_pictures_of_a_session_are_read_and_sent_within_their_length(
    monkeypatch: pytest.MonkeyPatch, megabytes: int, sent: dict[str, int]
) -> None:
    read = list[str]()

    async def of_runs(session: None, run_ids: Sequence[str]) -> dict[str, tuple[Picture, ...]]:
        read.extend(run_ids)
        count = 1 if run_ids == ["5"] else 2
        return {each: (Picture("a", "image/png", bytes(3_000_000)),) * count for each in run_ids}

    monkeypatch.setattr(conversation, "loaded", lambda _: [of_runs])
    monkeypatch.setattr(conversation, "reading", nullcontext)
    before = [message(number, "user", "[picture: a]") for number in range(6)]
    for each in before:
        each.run_id = str(each.number)
    given = granted("And now?", history=tuple(before))
    found = await conversation.session_history(
        given, Compression(), picture_bytes=megabytes * 1_000_000
    )
    of_message = zip(before, found, strict=True)
    assert {row.run_id: len(each.pictures) for row, each in of_message if each.pictures} == sent
    assert set(read) <= {"5", "4", "3"}


def test_a_prompt_that_is_blank_after_its_variables_are_filled_is_refused(
    daybook_home: Home,
) -> None:
    with pytest.raises(InvalidInput, match="prompt: is blank after its variables are filled in"):
        conversation.filled_prompt(granted(" {{last_output}}\n"))


@pytest.mark.floor("C", "A prompt may name the work_dir")
def test_the_work_dir_in_a_prompt_is_its_real_path(
    daybook_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path / "repo")
    given = granted("Look into {{work_dir}}.")
    given.parameters["policy"] = {"work_dir": "~/link"}
    assert conversation.filled_prompt(given) == f"Look into {tmp_path.resolve()}/repo."


@pytest.mark.usefixtures("shared_ledger")
async def test_a_conversation_of_a_program_is_the_one_of_the_run_that_answered_last(
    world: World,
) -> None:
    job = await world.jobs.add("brief", prompt="x", every="1h")
    spoken = {"prompt": "Hi", "output": "Hello", "agent": "cc"}
    first = await world.runs.running(job)
    assert await conversation.program_session(first, "cc") is None
    await world.runs.finish(first, Status.SUCCEEDED, **spoken)
    await world.runs.set_row(await world.runs.row(first.run_id), program_session="abc-1")
    world.clock.move(timedelta(hours=1))
    second = await world.runs.running(job)
    assert await conversation.program_session(second, "cc") == ProgramSession("abc-1")
    assert await conversation.program_session(second, "another") is None
    await world.runs.finish(second, Status.SUCCEEDED, **spoken)  # it printed no id
    world.clock.move(timedelta(hours=1))
    third = await world.runs.running(job)
    assert await conversation.program_session(third, "cc") is None


@pytest.mark.usefixtures("shared_ledger")
@pytest.mark.parametrize(
    ("after", "expected"),
    [
        # A program that adds to the conversation, such as Codex.
        (ProgramSession("abc-1", {"input_tokens": 5}, has_unreported=True),
         ProgramSession("abc-1", {"input_tokens": 5}, has_unreported=True)),
        # A program that copies the conversation, such as Claude Code.
        (ProgramSession("abc-2", {"input_tokens": 5}, has_unreported=True),
         ProgramSession("abc-1", {"input_tokens": 3})),
        (ProgramSession("abc-2", is_full=True),
         ProgramSession("abc-1", {"input_tokens": 3}, is_full=True)),
    ],
)  # fmt: skip
async def test_a_failed_run_changes_the_conversation_that_it_continued(
    world: World, after: ProgramSession, expected: ProgramSession
) -> None:
    job = await world.jobs.add("brief", prompt="x", every="1h")
    first = await world.runs.running(job)
    with journal.recording(world.ledger, first, 1, world.clock) as opened:
        await opened.program_session(ProgramSession("abc-1", {"input_tokens": 3}), resumed=False)
    spoken = {"prompt": "Hi", "output": "Hello", "agent": "cc"}
    await world.runs.finish(first, Status.SUCCEEDED, **spoken)
    world.clock.move(timedelta(hours=1))
    second = await world.runs.running(job)
    with journal.recording(world.ledger, second, 1, world.clock) as opened:
        await opened.program_session(after, resumed=True)
    assert (await world.runs.row(second.run_id)).program_session == after.id
    await world.runs.finish(second, Status.FAILED)
    world.clock.move(timedelta(hours=1))
    third = await world.runs.running(job)
    assert await conversation.program_session(third, "cc") == expected
