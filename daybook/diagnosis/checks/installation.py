"""Checks of the installation: the Prefect entry points, the imports of the worker, features."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from daybook import feature, registry, repository
from daybook.errors import DaybookError, InvalidInput
from daybook.finding import Finding, problem, warning
from daybook.home import current_home
from daybook.ledger.feature_tables import TABLES
from daybook.operations.server import absolute_python_path
from daybook.operations.versions import reinstall_command

ENTRY_POINT_FOLDERS = ("flows", "blocks", "deployments")
IMPORT_TIMEOUT_SECONDS = 30.0


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


def feature_tables() -> list[Finding]:
    """Report the features that this process left out when it opened the ledger."""
    return [
        problem("feature tables", f"{name}: left out, because {why}", _REPAIR)
        for name, why in feature.failures.items()
        if name.startswith(TABLES)
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
