"""Options for the settings of a program: its command line and its environment."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic.fields import FieldInfo

from daybook.cli.field_options import FieldOption, FieldOptions
from daybook.errors import InvalidInput
from daybook.processes.environment import DEFAULT_NAMES

Command = Annotated[
    str | None, Parameter(help="Program and its arguments as one string; no shell interprets it.")
]
"""Type of the attribute `command` of `ProgramOptions`."""


def environment_option(fields: Mapping[str, FieldInfo]) -> FieldOption:
    """Return the option for the field `environment`. The user's values are added to the default."""
    more = "PATH, HOME and similar ones are always passed."
    return FieldOption("environment", fields["environment"], more=more)


class ProgramOptions(FieldOptions):
    """Base of the options of agents and tool servers. A subclass has the attribute `command`."""

    def settings(self, arguments: Sequence[str] = ()) -> dict[str, Any]:
        """Return the given settings by name.

        ``arguments`` are the program and its arguments, in place of the option `command`. Raise the
        errors of `given`, and `InvalidInput` if both are given, or if the option is blank or cannot
        be split into words.
        """
        settings = self.given()
        if program := _program(self.command, arguments):
            settings["command"] = program
        if "environment" in settings:
            settings["environment"] = list(
                dict.fromkeys([*DEFAULT_NAMES, *settings["environment"]])
            )
        return settings


def _program(command: str | None, arguments: Sequence[str]) -> list[str]:
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
