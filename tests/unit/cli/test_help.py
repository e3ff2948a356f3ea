"""The short help pages, and `--help --all`."""

from __future__ import annotations

import pytest

from daybook.cli.help import COMMON_OPTIONS
from daybook.cli.main import app
from tests.commands import Daybook


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def described(page: str) -> list[str]:
    """Return the names in the first column of a page's tables."""
    lines = [line[2:].split() for line in page.splitlines() if line.startswith("│ ")]
    return [words[0] for words in lines if words]


@pytest.mark.parametrize("typed", [(), ("--help",), ("-h",), ("help",)])
def test_the_first_page_describes_the_commands_that_most_people_need(
    daybook: Daybook, typed: tuple[str, ...]
) -> None:
    page = daybook(*typed).out
    names = [name for name in described(page) if name in app.resolved_commands()]
    assert 14 <= len(names) <= 18
    assert {"up", "add", "list", "run", "status"} <= set(names)
    assert "daybook --help --all" in " ".join(page.split())


def test_the_first_page_names_every_other_command(daybook: Daybook) -> None:
    words = daybook().out.replace(",", " ").split()
    hidden = {name for name in app.resolved_commands() if name not in words}
    assert all(name != app[name].name[0] for name in hidden), "only aliases are left out"


def test_all_describes_every_command(daybook: Daybook) -> None:
    names = set(described(daybook("--help", "--all").out))
    own = {name for name in app.resolved_commands() if name == app[name].name[0]}
    assert {name for name in own if not name.startswith("-")} <= names


@pytest.mark.parametrize("command", ["add", "edit"])
def test_the_page_of_a_job_has_its_arguments_and_common_options_first(
    daybook: Daybook, command: str
) -> None:
    short, whole = daybook(command, "--help").out, daybook("help", command, "--all").out
    assert "PROMPT --prompt" in short
    assert f"Example: daybook {command}" in short
    assert "--json" in short
    assert f"daybook {command} --help --all" in short
    options = {name for name in described(short) if name.startswith("--")}
    assert options <= COMMON_OPTIONS
    assert {"--name", "--agent", "--tz", "--channel"} <= options
    assert "--stagger" in whole
    assert "--help --all" not in whole


def test_every_common_option_exists(daybook: Daybook) -> None:
    names = set(described(daybook("add", "--help", "--all").out))
    assert names >= COMMON_OPTIONS - {"--help"}


def test_another_command_shows_all_its_options(daybook: Daybook) -> None:
    assert daybook("list", "--help").out == daybook("list", "--help", "--all").out
