"""What an agent can do, as tasks for idle sessions ask for it (requirement 49).

Whoever looks for an agent that is to do a task compares these with what the task requires.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from daybook.tasks import model
from daybook.validation import raising_pydantic_error


def _legal(value: list[str]) -> list[str]:
    with raising_pydantic_error():
        return model.check_capabilities(value)


Capabilities = Annotated[
    list[str],
    AfterValidator(_legal),
    Field(
        title="Capabilities",
        description=(
            "What it can do, in the words of tasks, one entry each: a job with the tag task-worker "
            "is run for a task that starves when its agent has all that the task requires."
        ),
        examples=[["python", "review"]],
    ),
]
"""The field of each kind of agent: each word once, in order."""
