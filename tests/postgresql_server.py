"""A PostgreSQL server of a test's own, with a password and perhaps TLS."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import free_port

_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
_USER = "postgres"


@dataclass(frozen=True)
class OwnServer:
    """A running server; ``admin`` is the folder of its socket, where no password is needed."""

    port: int
    admin: Path

    def execute(self, statement: str) -> None:
        """Execute a statement as the superuser."""
        folder = ["--host", str(self.admin), "--port", str(self.port)]
        subprocess.run(
            ["psql", "--quiet", *folder, "--username", _USER, "--command", statement, _USER],
            check=True,
            capture_output=True,
        )

    def address(self, password: str, query: str = "") -> str:
        """Return the address of the database ``daybook``, as its owner."""
        return f"postgresql+asyncpg://daybook:{password}@localhost:{self.port}/daybook{query}"


@contextmanager
def started(password: str, certificate: bytes = b"") -> Iterator[OwnServer]:
    """Start a server with the role ``daybook``; ``certificate`` has PEM texts for TLS.

    Skip the test if PostgreSQL is not installed.
    """
    if not _FOLDERS:
        pytest.skip("service absent: PostgreSQL's programs")
    folder = Path(tempfile.mkdtemp(prefix="daybook-postgresql-"))
    user = _USER if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()

    def run(program: str, *words: str) -> None:
        command = [str(_FOLDERS[-1] / program), "--pgdata", str(data), *words]
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder, timeout=100
        )

    try:
        run("initdb", "--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256", "-U", _USER)
        lines = [
            f"port = {port}",
            "listen_addresses = 'localhost'",
            f"unix_socket_directories = '{folder}'",
            "fsync = off",
        ]
        if certificate:
            (data / "server.pem").write_bytes(certificate)
            (data / "server.pem").chmod(0o600)
            if user:
                shutil.chown(data / "server.pem", user)
            lines += ["ssl = on", *(f"ssl_{each}_file = 'server.pem'" for each in ("cert", "key"))]
        with (data / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")
        run("pg_ctl", "start", "--wait", "--log", str(folder / "log"))
        try:
            server = OwnServer(port, folder)
            server.execute(f"CREATE ROLE daybook LOGIN PASSWORD '{password}'")
            server.execute("CREATE DATABASE daybook OWNER daybook")
            yield server
        finally:
            run("pg_ctl", "stop", "--mode=immediate")
    finally:
        shutil.rmtree(folder)
