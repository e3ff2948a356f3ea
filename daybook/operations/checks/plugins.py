"""Checks of registrations: the modules of the setting `plugins`, and the listeners."""

from __future__ import annotations

from daybook import registry
from daybook.errors import InvalidInput
from daybook.operations.checks.problem import Problem


def plugins() -> list[Problem]:
    """Check that each can be imported here; the worker's path may be another."""
    try:
        registry.find_listeners()
    except InvalidInput:  # another check reports what is wrong with the settings
        return []
    fix = "see that it is on the worker's path (pip install, PYTHONPATH), or correct `plugins`"
    problems = [
        Problem(f"the plugin {module} cannot be imported: {why}", fix)
        for module, why in registry.failed_plugins().items()
    ]
    for name in registry.known_names(registry.LISTENERS):
        try:
            registry.find(registry.LISTENERS, name)
        except registry.UnusableFunction as error:
            fix = "pip install what it needs, or uninstall what has it"
            problems.append(Problem(f'the listener "{name}" cannot be called: {error}', fix))
    return problems
