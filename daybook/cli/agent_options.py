"""Options of `daybook agents add` and `edit`, derived from the settings of agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Group, Parameter

from daybook.agents import providers
from daybook.agents.command import CommandSettings
from daybook.agents.model_settings import ModelSettings, Options
from daybook.cli.field_options import options_of, with_options
from daybook.cli.program_options import Command, ProgramOptions, environment_option
from daybook.errors import InvalidInput

_MODEL, _PROGRAM = ModelSettings.model_fields, CommandSettings.model_fields
_OFTEN_SET = ("temperature", "max_tokens")
"""The keys of an agent's setting `options` that have command-line options of their own."""

MODEL_GROUP = Group("A model", sort_key=1)
"""The first group of `AgentOptions`."""


@Parameter(name="*")
@with_options(
    {
        "A model": [
            *options_of(_MODEL, "model", "base_url", "api_key", "system_prompt"),
            *options_of(Options.model_fields, *_OFTEN_SET),
            *options_of(_MODEL, "stream", "pictures"),
            *options_of(_MODEL, "request_limit", "input_price", "output_price"),
        ],
        "A program": [
            *options_of(_PROGRAM, "work_dir"),
            environment_option(_PROGRAM),
            *options_of(_PROGRAM, "output", "history"),
            *options_of(_PROGRAM, "sandbox_readable", "sandbox_writable", "sandbox_hosts"),
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
class AgentOptions(ProgramOptions):
    """Options of an agent of any kind; the options for the key are not named after the setting."""

    command: Command = None

    def settings(self, arguments: Sequence[str] = ()) -> dict[str, Any]:
        """Return the given settings by name, including the agent's key.

        Raise the errors of `ProgramOptions.settings`, and `InvalidInput` for a request limit below
        1.
        """
        given = super().settings(arguments)
        if self.request_limit is not None and self.request_limit < 1:
            problem = f"{self.request_limit} is too small"
            raise InvalidInput("request_limit", problem, "use 1 or more")
        if options := {name: given.pop(name) for name in _OFTEN_SET if name in given}:
            given["options"] = options
        return given


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AgentChanges(AgentOptions):
    """Options that change an agent."""

    auto_stream: Annotated[
        bool,
        Parameter(
            help="Remove the setting --stream or --no-stream.", negative=(), group=MODEL_GROUP
        ),
    ] = False

    def settings(self, arguments: Sequence[str] = ()) -> dict[str, Any]:
        """Return the settings as `AgentOptions.settings` does; a removed one is None.

        Raise its errors, and `InvalidInput` for two options about `stream`.
        """
        given = super().settings(arguments)
        if self.auto_stream and "stream" in given:
            raise InvalidInput("auto_stream and stream", "cannot be combined", "pass one of them")
        return given | {"stream": None} if self.auto_stream else given


def missing_key_note(settings: Mapping[str, Any]) -> str:
    """Return the note for a model agent with these settings that has no stored key."""
    if settings.get("base_url"):
        return "No key is stored, so none is sent. To store one, pass --replace and --key-stdin."
    variable = providers.variable(settings["model"]) or "the provider's variable"
    return f"No key is stored: set {variable} in the worker's environment."
