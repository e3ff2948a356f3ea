"""Names from other programs: aliases, and suggestions for commands that have another name here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from daybook import __version__

pytestmark = pytest.mark.usefixtures("stored")


@pytest.mark.parametrize(
    ("alias", "command"),
    [
        ("ls --json", "list --json"),
        ("rm nothing", "remove nothing"),
        ("session ls --json", "session list --json"),
        ("help", "--help"),
        ("help agents add", "agents add --help"),
    ],
)
def test_an_alias_is_the_same_command(
    daybook: Callable[..., Any], alias: str, command: str
) -> None:
    assert daybook(*alias.split()) == daybook(*command.split())


def test_the_version_has_a_short_option(daybook: Callable[..., Any]) -> None:
    assert daybook("-V").out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("typed", "suggestion"),
    [
        ("create x", "add"),
        ("ps", "list"),
        ("describe x", "show"),
        ("delete x", "remove"),
        ("disable x", "pause"),
        ("start", "up"),
        ("stop", "down"),
        ("trigger x", "run"),
        ("list-timers", "next"),
        ("agents delete x", "remove"),
        ("lisst", "list"),
    ],
)
def test_the_command_of_another_program_is_suggested(
    daybook: Callable[..., Any], typed: str, suggestion: str
) -> None:
    result = daybook(*typed.split())
    assert (result.code, result.out) == (2, "")
    assert f'Did you mean "{suggestion}"?' in result.err


def test_an_unknown_word_has_no_suggestion(daybook: Callable[..., Any]) -> None:
    result = daybook("frobnicate")
    assert result.code == 2
    assert "Did you mean" not in result.err
