"""Options of `daybook agents add` and `edit` for settings that are not those of a model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from daybook.errors import InvalidInput
from daybook.processes.environment import DEFAULT_NAMES


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """Options of an agent; each attribute is named after its setting."""

    command: Annotated[
        str | None,
        Parameter(help="Program and its arguments as one string; no shell interprets it."),
    ] = None
    work_dir: Annotated[
        str | None,
        Parameter(
            help="Working directory of the program. [default: a new, empty one for each run]"
        ),
    ] = None
    environment: Annotated[
        list[str] | None,
        Parameter(
            name="--env",
            help="Environment variable of the worker to pass to the program, in addition to PATH, "
            "HOME and similar ones. Repeatable.",
        ),
    ] = None
    output: Annotated[
        str | None,
        Parameter(
            help="Format of the program's output: text, json, claude-code or codex. "
            "[default: text, or that of the preset]"
        ),
    ] = None
    history: Annotated[
        str | None,
        Parameter(
            help="Session history to pass to the program: transcript or none. [default: transcript]"
        ),
    ] = None
    tools: Annotated[
        list[str] | None,
        Parameter(
            name="--tool",
            help="Tool that the agent may call: a tool server, server.tool, a Python tool, or "
            "daybook. In a program's arguments, {mcp_config} is the file that lists the servers. "
            "Repeatable.",
        ),
    ] = None
    capabilities: Annotated[
        list[str] | None,
        Parameter(
            name="--capability",
            help="Capability that tasks can require. If no session claims such a task, Daybook can "
            "run a job of this agent that has the tag task-worker. Repeatable.",
        ),
    ] = None
    summarize_after_messages: Annotated[
        int | None,
        Parameter(
            help="Number of messages of a session above which older ones are replaced by a "
            "summary. [default: never]"
        ),
    ] = None
    summarize_after_tokens: Annotated[
        int | None, Parameter(help="The same limit in estimated tokens. [default: none]")
    ] = None

    def settings(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Return a mapping of the settings' names to the given options.

        ``arguments`` are the program and its arguments, in place of the option. Raises
        `InvalidInput` if both are given, or the option cannot be split into words.
        """
        given = {
            name: value
            for name, value in vars(self).items()
            if value is not None and name != "command"
        }
        if self.environment is not None:
            given["environment"] = list(dict.fromkeys([*DEFAULT_NAMES, *self.environment]))
        if program := command_words(self.command, arguments):
            given["command"] = program
        return given


def command_words(command: str | None, arguments: Sequence[str]) -> list[str]:
    if command is None:
        return list(arguments)
    if arguments:
        raise InvalidInput("command and arguments", "cannot be combined")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidInput("command", f"cannot be split: {error}", "check the quotes") from None
    if not words:
        raise InvalidInput("command", "is blank", "write the program and its arguments")
    return words
