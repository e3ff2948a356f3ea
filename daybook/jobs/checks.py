"""The gate of a job: what is asked before the model is, or a webhook or a tool (requirement 43).

It is a tool, a prompt to an agent, or a command. Closed, the run ends as skipped, with the reason;
a gate that fails is the run's failure. It is asked before the first attempt only. What it asks just
looks: it may be asked again for the same run when a process died before the run's own work began.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from daybook.errors import InvalidInput
from daybook.jobs import prompts
from daybook.validation import for_pydantic

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
        with for_pydantic():
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
        """Whether there is a gate at all."""
        return any(getattr(self, name) for name in KINDS)


def changed(before: object, given: object) -> object:
    """What a check is when ``given`` is said of it: another tool, prompt or command takes the place
    of all that was there, parameters or an agent alone are added to it.

    The prompt's variables are looked at here, not in `Check`: what is stored stays readable. Raises
    `InvalidInput`.
    """
    if not isinstance(given, Mapping):
        return given
    if isinstance(prompt := given.get("prompt"), str):
        prompts.check(prompt, field="check")
    if not isinstance(before, Mapping) or any(name in given for name in KINDS):
        return given
    return {**before, **given}
