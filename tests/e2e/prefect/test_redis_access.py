"""Prefect's replica and services at a Redis with TLS and a password, which is rotated.

The commands are those of `docs/operations/fleet.md`.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from chaos.replicas import fleet_settings
from daybook.operations import prefect_server, server
from daybook.processes import children
from daybook.processes.children import Child
from tests import certificates
from tests.servers import start_prefect
from tests.waiting import becomes_true

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not shutil.which("redis-server"), reason="service absent: redis-server"),
]
OLD, NEW = "first-password", "second-password"


@dataclass
class Prefect:
    """A replica and the services of Prefect in ``folder``; `restart` gives them a password."""

    folder: Path
    redis_port: int
    port: int = field(default_factory=lambda: server.free_port(0))
    running: list[Child] = field(default_factory=list)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def _settings(self, password: str) -> dict[str, str]:
        redis = f"rediss://:{password}@localhost:{self.redis_port}"
        trust = f"ssl_ca_certs={self.folder / 'authority.pem'}"
        return {
            **fleet_settings(),
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.folder}/prefect.db",
            "PREFECT_REDIS_MESSAGING_URL": f"{redis}/0?{trust}",
            "PREFECT_SERVER_DOCKET_URL": f"{redis}/1?{trust}",
        }

    async def start(self, password: str) -> None:
        settings = self._settings(password)
        address = ("--host", "127.0.0.1", "--port", str(self.port))
        replica = await self._start(
            {**settings, "PREFECT_API_DATABASE_MIGRATE_ON_START": "true"},
            *("start", "--no-services", "--no-ui", *address),
        )
        await server.wait_until_healthy(self.api_url, child=replica)
        services = {"PREFECT_SERVER_DOCKET_NAME": "prefect-services"}
        await self._start(settings | services, "services", "start")

    async def _start(self, settings: dict[str, str], *words: str) -> Child:
        command = [prefect_server.__name__]
        child = await start_prefect(self.folder, *words, settings=settings, command=command)
        self.running.append(child)
        return child

    async def stop(self) -> None:
        for each in self.running:
            await each.terminate()
        self.running.clear()

    async def passes_events(self, name: str) -> bool:
        """Return whether an event arrives in the database, which Redis leads there."""
        event = {
            "occurred": "2026-01-01T00:00:00Z",
            "event": name,
            "resource": {"prefect.resource.id": "daybook.test"},
            "id": str(uuid.uuid4()),
        }
        chosen = {
            "filter": {
                "event": {"name": [name]},
                "occurred": {"since": "2025-12-31T00:00:00Z", "until": "2026-01-02T00:00:00Z"},
            }
        }
        async with httpx.AsyncClient(base_url=self.api_url, timeout=30) as client:
            (await client.post("/events", json=[event])).raise_for_status()

            async def has_arrived() -> bool:
                answer = await client.post("/events/filter", json=chosen)
                return bool(answer.raise_for_status().json()["events"])

            return await becomes_true(has_arrived, 30.0)


@asynccontextmanager
async def redis(folder: Path) -> AsyncIterator[int]:
    """Start a Redis that accepts only TLS and the password `OLD`; yield its port."""
    names = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    certificate, key = certificates.self_signed(*names)
    (folder / "authority.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(key)
    port = server.free_port(0)
    settings = {
        "bind": "127.0.0.1",
        "port": "0",
        "tls-port": str(port),
        "tls-cert-file": "authority.pem",
        "tls-key-file": "key.pem",
        "tls-auth-clients": "no",
        "requirepass": OLD,
        "save": '""',
        "dir": str(folder),
    }
    (folder / "redis.conf").write_text("".join(f"{name} {v}\n" for name, v in settings.items()))
    child = await children.start(
        "redis",
        ["redis-server", "redis.conf"],
        environment=dict(os.environ),
        log=folder / "redis.log",
        folder=folder,
    )
    try:
        yield port
    finally:
        await child.terminate()


def administer(folder: Path, port: int, password: str, *words: str) -> str:
    address = ("-h", "localhost", "-p", str(port), "--tls", "--cacert", "authority.pem")
    done = subprocess.run(
        ["redis-cli", *address, *words],
        env=os.environ | {"REDISCLI_AUTH": password},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


async def test_the_password_of_a_redis_with_tls_is_rotated(tmp_path: Path) -> None:
    async with redis(tmp_path) as port:
        prefect = Prefect(tmp_path, port)
        try:
            await prefect.start(OLD)
            assert await prefect.passes_events("first")
            assert administer(tmp_path, port, OLD, "ACL", "SETUSER", "default", f">{NEW}") == "OK"
            await prefect.stop()
            await prefect.start(NEW)
            assert administer(tmp_path, port, NEW, "ACL", "SETUSER", "default", f"<{OLD}") == "OK"
            assert "NOAUTH" in administer(tmp_path, port, OLD, "PING")
            assert await prefect.passes_events("second")
        finally:
            await prefect.stop()
