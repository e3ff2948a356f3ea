"""The heavy packages that a command imports, observed in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Runs commands, then prints to stderr which heavy packages they imported.
TELL = """
import json, sys
from daybook.cli.main import main
codes = [main(typed) for typed in json.loads(sys.argv[1])]
heavy = ("prefect", "sqlalchemy", "sqlmodel", "pydantic_settings", "rich", "asyncio")
heavy += ("sqlalchemy.dialects.postgresql", "daybook.cli.job_options", "daybook.runs.claim_rules")
print("imported:", *(name for name in heavy if name in sys.modules), file=sys.stderr)
sys.exit(max(codes))
"""
BARE = ["next", "--cron", "0 9 * * 1-5", "--tz", "Europe/Berlin"]


def imported_by(*commands: list[str]) -> set[str]:
    """Run the commands in one new process; return the heavy packages that it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", TELL, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
    )
    label, *names = done.stderr.splitlines()[-1].split()
    assert label == "imported:"
    assert done.stdout
    return set(names)


def imported(*typed: str) -> set[str]:
    return imported_by([*typed])


def test_commands_that_read_the_ledger_do_not_import_prefect(stored: Path) -> None:
    names = imported_by(["list"], ["list", "--json"], ["inbox"])
    assert "sqlalchemy" in names
    assert names <= {"sqlalchemy", "sqlmodel", "pydantic_settings", "asyncio"}


@pytest.mark.slow
def test_commands_that_read_due_times_do_not_import_prefect(stored: Path) -> None:
    names = imported_by(["runs"], ["show", "weekly"], ["next", "weekly"])
    assert "sqlalchemy" in names
    assert not names & {"prefect", "rich", "sqlalchemy.dialects.postgresql"}


def test_next_of_a_schedule_with_a_time_zone_imports_no_heavy_package() -> None:
    names = imported_by(BARE, [*BARE, "--json"], ["next", "--every", "5m", "--tz", "UTC"])
    assert names <= {"daybook.cli.job_options"}


def test_help_and_next_of_a_schedule_import_neither_prefect_nor_a_database() -> None:
    names = imported_by(["next", "--cron", "@daily"], ["--help"], ["add", "--help"], ["agents"])
    assert not names & {"prefect", "sqlalchemy", "sqlmodel"}
