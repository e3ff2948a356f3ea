"""Where the doors are: `flows/`, `blocks/`, `deployments/` and `prefect.yaml`.

Beside the package in a checkout, under `daybook/_repo/` in an installed wheel. No path of one
machine is stored anywhere: each process asks here for its own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType

from daybook.errors import DaybookError

_PACKAGE = Path(__file__).resolve().parent
_MARKS = ("flows", "blocks/agents.py")


def root() -> Path:
    """The repository root; raises `DaybookError` when the installation lacks it.

    The wheel's folder is looked at first: beside an installed package stand other people's.
    """
    for place in (_PACKAGE / "_repo", _PACKAGE.parent):
        if all((place / mark).exists() for mark in _MARKS):
            return place
    raise DaybookError(
        f"this installation of daybook has no flows: neither {_PACKAGE / '_repo'} nor "
        f"{_PACKAGE.parent} holds {', '.join(_MARKS)}; install it again"
    )


def enter() -> dict[str, str]:
    """The Prefect pull step of our deployments: stand in the root and import from it first.

    In a deployment: ``pull: [{"daybook.repository.enter": {}}]``. Answers the ``directory``, as
    Prefect's own `set_working_directory` does.
    """
    place = str(root())
    os.chdir(place)
    sys.path[:] = [place, *(entry for entry in sys.path if entry != place)]
    return {"directory": place}


def load_door(relative: str) -> ModuleType:
    """Import a door's file by its path from the root, such as ``blocks/__init__.py``.

    A package of the same name elsewhere on the path is neither taken for ours nor replaced. A door
    that is already loaded, under whatever name, is not loaded a second time, because Prefect warns
    when a block class appears twice.
    """
    path = root() / relative
    for module in list(sys.modules.values()):
        # Not getattr: some lazy modules import something when asked.
        if getattr(module, "__dict__", {}).get("__file__") == str(path):
            return module
    name = "daybook_door_" + re.sub(r"\W", "_", relative.removesuffix(".py"))
    package = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=package)
    if spec is None or spec.loader is None or not path.is_file():
        raise DaybookError(f"{path} is not a file of this repository")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
