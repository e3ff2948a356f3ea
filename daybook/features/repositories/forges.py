"""Forges: sites such as GitHub that host repositories, and requests to their REST APIs.

=======  ==========================================  ==========================================
kind     known hosts                                 API of another host
=======  ==========================================  ==========================================
github   github.com                                  Enterprise Server: https://host/api/v3
gitlab   gitlab.com                                  https://host/api/v4
gitea    codeberg.org, gitea.com; also Forgejo       https://host/api/v1
=======  ==========================================  ==========================================

The kind of another host is named by a person: its answers without a token differ by version and
setting, so a guess from them could send a token to a wrong API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from daybook import json_text
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import DaybookError, InvalidInput
from daybook.http import request, secrets
from daybook.http.guard import Guard, Rule
from daybook.http.httpx_transport import HttpxTransport
from daybook.http.request import MAX_REQUESTED_DELAY, NoResponse, Response
from daybook.http.secrets import FilledSecrets, SecretDestination, SecretStore
from daybook.jobs import secret_references
from daybook.jobs.limits import Limits
from daybook.policies.repositories import Upstream
from daybook.short_text import one_line

GITHUB, GITLAB, GITEA = "github", "gitlab", "gitea"
KINDS = (GITHUB, GITLAB, GITEA)

TIMEOUT_SECONDS = 30.0
MAX_RESPONSE_BYTES = 16 * 2**20
"""Maximum length of a response; a list of 50 pull requests with long texts has some MiB."""
DEFAULT_DELAY_SECONDS = 60.0
"""Delay after an exceeded rate limit without a time, as GitHub's documentation requests it."""
MAX_MESSAGE_LENGTH = 300

_HOSTS = {
    "github.com": (GITHUB, "github.com", "https://api.github.com"),
    "ssh.github.com": (GITHUB, "github.com", "https://api.github.com"),
    "gitlab.com": (GITLAB, "gitlab.com", "https://gitlab.com/api/v4"),
    "altssh.gitlab.com": (GITLAB, "gitlab.com", "https://gitlab.com/api/v4"),
    "codeberg.org": (GITEA, "codeberg.org", "https://codeberg.org/api/v1"),
    "gitea.com": (GITEA, "gitea.com", "https://gitea.com/api/v1"),
}
_API_PATHS = {GITHUB: "/api/v3", GITLAB: "/api/v4", GITEA: "/api/v1"}
_NAME = re.compile(r"(?!\.+\Z)[\w.+-]+\Z", re.ASCII)
_TEMPORARY_STATUSES = (408, 429)


class ForgeFailed(DaybookError):
    """The error that a forge refused a request, or did not answer it.

    If ``is_temporary``, a later attempt can succeed: after ``retry_after`` seconds if the forge
    named a time. ``status`` is the status of its response; None if there is none.
    """

    code = "forge_failed"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        is_temporary: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.is_temporary = is_temporary
        self.retry_after = retry_after


@dataclass(frozen=True)
class Forge:
    """A repository at a forge.

    ``host`` is the forge's name in messages, ``api`` the address of its API, and ``path`` the
    repository's path there, such as `owner/name`.
    """

    kind: str
    host: str
    api: str
    path: str

    @classmethod
    def of(cls, upstream: Upstream, kind: str = "") -> Forge:
        """Return the repository at its forge; ``kind`` is one of `KINDS`, or "" for a known host.

        Raise `InvalidInput`, which names `repo` or `forge`.
        """
        kind = kind.strip().lower()
        if kind and kind not in KINDS:
            raise InvalidInput("forge", f'"{one_line(kind, 40)}" is unknown', _KINDS_HINT)
        web, names = _parts(upstream)
        known, host, api = _HOSTS.get(web.hostname, (kind, web.hostname, ""))
        if kind not in ("", known):
            raise InvalidInput("forge", f"is {known} at {host}", f"write {known}, or leave it out")
        if not known:
            raise InvalidInput("forge", f"is not known for {host}", _KINDS_HINT)
        folder: list[str] = []
        if known != GITLAB:  # a group of GitLab may have groups
            folder, names = names[:-2], names[-2:]
            if folder and (api or not web.has_folders):
                raise InvalidInput("repo", "has more than an owner and a name", _REPO_HINT)
        api = api or "/".join([web.origin, *folder]) + _API_PATHS[known]
        return cls(known, host, api, "/".join(names))

    @property
    def owner(self) -> str:
        return self.path.partition("/")[0]

    @property
    def project(self) -> str:
        """Return the path of the repository in the API."""
        if self.kind == GITLAB:
            return f"/projects/{quote(self.path, safe='')}"
        return f"/repos/{quote(self.path)}"


_KINDS_HINT = f"write {', '.join(KINDS[:-1])} or {KINDS[-1]}, which is also for Forgejo"
_REPO_HINT = "write https://HOST/OWNER/NAME or git@HOST:OWNER/NAME"


@dataclass(frozen=True)
class _Web:
    """The web server of a forge. ``has_folders`` if the address has the folder that it serves."""

    hostname: str
    origin: str
    has_folders: bool


def _parts(upstream: Upstream) -> tuple[_Web, list[str]]:
    """Return the web server of a repository's host, and the names in the repository's path."""
    address = upstream.address
    if upstream.protocol == "file":
        raise InvalidInput("repo", "is a folder of this machine, not at a forge", _REPO_HINT)
    if "://" not in address:
        host, _, path = address.partition("@")[2].partition(":")
        port, query = None, ""
    else:
        parts = urlsplit(address)
        host, path, query = parts.hostname or "", unquote(parts.path), parts.query + parts.fragment
        try:
            port = parts.port
        except ValueError:
            raise InvalidInput("repo", "has an invalid port", _REPO_HINT) from None
    is_web = upstream.protocol in ("http", "https")
    host = host.lower().removesuffix(".")
    shown = f"[{host}]" if ":" in host else host
    scheme = upstream.protocol if is_web else "https"
    origin = f"{scheme}://{shown}" + (f":{port}" if port and is_web else "")
    names = path.strip("/").removesuffix(".git").split("/")
    if query or len(names) < 2 or not all(map(_NAME.match, names)):
        raise InvalidInput("repo", "is not the address of a repository at a forge", _REPO_HINT)
    return _Web(host, origin, is_web), names


@dataclass(frozen=True)
class ForgeAnswer:
    """The JSON value of a response; ``has_more`` if the list continues on a further page."""

    value: Any
    has_more: bool


class ForgeApi:
    """The API of a forge, called with a token that goes to the API's own host only."""

    def __init__(self, forge: Forge, guard: Guard, token: str, filled: FilledSecrets) -> None:
        self.forge = forge
        self._guard = guard
        self._filled = filled
        self._headers = {
            "Accept": "application/json",
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
        }
        if forge.kind == GITHUB:
            self._headers["Accept"] = "application/vnd.github+json"
            self._headers["X-GitHub-Api-Version"] = "2022-11-28"

    @classmethod
    async def open(
        cls, forge: Forge, secret: str, store: SecretStore, limits: Limits | None = None
    ) -> ForgeApi:
        """Return the API with the token in the secret ``secret``.

        Raise `InvalidInput` if the secret is not bound to the API's host, the errors of ``store``,
        and `OutgoingRefused` if ``limits`` do not list the host.
        """
        # The operator, not a model, has chosen the repository.
        guard, filled = Guard.from_settings(Rule.OPERATOR, limits), FilledSecrets()
        destination = SecretDestination.of_url(guard.check(forge.api))
        reference = secret_references.reference(secret)
        token = await secrets.fill("secret", reference, destination, store, filled)
        return cls(forge, guard, token.strip(), filled)

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] = {},
        body: Mapping[str, Any] | None = None,
    ) -> ForgeAnswer:
        """Return the answer to a request whose ``path`` begins below the repository.

        Raise `ForgeFailed` and `OutgoingRefused`. A redirect is followed only if it changes neither
        the server nor the method, as GitHub's for a renamed repository.
        """
        url = f"{self.forge.api}{self.forge.project}{path}"
        try:
            response = await request.request(
                HttpxTransport(self._guard, one_origin=True),
                method,
                f"{url}?{urlencode(query)}" if query else url,
                headers=self._headers,
                body=b"" if body is None else json.dumps(body).encode(),
                secret=["Authorization"],
                timeout=TIMEOUT_SECONDS,
                limit=MAX_RESPONSE_BYTES,
            )
        except NoResponse as error:
            message = self._filled.hide(str(error))
            raise ForgeFailed(message, is_temporary=not error.misconfigured) from None
        if response.status not in (200, 201):
            raise self._refusal(response)
        try:
            value = json_text.read(response.body)
        except ValueError:
            raise self.unreadable() from None
        return ForgeAnswer(value, 'rel="next"' in response.headers.get("link", ""))

    def unreadable(self) -> ForgeFailed:
        """Return the error that an answer is not one of this kind of forge."""
        hint = f"it is perhaps no {self.forge.kind}, or behind a page for logging in"
        return ForgeFailed(f"the answer of {self.forge.host} cannot be read; {hint}")

    def _refusal(self, response: Response) -> ForgeFailed:
        status, host = response.status, self.forge.host
        reason = self._reason(response)
        delay = _requested_delay(response, reason)
        is_temporary = delay is not None or status in _TEMPORARY_STATUSES or status >= 500
        said = f": {reason}" if reason else ""
        text = f"{host} answered {request.status_text(status)}{said}"
        if is_temporary:
            pass
        elif status == 401:
            text = f"{host} does not accept the token{said}; replace the secret"
        elif status == 403:
            text = f"the token may not do this at {host}{said}; {_RIGHTS[self.forge.kind]}"
        elif status == 404:
            what = f"{host} has no repository {self.forge.path} that the token may see"
            text = f"{what}; {_RIGHTS[self.forge.kind]}"
        return ForgeFailed(text, status=status, is_temporary=is_temporary, retry_after=delay)

    def _reason(self, response: Response) -> str:
        """Return the message of an error response on one line, without the token."""
        try:
            texts = _messages(json_text.read(response.body))
        except ValueError:  # perhaps a page of a proxy
            return ""
        shown = "; ".join(dict.fromkeys(filter(None, texts)))
        return one_line(self._filled.hide(shown), MAX_MESSAGE_LENGTH)


_RIGHTS = {
    GITHUB: "it needs the right to write pull requests and to read the repository's contents",
    GITLAB: "it needs the scope api and the role Developer",
    GITEA: "it needs the scope write:repository",
}


def _messages(value: Any) -> Iterator[str]:
    """Yield the messages in an error: GitHub's list, GitLab's texts, lists and objects."""
    match value:
        case str():
            yield value
        case list():
            for each in value:
                yield from _messages(each)
        case {"error": str(), "error_description": str(text)}:
            yield text
        case dict():
            found = [value.get(name) for name in ("message", "error", "errors")]
            if not any(found):  # the names of fields, each with its messages
                found = [] if "documentation_url" in value else list(value.values())
            for each in found:
                yield from _messages(each)


def _requested_delay(response: Response, reason: str) -> float | None:
    """Return the seconds until a further request is allowed; None if no rate limit was exceeded."""
    headers, now = response.headers, SYSTEM_CLOCK.now()
    if response.status not in (403, 429, 503):
        return None
    delay = request.retry_after(headers.get("retry-after", ""), now)
    for prefix in ("x-ratelimit", "ratelimit"):
        if delay is None and headers.get(f"{prefix}-remaining", "").strip() == "0":
            delay = _seconds_until(headers.get(f"{prefix}-reset", ""), now)
    if delay is None and (response.status == 429 or "rate limit" in reason.lower()):
        delay = DEFAULT_DELAY_SECONDS
    return delay if delay is None else min(delay, MAX_REQUESTED_DELAY.total_seconds())


def _seconds_until(epoch: str, now: datetime) -> float:
    try:
        return max(0.0, (datetime.fromtimestamp(int(epoch), UTC) - now).total_seconds())
    except (ValueError, OverflowError, OSError):
        return DEFAULT_DELAY_SECONDS
