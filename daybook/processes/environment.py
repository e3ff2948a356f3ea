"""Environment of a program: an allow-list of variables of the worker.

Names that start with `PREFECT_` or `DAYBOOK_` cannot be on the list, in any case of letters
(Prefect ignores the case): they carry the keys to the server and to the ledger.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping

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
"""Variables that programs need to start and to use the user's language; none is a secret."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_FORBIDDEN_PREFIXES = ("PREFECT_", "DAYBOOK_")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTHORIZATION", re.IGNORECASE)
_SECRET_NAMES = (
    "DAYBOOK_LEDGER_URL",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
)
"""Secrets whose names do not match `_SECRET`."""
_MIN_SECRET_LENGTH = 8


def search_path() -> str:
    """Return this process's PATH with the interpreter's own `bin` first.

    That folder has the programs of the packages installed alongside Daybook. A system interpreter's
    folder that is already on the PATH stays in its place: `/usr/bin` first would hide other
    programs.
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
    """Raise ValueError for a name that cannot be passed on."""
    for name in names:
        # A user who writes NAME=value here may have put a secret into it: do not repeat the value.
        shown = name.split("=", 1)[0]
        if not _NAME.match(name):
            raise ValueError(
                f'"{shown}" is not the name of a variable; write names only, the values come from '
                "the worker's environment"
            )
        if name.upper().startswith(_FORBIDDEN_PREFIXES):
            raise ValueError(f"{shown} cannot be passed on; remove PREFECT_… and DAYBOOK_… names")


def select(names: Iterable[str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables among ``names`` that are set in ``given`` (default: this process)."""
    source = os.environ if given is None else given
    return {name: source[name] for name in names if name in source}


def split_secrets(given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables without secrets, and those that may hold one.

    The first can be given to a process at its start, when other processes of this user can read
    them until the process denies that (`daybook.processes.proc`); the second are sent to it later.
    """
    secret = {k: v for k, v in given.items() if k in _SECRET_NAMES or _SECRET.search(k)}
    return {k: v for k, v in given.items() if k not in secret}, secret


def redact_values(text: str, environment: Mapping[str, str]) -> str:
    """Return ``text`` for an error: values that the operator added are replaced by their names."""
    return _redacted(text, {k: v for k, v in environment.items() if k not in DEFAULT_NAMES})


def redact_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Return ``text`` with the values of secret variables replaced by the variables' names."""
    return _redacted(text, {k: v for k, v in environment.items() if _SECRET.search(k)})


def _redacted(text: str, values: Mapping[str, str]) -> str:
    # Longest first: one value may contain another. Replacing short values would break up words.
    for name, value in sorted(values.items(), key=lambda item: -len(item[1])):
        if len(value) >= _MIN_SECRET_LENGTH:
            text = text.replace(value, f"[{name}]")
    return text
