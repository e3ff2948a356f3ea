"""References of a job to secrets: ``{{secret:name}}``, in place of the secret itself."""

from __future__ import annotations

import re

SECRET = re.compile(r"\{\{\s*secret:\s*([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)\s*\}\}")


def reference(name: str) -> str:
    """Return the reference to a secret."""
    return f"{{{{secret:{name}}}}}"


def secrets_in(value: object) -> set[str]:
    """Return the names of the secrets that a JSON value refers to, object keys included."""
    match value:
        case str():
            return set(SECRET.findall(value))
        case dict():
            return secrets_in([*value, *value.values()])
        case list() | tuple():
            return set().union(*map(secrets_in, value))
        case _:
            return set()
