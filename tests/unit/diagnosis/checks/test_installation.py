"""Prefect entry points, and imports in a worker process, each broken for real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from daybook import repository
from daybook.diagnosis.checks import installation
from daybook.finding import Severity
from daybook.home import Home

REPOSITORY = Path(__file__).parents[4]

pytestmark = pytest.mark.anyio


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is first on the import path."""
    place = tmp_path / "front"
    place.mkdir()
    monkeypatch.syspath_prepend(place)
    return place


@pytest.mark.parametrize("door", ["flows", "blocks", "deployments"])
@pytest.mark.parametrize("how", ["on the path", "in this folder", "a module"])
def test_a_foreign_package_named_as_an_entry_point_is_a_warning_and_not_imported(
    front: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: str, how: str
) -> None:
    place = front if how != "in this folder" else tmp_path / "project"
    if how == "a module":
        (place / f"{door}.py").write_text("raise RuntimeError\n")
    else:
        (place / door).mkdir(parents=True)
        (place / door / "__init__.py").write_text("raise RuntimeError\n")
    monkeypatch.chdir(place if how == "in this folder" else tmp_path)
    (problem,) = installation.entry_points()
    assert problem.severity is Severity.WARNING
    assert problem.fix == ""
    assert str(place) in problem.message
    assert f"Daybook's {door}" in problem.message


def test_daybooks_own_entry_points_have_no_finding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert installation.entry_points() == []


def test_an_installation_without_entry_points_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "daybook").mkdir()
    monkeypatch.setattr(repository, "_PACKAGE", tmp_path / "daybook")
    (problem,) = installation.entry_points()
    assert problem.severity is Severity.PROBLEM
    assert "has no flows" in problem.message


async def test_another_process_can_import_the_package(daybook_home: Home) -> None:
    assert await installation.worker_imports() == []


@pytest.fixture
def other_python(tmp_path: Path) -> Path:
    """Return the interpreter of an empty environment."""
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    return place / "bin" / "python"


async def test_a_package_that_only_the_working_directory_provides_is_a_problem(
    daybook_home: Home, other_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(other_python))
    monkeypatch.delenv("PYTHONPATH")
    (problem,) = await installation.worker_imports()
    assert "No module named 'daybook'" in problem.message
    assert str(daybook_home.path) in problem.message
