"""The argument template of a command agent: a list of plain strings, no shell.

A placeholder is a name in braces, such as ``{job}``. Braces around anything that is not a name
(``{print $1}``, ``{"a": 1}``, ``a{3}``) are left unchanged, and ``{{name}}`` gives ``{name}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

PLACEHOLDERS = ("prompt", "job", "due", "occurrence", "mcp_config")
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_PATTERN = re.compile(rf"\{{\{{(?P<literal>{_NAME})\}}\}}|\{{(?P<name>{_NAME})\}}")


def names(argument: str) -> list[str]:
    """Return the placeholders of one argument, in order."""
    return [match["name"] for match in _PATTERN.finditer(argument) if match["name"]]


def check(command: Sequence[str]) -> None:
    """Raise ValueError for an invalid template."""
    if not command or not command[0].strip():
        raise ValueError("is empty; write the program, then one entry for each argument")
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
                    "literal text; no shell expands variables"
                )


def takes_prompt(command: Sequence[str]) -> bool:
    """Return whether the prompt is passed as an argument, and so not on standard input."""
    return any("prompt" in names(argument) for argument in command)


def takes_config(command: Sequence[str]) -> bool:
    """Return whether the program receives the path of its MCP configuration."""
    return any("mcp_config" in names(argument) for argument in command)


def fill(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return the arguments with ``values`` filled in; placeholders inside a value are not expanded.

    A value at the beginning of an argument never turns it into an option: if it begins with a dash,
    a space is put in front. Prompts come from jobs, and jobs may come from an agent.
    """
    return [_fill(argument, values) for argument in command]


def _fill(argument: str, values: Mapping[str, str]) -> str:
    filled = _PATTERN.sub(
        lambda match: values[match["name"]] if match["name"] else "{%s}" % match["literal"],  # noqa: UP031
        argument,
    )
    guard = filled.startswith("-") and not argument.startswith("-")
    return " " + filled if guard else filled
