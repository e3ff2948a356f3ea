"""`daybook secrets` at a real Prefect: values are read from standard input and never printed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from daybook.cli.main import main
from daybook.home import Home
from daybook.http.secrets import Secret
from daybook.operations import setup
from daybook.resources import secrets
from daybook.tools.server_blocks import STORE
from tests.at_prefect import add_document, with_client
from tests.at_prefect import typed as typed_here

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

VALUE = "s3cr3t-of-the-api"
HOST = ("--host", "api.example.org")

Typed = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def typed(prefect_server: Any, daybook_home: Home) -> Iterator[Typed]:
    """Yield a function that runs `daybook secrets …`; remove all secrets before and after."""
    with_client(setup.prepare)

    async def forget(client: Any) -> None:
        for each in await secrets.list_secrets(client):
            await secrets.STORE.remove(client, each.name)

    def carry_out(*tokens: str, value: str = "") -> subprocess.CompletedProcess[str]:
        return typed_here("secrets", *tokens, given=value)

    with_client(forget)
    yield carry_out
    with_client(forget)


def stored_secret(name: str) -> Secret:
    found: Secret = with_client(lambda client: secrets.PrefectSecretStore(client).read(name))
    return found


def test_a_secret_is_added_listed_and_removed(typed: Typed) -> None:
    added = typed("add", "ops", *HOST, "--host", "tool:Reindex", value=f"{VALUE}\n")
    assert (added.returncode, "ops" in added.stdout) == (0, True)
    assert stored_secret("ops") == Secret("ops", VALUE, ("api.example.org", "tool:reindex"))

    listed = typed("list")
    assert "api.example.org, tool:reindex" in listed.stdout
    bearer = ("--header", "Authorization: Bearer {{secret:ops}}")
    job = ("--webhook", "https://api.example.org", "--on-demand", "--name", "export")
    assert main(["add", *job, *bearer]) == 0
    try:
        refused = typed("remove", "ops")
        assert (refused.returncode, "used by export" in refused.stderr) == (2, True)
        assert "export" in typed("list").stdout
    finally:
        assert main(["remove", "export", "--yes"]) == 0

    removed = typed("remove", "ops")
    assert removed.returncode == 0
    assert typed("remove", "ops").returncode == 3
    for each in (added, listed, refused, removed):
        assert VALUE not in each.stdout + each.stderr


def test_a_secret_that_a_tool_server_uses_cannot_be_removed(typed: Typed) -> None:
    url = "https://api.example.org/mcp"
    settings = {"url": url, "headers": {"Authorization": "Bearer {{secret:ops}}"}}
    assert typed("add", "ops", *HOST, value=VALUE).returncode == 0
    with_client(lambda client: add_document(STORE, client, "search", settings))
    try:
        refused = typed("remove", "ops")
        (listed,) = json.loads(typed("list", "--json").stdout)
    finally:
        with_client(lambda client: STORE.remove(client, "search"))
    assert refused.returncode == 2
    assert "used by the tool server search" in refused.stderr
    assert (listed["jobs"], listed["servers"]) == ([], ["search"])


def test_a_refused_add_stores_nothing_and_never_prints_the_value(typed: Typed) -> None:
    for tokens, value, words in (
        (("add", "ops"), VALUE, "--host: is missing"),
        (("add", "Ops", *HOST), VALUE, "NAME: "),
        (("add", "ops", *HOST), "", "standard input is empty"),
        (("add", "ops", *HOST), f"  {VALUE}", "begins or ends with a space"),
        (("add", "ops", "--host", "https://api.example.org/x"), VALUE, "--host: "),
        (("add", "ops", VALUE, *HOST), VALUE, "cannot be passed on the command line"),
        (("add", "ops", "--value", VALUE, *HOST), VALUE, "cannot be passed on the command line"),
    ):
        output = typed(*tokens, value=value)
        assert output.returncode == 2
        assert words in output.stderr
        assert VALUE not in output.stdout + output.stderr
    assert typed("list", "--json").stdout == "[]\n"


def test_a_taken_name_is_refused_and_replaced_on_request(typed: Typed) -> None:
    assert typed("add", "ops", *HOST, value=VALUE).returncode == 0
    assert typed("add", "ops", *HOST, value="another").returncode == 2
    assert stored_secret("ops").value == VALUE
    assert typed("add", "ops", "--host", "b.example", "--replace", value="another").returncode == 0
    assert stored_secret("ops") == Secret("ops", "another", ("b.example",))


def test_on_a_terminal_the_value_is_prompted_for_and_not_echoed(typed: Typed) -> None:
    leader, follower = pty.openpty()
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "daybook", "secrets", "add", "ops", *HOST],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            env=os.environ,
        )
        os.close(follower)
        output = b""
        while b"Value: " not in output:
            output += os.read(leader, 1024)
        os.write(leader, f"{VALUE}\n".encode())
        while True:
            try:
                output += os.read(leader, 1024)
            except OSError:  # the command has ended and closed its side
                break
        assert child.wait(60) == 0
    finally:
        os.close(leader)
    assert VALUE.encode() not in output
    assert stored_secret("ops").value == VALUE
