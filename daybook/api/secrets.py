"""What can be asked of secrets: add, list, remove. A value goes in, and never comes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from daybook.errors import InvalidInput
from daybook.http import secrets
from daybook.jobs import store
from daybook.ledger.engine import open_ledger

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient


async def add(
    name: str, value: str, hosts: Sequence[str], *, replace: bool = False
) -> dict[str, Any]:
    """Keep a secret as a Prefect block: `{"name", "hosts"}`, the hosts as they are compared.

    Raises `InvalidInput` (nothing is stored), whose words do not hold the value.
    """
    from daybook.prefect import client as prefect
    from daybook.resources import documents
    from daybook.resources import secrets as secret_blocks

    documents.check_name(secret_blocks.TYPE, name)
    kept = secret_blocks.checked(value, hosts)
    async with prefect.connected() as client:
        await prefect.answers(client)
        await secret_blocks.add(client, name, value, hosts, replace=replace)
    return {"name": name, "hosts": kept.hosts}


async def list_secrets() -> list[dict[str, Any]]:
    """All secrets by name: `{"name", "hosts", "problem", "jobs", "servers", "destinations"}`.

    The last three are the names of those that refer to it; of destinations, whose token it is.
    """
    from daybook.prefect import client as prefect
    from daybook.resources import secrets as secret_blocks

    jobs_of = await _jobs()
    async with prefect.connected() as client:
        servers_of, tokens_of = await _servers(client), await _tokens(client)
        return [
            each
            | {
                "jobs": jobs_of.get(each["name"], []),
                "servers": servers_of.get(each["name"], []),
                "destinations": tokens_of.get(each["name"], []),
            }
            for each in await secret_blocks.every(client)
        ]


async def remove(name: str) -> None:
    """Forget a secret; refused while jobs, saved tool servers or destinations refer to it."""
    from daybook.prefect import client as prefect
    from daybook.resources import secrets as secret_blocks

    async with prefect.connected() as client:
        await prefect.answers(client)
        users = (await _jobs()).get(name, [])
        users += [f"the tool server {each}" for each in (await _servers(client)).get(name, [])]
        users += [f"the destination {each}" for each in (await _tokens(client)).get(name, [])]
        if users:
            raise InvalidInput(
                "secret", f'"{name}" is used by {", ".join(users)}', "edit those first"
            )
        await secret_blocks.remove(client, name)


async def _jobs() -> dict[str, list[str]]:
    """The names of the jobs that refer to a secret, by its name."""
    async with open_ledger() as ledger, ledger.read() as session:
        stored = await store.every(session)
    does = [(each.row.name, each.job.action.model_dump(mode="json")) for each in stored]
    return _by_secret((name, [it.get("headers"), it.get("params")]) for name, it in does)


async def _servers(client: PrefectClient) -> dict[str, list[str]]:
    """The names of the saved tool servers that refer to a secret, by its name."""
    from daybook.tools.server_blocks import PrefectServers

    saved = await PrefectServers(client).every()
    return _by_secret((each["name"], each["settings"]) for each in saved)


async def _tokens(client: PrefectClient) -> dict[str, list[str]]:
    """The names of the destinations whose token a secret is, by its name."""
    from daybook.clock import SYSTEM
    from daybook.delivery import destinations

    found: dict[str, list[str]] = {}
    for each in await destinations.every(client, SYSTEM.now()):
        found.setdefault(each["token"], []).append(each["name"])
    return found


def _by_secret(users: Iterable[tuple[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for user, fields in users:
        for name in secrets.referred(fields):
            found.setdefault(name, []).append(user)
    return found
