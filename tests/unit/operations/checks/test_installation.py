"""Versions, Prefect entry points, and imports in a worker process, each broken for real."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from daybook import repository
from daybook.errors import InvalidInput
from daybook.finding import Severity
from daybook.home import Home
from daybook.operations.checks import installation

REPOSITORY = Path(__file__).parents[4]

pytestmark = pytest.mark.anyio


def installed(folder: Path, name: str, version: str, *requires: str) -> None:
    """Write the metadata of a distribution, which is found before the real one."""
    place = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    place.mkdir(parents=True)
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    (place / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is first on the import path."""
    place = tmp_path / "front"
    place.mkdir()
    monkeypatch.syspath_prepend(place)
    return place


ASKED = ("fastapi<0.151", "sqlalchemy[asyncio]>=2.0.40,<2.1", "mcp>=2.3,<3", "prefect>=3.8.8,<3.10")


def test_the_version_bounds_equal_those_of_pyproject() -> None:
    import tomllib

    dependencies = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"][
        "dependencies"
    ]
    asked = installation.requirements()
    assert len(asked) == len(dependencies)
    for name in ("fastapi", "sqlalchemy", "mcp", "prefect"):
        assert any(str(asked[name]) == str(Requirement(each)) for each in dependencies)


def test_the_versions_of_this_environment_are_within_the_bounds() -> None:
    (found,) = installation.versions()
    assert found.severity == "ok"
    assert f"prefect {metadata.version('prefect')}" in found.message


@pytest.mark.parametrize(
    ("name", "version", "bound"),
    [
        ("fastapi", "0.155.0", "<0.151"),
        ("sqlalchemy", "2.1.9", "<2.1,>=2.0.40"),
        ("mcp", "1.9.0", "<3,>=2.3"),
        ("prefect", "3.8.7", "<3.10,>=3.8.8"),
    ],
)
def test_a_version_outside_its_bounds_is_reported_with_an_install_command(
    front: Path, name: str, version: str, bound: str
) -> None:
    installed(front, "prefect-daybook", "0.1.0", *ASKED)
    installed(front, name, version)
    (problem,) = installation.versions()
    assert problem.message == f"{name} {version} is outside of {bound}"
    assert problem.severity is Severity.PROBLEM
    assert "install" in problem.fix


@pytest.mark.parametrize("name", ["prefect", "fastapi", "sqlalchemy"])
def test_a_version_that_prefects_server_cannot_run_with_is_refused(front: Path, name: str) -> None:
    installed(front, "prefect-daybook", "0.1.0", *ASKED)
    installation.require_versions()
    installed(front, name, "0.9.0" if name != "fastapi" else "0.155.0")
    (problem,) = installation.versions()
    with pytest.raises(InvalidInput) as refused:
        installation.require_versions()
    assert (refused.value.problem, refused.value.hint) == (problem.message, problem.fix)


def test_a_newer_minor_version_of_prefect_is_a_warning_and_not_refused(front: Path) -> None:
    installed(front, "prefect-daybook", "0.1.0", *ASKED)
    installed(front, "prefect", "3.10.0")
    (found,) = installation.versions()
    assert found.severity is Severity.WARNING
    assert "prefect 3.10.0 is newer than the versions that Daybook" in found.message
    assert found.fix.startswith("if something fails, ")
    installation.require_versions()
    installed(front, "prefect", "4.0.0")
    with pytest.raises(InvalidInput, match=r"prefect 4\.0\.0 is outside of"):
        installation.require_versions()


def test_other_version_problems_are_reported_by_doctor_but_not_refused(
    front: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(front, "prefect-daybook", "0.1.0", *ASKED)
    installed(front, "mcp", "1.9.0")
    assert len(installation.versions()) == 1
    installation.require_versions()
    monkeypatch.setattr(sys, "path", [str(REPOSITORY)])
    assert len(installation.versions()) == 1
    installation.require_versions()


def test_a_missing_package_is_reported_unless_its_marker_excludes_it(front: Path) -> None:
    elsewhere = 'nowhere-to-be-found>=1; sys_platform == "amiga"'
    extra = 'another-one; extra == "more"'
    installed(front, "prefect-daybook", "0.1.0", "nothing-of-this-name>=2", elsewhere, extra)
    (problem,) = installation.versions()
    assert problem.message == "nothing-of-this-name is not installed"


def test_a_daybook_that_is_not_installed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY)])
    with pytest.raises(metadata.PackageNotFoundError):
        installation.requirements()
    (problem,) = installation.versions()
    assert "not installed" in problem.message
    assert "make install" in problem.fix


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
