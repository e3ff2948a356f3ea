"""Loader of the escalation policy: `[tasks]` in the settings.

The policy is `daybook.tasks.model.EscalationPolicy`.
"""

from __future__ import annotations

from daybook import settings
from daybook.errors import InvalidInput
from daybook.settings import Settings
from daybook.tasks.model import Ladder


def here(found: Settings | None = None) -> Ladder:
    """Return the policy in the settings, which are read unless ``found`` is given.

    Called for each cycle, because the file may have changed. Raises `InvalidInput` naming the
    variable, or the file and the key.
    """
    found = found or settings.load()
    try:
        return Ladder.of(found.tasks)
    except InvalidInput as error:
        key = error.field.removeprefix("tasks.")
        raise settings.refused("tasks", f"{key}: {error.problem}", error.hint) from None
