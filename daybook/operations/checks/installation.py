"""The program itself: versions inside their bounds, the doors, and whether the worker finds them.

The bounds are those of the installed distribution's own metadata, so they stand in
`pyproject.toml` only.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from packaging.requirements import Requirement

from daybook import repository
from daybook.errors import DaybookError, InvalidInput
from daybook.home import here
from daybook.operations.checks.problem import Problem

DISTRIBUTION = "daybook"
DOORS = ("flows", "blocks", "deployments")
BOUND = ("prefect", "fastapi", "sqlalchemy")
"""Outside of their bounds Prefect's server, or its scheduler, does not run (prefect-facts.md)."""
IMPORT_SECONDS = 30.0


def requirements() -> dict[str, Requirement]:
    """What this installation asks for, by the name of the distribution.

    Raises `PackageNotFoundError` where Daybook runs without being installed.
    """
    asked = map(Requirement, metadata.requires(DISTRIBUTION) or [])
    return {
        each.name.lower(): each
        for each in asked
        if each.marker is None or each.marker.evaluate({"extra": ""})
    }


def versions() -> list[Problem]:
    """Each distribution that we ask for is there, in a version inside the bounds."""
    try:
        asked = requirements()
    except metadata.PackageNotFoundError:
        return [Problem("Daybook is not installed here: its bounds are not known", again())]
    found = []
    for name, requirement in asked.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            what = f"{name} is not installed"
            found.append(Problem(what, _install(requirement), of=name))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            what = f"{name} {version} is outside of {requirement.specifier}"
            found.append(Problem(what, _install(requirement), of=name))
    return found


def refuse_wrong() -> None:
    """Raise `InvalidInput` with the words of `versions` for a version that would not run."""
    wrong = [each for each in versions() if each.of in BOUND]
    if wrong:
        what = "; ".join(each.what for each in wrong)
        raise InvalidInput(
            "versions", what, " && ".join(dict.fromkeys(each.mend for each in wrong))
        )


def doors() -> list[Problem]:
    """Our doors are there. Others of the same names are harmless: ours are loaded by their path."""
    try:
        root = repository.root()
    except DaybookError as error:
        return [Problem(str(error), again())]
    found = []
    for door in DOORS:
        spec = PathFinder.find_spec(door, [os.getcwd(), *sys.path])
        places = spec and (spec.submodule_search_locations or [spec.origin or ""])
        place = next(iter(places or ()), "")
        if place and not Path(place).resolve().is_relative_to(root):
            what = (
                f"{place} is in front of our {door} for a script that is run here; Daybook itself "
                "finds its own all the same"
            )
            found.append(Problem(what, "", harmless=True))
    return found


def worker_imports() -> list[Problem]:
    """The worker that `up` begins, in the home's folder, can import what this process could."""
    from daybook.operations.server import absolute_python_path

    place = here().path
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from daybook import repository; repository.root()"],
            cwd=place if place.is_dir() else Path(place.anchor),
            env={**os.environ, **absolute_python_path()},
            capture_output=True,
            text=True,
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [Problem(f"`import daybook` takes more than {IMPORT_SECONDS:.0f} s", again())]
    if done.returncode == 0:
        return []
    why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return [Problem(f"the worker cannot import daybook from {place}: {why}", again())]


def again() -> str:
    """How this Daybook is installed anew: from its checkout, else from the wheel."""
    checkout = Path(repository.__file__).resolve().parent.parent
    if (checkout / "Makefile").exists():
        enter = shlex.quote(str(checkout))
        return f"cd {enter} && rm -rf .venv && make install, and use .venv/bin/daybook there"
    return f"{shlex.quote(sys.executable)} -m pip install --force-reinstall daybook-*.whl"


def _install(requirement: Requirement) -> str:
    checkout = Path(repository.__file__).resolve().parent.parent
    if (checkout / "Makefile").exists() and Path(sys.prefix) == checkout / ".venv":
        return again()
    wanted = shlex.quote(f"{requirement.name}{requirement.specifier}")
    return f"{shlex.quote(sys.executable)} -m pip install {wanted}"
