"""Location of the Prefect entry points: `flows/`, `blocks/`, `deployments/` and `prefect.yaml`.

They are next to the package in a checkout, and under `daybook/_repo/` in an installed wheel. No
machine-specific path is stored anywhere, because each process gets the path from this module.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from daybook.errors import DaybookError

_PACKAGE = Path(__file__).resolve().parent
_REQUIRED_FILES = ("flows", "blocks/agents.py")

DISTRIBUTION = "prefect-daybook"
"""Name of the distribution: another project has the name `daybook` on the package index."""


def checkout() -> Path | None:
    """Return the clone that this package is imported from; None for an installed wheel."""
    folder = _PACKAGE.parent
    return folder if (folder / "Makefile").exists() else None


def uses_checkout() -> bool:
    """Return whether this interpreter belongs to the clone's `.venv`."""
    folder = checkout()
    return folder is not None and Path(sys.prefix) == folder / ".venv"


def install_command(extra: str) -> str:
    """Return the shell command that installs an extra of Daybook for this interpreter."""
    if not uses_checkout():
        return f"pip install {shlex.quote(f'{DISTRIBUTION}[{extra}]')}"
    with suppress(OSError):  # the current folder was removed
        if Path.cwd() == checkout():
            return "make install"
    return f"make -C {shlex.quote(str(checkout()))} install"


def root() -> Path:
    """Return the folder of the entry points; raise `DaybookError` if the installation lacks it.

    Check the wheel's folder first, because the files next to an installed package belong to other
    projects.
    """
    for folder in (_PACKAGE / "_repo", _PACKAGE.parent):
        if all((folder / file).exists() for file in _REQUIRED_FILES):
            return folder
    raise DaybookError(
        f"this installation of Daybook has no flows: neither {_PACKAGE / '_repo'} nor "
        f"{_PACKAGE.parent} contains {' and '.join(_REQUIRED_FILES)}; reinstall Daybook"
    )


def enter() -> dict[str, str]:
    """Change to the `root`, put it first on the import path, and return it as ``directory``.

    This is the pull step of Daybook's deployments: ``pull: [{"daybook.repository.enter": {}}]``.
    Prefect's own `set_working_directory` returns the same mapping. Raise `DaybookError` if the
    installation lacks the root.
    """
    directory = str(root())
    os.chdir(directory)
    sys.path[:] = [directory, *(entry for entry in sys.path if entry != directory)]
    return {"directory": directory}


def load_flows() -> None:
    """Import all flows. Raise `DaybookError` if the installation lacks them."""
    for file in sorted((root() / "flows").glob("*.py")):
        if file.name != "__init__.py":
            load_entry_point(f"flows/{file.name}")


def load_entry_point(relative: str) -> ModuleType:
    """Import a Prefect entry point by its path from the root, such as ``blocks/__init__.py``.

    A package of the same name on the import path is neither used nor replaced. An entry point that
    is already loaded, under any name, is not loaded a second time, because Prefect warns if a block
    class is defined twice. Raise `DaybookError` if there is no such file, and the errors of the
    import.
    """
    path = root() / relative
    name = "daybook_entry_point_" + re.sub(r"\W", "_", relative.removesuffix(".py"))
    if (loaded := sys.modules.get(name)) is not None and loaded.__file__ == str(path):
        return loaded  # in a forked process, the loop below would copy the pages of all modules
    for module in list(sys.modules.values()):
        # Not getattr: some lazy modules import something on attribute access.
        if getattr(module, "__dict__", {}).get("__file__") == str(path):
            return module
    package = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=package)
    if spec is None or spec.loader is None or not path.is_file():
        raise DaybookError(f"Daybook has no entry point {path}; reinstall Daybook")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
