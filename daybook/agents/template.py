"""Template of a command agent's arguments: a list of strings, which no shell interprets.

A placeholder is a name in braces, such as ``{job}``. Braces around another text stay unchanged, as
in ``{print $1}``, ``{"a": 1}`` and ``a{3}``. ``{{name}}`` becomes ``{name}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

PLACEHOLDERS = ("prompt", "job", "due", "occurrence", "mcp_config")
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_PATTERN = re.compile(rf"\{{\{{(?P<literal>{_NAME})\}}\}}|\{{(?P<name>{_NAME})\}}")


def names(argument: str) -> list[str]:
    """Return the names of the placeholders in one argument, in order."""
    return [match["name"] for match in _PATTERN.finditer(argument) if match["name"]]


def check(command: Sequence[str]) -> None:
    """Raise ValueError for an invalid template."""
    if not command or not command[0].strip():
        raise ValueError("is empty; list the program, then one entry for each argument")
    if names(command[0]):
        raise ValueError("the program itself cannot be a placeholder")
    for argument in command:
        if "\0" in argument:
            raise ValueError("an argument cannot contain a zero byte")
        for name in names(argument):
            if name not in PLACEHOLDERS:
                legal = ", ".join("{%s}" % known for known in PLACEHOLDERS)  # noqa: UP031
                raise ValueError(
                    f"unknown placeholder {{{name}}}; use {legal}, or {{{{{name}}}}} for the "
                    "literal text"
                )


def takes_prompt(command: Sequence[str]) -> bool:
    """Return whether an argument contains the prompt, so that standard input does not."""
    return any("prompt" in names(argument) for argument in command)


def takes_config(command: Sequence[str]) -> bool:
    """Return whether an argument contains the path of the MCP configuration file."""
    return any("mcp_config" in names(argument) for argument in command)


def fill(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return the arguments with ``values`` filled in. Leave placeholders inside a value.

    An agent may have written the prompt, so a value must not turn an argument into an option: a
    space precedes a value that starts with a dash at the start of an argument.
    """
    return [_fill(argument, values) for argument in command]


def _fill(argument: str, values: Mapping[str, str]) -> str:
    filled = _PATTERN.sub(
        lambda match: values[match["name"]] if match["name"] else "{%s}" % match["literal"],  # noqa: UP031
        argument,
    )
    guard = filled.startswith("-") and not argument.startswith("-")
    return " " + filled if guard else filled
