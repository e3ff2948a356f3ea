"""The heavy packages that a command imports, observed in a separate process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.costs import one_in

# Runs one command, then prints to stderr which heavy packages it imported.
TELL = """
import sys
from daybook.cli.main import main
code = main(sys.argv[1:])
heavy = ("prefect", "sqlalchemy", "sqlmodel", "pydantic_settings", "rich", "asyncio")
heavy += ("sqlalchemy.dialects.postgresql", "daybook.cli.job_options", "daybook.runs.claim_rules")
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
    one_in(5, [["list"], ["runs"], ["list", "--json"], ["show", "weekly"], ["next", "weekly"]]),
)
def test_commands_that_read_the_ledger_do_not_import_prefect(
    stored: Path, typed: list[str]
) -> None:
    names = imported(*typed)
    assert "sqlalchemy" in names
    assert not names & {"prefect", "rich", "sqlalchemy.dialects.postgresql"}
    if typed[0] == "list":
        assert not names & {"daybook.cli.job_options", "daybook.runs.claim_rules"}


@pytest.mark.parametrize(
    "typed", one_in(3, [BARE, [*BARE, "--json"], ["next", "--every", "5m", "--tz", "UTC"]])
)
def test_next_of_a_schedule_with_a_time_zone_imports_no_heavy_package(typed: list[str]) -> None:
    assert imported(*typed) <= {"daybook.cli.job_options"}


@pytest.mark.parametrize("typed", one_in(3, [["--help"], ["add", "--help"], ["agents"]]))
def test_help_imports_neither_prefect_nor_a_database(typed: list[str]) -> None:
    assert not imported(*typed) & {"prefect", "sqlalchemy", "sqlmodel"}


def test_next_of_a_schedule_without_a_time_zone_does_not_import_prefect() -> None:
    assert not imported("next", "--cron", "@daily") & {"prefect", "sqlalchemy", "sqlmodel", "rich"}
