"""Required versions, each broken for real."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from daybook.errors import InvalidInput
from daybook.finding import Severity
from daybook.operations import versions

REPOSITORY = Path(__file__).parents[3]

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
    asked = versions.requirements()
    assert len(asked) == len(dependencies)
    for name in ("fastapi", "sqlalchemy", "mcp", "prefect"):
        assert any(str(asked[name]) == str(Requirement(each)) for each in dependencies)


def test_the_versions_of_this_environment_are_within_the_bounds() -> None:
    (found,) = versions.versions()
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
    (problem,) = versions.versions()
    assert problem.message == f"{name} {version} is outside of {bound}"
    assert problem.severity is Severity.PROBLEM
    assert "install" in problem.fix


@pytest.mark.parametrize("name", ["prefect", "fastapi", "sqlalchemy"])
def test_a_version_that_prefects_server_cannot_run_with_is_refused(front: Path, name: str) -> None:
    installed(front, "prefect-daybook", "0.1.0", *ASKED)
    versions.require_versions()
    installed(front, name, "0.9.0" if name != "fastapi" else "0.155.0")
    (problem,) = versions.versions()
    with pytest.raises(InvalidInput) as refused:
        versions.require_versions()
    assert (refused.value.problem, refused.value.hint) == (problem.message, problem.fix)


def test_a_newer_minor_version_of_prefect_is_a_warning_and_not_refused(front: Path) -> None:
    installed(front, "prefect-daybook", "0.1.0", *ASKED)
    installed(front, "prefect", "3.10.0")
    (found,) = versions.versions()
    assert found.severity is Severity.WARNING
    assert "prefect 3.10.0 is newer than the versions that Daybook" in found.message
    assert found.fix.startswith("if something fails, ")
    versions.require_versions()
    installed(front, "prefect", "4.0.0")
    with pytest.raises(InvalidInput, match=r"prefect 4\.0\.0 is outside of"):
        versions.require_versions()


def test_other_version_problems_are_reported_by_doctor_but_not_refused(
    front: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(front, "prefect-daybook", "0.1.0", *ASKED)
    installed(front, "mcp", "1.9.0")
    assert len(versions.versions()) == 1
    versions.require_versions()
    monkeypatch.setattr(sys, "path", [str(REPOSITORY)])
    assert len(versions.versions()) == 1
    versions.require_versions()


def test_a_missing_package_is_reported_unless_its_marker_excludes_it(front: Path) -> None:
    elsewhere = 'nowhere-to-be-found>=1; sys_platform == "amiga"'
    extra = 'another-one; extra == "more"'
    installed(front, "prefect-daybook", "0.1.0", "nothing-of-this-name>=2", elsewhere, extra)
    (problem,) = versions.versions()
    assert problem.message == "nothing-of-this-name is not installed"


def test_a_daybook_that_is_not_installed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY)])
    with pytest.raises(metadata.PackageNotFoundError):
        versions.requirements()
    (problem,) = versions.versions()
    assert "not installed" in problem.message
    assert "make install" in problem.fix
