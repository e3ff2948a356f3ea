"""Daybook installed from its wheel: without a checkout, in any folder."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from daybook.processes import proc
from tests.e2e.first_light import Up, environment

REPOSITORY = Path(__file__).parents[2]
RAISES = "raise RuntimeError(f'{__file__} was imported')\n"

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class Built:
    """The two files that `hatchling build` creates."""

    wheel: Path
    sdist: Path


def build(source: Path, into: Path) -> Built:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(into)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,), (sdist,) = into.glob("*.whl"), into.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(REPOSITORY, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def python(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment with the wheel and the locked dependencies."""
    return build_environment(tmp_path_factory.mktemp("installed") / "venv", built.wheel)


def build_environment(place: Path, wheel: Path) -> Path:
    """Create an environment with the wheel and the locked dependencies; return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    interpreter = place / "bin" / "python"
    install(interpreter, wheel)
    # Add the rest of the tests' environment after the wheel. Python reads no .pth file in a folder
    # that a .pth file names, so the editable install of the checkout there has no effect.
    (folder,) = (place / "lib").glob("python*/site-packages")
    (folder / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def install(python: Path, wheel: Path) -> None:
    """Install the wheel, instead of an earlier version, into the environment of ``python``."""
    uv, offline = str(Path(sys.executable).parent / "uv"), ["--offline", "--no-index", "--no-deps"]
    command = [uv, "pip", "install", "--quiet", "--python", str(python), *offline]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project whose packages are named like the entry points; none may be imported."""
    place = tmp_path_factory.mktemp("project")
    for package in ("flows", "blocks", "deployments"):
        (place / package).mkdir()
        for module in ("__init__", "agent_prompt", "agents", "steps"):
            (place / package / f"{module}.py").write_text(RAISES)
    for module in ("agent_prompt", "agents", "steps"):
        (place / f"{module}.py").write_text(RAISES)
    (place / "prefect.yaml").write_text("name: theirs\n")
    return place


@pytest.fixture(scope="module")
def ups(
    python: Path, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Up]]:
    """Start one `up` in an empty folder and one inside the project, which is on `PYTHONPATH`."""
    empty = tmp_path_factory.mktemp("empty")
    running: dict[str, Up] = {}
    try:
        for name, folder, path in (("empty", empty, ""), ("project", project, str(project))):
            home = tmp_path_factory.mktemp(f"home-{name}")
            running[name] = Up(home, folder, python, {"PYTHONPATH": path})
        yield running
    finally:
        for up in running.values():
            up.end()


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def versioned(*folders: str) -> set[str]:
    """Return the files in ``folders`` that belong to a release."""
    return {
        str(path.relative_to(REPOSITORY))
        for folder in folders
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_contains_only_the_package_and_its_entry_points(built: Built) -> None:
    found = names(built.wheel)
    modules = {name for name in found if ".dist-info/" not in name}
    doors = versioned("flows", "blocks", "deployments") | {"prefect.yaml"}
    assert modules == versioned("daybook") | {f"daybook/_repo/{door}" for door in doors}
    assert {name.split("/")[0] for name in found - modules} == {"prefect_daybook-" + version(built)}
    assert {"daybook/py.typed", "daybook/ledger/migrations/HEAD"} <= modules
    pages = {"templates/today.html", "static/daybook.css", "static/htmx.LICENSE.txt"}
    assert {f"daybook/web/{each}" for each in pages} <= modules
    assert {name.split("/")[2] for name in modules if name.startswith("daybook/_repo/")} == {
        "flows",
        "blocks",
        "deployments",
        "prefect.yaml",
    }


def version(built: Built) -> str:
    found = re.match(r"prefect_daybook-([^-]+)-", built.wheel.name)
    assert found
    return f"{found[1]}.dist-info"


def test_the_sdist_builds_the_same_wheel(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert {path.name for path in source.iterdir()} == {
        "daybook",
        "flows",
        "blocks",
        "deployments",
        "docs",
        "prefect.yaml",
        "pyproject.toml",
        "CHANGELOG.md",
        "README.md",
        "LICENSE",
        "PKG-INFO",
        ".gitignore",
    }
    again = build(source, tmp_path / "again")
    assert names(again.wheel) == names(built.wheel)


def test_the_installed_package_uses_nothing_of_the_checkout(python: Path, tmp_path: Path) -> None:
    tell = "import daybook, sys; from daybook import repository; print(daybook.__file__, *sys.path)"
    done = subprocess.run(
        [python, "-c", tell + "; print(repository.root())"],
        env=environment(tmp_path) | {"PYTHONPATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    output, root = done.stdout.splitlines()
    assert str(REPOSITORY) not in output.split()
    assert root == str(Path(output.split()[0]).parent / "_repo")
    assert python.parents[1] in Path(root).parents


@pytest.mark.parametrize("where", ["empty", "project"])
def test_an_installed_daybook_starts_runs_jobs_and_stops_cleanly(
    ups: dict[str, Up], where: str
) -> None:
    up = ups[where]
    up.until(lambda lines: any(line.startswith("Ready") for line in lines), within=150)
    up.until(lambda _: bool(up.outcomes("first-light")), within=90)
    added = up.daybook_json("add", "What is new?", "--at", "in 5s", "--name", "soon")
    assert added["deployment"] == "agent-prompt/soon"
    up.until(lambda _: bool(up.outcomes("soon")), within=90)
    for name, trigger in (("first-light", "manual"), ("soon", "schedule")):
        run = up.daybook_json("runs", name)[-1]
        assert (run["status"], run["trigger"], run["attempts"]) == ("succeeded", trigger, 1)
    found = {each["check"]: each for each in up.daybook_json("doctor")}
    assert all(each["ok"] for each in found.values())
    assert ("worker" in found) and ("agents" in found)
    assert bool(found["entry points"]["title"]) == (where == "project")
    children = up.facts()["children"]
    started = {child["name"] for child in children}
    assert started - {"command server"} == {"server", "web", "worker"}  # that one starts last
    assert all(proc.find(child["pid"], child["started"]) for child in children)
    assert up.daybook_json("down") == {"stopped": True}
    assert up.process.wait(30) == 0
    assert not any(proc.find(child["pid"], child["started"]) for child in children)
    assert not (up.home / "up.json").exists()
