"""Operations on secrets: add, list, remove. No result contains a secret's value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from daybook.api.documents import Documents, stored_jobs
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery import destinations
from daybook.http import secrets
from daybook.resources import secrets as secret_blocks
from daybook.tools.server_blocks import PrefectServers

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument


class SecretDetails(secret_blocks.SecretInfo, frozen=True):
    """A secret with the names of the jobs, tool servers and destinations that use it.

    A destination uses a secret as its token.
    """

    jobs: list[str]
    servers: list[str]
    destinations: list[str]


class _Secrets(Documents[SecretDetails]):
    """The secrets, each with its users."""

    async def more(
        self, client: PrefectClient, documents: Sequence[BlockDocument]
    ) -> Callable[[str, Mapping[str, Any]], Mapping[str, list[str]]]:
        users = {
            "jobs": await _jobs(),
            "servers": await _servers(client),
            "destinations": await _tokens(client),
        }
        return lambda name, data: {field: each.get(name, []) for field, each in users.items()}

    async def users(self, client: PrefectClient, name: str) -> list[str]:
        users = (await self.more(client, []))(name, {})
        servers = [f"the tool server {each}" for each in users["servers"]]
        tokens = [f"the destination {each}" for each in users["destinations"]]
        return [*users["jobs"], *servers, *tokens]


DOCUMENTS = _Secrets(secret_blocks.STORE, SecretDetails)
add, list_secrets, remove = DOCUMENTS.add, DOCUMENTS.list, DOCUMENTS.remove


async def _jobs() -> dict[str, list[str]]:
    """Return the names of the jobs that refer to each secret, by the secret's name."""
    return _by_secret(
        (each.row.name, each.job.values_with_secrets()) for each in await stored_jobs()
    )


async def _servers(client: PrefectClient) -> dict[str, list[str]]:
    """Return the names of the tool servers that refer to each secret, by the secret's name."""
    saved = await PrefectServers(client).every()
    return _by_secret((each.name, each.settings) for each in saved)


async def _tokens(client: PrefectClient) -> dict[str, list[str]]:
    """Return the names of the destinations whose token is each secret, by the secret's name."""
    users: dict[str, list[str]] = {}
    for each in await destinations.list_destinations(client, SYSTEM_CLOCK.now()):
        if isinstance(each.token, str):  # in an invalid block, the token may be any JSON value
            users.setdefault(each.token, []).append(each.name)
    return users


def _by_secret(users: Iterable[tuple[str, Any]]) -> dict[str, list[str]]:
    users_of: dict[str, list[str]] = {}
    for user, fields in users:
        for name in secrets.referenced_names(fields):
            users_of.setdefault(name, []).append(user)
    return users_of
