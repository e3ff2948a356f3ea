"""Local stand-ins of the REST APIs of GitHub, GitLab and Gitea, as their documentation describes.

They have one repository, `team/shop`, at GitLab `team/web/shop`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Container, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from daybook.features.repositories.forges import GITEA, GITHUB, GITLAB, Forge
from daybook.http.secrets import Secret
from daybook.policies.repositories import Upstream
from daybook.tools.pool import PreloadedSecrets
from tests.git_servers import GitServer
from tests.receiver import Handler, Receiver, Request, answer, serving
from tests.unit.features.repositories.projects import at

TOKEN = "s3cr3t-of-the-forge"
REPOSITORY = 7
FORK = 8

Answer = tuple[int, Any]
"""A status, and the JSON value of the body."""


@dataclass
class ApiOf:
    """The API of a forge at a server that also has the repository."""

    git: GitServer
    requests: list[Request] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.git.address


class _BranchesOf:
    """The branches of the repository at a server."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository

    def __contains__(self, name: object) -> bool:
        return bool(at(self._repository, "for-each-ref", f"refs/heads/{name}"))


class ForgeServer:
    """A forge with one repository. Each answer also goes through the HTTP server of `receiver`.

    ``failures`` are answers to the next requests instead of the forge's own. ``races`` is the
    number of pull requests that another client creates just before this one. If ``is_cut``, a
    created pull request is not answered: the connection ends.
    """

    def __init__(self, kind: str, receiver: Receiver | ApiOf) -> None:
        self.kind, self.receiver = kind, receiver
        self.branches: Container[str] = {"main", "next", "daybook/fix/1"}
        self.requests: list[dict[str, Any]] = []
        self.failures: list[Handler] = []
        self.races = 0
        self.is_cut = False
        self.largest_page = 50
        self.path = "team/web/shop" if kind == GITLAB else "team/shop"
        if isinstance(receiver, Receiver):
            receiver.steps = [self._serve]
        else:
            receiver.git.api = self._respond_to
            self.branches = _BranchesOf(receiver.git.root / f"{self.path}.git")

    def _respond_to(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        self.receiver.requests.append(Request(method, path, headers, body))
        return self.respond(self.receiver.requests[-1])

    @property
    def forge(self) -> Forge:
        return Forge.of(Upstream.parse(f"{self.receiver.address}/{self.path}.git"), self.kind)

    @property
    def store(self) -> PreloadedSecrets:
        return PreloadedSecrets({"forge": Secret("forge", TOKEN, ("127.0.0.1",))})

    @property
    def calls(self) -> list[str]:
        """Return the methods of the requests so far."""
        return [each.method for each in self.receiver.requests]

    def has(self, branch: str, onto: str = "main", *, repository: int = REPOSITORY) -> None:
        """Add an open pull request, also from a fork."""
        self._add(branch, onto, "There", "before", repository)

    def _add(
        self, branch: str, onto: str, title: str, body: str, repository: int = REPOSITORY
    ) -> dict[str, Any]:
        found = {"number": len(self.requests) + 1, "state": "open", "title": title, "body": body}
        found |= {"branch": branch, "onto": onto, "repository": repository}
        self.requests.append(found)
        return found

    def _open(self, branch: str, onto: str, repository: int = REPOSITORY) -> list[dict[str, Any]]:
        wanted = {"branch": branch, "onto": onto, "repository": repository, "state": "open"}
        return [each for each in self.requests if wanted.items() <= each.items()]

    async def _serve(self, given: Request, writer: asyncio.StreamWriter) -> None:
        if self.failures:
            await self.failures.pop(0)(given, writer)
            return
        status, body, headers = self.respond(given)
        if status == 201 and given.method == "POST" and self.is_cut:
            return
        await answer(status, body, headers)(given, writer)

    def respond(self, given: Request) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers of the answer."""
        split = urlsplit(given.path)
        status, value, headers = self._answer(
            given, split.path, dict(parse_qsl(split.query, strict_parsing=bool(split.query)))
        )
        headers = {"Content-Type": "application/json; charset=utf-8"} | headers
        return status, json.dumps(value).encode(), headers

    def _answer(
        self, given: Request, path: str, query: Mapping[str, str]
    ) -> tuple[int, Any, dict[str, str]]:
        if given.headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, self._unauthorized(), {}
        names = {
            GITHUB: "/api/v3/repos/team/shop/pulls",
            GITLAB: "/api/v4/projects/team%2Fweb%2Fshop/merge_requests",
            GITEA: "/api/v1/repos/team/shop/pulls",
        }
        below = path.removeprefix(names[self.kind])
        if below == path:
            return 404, self._missing(), {}
        if given.method == "GET" and not below:
            return self._page(path, query)
        body = json.loads(given.body)
        if given.method == "POST" and not below:
            return *self._create(body), {}
        if given.method == ("PUT" if self.kind == GITLAB else "PATCH"):
            return *self._edit(int(below.removeprefix("/")), body), {}
        return 404, self._missing(), {}

    def _page(self, path: str, query: Mapping[str, str]) -> tuple[int, Any, dict[str, str]]:
        found = [each for each in self.requests if each["state"] == "open"]
        if self.kind == GITLAB:
            assert query["state"] == "opened", "GitLab ignores another word"
            wanted = {"branch": query["source_branch"], "onto": query["target_branch"]}
            found = [each for each in found if wanted.items() <= each.items()]
        if self.kind == GITHUB:
            assert ":" in query["head"], "GitHub ignores another form"
            owner, _, branch = query["head"].partition(":")
            found = [
                each
                for each in found
                if (each["branch"], each["onto"]) == (branch, query["base"])
                and self._owner(each) == owner
            ]
        found = found[::-1]  # the newest first
        size = min(int(query["limit" if self.kind == GITEA else "per_page"]), self.largest_page)
        start = (int(query["page"]) - 1) * size
        headers = {}
        if start + size < len(found):
            following = f"{self.receiver.address}{path}?page={int(query['page']) + 1}"
            headers["Link"] = f'<{following}>; rel="next", <{following}>; rel="last"'
        return 200, [self._shown(each) for each in found[start : start + size]], headers

    @staticmethod
    def _owner(found: Mapping[str, Any]) -> str:
        return "team" if found["repository"] == REPOSITORY else "stranger"

    def _create(self, body: Mapping[str, str]) -> Answer:
        is_gitlab = self.kind == GITLAB
        branch, onto = (
            (body["source_branch"], body["target_branch"])
            if is_gitlab
            else (body["head"], body["base"])
        )
        while self.races:
            self.races -= 1
            self.has(branch, onto)
        if branch not in self.branches:
            return self._unknown_branch(branch)
        if there := self._open(branch, onto):
            return self._exists(branch, there[0]["number"])
        assert body["title"]
        added = self._add(branch, onto, body["title"], body["description" if is_gitlab else "body"])
        return 201, self._shown(added)

    def _edit(self, number: int, body: Mapping[str, str]) -> Answer:
        found = self.requests[number - 1]
        found |= {"title": body["title"], "body": body.get("body", body.get("description"))}
        return 201 if self.kind == GITEA else 200, self._shown(found)

    def _shown(self, found: Mapping[str, Any]) -> dict[str, Any]:
        number, repository = found["number"], found["repository"]
        page = f"{self.receiver.address}/{self.path}"
        if self.kind == GITLAB:
            return {
                "id": 1000 + number,
                "iid": number,
                "state": "opened" if found["state"] == "open" else found["state"],
                "title": found["title"],
                "description": found["body"],
                "source_branch": found["branch"],
                "target_branch": found["onto"],
                "source_project_id": repository,
                "target_project_id": REPOSITORY,
                "web_url": f"{page}/-/merge_requests/{number}",
            }
        owner = self._owner(found)
        # A deleted fork has no repository.
        fork = None if repository is None else {"id": repository, "full_name": f"{owner}/shop"}
        return {
            "id": 1000 + number,
            "number": number,
            "state": found["state"],
            "title": found["title"],
            "body": found["body"].replace("\n", "\r\n") if self.kind == GITHUB else found["body"],
            "html_url": f"{page}/{'pull' if self.kind == GITHUB else 'pulls'}/{number}",
            "head": {"label": f"{owner}:{found['branch']}", "ref": found["branch"], "repo": fork},
            "base": {
                "label": f"team:{found['onto']}",
                "ref": found["onto"],
                "repo": {"id": REPOSITORY, "full_name": "team/shop"},
            },
        }

    def _unauthorized(self) -> Any:
        return {
            GITHUB: {
                "message": "Bad credentials",
                "documentation_url": "https://docs.github.com/rest",
                "status": "401",
            },
            GITLAB: {"message": "401 Unauthorized"},
            GITEA: {"message": "invalid username, password or token", "url": "/api/swagger"},
        }[self.kind]

    def _missing(self) -> Any:
        return {
            GITHUB: {"message": "Not Found", "documentation_url": "https://docs", "status": "404"},
            GITLAB: {"message": "404 Project Not Found"},
            GITEA: {"errors": None, "message": "not found", "url": "/api/swagger"},
        }[self.kind]

    def _unknown_branch(self, branch: str) -> Answer:
        invalid = [{"resource": "PullRequest", "field": "head", "code": "invalid"}]
        return {
            GITHUB: (422, {"message": "Validation Failed", "errors": invalid, "status": "422"}),
            GITLAB: (400, {"message": {"source_branch": [f'"{branch}" does not exist']}}),
            GITEA: (404, {"errors": [], "message": f"branch {branch} does not exist"}),
        }[self.kind]

    def _exists(self, branch: str, number: int) -> Answer:
        text = f"A pull request already exists for team:{branch}."
        custom = [{"resource": "PullRequest", "code": "custom", "message": text}]
        other = f"Another open merge request already exists for this source branch: !{number}"
        return {
            GITHUB: (422, {"message": "Validation Failed", "errors": custom, "status": "422"}),
            GITLAB: (409, {"message": [other]}),
            GITEA: (409, {"message": f"pull request already exists for these targets [{number}]"}),
        }[self.kind]


@asynccontextmanager
async def serving_forge(kind: str) -> AsyncIterator[ForgeServer]:
    """Yield a stand-in that listens until the context ends."""
    async with serving() as receiver:
        yield ForgeServer(kind, receiver)


def refusal(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Handler:
    """Return an answer with a JSON value."""
    return answer(status, json.dumps(value).encode(), headers)
