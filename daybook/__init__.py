"""Daybook schedules the work of AI agents on Prefect and keeps a ledger of every due time.

`__all__` has the names for programs that embed Daybook; `docs/guides/programs.md` describes them.
Each name is imported at its first use, so that `import daybook` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from daybook.api.client import Client, SyncClient
    from daybook.api.context import context
    from daybook.api.listening import listening
    from daybook.api.recurring import Recurring
    from daybook.registry import listener, tool
    from daybook.toolbox.agents_tools import Skill, schedule_tool, toolset

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Recurring",
    "Skill",
    "SyncClient",
    "context",
    "listener",
    "listening",
    "schedule_tool",
    "tool",
    "toolset",
]

_MODULES = {
    "Client": "daybook.api.client",
    "Recurring": "daybook.api.recurring",
    "Skill": "daybook.toolbox.agents_tools",
    "SyncClient": "daybook.api.client",
    "context": "daybook.api.context",
    "listener": "daybook.registry",
    "listening": "daybook.api.listening",
    "schedule_tool": "daybook.toolbox.agents_tools",
    "tool": "daybook.registry",
    "toolset": "daybook.toolbox.agents_tools",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def modules_at_first_use(
    package: str,
) -> tuple[Callable[[str], ModuleType], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package that imports a module at its first use.

    So a caller writes `from daybook import api` at the top, and `api.jobs.add(…)` where it needs
    the module. `make docs` lists the modules in the package, for type checkers.
    """

    def get_module(name: str) -> ModuleType:
        try:
            return import_module(f"{package}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{package}.{name}":
                raise
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None

    def names() -> list[str]:
        from pkgutil import iter_modules

        found = import_module(package)
        return sorted({*vars(found), *(each.name for each in iter_modules(found.__path__))})

    return get_module, names
