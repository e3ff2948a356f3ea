"""Fixtures with the repository of a user, and with one at a git server over HTTPS."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from daybook.features.repositories import access
from daybook.http.secrets import Secret
from daybook.tools.pool import PreloadedSecrets
from tests import certificates
from tests.git_servers import GitServer, serving_git
from tests.unit.features.repositories.forge_servers import TOKEN
from tests.unit.features.repositories.projects import SECRET, at, commit, user_repository


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.localhost(tmp_path_factory.mktemp("localhost"))


@pytest.fixture
def server(
    tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GitServer]:
    """Yield a server of the repository `team/shop.git`, which asks for a token."""
    project, root, home = tmp_path / "project", tmp_path / "server", tmp_path / "user"
    for each in (project, root, home):
        each.mkdir()
    at(project, "init", "-q", "-b", "main")
    commit(project, a="one\n")
    at(root, "clone", "-q", "--bare", str(project), "team/shop.git")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    for name in ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_CONFIG_GLOBAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving_git(root, certificate) as found:
        found.tokens = {TOKEN}
        yield found


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> dict[str, Secret]:
    """Return the secrets, which the test may change."""
    known = {SECRET: Secret(SECRET, TOKEN, ("127.0.0.1",))}

    @asynccontextmanager
    async def store() -> AsyncIterator[PreloadedSecrets]:
        yield PreloadedSecrets(known)

    monkeypatch.setattr(access, "secret_store", store)
    return known


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return user_repository(tmp_path / "project")
