"""`Client.sessions`: the operations of `daybook session` for programs."""

from __future__ import annotations

import pytest

import daybook
from daybook.api import client_operations
from daybook.errors import InvalidInput, NotFound
from daybook.home import Home

pytestmark = pytest.mark.anyio


def public(of: type) -> dict[str, object]:
    return {name: getattr(of, name) for name in dir(of) if not name.startswith("_")}


async def test_the_clients_of_the_operator_have_the_operations_of_sessions(
    daybook_home: Home,
) -> None:
    client = daybook.Client()
    assert await client.sessions.list() == []
    sessions = client.sessions
    for call in (sessions.get("ops"), sessions.send("ops", "News?"), sessions.reply("ops", "?")):
        with pytest.raises(NotFound, match='session "ops" not found'):
            await call
    with pytest.raises(InvalidInput, match="use a client without an agent"):
        await daybook.Client(agent="eva").sessions.list()
    operations = set(public(client_operations.Sessions))
    assert operations == {"list", "get", "send", "reply", "start"}
    assert operations == set(public(client_operations.SyncSessions))


def test_the_synchronous_client_has_the_operations_of_sessions(daybook_home: Home) -> None:
    assert daybook.SyncClient().sessions.list() == []
