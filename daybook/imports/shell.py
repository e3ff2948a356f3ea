"""The agent that runs imported commands: a shell, which gets the job's prompt as its script.

The import makes each command the prompt of a job of this agent, so that users can read and edit the
command. `api.imports` adds the agent if it is needed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from daybook.errors import InvalidInput
from daybook.http import secrets
from daybook.processes import environment

AGENT = "shell"
"""Name of the agent."""
PROGRAM = "/bin/sh"
SETTINGS: dict[str, Any] = {"command": [PROGRAM], "work_dir": "~", "history": "none"}
"""Settings of the agent. It has no history, because the script must not contain earlier answers."""
ADD_COMMAND = f"daybook agents add {AGENT} --work-dir '~' --history none --command {PROGRAM}"

SECRET_REASON = "imported without its secrets"
TIMEOUT = "24h"
"""Timeout of a job whose command had no timeout."""

_END = "END"


def fields(
    command: str,
    *,
    variables: Mapping[str, str] | None = None,
    folder: str = "",
    stdin: str | None = None,
) -> dict[str, Any]:
    """Return the fields of a job that runs a shell command in ``folder``, by default in `~`.

    If ``stdin`` is None, the command's standard input is empty.
    """
    return {
        "agent": AGENT,
        "session": "new",
        "prompt": _script(command, variables or {}, folder, stdin),
    }


def _script(command: str, variables: Mapping[str, str], folder: str, stdin: str | None) -> str:
    """Return the script for the shell: variables, folder, command, and the text of ``stdin``.

    If ``stdin`` is None, the command is the last line.
    """
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    if folder:
        lines.append(f"cd {shlex.quote(folder)} || exit 1")
    if stdin is None:
        lines.append(command)
    else:
        end = _END
        while end in stdin.splitlines():
            end += "_"
        lines += [f"{{ {command}", f"}} <<'{end}'", stdin.removesuffix("\n"), end]
    return "\n".join(lines)


def without_secrets(variables: Mapping[str, str], notes: list[str]) -> tuple[dict[str, str], str]:
    """Return the variables that a prompt may contain, and the reason to disable the job.

    The reason is empty if a prompt may contain all variables. Otherwise, add a note that names the
    omitted variables.
    """
    kept = {name: value for name, value in variables.items() if not _is_secret(name, value)}
    left_out = [name for name in variables if name not in kept]
    if not left_out:
        return kept, ""
    notes.append(
        f"left out {', '.join(left_out)}, which looks like a secret, so it is disabled; set it "
        f"where `daybook up` starts, and run: {ADD_COMMAND} --replace --env {left_out[0]}"
    )
    return kept, SECRET_REASON


def _is_secret(name: str, value: str) -> bool:
    if environment.may_be_secret(name):
        return bool(value)
    try:
        secrets.refuse_literal_params({name: value})
    except InvalidInput:
        return True
    return False
