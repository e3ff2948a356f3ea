"""The imports of `daybook` and of its public names, observed in fresh interpreters."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import daybook
from daybook import api
from tests.conftest import REPOSITORY


def _imported(program: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has imported after ``program``."""
    tell = "import sys; print(*{each.partition('.')[0] for each in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{tell}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


HEAVY = {"prefect", "sqlalchemy", "sqlmodel", "pydantic_ai", "httpx", "fastmcp", "mcp"}


def test_import_daybook_imports_only_itself_and_the_standard_library() -> None:
    program = "import sys; before = set(sys.modules); import daybook\n"
    program += "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    brought = done.stdout.split()
    assert [each for each in brought if each.startswith("daybook")] == ["daybook"]
    assert {each.partition(".")[0] for each in brought} <= {"daybook", *sys.stdlib_module_names}


def test_a_public_name_imports_neither_prefect_nor_a_database() -> None:
    names = ["tool", "listener", "context", "Client", "SyncClient", "Recurring", "Skill"]
    used = "; ".join(f"daybook.{each}" for each in names)
    assert not _imported(f"import daybook; {used}") & HEAVY


def test_doctor_does_not_import_the_packages_that_it_checks() -> None:
    checked = HEAVY - {"sqlalchemy", "sqlmodel"} | {"standardwebhooks", "cryptography", "apprise"}
    assert not _imported("from daybook.diagnosis import doctor") & checked


def test_every_public_name_exists_and_an_unknown_one_raises() -> None:
    assert {each for each in daybook.__all__ if getattr(daybook, each, None) is None} == set()
    assert set(daybook.__all__) <= set(dir(daybook))
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = daybook.Clint


def test_the_api_imports_each_module_at_its_first_use() -> None:
    assert not _imported("from daybook import api") & (HEAVY | {"pydantic"})
    assert "sqlalchemy" in _imported("from daybook import api; api.jobs")
    assert {"jobs", "tokens", "client"} <= set(dir(api))
    with pytest.raises(AttributeError, match="no attribute 'job'"):
        _ = api.job  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_run_imports_no_tool_before_its_agent_has_it() -> None:
    """The modules that the preloaded parent and a run with a model import."""
    program = (
        "import daybook.worker.child, flows.agent_prompt\n"
        "from daybook.agents import model, model_steps, model_tools\n"
        "from daybook.execution import agent_tools\n"
        "import sys; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    imported = set(done.stdout.split())
    assert "daybook.execution.builtin_tools" in imported
    words = ("web_tools", "work_tools", "memory", "notify_tool", "skills", "job_templates")
    of_tools = tuple(f"daybook.features.{each}." for each in words)
    assert not {each for each in imported if each.startswith(of_tools)}
    assert not {"html_to_markdown", "regex"} & imported
