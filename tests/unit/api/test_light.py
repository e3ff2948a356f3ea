"""`import daybook` costs next to nothing, and each of its names is what it says."""

from __future__ import annotations

import subprocess
import sys

import pytest

import daybook


def _imported(program: str) -> set[str]:
    """The modules that a fresh interpreter has imported after ``program``, by their first names."""
    tell = "import sys; print(*{each.partition('.')[0] for each in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{tell}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


HEAVY = {"prefect", "sqlalchemy", "sqlmodel", "pydantic_ai", "httpx", "fastmcp", "mcp"}


def test_the_import_of_daybook_brings_only_itself() -> None:
    program = "import sys; before = set(sys.modules); import daybook\n"
    program += "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    brought = done.stdout.split()
    assert [each for each in brought if each.startswith("daybook")] == ["daybook"]
    assert {each.partition(".")[0] for each in brought} <= {"daybook", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    "name", ["tool", "listener", "context", "Client", "SyncClient", "Recurring", "Skill"]
)
def test_a_name_brings_neither_prefect_nor_a_database(name: str) -> None:
    assert not _imported(f"import daybook; daybook.{name}") & HEAVY


def test_each_name_is_there_and_no_other() -> None:
    assert {each for each in daybook.__all__ if getattr(daybook, each, None) is None} == set()
    assert set(daybook.__all__) <= set(dir(daybook))
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = daybook.Clint
