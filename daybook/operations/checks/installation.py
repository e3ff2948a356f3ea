"""Checks of the installation: version bounds, the Prefect entry points, the worker's imports.

The bounds are read from the metadata of the installed distribution, so that `pyproject.toml` is
their only source.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from daybook import feature, registry, repository
from daybook.errors import DaybookError, InvalidInput
from daybook.finding import Finding, Severity, passed, problem, warning
from daybook.home import current_home
from daybook.operations.server import absolute_python_path

ENTRY_POINT_FOLDERS = ("flows", "blocks", "deployments")
REQUIRED_VERSIONS = ("prefect", "fastapi", "sqlalchemy")
"""Distributions for which Prefect's server or scheduler needs certain versions.

The reasons are in `prefect-facts.md`.
"""
IMPORT_TIMEOUT_SECONDS = 30.0


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


def entry_points() -> list[Finding]:
    """Check that Daybook's entry points exist.

    If there are other modules with the same names, only warn, because Daybook loads its own modules
    by their path.
    """
    try:
        root = repository.root()
    except DaybookError as error:
        return [problem("entry points", str(error), reinstall_command())]
    problems = []
    for name in ENTRY_POINT_FOLDERS:
        spec = PathFinder.find_spec(name, [os.getcwd(), *sys.path])
        locations = spec and (spec.submodule_search_locations or [spec.origin or ""])
        shadow = next(iter(locations or ()), "")
        if shadow and not Path(shadow).resolve().is_relative_to(root):
            message = (
                f"a script started in this folder imports {shadow} instead of Daybook's {name}; "
                "Daybook itself is not affected"
            )
            problems.append(warning("entry points", message))
    return problems


async def worker_imports() -> list[Finding]:
    """Check that the worker can import Daybook, although `up` starts it in the home's folder."""
    folder = current_home().path
    try:
        process = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", "from daybook import repository; repository.root()"],
            cwd=folder if folder.is_dir() else Path(folder.anchor),
            env={**os.environ, **absolute_python_path()},
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [
            problem(
                "worker imports",
                f"`import daybook` takes more than {IMPORT_TIMEOUT_SECONDS:.0f} s",
                reinstall_command(),
            )
        ]
    if process.returncode == 0:
        return []
    why = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
    message = f"the worker cannot import daybook from {folder}: {why}"
    return [problem("worker imports", message, reinstall_command())]


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


async def features() -> list[Finding]:
    """Check that the features of other distributions can be used, in a process of its own.

    Importing them here could import Prefect before this process has configured it.
    """
    if all(each.is_own for each in feature.features()) and not feature.failures:
        return []
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _LOAD_FEATURES],
        env={**os.environ, **absolute_python_path()},
        capture_output=True,
        text=True,
        timeout=IMPORT_TIMEOUT_SECONDS,
        check=False,
    )
    lines = process.stdout.splitlines()
    if process.returncode or not lines:
        why = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        return [problem("features", f"they cannot be loaded: {why}", _REPAIR)]
    found: dict[str, str] = json.loads(lines[-1])
    return [
        problem("features", f"{name}: left out, because {why}", _REPAIR)
        for name, why in found.items()
    ]


_REPAIR = "repair or uninstall the distribution of the feature"
_LOAD_FEATURES = """
import json
from daybook import feature, home, settings
home.configure_prefect()
import daybook.cli.main, daybook.toolbox.tools
from daybook import Client
feature.load_others()
settings.all_settings(), daybook.toolbox.tools.by_name()
for each in feature.features():
    if each.operations and hasattr(Client, each.name):
        feature.failures[f"operations of {each.name}"] = "the client has this name already"
print(json.dumps(feature.failures))
"""


def plugins() -> list[Finding]:
    """Check that this process can import each plugin and call each listener.

    The import path of the worker may differ.
    """
    try:
        registry.find_listeners()
    except InvalidInput:  # another check reports the invalid setting
        return []
    fix = "put it on the worker's path (pip install, PYTHONPATH), or correct the setting `plugins`"
    problems = [
        problem("plugins", f"the plugin {module} cannot be imported: {why}", fix)
        for module, why in registry.failed_plugins().items()
    ]
    for name in registry.known_names(registry.LISTENERS):
        try:
            registry.find(registry.LISTENERS, name)
        except registry.UnusableFunction as error:
            fix = "install what it needs with pip, or uninstall the distribution that registers it"
            message = f'the listener "{name}" cannot be called: {error}'
            problems.append(problem("plugins", message, fix))
    return problems
