"""Options of `daybook agents add` and `edit`, derived from the settings of agents."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from daybook.agents import providers
from daybook.agents.command import CommandSettings
from daybook.agents.model_settings import ModelSettings, Options
from daybook.cli.field_options import FieldOption, FieldOptions, options_of, with_options
from daybook.errors import InvalidInput
from daybook.processes.environment import DEFAULT_NAMES

_MODEL, _PROGRAM = ModelSettings.model_fields, CommandSettings.model_fields
_ALWAYS_PASSED = "PATH, HOME and similar ones are always passed."
_OFTEN_SET = ("temperature", "max_tokens")
"""The fields of the setting `options` that have options of their own."""


@Parameter(name="*")
@with_options(
    {
        "A model": [
            *options_of(_MODEL, "model", "base_url", "api_key", "system_prompt"),
            *options_of(Options.model_fields, *_OFTEN_SET),
            *options_of(_MODEL, "request_limit", "input_price", "output_price"),
        ],
        "A program": [
            *options_of(_PROGRAM, "work_dir"),
            FieldOption("environment", _PROGRAM["environment"], more=_ALWAYS_PASSED),
            *options_of(_PROGRAM, "output", "history"),
        ],
        "Any agent": options_of(
            _MODEL,
            "tools",
            "capabilities",
            "summarize_after_messages",
            "summarize_after_tokens",
            "history_tokens",
        ),
    }
)
class AgentOptions(FieldOptions):
    """Options of an agent of any kind; those for the key are not named after their setting."""

    command: Annotated[
        str | None,
        Parameter(help="Program and its arguments as one string; no shell interprets it."),
    ] = None

    def settings(self, arguments: Sequence[str] = ()) -> dict[str, Any]:
        """Return a mapping of the settings' names to the given options; read the key.

        ``arguments`` are the program and its arguments, in place of the option. Raises
        `InvalidInput` if both are given, or the option cannot be split into words; if the request
        limit is below 1, the source of the key is empty, or two sources are given.
        """
        given = self.given()
        if program := command_words(self.command, arguments):
            given["command"] = program
        if self.request_limit is not None and self.request_limit < 1:
            problem = f"{self.request_limit} is too small"
            raise InvalidInput("request_limit", problem, "use 1 or more")
        if options := {name: given.pop(name) for name in _OFTEN_SET if name in given}:
            given["options"] = options
        if "environment" in given:
            given["environment"] = list(dict.fromkeys([*DEFAULT_NAMES, *given["environment"]]))
        return given

    def missing_key_note(self) -> str:
        """Return the note for an agent that has no stored key."""
        if self.base_url:
            return (
                "No key is stored, so none is sent. To store one, pass --replace and --key-stdin."
            )

        variable = providers.variable(self.model or "") or "the provider's variable"
        return f"No key is stored: set {variable} in the worker's environment."


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
