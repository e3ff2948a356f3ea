"""Access to a repository elsewhere: the configuration of the user, or a token in a secret."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from daybook.errors import InvalidInput
from daybook.http import secrets
from daybook.http.guard import Guard, Rule
from daybook.http.secrets import FilledSecrets, SecretDestination, SecretStore
from daybook.jobs import secret_references
from daybook.policies.repositories import Upstream
from daybook.redaction import remember

_USER = "x-access-token"
"""Name with which GitHub, GitLab and Gitea accept a token as a password."""


@asynccontextmanager
async def secret_store() -> AsyncIterator[SecretStore]:
    """Yield the secrets. Raise the errors of Prefect's client."""
    from prefect.client.orchestration import get_client

    from daybook.resources.secrets import PrefectSecretStore

    async with get_client() as client:
        yield PrefectSecretStore(client)


async def variables(source: Upstream, secret: str) -> dict[str, str]:
    """Return variables with which git sends the token in ``secret`` to the repository's host only.

    They are empty without a secret, and for other protocols than HTTPS. Raise `InvalidInput` if the
    secret is bound to other hosts, and the errors of `secret_store` and of its store.
    """
    if not secret or source.protocol != "https":
        return {}
    parts = urlsplit(source.address)
    origin = f"https://{parts.netloc}/"
    guard, filled = Guard.from_settings(Rule.OPERATOR, None), FilledSecrets()
    destination = SecretDestination.of_url(guard.check(origin))
    async with secret_store() as store:
        reference = secret_references.reference(secret)
        token = await secrets.fill("repo_secret", reference, destination, store, filled)
    if not token.isascii() or not token.isprintable():
        raise InvalidInput("repo_secret", "is no token", "replace the secret")
    header = base64.b64encode(f"{_USER}:{token}".encode()).decode()
    remember(FilledSecrets({header}).replacements())
    return _configuration(
        {
            f"http.{origin}.extraHeader": f"Authorization: Basic {header}",
            # A redirect to another host would get the header.
            "http.followRedirects": "false",
            "credential.helper": "",
        }
    )


def _configuration(settings: Mapping[str, str]) -> dict[str, str]:
    """Return variables that configure git; unlike `-c`, no other user can see them."""
    found = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings.items()):
        found |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return found
