"""Check of a job: a precondition that decides whether a run starts.

A check is a tool, a prompt to an agent, a command, or a watch: a page or the output of a command
that must have changed. If the check answers no, the run ends as skipped with the reason; if the
check fails, the run fails. A check runs before the first attempt only. A check must have no side
effects: it may run again for the same run if a process died before the run's work started.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from daybook.errors import InvalidInput
from daybook.json_text import JsonObject
from daybook.markers import Marker, Uses
from daybook.validation import raising_pydantic_error

KINDS = ("tool", "prompt", "command", "watch_url", "watch_command")
WATCHES = KINDS[-2:]

_Line = Annotated[str, StringConstraints(strip_whitespace=True)]


class Check(BaseModel):
    """Check before a run: a tool, a prompt, a command or a watch; empty if every run starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: Annotated[_Line, Marker(is_target=True)] = Field(
        default="",
        title="Tool",
        description="Tool that decides: true starts the run, false skips it.",
    )
    params: Annotated[JsonObject, Marker(is_target=True)] = Field(
        default_factory=dict, title="Parameters", description="Arguments of the tool."
    )
    prompt: str = Field(
        default="",
        title="Prompt",
        description="Prompt for an agent, such as: is there new mail? The agent answers "
        '{"action": "run" | "skip", "reason": "..."}.',
    )
    agent: Annotated[_Line, Marker(names="agent")] = Field(
        default="",
        title="Agent",
        description="Agent for the prompt, preferably a fast one; empty: the job's agent.",
    )
    command: Annotated[tuple[str, ...], Marker(syntax="command")] = Field(
        default=(),
        title="Command",
        description="Program with arguments, started without a shell: exit code 0 starts the run, "
        "1 skips it, any other code fails it. Only the operator may set it.",
    )
    watch_url: Annotated[_Line, Marker(option="watch-url", is_target=True)] = Field(
        default="",
        title="Watched page",
        description="Page to watch: the run starts only if its text has changed since the last "
        "success.",
    )
    watch_command: Annotated[tuple[str, ...], Marker(option="watch-command", syntax="command")] = (
        Field(
            default=(),
            title="Watched command",
            description="Program to watch: the run starts only if its output has changed since the "
            "last success. Only the operator may set it.",
        )
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        with raising_pydantic_error():
            given = [name for name in KINDS if getattr(self, name)]
            if len(given) > 1:
                raise InvalidInput("check", f"has {' and '.join(given)}", "use only one of them")
            if self.params and not self.tool:
                raise InvalidInput("check", "has params but no tool", "name the tool")
            if self.agent and not self.prompt.strip():
                raise InvalidInput("check", "has an agent but no prompt", "write the prompt")
            if self.prompt and not self.prompt.strip():
                raise InvalidInput("check", "has a blank prompt", "write a prompt for the agent")
            for program in (self.command, self.watch_command):
                if program and not program[0].strip():
                    hint = "start it with the program's name"
                    raise InvalidInput("check", "has a command without a program", hint)
        return self

    def __bool__(self) -> bool:
        """Return whether the job has a check."""
        return any(getattr(self, name) for name in KINDS)

    def tools(self) -> Uses:
        """Return the tool that decides, with the name of its field."""
        return [("tool", self.tool)] if self.tool else []

    def arguments(self) -> JsonObject:
        """Return the arguments of the tool."""
        return self.params

    def agents(self) -> Uses:
        """Return the agent that the check names for its prompt, with the name of the field."""
        return [("agent", self.agent)] if self.agent else []

    def urls(self) -> Uses:
        """Return the URL of the watched page, with the name of its field."""
        return [("watch_url", self.watch_url)] if self.watch_url else []

    def values_with_secrets(self) -> list[object]:
        """Return the values in which a run replaces references to secrets."""
        return [self.params]

    def brief(self) -> str:
        """Describe the check, such as `the tool mail.any {"box": "in"}`; empty without a check."""
        if self.tool:
            params = json.dumps(self.params, ensure_ascii=False) if self.params else ""
            return f"the tool {self.tool} {params}".rstrip()
        if self.prompt:
            return f"the agent {self.agent or 'of the job'}: {self.prompt}"
        if self.watch_url or self.watch_command:
            return f"changes of {self.watch_url or shlex.join(self.watch_command)}"
        return f"the command {shlex.join(self.command)}" if self.command else ""

    @property
    def is_watch(self) -> bool:
        """Return whether the check is a watch."""
        return any(getattr(self, name) for name in WATCHES)


def merge_check(before: object, given: object) -> object:
    """Return the check ``before`` with the edit ``given`` applied.

    A new tool, prompt, command or watch replaces the whole check; other fields are added to it.
    """
    if not isinstance(given, Mapping) or not isinstance(before, Mapping):
        return given
    return given if any(name in given for name in KINDS) else {**before, **given}
