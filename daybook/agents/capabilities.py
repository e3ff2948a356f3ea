"""The setting `capabilities` of an agent: what it can do, in the words that tasks require.

To find an agent for a task, Daybook compares these with what the task requires.
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
            "Capabilities of the agent, one per entry, spelled as in task requirements. When a "
            "task starves, Daybook runs a job with the tag task-worker whose agent has every "
            "required capability."
        ),
        examples=[["python", "review"]],
    ),
]
"""The field of each kind of agent: each word once, in order."""
