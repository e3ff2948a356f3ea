"""What a command imports, seen in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.costs import one_in

# Runs one command line and then tells, on stderr, which of the heavy packages were imported.
TELL = """
import sys
from daybook.cli.main import main
code = main(sys.argv[1:])
heavy = ("prefect", "sqlalchemy", "sqlmodel", "pydantic_settings", "rich")
print("imported:", *(name for name in heavy if name in sys.modules), file=sys.stderr)
sys.exit(code)
"""
BARE = ["next", "--cron", "0 9 * * 1-5", "--tz", "Europe/Berlin"]


def imported(*typed: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", TELL, *typed], capture_output=True, text=True, check=True
    )
    label, *names = done.stderr.splitlines()[-1].split()
    assert label == "imported:"
    assert done.stdout
    return set(names)


@pytest.mark.parametrize(
    "typed",
    one_in(5, [["runs"], ["list"], ["list", "--json"], ["show", "weekly"], ["next", "weekly"]]),
)
def test_what_reads_the_ledger_starts_without_prefect(stored: Path, typed: list[str]) -> None:
    names = imported(*typed)
    assert "sqlalchemy" in names
    assert not names & {"prefect", "rich"}


@pytest.mark.parametrize(
    "typed", one_in(3, [BARE, [*BARE, "--json"], ["next", "--every", "5m", "--tz", "UTC"]])
)
def test_a_bare_schedule_needs_next_to_nothing(typed: list[str]) -> None:
    assert imported(*typed) == set()


@pytest.mark.parametrize("typed", one_in(3, [["--help"], ["add", "--help"], ["agents"]]))
def test_help_needs_neither_prefect_nor_a_database(typed: list[str]) -> None:
    assert not imported(*typed) & {"prefect", "sqlalchemy", "sqlmodel"}


def test_a_bare_schedule_without_a_zone_asks_the_settings_only() -> None:
    assert not imported("next", "--cron", "@daily") & {"prefect", "sqlalchemy", "sqlmodel", "rich"}
