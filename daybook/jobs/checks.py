"""Check of a job: a precondition that decides whether a run starts.

It is a tool, a prompt to an agent, or a command. If the check answers no, the run ends as skipped
with the reason; if the check fails, the run fails. It runs before the first attempt only. A check
must only read: it may run again for the same run if a process died before the run's work began.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from daybook.errors import InvalidInput
from daybook.jobs import prompts
from daybook.validation import raising_pydantic_error

KINDS = ("tool", "prompt", "command")

_Line = Annotated[str, StringConstraints(strip_whitespace=True)]


class Check(BaseModel):
    """One of `KINDS`, or none: then nothing is asked, and the run is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: _Line = Field(
        default="", title="Tool", description="A tool whose answer decides: true, or false."
    )
    params: dict[str, Any] = Field(
        default_factory=dict, title="Parameters", description="What the tool is called with."
    )
    prompt: str = Field(
        default="",
        title="Prompt",
        description="What an agent is asked, such as: is there anything new? It answers "
        '{"action": "run" | "skip", "reason": "..."}.',
    )
    agent: _Line = Field(
        default="",
        title="Agent",
        description="The agent that is asked the prompt, a fast one; empty is the job's own.",
    )
    command: tuple[str, ...] = Field(
        default=(),
        title="Command",
        description="A program and its arguments, the operator's alone: 0 is yes, 1 is no, "
        "anything else a failure.",
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        with raising_pydantic_error():
            given = [name for name in KINDS if getattr(self, name)]
            if len(given) > 1:
                raise InvalidInput(
                    "check", f"has {' and '.join(given)}", "only one of these decides"
                )
            if self.params and not self.tool:
                raise InvalidInput("check", "params are a tool's", "name the tool")
            if self.agent and not self.prompt.strip():
                raise InvalidInput("check", "an agent is asked a prompt", "write the prompt")
            if self.prompt and not self.prompt.strip():
                raise InvalidInput("check", "the prompt is blank", "write what the agent is asked")
            if self.command and not self.command[0].strip():
                raise InvalidInput("check", "the command names no program", "write its name first")
        return self

    def __bool__(self) -> bool:
        """Return whether there is a check at all."""
        return any(getattr(self, name) for name in KINDS)


def merge_check(before: object, given: object) -> object:
    """Return the check ``before`` with the edit ``given`` applied.

    Another tool, prompt or command replaces the whole check; parameters or an agent alone are added
    to it. The prompt's variables are validated here and not in `Check`, so that stored checks stay
    readable. Raises `InvalidInput`.
    """
    if not isinstance(given, Mapping):
        return given
    if isinstance(prompt := given.get("prompt"), str):
        prompts.check(prompt, field="check")
    if not isinstance(before, Mapping) or any(name in given for name in KINDS):
        return given
    return {**before, **given}
