"""What can be asked of secrets: add, list, remove. A value goes in, and never comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from daybook.errors import Refused
from daybook.ledger import jobs
from daybook.outgoing import secrets
from daybook.service import home


async def add(
    name: str, value: str, hosts: Sequence[str], *, replace: bool = False
) -> dict[str, Any]:
    """Keep a secret as a Prefect block: `{"name", "hosts"}`, the hosts as they are compared.

    Raises `Refused` (nothing is stored), whose words do not hold the value.
    """
    from daybook.outgoing import block_documents, secret_blocks
    from daybook.sync import client as prefect

    block_documents.check_name(secret_blocks.TYPE, name)
    kept = secret_blocks.checked(value, hosts)
    async with prefect.connected() as client:
        await prefect.answers(client)
        await secret_blocks.add(client, name, value, hosts, replace=replace)
    return {"name": name, "hosts": kept.hosts}


async def list_secrets() -> list[dict[str, Any]]:
    """All secrets by name: `{"name", "hosts", "problem", "jobs"}`, ``jobs`` those that name it."""
    from daybook.outgoing import secret_blocks
    from daybook.sync import client as prefect

    async with prefect.connected() as client:
        found = await secret_blocks.every(client)
    users = await _users()
    return [each | {"jobs": users.get(each["name"], [])} for each in found]


async def remove(name: str) -> None:
    """Forget a secret; refused while jobs refer to it."""
    from daybook.outgoing import secret_blocks
    from daybook.sync import client as prefect

    if users := (await _users()).get(name):
        raise Refused("secret", f'"{name}" is used by {", ".join(users)}', "edit those jobs first")
    async with prefect.connected() as client:
        await prefect.answers(client)
        await secret_blocks.remove(client, name)


async def _users() -> dict[str, list[str]]:
    """The names of the jobs that refer to a secret, by its name."""
    async with home.ledger() as ledger, ledger.read() as session:
        stored = await jobs.every(session)
    users: dict[str, list[str]] = {}
    for each in stored:
        action = each.job.action.model_dump(mode="json")
        for name in secrets.referred([action.get("headers"), action.get("params")]):
            users.setdefault(name, []).append(each.row.name)
    return users
