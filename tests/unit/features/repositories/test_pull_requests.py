"""Pull requests: one for a branch, whatever ends a process; and harmless texts of agents."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput, OutgoingRefused
from daybook.features.repositories import pull_requests
from daybook.features.repositories.forges import GITEA, GITHUB, GITLAB, KINDS, Forge, ForgeFailed
from daybook.features.repositories.pull_requests import PullRequest
from daybook.http.secrets import Secret
from daybook.jobs.limits import Limits
from daybook.policies.repositories import Upstream
from daybook.tools.pool import PreloadedSecrets
from tests.receiver import answer, redirect, serving
from tests.unit.features.repositories.forge_servers import (
    FORK,
    TOKEN,
    ForgeServer,
    refusal,
    serving_forge,
)

pytestmark = pytest.mark.anyio

BRANCH = "daybook/fix/1"


@pytest.fixture(params=KINDS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ForgeServer]:
    async with serving_forge(request.param) as server:
        yield server


@pytest.fixture
async def github() -> AsyncIterator[ForgeServer]:
    async with serving_forge(GITHUB) as server:
        yield server


@pytest.fixture
async def gitea() -> AsyncIterator[ForgeServer]:
    async with serving_forge(GITEA) as server:
        yield server


async def propose(
    server: ForgeServer, title: str = "Fix it", body: str = "Why", **fields: Any
) -> PullRequest:
    given: dict[str, Any] = {"secret": "forge", "store": server.store, **fields}
    branch, onto = given.pop("branch", BRANCH), given.pop("onto", "main")
    return await pull_requests.propose(server.forge, branch, onto, title, body, **given)


async def refused(server: ForgeServer, **given: Any) -> ForgeFailed:
    with pytest.raises(ForgeFailed) as failed:
        await propose(server, **given)
    assert TOKEN not in str(failed.value)
    return failed.value


# --- one for a branch


async def test_a_pull_request_is_created_once_and_then_found(server: ForgeServer) -> None:
    first = await propose(server)
    assert (first.is_new, first.number) == (True, 1)
    assert first.url.startswith(f"{server.receiver.address}/{server.path}/")
    assert first.url.endswith("/1")
    again = await propose(server, title="Other", body="Other")
    assert again == PullRequest(first.url, 1, is_new=False)
    [known] = server.requests
    assert (known["branch"], known["onto"]) == (BRANCH, "main")
    assert (known["title"], known["body"]) == ("Fix it", "Why")
    assert server.calls == ["GET", "POST", "GET"]


async def test_other_branches_closed_ones_and_forks_do_not_count(server: ForgeServer) -> None:
    server.has("other")
    server.has(BRANCH, "next")
    server.has(BRANCH, repository=FORK)
    server.has(BRANCH)
    server.requests[-1]["state"] = "closed"
    assert (await propose(server)).number == 5
    assert (await propose(server)).is_new is False


async def test_a_creation_whose_answer_was_lost_is_found(server: ForgeServer) -> None:
    server.is_cut = True
    error = await refused(server)
    assert (error.is_temporary, error.status) == (True, None)
    assert (await propose(server)).is_new is False
    assert len(server.requests) == 1


async def test_one_that_another_process_creates_meanwhile_is_found(server: ForgeServer) -> None:
    server.races = 1
    assert (await propose(server)).is_new is False
    assert server.calls == ["GET", "POST", "GET"]
    assert len(server.requests) == 1


async def test_of_two_at_once_one_is_new(server: ForgeServer) -> None:
    both = await asyncio.gather(propose(server), propose(server))
    assert sorted(each.is_new for each in both) == [False, True]
    assert len(server.requests) == 1


async def test_the_texts_are_updated_if_they_differ(server: ForgeServer) -> None:
    await propose(server, body="one\ntwo")
    await propose(server, body="one\ntwo", updates=True)  # GitHub answers with \r\n
    assert server.calls == ["GET", "POST", "GET"]
    found = await propose(server, title="Newer", body="three", updates=True)
    assert (found.number, found.is_new) == (1, False)
    assert (server.requests[0]["title"], server.requests[0]["body"]) == ("Newer", "three")
    assert server.calls[3:] == ["GET", "PUT" if server.kind == GITLAB else "PATCH"]


async def test_all_pages_of_a_forge_without_a_filter_are_read(gitea: ForgeServer) -> None:
    gitea.has(BRANCH)
    gitea.largest_page = 3  # an operator may set less than what is asked for
    for number in range(8):
        gitea.has(f"other-{number}")
    assert (await propose(gitea)).number == 1
    assert gitea.calls == ["GET"] * 3


# --- failures


async def test_a_wrong_token_and_a_missing_repository_are_named(server: ForgeServer) -> None:
    store = PreloadedSecrets({"forge": Secret("forge", "wrong-token", ("127.0.0.1",))})
    error = await refused(server, store=store)
    assert "127.0.0.1 does not accept the token: " in str(error)
    assert (error.status, error.is_temporary, error.retry_after) == (401, False, None)

    server.failures = [refusal(404, server._missing())]
    error = await refused(server)
    assert f"127.0.0.1 has no repository {server.path} that the token may see; it needs" in str(
        error
    )
    assert (error.status, error.is_temporary) == (404, False)


async def test_an_unknown_branch_is_refused_with_the_reason(server: ForgeServer) -> None:
    error = await refused(server, branch="gone")
    assert error.is_temporary is False
    assert {GITHUB: "Validation Failed", GITLAB: '"gone" does not exist'}.get(
        server.kind, "127.0.0.1 has no repository"
    ) in str(error)


LIMITED = [
    (403, {"message": "You have exceeded a secondary rate limit"}, {"Retry-After": "37"}, 37.0),
    (403, {"message": "You have exceeded a secondary rate limit"}, {}, 60.0),
    (403, {"message": "API rate limit exceeded"}, {"X-RateLimit-Remaining": "0"}, 60.0),
    (429, {"message": {"error": "Too many requests"}}, {"Retry-After": "5"}, 5.0),
    (429, "Retry later", {"Retry-After": "999999"}, 3600.0),
    (502, {"message": "Bad Gateway"}, {}, None),
    (503, {}, {"Retry-After": "9"}, 9.0),
]


@pytest.mark.parametrize(("status", "value", "headers", "delay"), LIMITED)
async def test_a_limit_and_a_fault_of_the_forge_are_temporary(
    github: ForgeServer, status: int, value: object, headers: dict[str, str], delay: float | None
) -> None:
    github.failures = [refusal(status, value, headers)]
    error = await refused(github)
    assert (error.is_temporary, error.status, error.retry_after) == (True, status, delay)


@pytest.mark.parametrize("prefix", ["X-RateLimit", "RateLimit"])
async def test_the_end_of_a_limit_is_a_time(github: ForgeServer, prefix: str) -> None:
    end = SYSTEM_CLOCK.now() + timedelta(minutes=10)
    headers = {f"{prefix}-Remaining": "0", f"{prefix}-Reset": str(int(end.timestamp()))}
    github.failures = [refusal(403, {"message": "API rate limit exceeded for user 1"}, headers)]
    delay = (await refused(github)).retry_after
    assert delay is not None
    assert 590 < delay <= 600


FORBIDDEN = [
    ({"message": "Resource not accessible by personal access token"}, "Resource not accessible"),
    ({"error": "insufficient_scope", "error_description": "Needs more", "scope": "api"}, "Needs m"),
    (
        {"message": {"base": ["is not allowed", "is not allowed"]}},
        ": is not allowed; it needs",
    ),
]


@pytest.mark.parametrize(("value", "said"), FORBIDDEN)
async def test_a_token_without_the_right_is_a_final_failure(
    github: ForgeServer, value: object, said: str
) -> None:
    github.failures = [refusal(403, value)]
    error = await refused(github)
    assert (error.status, error.is_temporary) == (403, False)
    assert "the token may not do this at 127.0.0.1" in str(error)
    assert said in str(error)


@pytest.mark.parametrize(
    "body", [b"<html>log in</html>", b"{}", b'[{"head": null}]', b"[1]", b"null", b"[" * 9_000]
)
async def test_an_answer_of_something_else_is_no_pull_request(
    server: ForgeServer, body: bytes
) -> None:
    server.failures = [answer(200, body)]
    error = await refused(server)
    assert "cannot be read" in str(error)
    assert not error.is_temporary
    assert server.requests == []


async def test_an_answer_with_the_token_does_not_show_it(
    server: ForgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.failures = [refusal(500, {"message": f"Bearer {TOKEN}\nis wrong"})]
    error = await refused(server)
    assert "Bearer ******** is wrong" in str(error)
    await propose(server)
    assert TOKEN not in caplog.text
    assert TOKEN not in "".join(each.path for each in server.receiver.requests)


async def test_the_token_goes_to_the_hosts_of_its_secret_only(server: ForgeServer) -> None:
    store = PreloadedSecrets({"forge": Secret("forge", TOKEN, ("github.com",))})
    with pytest.raises(
        InvalidInput, match=r'"forge" is not for 127\.0\.0\.1.*bound to github\.com'
    ):
        await propose(server, store=store)
    with pytest.raises(OutgoingRefused, match="limits"):
        await propose(server, limits=Limits(hosts=("*.example.org",)))
    assert server.receiver.requests == []

    async with serving() as other:
        server.failures = [redirect(f"{other.address}/elsewhere", 307)]
        with pytest.raises(OutgoingRefused, match="does not follow a redirect"):
            await propose(server)
        assert other.requests == []


async def test_a_renamed_repository_of_the_same_server_is_followed(github: ForgeServer) -> None:
    path = "/api/v3/repos/team/shop/pulls?head=team:daybook/fix/1&base=main&per_page=50&page=1"
    github.failures = [redirect(path, 301)]
    assert (await propose(github)).is_new


# --- texts


async def test_the_texts_of_an_agent_notify_no_user(server: ForgeServer) -> None:
    await propose(
        server, title=" Fix\n@all\u202e now", body="/merge\n@team/admins\r\n> /assign @me"
    )
    [known] = server.requests
    assert known["title"] == "Fix @\u200ball now"
    assert known["body"] == "\u200b/merge\n@\u200bteam/admins\n> \u200b/assign @\u200bme"
    sent = json.loads(server.receiver.requests[-1].body)
    assert set(sent) >= {"title"}


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("a@b.example @x\\@y", "a@\u200bb.example @\u200bx\\@\u200by"),
        ("&#64;x &#x040;x &commat;x &amp;x", "&\u200b#64;x &\u200b#x040;x &\u200bcommat;x &amp;x"),
        ("![a](//evil.example/?d=1)", "!\u200b[a](//evil.example/?d=1)"),
        ("<img src=x> </b> <!-- x 1 < 2", "<\u200bimg src=x> <\u200b/b> <\u200b!-- x 1 < 2"),
        ("a\r/merge\u2028/close\n  /x", "a\n\u200b/merge\n\u200b/close\n  \u200b/x"),
        ("https://a.example/b /c\x00\x1b[1m\ud800", "https://a.example/b /c[1m"),
        ("👩‍👩‍👧 Fixes #1, see #2", "👩‍👩‍👧 Fixes #1, see #2"),
    ],
)
def test_a_text_cannot_mention_run_or_load_anything(text: str, harmless: str) -> None:
    assert pull_requests.harmless_body(text) == harmless


def test_long_texts_fit() -> None:
    title = pull_requests.harmless_title("@" * 10_000)
    assert len(title) <= pull_requests.MAX_TITLE_LENGTH
    body = pull_requests.harmless_body("x" * 30_000)
    assert body.endswith("x\n… (10,000 more characters)")
    assert len(pull_requests.harmless_body("@" * 90_000)) < 65_536


async def test_a_blank_title_is_the_branch(github: ForgeServer) -> None:
    await propose(github, title=" \n")
    assert github.requests[0]["title"] == BRANCH


# --- places


@pytest.mark.parametrize(
    ("address", "kind", "found"),
    [
        ("https://github.com/o/n", "", (GITHUB, "https://api.github.com", "o/n")),
        ("http://GitHub.com/o/n.git/", "", (GITHUB, "https://api.github.com", "o/n")),
        ("git@github.com:o/n.git", "github", (GITHUB, "https://api.github.com", "o/n")),
        ("ssh://git@ssh.github.com:443/o/n", "", (GITHUB, "https://api.github.com", "o/n")),
        ("https://gitlab.com/g/sub/n", "", (GITLAB, "https://gitlab.com/api/v4", "g/sub/n")),
        ("git@codeberg.org:o/n.git", "", (GITEA, "https://codeberg.org/api/v1", "o/n")),
        ("git@g.example:o/n", "GitLab", (GITLAB, "https://g.example/api/v4", "o/n")),
        ("ssh://git@g.example:2222/o/n", "gitea", (GITEA, "https://g.example/api/v1", "o/n")),
        ("https://g.example:8443/o/n", "github", (GITHUB, "https://g.example:8443/api/v3", "o/n")),
        ("http://[::1]:3000/a/b/o/n", "gitea", (GITEA, "http://[::1]:3000/a/b/api/v1", "o/n")),
    ],
)
def test_the_api_of_an_address(address: str, kind: str, found: tuple[str, str, str]) -> None:
    forge = Forge.of(Upstream.parse(address), kind)
    assert (forge.kind, forge.api, forge.path) == found


@pytest.mark.parametrize(
    ("address", "kind", "problem"),
    [
        ("https://git.example/o/n", "", "forge: is not known for git.example (write github, gitl"),
        ("https://git.example/o/n", "bitbucket", 'forge: "bitbucket" is unknown (write github'),
        ("https://github.com/o/n", "gitlab", "forge: is github at github.com (write github"),
        ("/srv/shop", "github", "repo: is a folder of this machine"),
        ("https://github.com/n", "", "repo: is not the address of a repository"),
        ("https://github.com/o/n/tree/main", "", "repo: has more than an owner and a name"),
        ("ssh://git@g.example/a/o/n", "gitea", "repo: has more than an owner and a name"),
        ("https://gitlab.com/o/../n", "", "repo: is not the address of a repository"),
        ("https://gitlab.com/o/n%2F..%2Fx?y", "", "repo: is not the address of a repository"),
        ("https://gitlab.com:99999/o/n", "", "repo: has an invalid port"),
    ],
)
def test_an_address_that_is_no_repository_at_a_forge_is_refused(
    address: str, kind: str, problem: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        Forge.of(Upstream.parse(address), kind)
    assert str(refused.value).startswith(problem)
