"""Helpers for tests of the command line and of blocks that use a real Prefect."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import PrefectClient, get_client

import blocks
from daybook.agents import documents
from daybook.home import CLIENT_CREDENTIAL
from daybook.prefect import work_pool
from daybook.resources.store import BlockStore
from tests.commands import main


def basic(credential: str | None = None) -> httpx.BasicAuth:
    """Return the auth for requests without Prefect's client; default: the session's credential."""
    user, _, password = (credential or os.environ[CLIENT_CREDENTIAL]).partition(":")
    return httpx.BasicAuth(user, password)


def with_client(ask: Callable[[PrefectClient], Awaitable[Any]]) -> Any:
    """Run ``ask`` with a client from a synchronous test, and return its result."""

    async def with_it() -> Any:
        async with get_client() as client:
            return await ask(client)

    return asyncio.run(with_it())


async def delete_deployments(client: PrefectClient) -> None:
    """Delete all deployments: beside those of another ledger, no worker of a new ledger starts."""
    for each in await client.read_deployments():
        await client.delete_deployment(each.id)


async def add_document(
    store: BlockStore[Any],
    client: PrefectClient,
    name: str,
    settings: Mapping[str, Any],
    *,
    replace: bool = True,
) -> None:
    """Store a settings document, such as a secret, also if an earlier test has stored it."""
    await store.save(client, name, store.validate(settings), replace=replace)


_REGISTERED = set[str]()
_PREPARED = set[str]()


async def register_blocks(client: PrefectClient) -> None:
    """Register our block types, once per server.

    A test that deletes a block type registers it again itself.
    """
    address = str(client.api_url)
    if address not in _REGISTERED:
        await blocks.register(client)
        _REGISTERED.add(address)


async def prepare(client: PrefectClient) -> None:
    """Register our block types, the agent `default` and the work pool, once per server.

    A test that deletes one of them has to create it again.
    """
    address = str(client.api_url)
    if address not in _PREPARED:
        await register_blocks(client)
        await documents.ensure_default(client)
        await work_pool.ensure(client)
        _PREPARED.add(address)


@asynccontextmanager
async def knowing_our_blocks(*slugs: str) -> AsyncIterator[PrefectClient]:
    """Yield a client of a Prefect that knows our block types.

    Delete the documents ``slugs`` before and after.
    """
    async with get_client() as client:
        await register_blocks(client)
        await _forget(client, slugs)
        yield client
        await _forget(client, slugs)


async def _forget(client: PrefectClient, slugs: tuple[str, ...]) -> None:
    _PREPARED.discard(str(client.api_url))  # the agent `default` may be among them
    for slug in slugs:
        for document in await client.read_block_documents_by_type(slug):
            await client.delete_block_document(document.id)


def typed(*tokens: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command line in this process, with ``given`` as its standard input.

    `tests/e2e/test_documented.py` covers real processes, with all the guides.
    """
    given_there, output, complained = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(3))
    given_there.write(given)
    given_there.seek(0)
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(output),
        redirect_stderr(complained),
    ):
        patch.setattr(sys, "stdin", given_there)
        code = main(tokens)
    for each in (output, complained):
        each.seek(0)
    return subprocess.CompletedProcess(tokens, code, output.read(), complained.read())
