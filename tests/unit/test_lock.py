"""The requirement locks, and the problems that `make check` reports about them."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]
PYPROJECT = (REPOSITORY / "pyproject.toml").read_text()
LOCK = (REPOSITORY / "requirements.lock").read_text()
DEV_LOCK = (REPOSITORY / "requirements-dev.lock").read_text()


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    """Return the module `.ci/lock.py`, a script outside of any package."""
    spec = importlib.util.spec_from_file_location("lock", REPOSITORY / ".ci" / "lock.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("text", [LOCK, DEV_LOCK], ids=["run", "dev"])
def test_the_committed_lock_belongs_to_pyproject(lock: ModuleType, text: str) -> None:
    assert lock.problems(PYPROJECT, text) == []


def test_the_locks_share_no_package_and_only_one_has_the_tools() -> None:
    run, dev = (set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE)) for text in (LOCK, DEV_LOCK))
    assert not run & dev
    assert {"prefect", "uv", "hatchling", "editables"} <= run
    assert {"pytest", "mypy", "ruff", "playwright"} <= dev


def test_only_the_development_lock_has_the_sdks_of_the_extras() -> None:
    run, dev = (set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE)) for text in (LOCK, DEV_LOCK))
    sdks = {"anthropic", "google-genai"}
    assert sdks <= dev
    assert not sdks & run
    assert "openai" in run


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"aiosqlite>=0.22"', '"aiosqlite>=0.23"'),
        ('"ruff>=0.8"', '"ruff>=0.9"'),
        ('"pydantic-ai-slim[google]"', '"pydantic-ai-slim[google,groq]"'),
        ('"hatchling>=1.27"]', '"hatchling>=1.28"]'),
        ('requires-python = ">=3.11"', 'requires-python = ">=3.12"'),
    ],
)
def test_a_changed_dependency_makes_the_lock_outdated(lock: ModuleType, old: str, new: str) -> None:
    assert old in PYPROJECT
    assert any("make lock" in p for p in lock.problems(PYPROJECT.replace(old, new), LOCK))


def test_a_changed_tool_option_keeps_the_lock_up_to_date(lock: ModuleType) -> None:
    changed = PYPROJECT.replace("line-length = 100", "line-length = 99")
    assert changed != PYPROJECT
    assert lock.problems(changed, LOCK) == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://index.example.org/simple",
        "--find-links wheels",
        "thing @ file:///srv/thing.whl",
        "    # via -r /home/someone/requirements.in",
    ],
)
def test_an_address_in_the_lock_is_a_problem(lock: ModuleType, line: str) -> None:
    assert any("address" in p for p in lock.problems(PYPROJECT, LOCK + line + "\n"))


def test_a_pin_without_a_hash_is_a_problem(lock: ModuleType) -> None:
    assert "bare==1.0 has no hash" in lock.problems(PYPROJECT, LOCK + "bare==1.0\n")


def test_the_bounds_that_prefect_needs_are_in_the_lock() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", LOCK, flags=re.MULTILINE))
    assert pins["prefect"].startswith("3.8.")
    assert tuple(map(int, pins["fastapi"].split("."))) < (0, 151)
    assert tuple(map(int, pins["sqlalchemy"].split("."))) < (2, 1)
    assert pins["mcp"].startswith("2.")


def test_pydantic_ai_versions_without_a_required_error_class_are_excluded() -> None:
    asked = map(Requirement, tomllib.loads(PYPROJECT)["project"]["dependencies"])
    (bounds,) = [each.specifier for each in asked if each.name == "pydantic-ai-slim"]
    assert "2.68.0" in bounds
    assert not [old for old in ("2.60.0", "2.64.0", "2.66.0", "2.67.9") if old in bounds]
