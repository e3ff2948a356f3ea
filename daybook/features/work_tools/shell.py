"""The tool `shell.run`: a command in the job's work directory.

In a job with a sandbox, the command runs there. In any other, it has all rights of the user who
runs Daybook, so it can read and write any file of this user; only the operator allows it (the
setting `allow_shell`). It gets none of Daybook's variables
and secrets (`processes.environment`), and none of its processes is left when the call returns,
unless one has created a session of its own: the worker ends that one with the run.
"""

from __future__ import annotations

from collections.abc import Sequence

from daybook.agents import process
from daybook.agents.base import Tool
from daybook.errors import DaybookError, InvalidInput
from daybook.execution import sandboxing
from daybook.execution.builtin_tools import ToolContext
from daybook.execution.tool_arguments import is_encodable
from daybook.features.work_tools import settings
from daybook.features.work_tools.paths import no_work_dir
from daybook.json_text import JsonObject
from daybook.processes import environment, group
from daybook.processes.pipes import EndsPipe

MAX_OUTPUT_BYTES = 20_000
"""Maximum length of the output in an answer: the first and the last half of it."""
MAX_COMMAND_CHARACTERS = 10_000
DEFAULT_SECONDS = 120

# One pipe, so that the lines of both outputs are in the order in which they were printed.
_MERGED = 'exec /bin/sh -c "$1" 2>&1'


class CommandNotStarted(DaybookError):
    """The error that the system cannot start a command."""

    code = "command_not_started"


async def shell_tools(context: ToolContext) -> Sequence[Tool]:
    """Return the tool. Raise `InvalidInput` if the operator has not allowed it."""
    sandbox = sandboxing.of_run(context.granted)
    if sandbox is None and not settings.load().allow_shell:
        problem = 'the operator has not allowed "shell" without a sandbox'
        hint = "set sandbox on the job, or allow_shell = true in config.toml (DAYBOOK_ALLOW_SHELL)"
        raise InvalidInput("tools", problem, hint)
    # At the end of the attempt, the call is cancelled, which ends the command.
    most = max(int(context.granted.policy.timeout.total_seconds()), 1)

    async def run(arguments: JsonObject) -> str:
        if not context.work_dir:
            raise no_work_dir("shell")
        command, seconds = _command(arguments), _seconds(arguments, most)
        own = sandbox and sandbox.anew()
        try:
            ended = await process.run(
                ["/bin/sh", "-c", _MERGED, "sh", command],
                folder=context.work_dir,
                environment=environment.select(environment.DEFAULT_NAMES),
                stdin=None,
                seconds=seconds,
                output=EndsPipe(MAX_OUTPUT_BYTES),
                sandbox=own,
            )
        except OSError as error:
            raise CommandNotStarted(f"the command was not started: {error.strerror}") from None
        refused = own.warnings() if own else ()
        how = f"It was stopped after {seconds} s, and" if ended.timed_out else "It"
        lines = [ended.output.decode(errors="replace").rstrip("\n"), *refused]
        if ended.exceeded:
            lines.append(f"The sandbox has ended it: {ended.exceeded}")
        output = "\n".join(filter(None, lines))
        return f"{how} {group.describe_exit(ended.code)}.\n{output or '(no output)'}"

    return (
        Tool(
            "run",
            "Run a command with /bin/sh in the work directory. Returns its exit code and its "
            "output, of which the middle is left out if it is long. Processes in the background "
            "end with the command, except those in a session of their own.",
            {
                "type": "object",
                "properties": {
                    "command": {"type": "string"},
                    "timeout_seconds": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": most,
                        "default": min(DEFAULT_SECONDS, most),
                    },
                },
                "required": ["command"],
                "additionalProperties": False,
            },
            run,
            destructive=True,
            open_world=True,
            can_leak=True,
        ),
    )


def _command(arguments: JsonObject) -> str:
    command = arguments.get("command")
    if not isinstance(command, str) or not command.strip():
        raise InvalidInput("command", "is missing", "give it as a text")
    if len(command) > MAX_COMMAND_CHARACTERS:
        hint = f"use {MAX_COMMAND_CHARACTERS:,} characters, or a script in a file"
        raise InvalidInput("command", "is too long", hint)
    if "\0" in command or not is_encodable(command):
        raise InvalidInput("command", "has a character that no command contains", "leave it out")
    return command


def _seconds(arguments: JsonObject, most: int) -> int:
    """Return the time limit of the command, at most that of an attempt."""
    seconds = arguments.get("timeout_seconds")
    if seconds is None:
        return min(DEFAULT_SECONDS, most)
    if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds < 1:
        raise InvalidInput("timeout_seconds", "is no number of seconds", f"use 1 to {most:,}")
    return min(seconds, most)
