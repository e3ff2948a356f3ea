"""Access to a repository elsewhere: the configuration of the user, or a token in a secret."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx

from daybook.errors import InvalidInput
from daybook.features.repositories import git
from daybook.features.repositories.git import Git, GitFailed, GitOutput
from daybook.http import secrets
from daybook.http.guard import Guard, Rule
from daybook.http.secrets import FilledSecrets, SecretDestination, SecretStore
from daybook.jobs import secret_references
from daybook.policies.repositories import Upstream
from daybook.redaction import remember

FETCH_SECONDS = 600.0

_USER = "x-access-token"
"""Name with which GitHub, GitLab and Gitea accept a token as a password."""

_GIT_CERTIFICATES = ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH")
_REFUSED = re.compile(
    r"Authentication failed|could not read (Username|Password)|terminal prompts disabled"
    r"|returned error: 40[13]|Permission denied \("
)
_UNREACHABLE = re.compile(
    r"Could not resolve|Failed to connect|Connection (refused|reset|timed out|closed)|timed out"
    r"|returned error: (429|5\d\d)|Empty reply|early EOF|hung up unexpectedly"
)


class RepositoryRefused(GitFailed):
    """The error that a repository elsewhere does not accept the credentials."""

    code = "repository_refused"

    def __init__(self, source: Upstream, secret: str, error: str) -> None:
        what = f"the token in the secret {secret}" if secret else "the credentials that git has"
        fix = "replace it" if secret else "set repo_secret, or let a credential helper of git know"
        super().__init__(f"{source.address} does not accept {what}; {fix} ({error})")


class RepositoryUnreachable(GitFailed):
    """The error that a repository elsewhere cannot be reached now."""

    code = "repository_unreachable"


@asynccontextmanager
async def secret_store() -> AsyncIterator[SecretStore]:
    """Yield the secrets. Raise `RepositoryUnreachable` if Prefect, which has them, is."""
    from prefect.client.orchestration import get_client

    from daybook.resources.secrets import PrefectSecretStore

    try:
        async with get_client() as client:
            yield PrefectSecretStore(client)
    except httpx.HTTPError as error:
        raise RepositoryUnreachable(f"Prefect, which has the secret: {error}") from None


async def run(source: Upstream, secret: str, command: Git, *arguments: str) -> GitOutput:
    """Run a ``command`` of git (`git.run`) that fetches from or pushes to the repository.

    It gets the token in ``secret``, if there is one. Raise `GitFailed`, `RepositoryRefused`,
    `RepositoryUnreachable`, and the errors of `variables`.
    """
    try:
        return await command(
            *arguments,
            protocols=source.protocols,
            as_user=source.protocol != "file",
            variables=await variables(source, secret),
            seconds=FETCH_SECONDS,
        )
    except GitFailed as error:
        if source.protocol == "file":
            raise
        if _REFUSED.search(str(error)):
            raise RepositoryRefused(source, secret, str(error)) from None
        if error.status is None or _UNREACHABLE.search(str(error)):
            raise RepositoryUnreachable(str(error), error.status) from None
        raise


async def variables(source: Upstream, secret: str) -> dict[str, str]:
    """Return variables with which git sends the token in ``secret`` to the repository's host only.

    Without a secret, and for other protocols than HTTPS, git uses the credentials of the user. For
    HTTPS, it trusts the certificates in `SSL_CERT_FILE`, as all of Daybook does, unless it is
    configured otherwise. Raise `InvalidInput` if the secret is bound to other hosts, and the errors
    of `secret_store` and of its store.
    """
    if source.protocol != "https":
        return {}
    found = await _certificates(source)
    if not secret:
        return found
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
    return found | _configuration(
        {
            f"http.{origin}.extraHeader": f"Authorization: Basic {header}",
            # A redirect to another host would get the header.
            f"http.{origin}.followRedirects": "false",
            "credential.helper": "",
        }
    )


async def _certificates(source: Upstream) -> dict[str, str]:
    """Return the variable with the file of `SSL_CERT_FILE`, which git does not read itself."""
    file = os.environ.get("SSL_CERT_FILE", "")
    if not file or any(os.environ.get(name) for name in _GIT_CERTIFICATES):
        return {}
    try:
        await git.run("config", "--get-urlmatch", "http.sslCAInfo", source.address, as_user=True)
    except GitFailed as error:
        return {"GIT_SSL_CAINFO": file} if error.status == 1 else {}
    return {}


def _configuration(settings: Mapping[str, str]) -> dict[str, str]:
    """Return variables that configure git; unlike `-c`, no other user can see them."""
    found = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings.items()):
        found |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return found
