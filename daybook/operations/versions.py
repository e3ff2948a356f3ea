"""The versions that this installation requires, and the check that they are installed.

The bounds are read from the metadata of the installed distribution, so that `pyproject.toml` is
their only source.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from daybook import repository
from daybook.errors import InvalidInput
from daybook.finding import Finding, Severity, passed, problem, warning

REQUIRED_VERSIONS = ("prefect", "fastapi", "sqlalchemy")
"""Distributions for which Prefect's server or scheduler needs certain versions.

The reasons are in `prefect-facts.md`.
"""


def requirements() -> dict[str, Requirement]:
    """Return the requirements of this installation, by the name of the distribution.

    Raise `PackageNotFoundError` if Daybook runs from source, so that it is not installed.
    """
    declared = map(Requirement, metadata.requires(repository.DISTRIBUTION) or [])
    return {
        each.name.lower(): each
        for each in declared
        if each.marker is None or each.marker.evaluate({"extra": ""})
    }


def versions() -> list[Finding]:
    """Check that each required distribution is installed, in a version inside the bounds."""
    try:
        required = requirements()
        if found := _check_versions(required.values()):
            return found
        names = [repository.DISTRIBUTION, *(name for name in REQUIRED_VERSIONS if name in required)]
        versions = [f"{name} {metadata.version(name)}" for name in names]
        python = f"Python {'.'.join(map(str, sys.version_info[:3]))}"
        return [passed("versions", ", ".join([*versions, python]))]
    except metadata.PackageNotFoundError:
        message = "Daybook is not installed here, so its version bounds are unknown"
        return [problem("versions", message, reinstall_command())]


def require_versions() -> None:
    """Raise `InvalidInput` with the problems of `versions` with which Prefect could not run.

    Check nothing if Daybook runs from source, because its bounds are then unknown.
    """
    with suppress(metadata.PackageNotFoundError):
        required = requirements()
        found = _check_versions(required[name] for name in REQUIRED_VERSIONS if name in required)
        if found := [each for each in found if each.severity is Severity.PROBLEM]:
            raise InvalidInput(
                "versions",
                "; ".join(each.message for each in found),
                " && ".join(dict.fromkeys(each.fix for each in found)),
            )


def _check_versions(required: Iterable[Requirement]) -> list[Finding]:
    found = []
    for requirement in required:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            message = f"{requirement.name} is not installed"
            found.append(problem("versions", message, _install(requirement)))
        else:
            subject, fix = f"{requirement.name} {version}", _install(requirement)
            found += check_version("versions", subject, requirement, version, fix)
    return found


def check_version(
    check: str, subject: str, requirement: Requirement, version: str, fix: str
) -> list[Finding]:
    """Return the finding of a version outside of its bounds, or [].

    Only warn about a newer minor version of Prefect: it probably works, but we have not tested it.
    """
    bounds = requirement.specifier
    if bounds.contains(version, prereleases=True):
        return []
    upper = [each for each in bounds if each.operator == "<"]
    lower = SpecifierSet(",".join(str(each) for each in bounds if each not in upper))
    if (
        requirement.name == "prefect"
        and lower.contains(version, prereleases=True)
        and all(Version(each.version).major == Version(version).major for each in upper)
    ):
        message = f"{subject} is newer than the versions that Daybook was tested with ({bounds})"
        return [warning(check, message, f"if something fails, {fix}")]
    return [problem(check, f"{subject} is outside of {bounds}", fix)]


def reinstall_command() -> str:
    """Return the command that reinstalls this Daybook, from its checkout or from the wheel."""
    if checkout := repository.checkout():
        enter = shlex.quote(str(checkout))
        return f"cd {enter} && rm -rf .venv && make install, and use .venv/bin/daybook there"
    return f"{shlex.quote(sys.executable)} -m pip install --force-reinstall prefect_daybook-*.whl"


def _install(requirement: Requirement) -> str:
    if repository.uses_checkout():
        return reinstall_command()
    wanted = shlex.quote(f"{requirement.name}{requirement.specifier}")
    return f"{shlex.quote(sys.executable)} -m pip install {wanted}"
