"""The setting `[tasks]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from daybook import settings
from daybook.errors import InvalidInput

if TYPE_CHECKING:
    from daybook.features.tasks.policy import SchedulerPolicy


def default_tasks() -> dict[str, Any]:
    """Return the defaults in docs/guides/tasks.md."""
    return {}


class TaskSettings(BaseModel):
    """The settings of tasks."""

    tasks: dict[str, Any] = Field(
        default_factory=default_tasks,
        description="Escalation of tasks that no session claims, and how task sessions are woken: "
        "a table, `[tasks]` in `config.toml`, or JSON. docs/guides/tasks.md lists the keys.",
    )

    def check(self) -> None:
        """Raise `InvalidInput` if the options of the task scheduler are not valid."""
        load_policy()


def load_policy() -> SchedulerPolicy:
    """Return the policy in the settings.

    The scheduler calls this function for each cycle, because the file may have changed. Raise
    `InvalidInput`, which names the variable, or the file and the key.
    """
    from daybook.features.tasks.policy import SchedulerPolicy

    try:
        return SchedulerPolicy.of(settings.part(TaskSettings).tasks)
    except InvalidInput as error:
        key = error.field.removeprefix("tasks.")
        raise settings.invalid_setting("tasks", f"{key}: {error.problem}", error.hint) from None
