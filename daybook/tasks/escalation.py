"""Loader of the escalation policy: `[tasks]` in the settings.

The policy is `daybook.tasks.model.EscalationPolicy`.
"""

from __future__ import annotations

from daybook import settings
from daybook.errors import InvalidInput
from daybook.settings import Settings
from daybook.tasks.model import EscalationPolicy


def load_policy(found: Settings | None = None) -> EscalationPolicy:
    """Return the policy in the settings, which are read unless ``found`` is given.

    Called for each cycle, because the file may have changed. Raises `InvalidInput` naming the
    variable, or the file and the key.
    """
    found = found or settings.load()
    try:
        return EscalationPolicy.of(found.tasks)
    except InvalidInput as error:
        key = error.field.removeprefix("tasks.")
        raise settings.invalid_setting("tasks", f"{key}: {error.problem}", error.hint) from None
