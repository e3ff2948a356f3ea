"""Pull requests at GitHub, GitLab (merge requests), Gitea and Forgejo: one for each branch.

::

    find an open one ──► there is one ──────────────────────► update it if requested ──► found
          │                                                              ▲
          └──► create one ──► refused: does another one exist now? ──────┤
                     └──────────────────────────────────────────────────► new

A forge has at most one open pull request from a branch into another. So a process that was killed
after it had created one finds it, and two at once create one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from daybook.features.repositories.forges import GITHUB, GITLAB, Forge, ForgeApi, ForgeFailed
from daybook.http.secrets import SecretStore
from daybook.jobs.limits import Limits
from daybook.redaction import redact_remembered, redact_tokens
from daybook.short_text import one_line, shorten

MAX_TITLE_LENGTH = 200
"""Maximum length of a title in characters; GitLab and Gitea accept 255."""
MAX_BODY_LENGTH = 20_000
"""Maximum length of a text in characters; GitHub accepts 65,536."""
MAX_URL_LENGTH = 2_000

PAGE_SIZE = 50
MAX_PAGES = 40
"""Maximum number of pages that are searched. Only Gitea lists the pull requests of all branches."""

_EXISTS_STATUSES = (409, 422)
_ZERO_WIDTH_SPACE = "\u200b"

# The parts of a text that would notify a user, run a command of GitLab (`/merge` at the beginning
# of a line), or load an image from another server.
_ACTIVE = re.compile(
    r"(?<=@)"
    r"|(?<=&)(?=#0*64|#[xX]0*40|commat)"  # the same as @
    r"|(?<=!)(?=\[)"
    r"|(?<=<)(?=[A-Za-z/!?])"
    r"|^[ \t>]*(?=/)",
    re.MULTILINE,
)
# Control characters except tab and line break, and those that change the direction of text.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_LINE_BREAKS = re.compile("\r\n?|[\u2028\u2029]")


@dataclass(frozen=True)
class PullRequest:
    """An open pull request; ``is_new`` if it was just created.

    ``url`` is the address of its page, and "" if the forge named none.
    """

    url: str
    number: int
    is_new: bool


async def propose(
    place: Forge,
    branch: str,
    onto: str,
    title: str,
    body: str,
    *,
    secret: str,
    store: SecretStore,
    limits: Limits | None = None,
    updates: bool = False,
) -> PullRequest:
    """Return the open pull request from ``branch`` into ``onto``; create it if there is none.

    The branches are in the repository ``place``. With ``updates``, an existing pull request gets
    the title and the body. ``secret`` is the name of the secret with the token. Raise
    `ForgeFailed`, the errors of `ForgeApi.open`, and `OutgoingRefused`.
    """
    requests = _PullRequests(await ForgeApi.open(place, secret, store, limits), branch, onto)
    title, body = harmless_title(title) or harmless_title(branch), harmless_body(body)
    found = await requests.find()
    if found is None:
        try:
            return await requests.create(title, body)
        except ForgeFailed as error:
            # Messages differ by version and language. If there is one now, this was the reason.
            found = await requests.find() if error.status in _EXISTS_STATUSES else None
            if found is None:
                raise
    if updates:
        await requests.update(found, title, body)
    return requests.read(found, is_new=False)


class _PullRequests:
    """The pull requests from a branch of a repository into another branch of it."""

    def __init__(self, api: ForgeApi, branch: str, onto: str) -> None:
        self._api, self._branch, self._onto = api, branch, onto
        self._forge = api.forge
        self._is_gitlab = self._forge.kind == GITLAB
        self._path = "/merge_requests" if self._is_gitlab else "/pulls"

    async def find(self) -> dict[str, Any] | None:
        """Return the oldest open pull request, as the forge describes it; None if there is none."""
        query: dict[str, str | int] = {"state": "open"}
        if self._forge.kind == GITHUB:
            query |= {"head": f"{self._forge.owner}:{self._branch}", "base": self._onto}
        elif self._is_gitlab:
            query = {"state": "opened", "source_branch": self._branch, "target_branch": self._onto}
        size = "per_page" if self._is_gitlab or self._forge.kind == GITHUB else "limit"
        found: list[dict[str, Any]] = []
        for page in range(1, MAX_PAGES + 1):
            answer = await self._api.call(
                "GET", self._path, query | {size: PAGE_SIZE, "page": page}
            )
            if not isinstance(answer.value, list):
                raise self._api.unreadable()
            try:
                found += [each for each in answer.value if self._is_own(each)]
            except (KeyError, TypeError, AttributeError):
                raise self._api.unreadable() from None
            if found or not answer.has_more:
                break
        return min(found, key=self._number, default=None)

    def _is_own(self, found: dict[str, Any]) -> bool:
        """Return whether a pull request has these branches, both in this repository."""
        if self._is_gitlab:
            branches = found["source_branch"], found["target_branch"]
            repositories = found["source_project_id"], found["target_project_id"]
        else:
            head, base = found["head"], found["base"]
            branches = head["ref"], base["ref"]
            repositories = (head["repo"] or {}).get("id"), (base["repo"] or {}).get("id")
        is_same = repositories[0] == repositories[1] and repositories[0] is not None
        return branches == (self._branch, self._onto) and is_same

    async def create(self, title: str, body: str) -> PullRequest:
        branches = ("source_branch", "target_branch") if self._is_gitlab else ("head", "base")
        given = dict(zip(branches, (self._branch, self._onto), strict=True))
        answer = await self._api.call("POST", self._path, body=given | self._texts(title, body))
        return self.read(answer.value, is_new=True)

    async def update(self, found: dict[str, Any], title: str, body: str) -> None:
        """Give a pull request the title and the body, unless it has them."""
        texts = self._texts(title, body)
        if any(_normal(found.get(name)) != _normal(text) for name, text in texts.items()):
            method = "PUT" if self._is_gitlab else "PATCH"
            await self._api.call(method, f"{self._path}/{self._number(found)}", body=texts)

    def _texts(self, title: str, body: str) -> dict[str, str]:
        return {"title": title, ("description" if self._is_gitlab else "body"): body}

    def _number(self, found: dict[str, Any]) -> int:
        number = found.get("iid" if self._is_gitlab else "number")
        if not isinstance(number, int):
            raise self._api.unreadable()
        return number

    def read(self, found: Any, *, is_new: bool) -> PullRequest:
        """Return the pull request that the forge describes."""
        if not isinstance(found, dict):
            raise self._api.unreadable()
        url = str(found.get("web_url" if self._is_gitlab else "html_url") or "")
        is_address = url.startswith(("https://", "http://")) and url.isascii()
        if not is_address or not url.isprintable() or len(url) > MAX_URL_LENGTH or " " in url:
            url = ""
        return PullRequest(url, self._number(found), is_new)


def _normal(text: object) -> str:
    return str(text or "").replace("\r\n", "\n").strip()


def harmless_title(text: str) -> str:
    """Return a title by an agent on one line of at most `MAX_TITLE_LENGTH` characters.

    It is as harmless as `harmless_body`.
    """
    return one_line(_harmless(_plain(text)), MAX_TITLE_LENGTH)


def harmless_body(text: str) -> str:
    """Return a text by an agent, shortened, that notifies no user and runs nothing at the forge.

    An invisible character is inserted after each `@`, and into tags of HTML, images, and a `/` at
    the beginning of a line, also in blocks of code: what a forge counts as code differs, and a
    notification cannot be undone. Secrets that this process has got are hidden.
    """
    return _harmless(shorten(_plain(text), MAX_BODY_LENGTH))


def _plain(text: str) -> str:
    text = redact_tokens(redact_remembered(text))
    return _INVISIBLE.sub("", _LINE_BREAKS.sub("\n", text)).strip()


def _harmless(text: str) -> str:
    return _ACTIVE.sub(lambda found: found[0] + _ZERO_WIDTH_SPACE, text)
