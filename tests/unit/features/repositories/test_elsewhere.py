"""Repositories at a git server over HTTPS: tokens, credential helpers, certificates, failures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daybook.errors import InvalidInput
from daybook.features.repositories import landing
from daybook.features.repositories.access import RepositoryRefused, RepositoryUnreachable
from daybook.features.repositories.git import GitFailed
from daybook.features.repositories.store import Store
from daybook.http.secrets import Secret
from daybook.policies.repositories import Upstream
from tests import certificates
from tests.git_servers import GitServer, serving_git
from tests.unit.features.repositories.forge_servers import TOKEN
from tests.unit.features.repositories.projects import SECRET, at

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]


def store_of(server: GitServer, secret: str = SECRET) -> Store:
    return Store(Upstream.parse(f"{server.address}/team/shop.git"), secret)


def configure(name: str, value: str) -> None:
    """Change the configuration of the user."""
    at(Path.home(), "config", "--file", str(Path.home() / ".gitconfig"), name, value)


def helper(folder: Path, password: str) -> None:
    """Let the user have a credential helper that counts its calls in the file `asked`."""
    program = folder / "helper"
    lines = f"echo $1 >> '{folder}/asked'; echo username=ana; echo password={password}"
    program.write_text(f"#!/bin/sh\n{lines}\n")
    program.chmod(0o755)
    configure("credential.helper", str(program))


async def pushed(store: Store, server: GitServer, name: str) -> str:
    """Add a commit to the server's branch, and return what it has then."""
    tip = await store.fetch("main")
    async with store.writing() as run:
        tree = await run("rev-parse", f"{tip}^{{tree}}")
        variables = {f"GIT_{role}_NAME": "a" for role in ("AUTHOR", "COMMITTER")}
        variables |= {f"GIT_{role}_EMAIL": "a@b" for role in ("AUTHOR", "COMMITTER")}
        made = await run("commit-tree", "-p", tip, "-m", name, tree.text, variables=variables)
    await landing.forward(store, "main", made.text)
    return at(server.root / "team" / "shop.git", "log", "-1", "--format=%s", "main")


async def test_a_token_fetches_and_pushes_and_no_process_shows_it(
    server: GitServer, secrets: dict[str, Secret], tmp_path: Path
) -> None:
    helper(tmp_path, "another")
    lines = list[bytes]()

    def look() -> None:
        for each in Path("/proc").iterdir():
            if each.name.isdigit():
                try:
                    lines.append((each / "cmdline").read_bytes())
                except OSError:
                    continue

    server.on_request = look
    assert await store_of(server).default_branch() == "main"
    assert await pushed(store_of(server), server, "Improve") == "Improve"
    shown = b"\n".join(lines)
    assert b"git-remote-https" in shown
    assert TOKEN.encode() not in shown
    header = server.seen[-1][1].partition(" ")[2]
    assert server.is_allowed(f"Basic {header}")
    assert header.encode() not in shown
    assert not (tmp_path / "asked").exists()


async def test_a_wrong_token_is_a_refusal_that_names_the_secret(
    server: GitServer, secrets: dict[str, Secret], tmp_path: Path
) -> None:
    helper(tmp_path, TOKEN)
    secrets[SECRET] = Secret(SECRET, "wr0ng-token-of-forge", ("127.0.0.1",))
    with pytest.raises(RepositoryRefused) as refused:
        await store_of(server).fetch("main")
    text = str(refused.value)
    assert f"/team/shop.git does not accept the token in the secret {SECRET}; replace it (" in text
    assert "wr0ng" not in text
    assert not (tmp_path / "asked").exists()


async def test_a_redirect_does_not_get_the_token(
    server: GitServer, secrets: dict[str, Secret], tmp_path: Path, certificate: Path
) -> None:
    configure("http.followRedirects", "true")
    with serving_git(server.root, certificate) as other:
        server.redirects = other.address
        with pytest.raises(GitFailed, match="returned error: 302"):
            await store_of(server).fetch("main")
        assert other.seen == []


async def test_a_token_of_another_host_is_not_sent(
    server: GitServer, secrets: dict[str, Secret]
) -> None:
    secrets[SECRET] = Secret(SECRET, TOKEN, ("github.com",))
    with pytest.raises(InvalidInput, match='"forge" is not for 127'):
        await store_of(server).fetch("main")
    assert server.seen == []


async def test_an_address_that_the_user_replaces_does_not_get_the_token(
    server: GitServer, secrets: dict[str, Secret], certificate: Path
) -> None:
    with serving_git(server.root, certificate) as other:
        configure(f"url.{other.address}/.insteadOf", f"{server.address}/")
        assert await store_of(server).fetch("main")
        assert {each for _, each in other.seen} == {""}


async def test_without_a_secret_the_user_s_credential_helper_is_asked(
    server: GitServer, tmp_path: Path
) -> None:
    helper(tmp_path, TOKEN)
    assert await pushed(store_of(server, ""), server, "As ana") == "As ana"
    assert "get" in (tmp_path / "asked").read_text().split()


async def test_missing_credentials_are_a_refusal_that_says_what_to_do(server: GitServer) -> None:
    with pytest.raises(RepositoryRefused, match="the credentials that git has; set repo_secret"):
        await store_of(server, "").fetch("main")


async def test_the_user_s_own_certificates_come_first(
    server: GitServer, secrets: dict[str, Secret], tmp_path: Path
) -> None:
    other = certificates.localhost(tmp_path)
    configure(f"http.{server.address}.sslCAInfo", str(other))
    with pytest.raises(GitFailed, match="certificate verification failed"):
        await store_of(server).fetch("main")
    configure(f"http.{server.address}.sslCAInfo", os.environ["SSL_CERT_FILE"])
    assert await store_of(server).fetch("main")


async def test_a_server_that_is_gone_is_a_temporary_failure(
    server: GitServer, secrets: dict[str, Secret], tmp_path: Path, certificate: Path
) -> None:
    with serving_git(server.root, certificate) as other:
        store = store_of(other)
    with pytest.raises(RepositoryUnreachable):
        await store.fetch("main")


async def test_a_process_that_a_command_has_left_does_not_hold_the_store(
    server: GitServer, secrets: dict[str, Secret], tmp_path: Path
) -> None:
    helper(tmp_path, TOKEN)
    program = tmp_path / "helper"
    daemon = f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 60' >/dev/null 2>&1 &"
    program.write_text(program.read_text() + f"[ $1 = get ] && {daemon}\nexit 0\n")
    store = store_of(server, "")
    try:
        await store.fetch("main")
        async with store.writing():
            os.kill(int((tmp_path / "pid").read_text()), 0)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 9)
