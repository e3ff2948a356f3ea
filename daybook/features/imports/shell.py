"""The agent that runs imported commands: a shell, which gets the job's prompt as its script.

The import makes each command the prompt of a job of this agent, so that users can read and edit the
command. `api.imports` adds the agent if it is needed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import PurePosixPath

from daybook.errors import InvalidInput
from daybook.http import secrets
from daybook.jobs.model import JobFields
from daybook.json_text import JsonObject
from daybook.processes import environment

AGENT = "shell"
"""Name of the agent."""
PROGRAM = "/bin/sh"
SETTINGS: JsonObject = {"command": [PROGRAM], "work_dir": "~", "history": "none"}
"""Settings of the agent. It has no history, because the script must not contain earlier answers."""
ADD_COMMAND = f"daybook agents add {AGENT} --work-dir '~' --history none --command {PROGRAM}"

SECRET_REASON = "imported without its secrets"
TIMEOUT = "24h"
"""Timeout of a job whose command had no timeout."""

MOVE_SECRET_HINT = (
    "set it as a variable where `daybook up` starts, write $NAME into the command, and run: "
    f"{ADD_COMMAND} --replace --env NAME"
)

_END = "END"

_INTERPRETERS = re.compile(
    r"(?:ba|da|z|k|c)?sh|python[\d.]*|pypy\d?|ruby[\d.]*|perl|php[\d.]*|node|java|Rscript|lua|uv|npx"
)
_WRAPPERS: dict[str, tuple[int, str]] = {
    **dict.fromkeys(("nice", "nohup", "setsid", "chronic"), (0, "")),
    "env": (0, "-u -C --unset --chdir"),
    "exec": (0, "-a"),
    "flock": (1, "-w -E --timeout --wait --conflict-exit-code"),
    "ionice": (0, "-c --class"),
    "sudo": (0, "-u -g -h -p -C -D -R -r -t -T -U --user --group --host --prompt --chdir --chroot"),
    "time": (0, "-f -o --format --output"),
    "timeout": (1, "-s -k --signal --kill-after"),
}
"""Programs that run the command in their arguments.

For each, the number of arguments before the command, and the options whose value is the next word.
"""
_SCRIPT = re.compile(r"(?:[\w.~+${}-]*/)*[\w.~+-]+", re.ASCII)
_SCRIPT_SUFFIX = re.compile(r"\.(?:sh|bash|zsh|py|rb|pl|php|js|mjs|cjs|ts|jar|R|lua)", re.ASCII)
_OPERATORS = "&|;<>()`"

_LITERAL = r"""["']?(?![-$`@~/<"'\s])\S"""
"""Start of a value that is no option, variable, command or path."""
_SECRET_OPTION = re.compile(
    r"(?<!\S)(?P<name>--?(?:[A-Za-z\d]+[-_])*(?i:pass|passw(?:or)?d|passphrase|secret|token"
    r"|credentials?|(?:api|access|auth|private|secret)[-_]?key))(?:=|\s+)" + _LITERAL
)
_SECRET_VARIABLE = re.compile(
    r"\b(?P<name>[A-Za-z_]{0,60}(?:KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTHORIZATION)[A-Z_\d]{0,40})="
    + _LITERAL
)
_SECRET_IN_URL = re.compile(
    r"(?<![\w+.-])(?P<name>\w[\w+.-]*://)[^\s:/@]*:(?=[^\s/@]*@)" + _LITERAL
)
_SECRET_HEADER = re.compile(
    r"(?<![\w-])(?P<name>(?i:[\w-]*(?:authorization|token|secret|api-?key)))"
    r":\s*(?:(?:Bearer|Basic)\s++)?+" + _LITERAL
)
_CURL_SECRET = re.compile(
    r"\bcurl\s(?:[^|;&]{0,500}\s)?(?P<name>-u|--user|--proxy-user)(?:=|\s*)[^\s:]+:" + _LITERAL
)
_MYSQL_SECRET = re.compile(
    r"\b(?:mysql|mariadb)[\w-]{0,60}\s(?:[^|;&]{0,500}\s)?(?P<name>-p)" + _LITERAL
)
_SSHPASS_SECRET = re.compile(r"\bsshpass\s+(?P<name>-p)\s*" + _LITERAL)
_SECRETS = (
    *(_SECRET_OPTION, _SECRET_VARIABLE, _SECRET_IN_URL, _SECRET_HEADER),
    *(_CURL_SECRET, _MYSQL_SECRET, _SSHPASS_SECRET),
)
"""Forms of secrets in a command: options, assignments, URLs, headers, and options of programs."""


def fields(
    command: str,
    *,
    variables: Mapping[str, str] | None = None,
    folder: str = "",
    stdin: str | None = None,
) -> JobFields:
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


def program_name(command: str) -> str:
    """Return the base name of the script or program that a command runs; "" if it is not clear.

    The name contains no option and no other argument, because these may be secrets.
    """
    for simple in _simple_commands(command):
        words = _program_words(simple)
        program = next(words, "")
        if program in ("", "cd", "test", "[", "true", "umask", "set", "export", ".", "source"):
            continue
        name = PurePosixPath(program if _SCRIPT.fullmatch(program) else "")
        if not _INTERPRETERS.fullmatch(name.name):
            return name.stem
        script = next((word for word in words if not word.startswith("-")), "")
        path = PurePosixPath(script if _SCRIPT.fullmatch(script) else "")
        is_script = "/" in script or _SCRIPT_SUFFIX.fullmatch(path.suffix)
        return path.stem if is_script else ""
    return ""


def _simple_commands(command: str) -> Iterator[list[str]]:
    """Yield the words of each command in a pipe or list of commands, without quotes.

    Yield nothing if a quote has no end.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars=_OPERATORS)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:
        return
    for is_separator, simple in groupby(words, lambda word: set(word) <= set("&|;")):
        if not is_separator:
            yield list(simple)


def _program_words(words: list[str]) -> Iterator[str]:
    """Yield the words of a command from its program on, without assignments and wrappers."""
    while words:
        word = words.pop(0)
        if "=" in word.partition("/")[0]:
            continue
        wrapper = _WRAPPERS.get(PurePosixPath(word).name)
        if wrapper is None:
            yield word
            break
        operands, with_value = wrapper
        while words and (words[0].startswith("-") or words[0].isdigit() or operands):
            option = words.pop(0)
            if option in with_value.split() and words:
                words.pop(0)
            elif not option.startswith("-"):
                operands = max(operands - 1, 0)
    yield from words


def names_of_secrets(script: str) -> list[str]:
    """Return the names of the options, variables and headers with a secret in a script.

    The name of a URL with a password is its scheme: `https://`.
    """
    found = (match["name"] for each in _SECRETS for match in each.finditer(script))
    return list(dict.fromkeys(found))


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
