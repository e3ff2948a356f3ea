"""Modules that the processes of `daybook up` share, because they are imported before a fork.

`daybook.processes.image` forks these processes. The command server forks processes for commands.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import sysconfig
from contextlib import suppress
from functools import cache
from pathlib import Path

import daybook
from daybook import home as homes
from daybook import repository, settings
from daybook.errors import DaybookError
from daybook.feature import features
from daybook.operations import server
from daybook.prefect import models, private_names
from daybook.processes import garbage, image

PACKAGE = Path(daybook.__file__).parent
_PACKAGES = ("cli", "api", "operations", "diagnosis", "delivery", "prefect", "features")
"""Packages of daybook whose modules are imported, with all modules that these import."""
_LATE_IMPORTS = (
    "anyio._backends._asyncio",
    "prefect.main",
    "rich.markdown",
    "tzlocal",
)
"""Modules that other code imports only when it uses them."""
_OF_OTHER_PROCESSES = (
    "aiosqlite",
    "cryptography.hazmat.primitives.ciphers.aead",
    "daybook.execution.agent_request",
    "daybook.execution.execute",
    "daybook.execution.fallback",
    "daybook.execution.webhook",
    "daybook.web.app",
    "daybook.web.login",
    "daybook.web.pages",
    "daybook.worker.parent",
    "daybook.worker.prefect_worker",
    "prefect.deployments.steps",
    "encodings.idna",
    "prefect._vendor.croniter",
    "prefect.flow_engine",
    "pydantic.v1",
    "rich._emoji_codes",
    "sqlalchemy.dialects.sqlite.aiosqlite",
)
"""Modules of the worker, the parent of its runs, the health page and Prefect's server."""


def code_fingerprint(package: Path = PACKAGE) -> list[int]:
    """Return numbers that change with the package's Python files and the installed packages.

    The numbers are the newest modification time of a file, the number of files, and the
    modification time of the folder of installed packages. Times are in nanoseconds. If a file
    disappears during the call, return [], which counts as a change.
    """
    newest, count, folders = 0, 0, [str(package)]
    try:
        while folders:
            with os.scandir(folders.pop()) as entries:
                for each in entries:
                    if each.name.endswith(".py"):
                        newest, count = max(newest, each.stat().st_mtime_ns), count + 1
                    elif each.is_dir() and each.name != "__pycache__":
                        folders.append(each.path)
        # If a distribution is installed or removed, this folder changes.
        return [newest, count, os.stat(sysconfig.get_path("purelib")).st_mtime_ns]
    except FileNotFoundError:
        return []


@cache
def import_commands() -> None:
    """Import all modules that a command may need.

    The caller must have configured Prefect (`home.configure_prefect`). Do nothing in a fork of a
    process that has called this function, because even a repeated import would copy memory.
    """
    from sqlalchemy.orm import configure_mappers

    from daybook.ledger.engine import Ledger

    # Only an MCP server and migrations need these, and libraries that nothing else needs.
    left_out = {f"{each.package}.{each.resources.partition(':')[0]}" for each in features()}
    for name in _PACKAGES:
        for module in pkgutil.walk_packages([str(PACKAGE / name)], f"daybook.{name}."):
            if module.name not in left_out and ".migrations." not in module.name:
                importlib.import_module(module.name)
    for name in _LATE_IMPORTS:
        importlib.import_module(name)
    with suppress(DaybookError):  # the command itself reports invalid settings
        Ledger(settings.load().ledger_address)  # this imports the driver of the ledger's database
    configure_mappers()


def fork_image() -> image.Image | None:
    """Import all modules that the processes of `up` need, and fork an image of this process.

    Return None if this system cannot fork an image; then each process imports its own modules. The
    image forks nothing after a change of Daybook's files or of the installed packages.
    """
    version = code_fingerprint()
    garbage.use_one_arena()
    import_commands()
    for name in _OF_OTHER_PROCESSES:
        importlib.import_module(name)
    repository.load_flows()
    private_names.share_tls_contexts()
    models.complete()
    _read_by_prefect.update(_prefect_variables())
    return image.fork(_after_fork, lambda: code_fingerprint() == version)


_read_by_prefect: dict[str, str] = {}
"""Environment variables from which Prefect in this process has read its settings."""


def _prefect_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("PREFECT_")}


def _after_fork() -> None:
    """Make Prefect read the environment of this forked process again.

    The process of Prefect's server does this itself, because it changes its environment once more.
    """
    if sys.argv[0] == server.MODULE:
        return

    homes.set_prefect_variables()
    before, now = _read_by_prefect.items(), _prefect_variables().items()
    if changed := {name for name, _ in before ^ now}:
        private_names.reload_settings()
        if any("_LOGGING_" in name for name in changed):
            private_names.reload_logging()
        _read_by_prefect.clear()
        _read_by_prefect.update(now)
