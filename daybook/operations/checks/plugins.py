"""What programs register: the modules of the setting `plugins`, and the listeners."""

from __future__ import annotations

from daybook import registry
from daybook.errors import InvalidInput
from daybook.operations.checks.problem import Problem


def plugins() -> list[Problem]:
    """Each can be imported here; the worker's path may be another."""
    try:
        registry.look()
    except InvalidInput:  # another check tells what is wrong with the settings
        return []
    mend = "see that it is on the worker's path (pip install, PYTHONPATH), or correct `plugins`"
    found = [
        Problem(f"the plugin {module} cannot be imported: {why}", mend)
        for module, why in registry.broken().items()
    ]
    for name in registry.here(registry.LISTENERS):
        try:
            registry.find(registry.LISTENERS, name)
        except registry.Unusable as error:
            mend = "pip install what it needs, or uninstall what has it"
            found.append(Problem(f'the listener "{name}" cannot be called: {error}', mend))
    return found
