"""Environment of a program: an allow-list of the worker's variables.

The list cannot contain names that start with `PREFECT_` or `DAYBOOK_`, in upper or lower case
(Prefect ignores case). These variables give access to Prefect's server and to the ledger.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping

from daybook.redaction import redact, spellings

DEFAULT_NAMES = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
"""Variables that most programs need, such as PATH, language and time zone; none is secret."""

VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""Name of a variable that a shell can export."""
_FORBIDDEN_PREFIXES = ("PREFECT_", "DAYBOOK_")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTHORIZATION", re.IGNORECASE)
_SECRET_NAMES = (
    "DAYBOOK_LEDGER_URL",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
)
"""Variables that may contain a secret although `_SECRET` does not match their names."""
_MIN_SECRET_LENGTH = 8


def search_path() -> str:
    """Return this process's PATH, with the interpreter's own `bin` folder first.

    It contains the programs installed together with Daybook. That of a system interpreter keeps its
    position, because `/usr/bin` at the front would hide other programs.
    """
    own = os.path.dirname(os.path.abspath(sys.executable))
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if own in folders and sys.prefix == sys.base_prefix:
        return os.pathsep.join(folders)
    return os.pathsep.join([own, *(each for each in folders if each != own)])


def set_search_path() -> None:
    """Make `search_path` the PATH of this process and of the processes that it starts."""
    os.environ["PATH"] = search_path()


def check(names: Iterable[str]) -> None:
    """Raise ValueError for an invalid name, or a name that starts with `PREFECT_` or `DAYBOOK_`."""
    for name in names:
        # If it has the form NAME=value, the value may be a secret, so do not repeat it.
        shown = name.split("=", 1)[0]
        if not VARIABLE_NAME.fullmatch(name):
            raise ValueError(
                f'"{shown}" is not the name of a variable; list names only, because the values '
                "come from the worker's environment"
            )
        if name.upper().startswith(_FORBIDDEN_PREFIXES):
            raise ValueError(f"{shown} cannot be passed on; remove PREFECT_… and DAYBOOK_… names")


def select(names: Iterable[str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables among ``names`` that are set in ``given`` (default: `os.environ`)."""
    source = os.environ if given is None else given
    return {name: source[name] for name in names if name in source}


def may_be_secret(name: str) -> bool:
    """Return whether a variable's name shows that the variable may contain a secret."""
    return name in _SECRET_NAMES or _SECRET.search(name) is not None


def split_secrets(given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return two mappings: the variables without secrets, and the variables that may have one.

    Other processes of this user can read the environment with which a process starts. So it must
    get the second mapping only after it has called `daybook.processes.proc.deny_inspection`.
    """
    secret = {k: v for k, v in given.items() if may_be_secret(k)}
    return {k: v for k, v in given.items() if k not in secret}, secret


def redact_values(text: str, environment: Mapping[str, str]) -> str:
    """Replace the values of variables by their names in brackets.

    Leave those of `DEFAULT_NAMES`, and of fewer than 8 characters.
    """
    return redact(text, value_replacements(environment))


def redact_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Replace the values of variables whose name `_SECRET` matches by their names in brackets.

    `_SECRET_NAMES` does not count here. Leave values of fewer than 8 characters.
    """
    return redact(text, secret_replacements(environment))


def value_replacements(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the replacement of each spelling of the values that `redact_values` replaces."""
    return _replacements({k: v for k, v in environment.items() if k not in DEFAULT_NAMES})


def secret_replacements(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the replacement of each spelling of the values that `redact_secrets` replaces."""
    return _replacements({k: v for k, v in environment.items() if _SECRET.search(k)})


def _replacements(values: Mapping[str, str]) -> dict[str, str]:
    # Replacing short values would break up words.
    long = {k: v for k, v in values.items() if len(v) >= _MIN_SECRET_LENGTH}
    return {each: f"[{k}]" for k, v in long.items() for each in spellings(v)}
