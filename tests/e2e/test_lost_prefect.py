"""Loss of Prefect's database while `daybook up` runs: agents, secrets and others are restored.

The server is real: the test deletes its file and kills its process, and `up` starts it again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from daybook.home import Home
from daybook.keeper.blocks import BLOCK_TYPES
from tests.e2e.first_light import Up
from tests.providers import KEY, Provider, provider
from tests.receiver import Receiver, Request, serving
from tests.servers import migrate
from tests.waiting import becomes_true

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

VALUE = "s3cr3t-of-the-api"
EDITED = "s3cr3t-that-was-edited-in-the-ui"
SLUGS = [each.slug for each in BLOCK_TYPES]
TIME = [sys.executable, "-m", "mcp_server_time", "--local-timezone", "Europe/Berlin"]


class Running:
    """A running `up`, with the model provider and the receiver that it calls."""

    def __init__(self, up: Up, model: Provider, web: Receiver) -> None:
        self.up, self.model, self.web = up, model, web

    async def daybook_json(self, *words: str, **given: Any) -> Any:
        return await asyncio.to_thread(self.up.daybook_json, *words, **given)

    async def prefect(self, method: str, path: str, **content: Any) -> Any:
        address = self.up.facts()["api_url"] + path
        auth = self.up.auth()
        async with httpx.AsyncClient(auth=auth, trust_env=False, timeout=30) as client:
            answer = (await client.request(method, address, **content)).raise_for_status()
        return answer.json() if answer.content else None

    async def documents(self, *, secrets: bool = False) -> dict[str, dict[str, Any]]:
        """Return Prefect's documents of Daybook's block types, by type and name."""
        asked = {"block_types": {"slug": {"any_": SLUGS}}, "include_secrets": secrets}
        found = await self.prefect("POST", "/block_documents/filter", json=asked)
        return {f"{each['block_type']['slug']}/{each['name']}": each for each in found}

    async def data(self) -> dict[str, Any]:
        """Return the data of these documents, with secrets."""
        return {name: each["data"] for name, each in (await self.documents(secrets=True)).items()}

    async def until(self, true: Callable[[], Awaitable[object]], within: float = 180.0) -> None:
        async def now_so() -> object:
            with suppress(httpx.HTTPError):
                return await true()
            return False

        assert await becomes_true(now_so, within), "\n".join(self.up.lines)

    async def passed(self) -> None:
        """Wait until the keeper has compared the documents once more."""
        since = datetime.now(UTC)  # noqa: TID251 - the keeper's cycle uses this clock

        async def done() -> bool:
            passes = ((await self.daybook_json("status"))["keeper"] or {}).get("passes") or {}
            last = passes.get("blocks")
            if last is None or last["error"]:
                return False
            ended = datetime.fromisoformat(last["at"]).timestamp()
            return ended - float(last["seconds"]) > since.timestamp()

        await self.until(done)

    async def lose(self) -> None:
        """Delete Prefect's database, kill its server, and wait until the block types are back."""
        types = await self.prefect("POST", "/block_types/filter", json={})
        before = {each["id"] for each in types}
        (server,) = [each for each in self.up.facts()["children"] if each["name"] == "server"]
        for file in (self.up.home / "prefect").glob("prefect.db*"):
            file.unlink()
        os.kill(server["pid"], signal.SIGKILL)

        async def registered_again() -> bool:
            now = await self.prefect("POST", "/block_types/filter", json={})
            own_ids = {each["id"] for each in now if each["slug"] in SLUGS}
            return len(own_ids) == len(SLUGS) and not own_ids & before

        await self.until(registered_again)

    async def runs(self, job: str) -> dict[str, Any]:
        run: dict[str, Any] = await self.daybook_json("run", job, "--wait")
        assert run["status"] == "succeeded", run
        return run

    def received(self, path: str) -> list[Request]:
        return [each for each in self.web.requests if each.path == path]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    (tmp_path / "empty").mkdir()
    variables = {"DAYBOOK_ALLOWED_HOSTS": "127.0.0.1"}
    async with serving() as web:
        with provider() as model:
            home = migrate(Home(tmp_path / "home"))
            up = Up(home.path, tmp_path / "empty", variables=variables)
            try:
                await asyncio.to_thread(
                    up.until, lambda lines: any(each.startswith("Ready") for each in lines), 240
                )
                yield Running(up, model, web)
            finally:
                await asyncio.to_thread(up.end)


NAMES = [
    "daybook-channel/team",
    "daybook-destination/hook",
    "daybook-model-agent/helper",
    "daybook-offline-agent/default",
    "daybook-secret/ops",
    "daybook-tool-server/time",
]


async def made(running: Running) -> str:
    """Add one document of each type, and jobs that use them; return the callbacks' secret."""
    web, host = running.web.address, f"127.0.0.1:{running.web.port}"
    model = ("--model", "openai:gpt-4o-mini", "--base-url", running.model.address)
    await running.daybook_json("agents", "add", "helper", *model, "--key-stdin", given=KEY)
    for name in ("ops", "removed", "deleted"):
        await running.daybook_json("secrets", "add", name, "--host", host, given=VALUE)
    await running.daybook_json("tools", "add", "time", "--", *TIME)
    await running.daybook_json("channels", "add", "team", given=f"json://{host}/channel")
    hook = await running.daybook_json(
        "callbacks", "destinations", "add", f"{web}/hook", "--name", "hook"
    )
    demand = ("--on-demand", "--name")
    await running.daybook_json("add", "Say hello", "--agent", "helper", *demand, "ask")
    zone = ("--params", json.dumps({"timezone": "Europe/Berlin"}))
    await running.daybook_json("add", "--tool", "time.get_current_time", *zone, *demand, "clock")
    header = ("--header", "Authorization: Bearer {{secret:ops}}")
    options = ("--on-complete", f"{web}/hook", "--channel", "team")
    await running.daybook_json(
        "add", "--webhook", f"{web}/export", *header, *options, *demand, "export"
    )
    return str(hook["secret"])


async def removed_and_edited(running: Running) -> None:
    """Remove two secrets on purpose, and edit one as Prefect's UI does."""
    await running.daybook_json("secrets", "remove", "removed")
    there = await running.documents()
    await running.prefect("DELETE", f"/block_documents/{there['daybook-secret/deleted']['id']}")
    edit = {"data": {"value": EDITED}, "merge_existing_data": True}
    await running.prefect(
        "PATCH", f"/block_documents/{there['daybook-secret/ops']['id']}", json=edit
    )
    await running.passed()


async def jobs_run(running: Running) -> None:
    """Run the jobs; assert that they use the former key, secret, tool, signature and channel."""
    assert (await running.runs("ask"))["output"] == "Hello."
    assert running.model.requests[-1].key == KEY
    assert "Europe/Berlin" in (await running.runs("clock"))["output"]
    await running.runs("export")
    (export,) = running.received("/export")
    assert export.headers["authorization"] == f"Bearer {EDITED}"

    async def is_notified() -> bool:
        return bool(running.received("/hook") and running.received("/channel"))

    await running.until(is_notified)
    assert "webhook-signature" in running.received("/hook")[0].headers


async def doctor_says_what_is_missing(running: Running) -> None:
    found = {each["check"]: each for each in await running.daybook_json("doctor", exits=1)}
    assert "ledger-key does not exist" in found["ledger key"]["title"]
    assert "daybook ledger rekey" in found["ledger key"]["fix"]
    missing = found["copies"]["title"]
    for each in (
        *("agent default", "agent helper", "secret ops", "tool server time"),
        *("channel team", "destination hook"),
    ):
        assert each in missing
    assert "removed" not in missing
    refused = await running.daybook_json("ledger", "rekey", exits=2)
    assert "secret ops" in refused["error"]["message"]


def texts_of(home: Path, pattern: str) -> bytes:
    return b"".join(file.read_bytes() for file in home.glob(pattern))


async def test_all_documents_are_restored_after_prefects_database_is_lost(
    running: Running,
) -> None:
    home = running.up.home
    signs = await made(running)
    await removed_and_edited(running)
    before = await running.data()
    assert sorted(before) == NAMES

    await running.lose()
    await running.passed()
    assert await running.data() == before
    await jobs_run(running)

    # Without the key nothing is restored, and nothing is destroyed.
    key = home / "ledger-key"
    key.rename(home / "elsewhere")
    await running.lose()
    await running.passed()
    assert await running.data() == {}
    await doctor_says_what_is_missing(running)
    (home / "elsewhere").rename(key)
    await running.passed()
    assert await running.data() == before

    printed = "\n".join(running.up.lines).encode()
    written = printed + texts_of(home, "ledger.db*") + texts_of(home, "logs/*")
    for secret in (VALUE, EDITED, KEY, signs, f"127.0.0.1:{running.web.port}/channel"):
        assert secret.encode() not in written
