"""The ladder of this home: what `[tasks]` in its settings says (`daybook.tasks.model.Ladder`)."""

from __future__ import annotations

from daybook import settings
from daybook.errors import InvalidInput
from daybook.settings import Settings
from daybook.tasks.model import Ladder


def here(found: Settings | None = None) -> Ladder:
    """Of the settings, which are read where they are not ``found`` already.

    For each cycle: the file may have changed. Raises `InvalidInput` naming the variable, or the
    file and the key.
    """
    found = found or settings.load()
    try:
        return Ladder.of(found.tasks)
    except InvalidInput as error:
        key = error.field.removeprefix("tasks.")
        raise settings.refused("tasks", f"{key}: {error.problem}", error.hint) from None
