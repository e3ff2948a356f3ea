"""The commands about the people in chats."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from daybook.features.conversations import operations
from daybook.features.conversations.people import PairedPerson, Role
from daybook.features.conversations.quiet_hours import QuietHours

AT = datetime(2026, 1, 15, 12, tzinfo=UTC)


def person(quiet_hours: str) -> PairedPerson:
    return PairedPerson(
        id="a" * 32,
        channel="telegram",
        name="Anna",
        role=Role.OPERATOR,
        person_id="1",
        paired_by="",
        paired_at=AT,
        used_at=AT,
        quiet_hours=quiet_hours,
    )


def test_quiet_hours_are_set_and_ended(daybook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[tuple[str, str]]()

    async def set_quiet_hours(ref: str, text: str) -> PairedPerson:
        given.append((ref, text))
        return person(str(QuietHours.read(text) or ""))

    monkeypatch.setattr(operations, "set_quiet_hours", set_quiet_hours)
    words = ("channels", "quiet", "Anna")
    shown = daybook(*words, "22:00-07:00", "--timezone", "Europe/Berlin").out
    assert shown == "Anna has quiet hours in telegram: 22:00-07:00 Europe/Berlin\n"
    assert daybook(*words, "off").out == "Anna has no quiet hours in telegram\n"
    assert given == [("Anna", "22:00-07:00 Europe/Berlin"), ("Anna", "off")]
    wrong = daybook(*words, "22-7")
    assert wrong.code == 2
    assert "22:00-06:00 for the night" in wrong.err


def test_people_are_listed_with_their_quiet_hours(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def list_people(channel: str) -> list[PairedPerson]:
        return [person("22:00-07:00 UTC"), person("")]

    monkeypatch.setattr(operations, "list_people", list_people)
    lines = daybook("channels", "people").out.splitlines()
    assert lines[0].endswith("QUIET HOURS")
    assert [line.rstrip().endswith("22:00-07:00 UTC") for line in lines[1:]] == [True, False]
