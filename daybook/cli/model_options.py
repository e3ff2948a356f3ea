"""Options of `daybook agents add` that configure a model.

An API key cannot be passed as an argument, because every user of the machine can read arguments. It
is read from standard input, or from an environment variable that an option names.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Group, Parameter

from daybook.agents import providers
from daybook.errors import InvalidInput

_MODEL = Group("A model", sort_key=1)
_VARIABLE_NAME = re.compile("[A-Z]+(_[A-Z]+)+")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options of a model; each attribute except the two for the key is named after its setting."""

    model: Annotated[
        str | None,
        Parameter(
            group=_MODEL,
            help="Provider and name, such as openai:gpt-6-luna; with --base-url, the name alone is "
            "enough.",
        ),
    ] = None
    base_url: Annotated[
        str | None,
        Parameter(
            group=_MODEL,
            help="URL of an OpenAI-compatible API, such as http://localhost:8000/v1, or of the API "
            "of the provider in --model.",
        ),
    ] = None
    key_env: Annotated[
        str | None,
        Parameter(
            group=_MODEL,
            help="Environment variable that holds the API key. The key is read now and stored.",
        ),
    ] = None
    key_stdin: Annotated[
        bool, Parameter(group=_MODEL, help="Read the API key from standard input and store it.")
    ] = False
    system_prompt: Annotated[
        str | None, Parameter(group=_MODEL, help="System prompt sent with every request.")
    ] = None
    temperature: Annotated[
        float | None,
        Parameter(group=_MODEL, help="Sampling temperature. [default: the provider's]"),
    ] = None
    max_tokens: Annotated[
        int | None,
        Parameter(
            group=_MODEL, help="Maximum number of tokens per answer. [default: the provider's]"
        ),
    ] = None
    request_limit: Annotated[
        int | None,
        Parameter(
            group=_MODEL,
            help="Maximum number of requests per answer. [default: 1, or 50 with tools]",
        ),
    ] = None
    input_price: Annotated[
        float | None,
        Parameter(
            group=_MODEL, help="US dollars per million input tokens. [default: from a price table]"
        ),
    ] = None
    output_price: Annotated[
        float | None,
        Parameter(
            group=_MODEL, help="US dollars per million output tokens. [default: from a price table]"
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Return a mapping of the settings' names to the given options; read the key.

        Raises `InvalidInput` if the request limit is below 1, the source of the key is empty, or
        two sources are given.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        if self.request_limit is not None and self.request_limit < 1:
            raise InvalidInput(
                "request_limit", f"{self.request_limit} is too small", "use 1 or more"
            )
        options = {name: given.pop(name) for name in ("temperature", "max_tokens") if name in given}
        if options:
            given["options"] = options
        given.pop("key_env", None)
        given.pop("key_stdin", None)
        if (key := self._read_key()) is not None:
            given["api_key"] = key
        return given

    def missing_key_note(self) -> str:
        """Return the note for an agent that has no stored key."""
        if self.base_url:
            return (
                "No key is stored, so none is sent. To store one, pass --replace and --key-stdin."
            )

        variable = providers.variable(self.model or "") or "the provider's variable"
        return f"No key is stored: set {variable} in the worker's environment."

    def _read_key(self) -> str | None:
        if self.key_env and self.key_stdin:
            raise InvalidInput("key_env and key_stdin", "cannot be combined")
        if self.key_env:
            key = os.environ.get(self.key_env, "").strip()
            if not key:
                # The user may have typed a key instead of a name; the error must not repeat that.
                name = self.key_env if _VARIABLE_NAME.fullmatch(self.key_env) else "this variable"
                raise InvalidInput(
                    "key_env",
                    f"{name} is unset or empty",
                    "export it first, or pass the key on standard input with --key-stdin",
                )
            return key
        if self.key_stdin:
            from getpass import getpass

            line = getpass("Key: ") if sys.stdin.isatty() else sys.stdin.readline()
            key = line.strip()
            if not key:
                raise InvalidInput("key_stdin", "standard input is empty")
            return key
        return None
