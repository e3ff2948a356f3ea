"""Secrets by reference: ``{{secret:name}}`` in a header or a parameter, resolved when it is used.

A secret is bound to hosts, and goes to no other: who may change a job's address cannot have it
sent there. What looks like a secret itself is refused where a reference belongs, because a job is
shown, exported, and kept in its revisions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from daybook.errors import InvalidInput
from daybook.http.addresses import PORTS
from daybook.jobs.secret_references import SECRET

if TYPE_CHECKING:
    import httpx

HIDDEN = "********"
"""Stands where a secret stood."""

ADVICE = (
    "keep it with `daybook secrets add`, bound to its hosts, and write {{secret:name}} in its place"
)

_REFERENCE = SECRET
_BEGINS = re.compile(r"\{\{\s*secret\b")
_SHORTEST_HIDDEN = 4

# The last word, or words, of a header's name: X-Api-Key, PRIVATE-TOKEN.
_SECRET_HEADER = re.compile(
    r"(^|-)(authorization|cookie|token|secret|passw(or)?d|(api|access|auth|private)-?key|apikey"
    r"|credentials?)\Z"
)
_SECRET_PARAM = re.compile(
    r"passw(or)?d|(client_?|api_?)?secret|(api|private|secret)_?key|(access|auth|bearer)_?token"
    r"|authorization|credentials?"
)
_SECRET_VALUE = re.compile(
    r"""
    \bBearer\s+(?=[^\s\d]{0,500}\d)[A-Za-z0-9._~+/=-]{8,}
  | \b(sk|rk)[-_](live|test|ant|proj|or|svcacct|admin)?[-_]?[A-Za-z0-9_-]{16,}
  | \bgh[oprsu]_[A-Za-z0-9]{20,} | \bgithub_pat_\w{20,} | \bglpat-[\w-]{16,}
  | \bxox[abeoprs]-[A-Za-z0-9-]{10,} | \bxapp-[A-Za-z0-9-]{10,}
  | \b(AKIA|ASIA)[0-9A-Z]{16}\b | \bAIza[\w-]{30,} | \bya29\.[\w-]{20,}
  | \b(npm|hf|dop_v1|shpat|lin_api|pat)_[A-Za-z0-9]{20,} | \bpnu_[A-Za-z0-9]{20,}
  | \bwhsec_[A-Za-z0-9+/=]{16,} | \bSG\.[\w-]{16,}\.[\w-]{16,}
  | (?<![\w-])(?=[\w-]*?\beyJ[\w-]{8})[\w-]++\.[\w-]{8,}+\.  # each word is read once
  | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Secret:
    """``hosts`` are those that it may go to: ``name``, ``name:port``, ``tool:name``."""

    name: str
    value: str = field(repr=False)
    hosts: tuple[str, ...]


class Secrets(Protocol):
    """Where secrets are kept."""

    async def read(self, name: str) -> Secret:
        """The secret of that name; raises `InvalidInput`, `UnknownName` where there is none."""
        ...


@dataclass(frozen=True)
class Destination:
    """Where a secret would go: ``shown`` in messages, ``known_as`` in the hosts of a secret."""

    shown: str
    known_as: frozenset[str]

    @classmethod
    def of_url(cls, url: httpx.URL) -> Destination:
        """Of an address that a guard has checked."""
        host = url.raw_host.decode("ascii").lower().removesuffix(".")
        port = url.port or PORTS[url.scheme]
        bracketed = f"[{host}]" if ":" in host else host
        return cls(f"{bracketed}:{port}", frozenset({host, bracketed, f"{bracketed}:{port}"}))

    @classmethod
    def of_tool(cls, name: str) -> Destination:
        """Of a tool that has no host."""
        return cls(f"tool:{name}", frozenset({f"tool:{name}".lower()}))


@dataclass
class Filled:
    """Texts with their secrets in them. ``values`` is what must not be seen anywhere."""

    values: set[str] = field(default_factory=set, repr=False)

    def hide(self, text: str) -> str:
        """``text`` without the secrets: who is sent one may say it back.

        What is cut is to be cut afterwards: a part of a secret is not found.
        """
        hidden = [value for value in self.values if len(value) >= _SHORTEST_HIDDEN]
        for written in sorted({each for v in hidden for each in _written(v)}, key=len)[::-1]:
            text = text.replace(written, HIDDEN)
        return text


def _written(value: str) -> Iterator[str]:
    """``value`` as it is, as it stands in JSON, and as Python's errors quote it."""
    yield value
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield repr(value)[1:-1]
    yield repr(f'"{value}')[2:-1]  # beside a quotation mark


def references(what: str, text: str) -> list[str]:
    """Return the names in ``text``; raises `InvalidInput` for ``what`` if one is misspelt."""
    if len(_BEGINS.findall(text)) != len(_REFERENCE.findall(text)):
        raise InvalidInput(
            what,
            "a reference to a secret is misspelt",
            "{{secret:name}}, of lowercase letters, digits and dashes",
        )
    return _REFERENCE.findall(text)


def referred(value: Any) -> set[str]:
    """The names that the texts of JSON refer to, whatever is wrong with others in it."""
    return {name for _, text in _texts(value) for name in _REFERENCE.findall(text)}


async def fill(
    what: str, text: str, destination: Destination, secrets: Secrets, filled: Filled
) -> str:
    """``text`` with its secrets; each is added to ``filled``.

    ``what`` is the field as the user wrote it. Raises `InvalidInput` for a secret that is not there
    or is bound to other hosts.
    """
    values = {}
    for name in references(what, text):
        secret = await secrets.read(name)
        if destination.known_as.isdisjoint(secret.hosts):
            raise InvalidInput(
                what,
                f'the secret "{name}" does not go to {destination.shown}',
                f"it is bound to {', '.join(secret.hosts)}",
            )
        values[name] = secret.value
        filled.values.add(secret.value)
    return _REFERENCE.sub(lambda found: values[found[1]], text)


async def fill_params(
    params: Any, destination: Destination, secrets: Secrets, filled: Filled
) -> Any:
    """JSON with the secrets in its texts filled in; the names in it are left as they are."""
    match params:
        case str():
            return await fill("params", params, destination, secrets, filled)
        case list():
            return [await fill_params(each, destination, secrets, filled) for each in params]
        case dict():
            return {
                name: await fill_params(each, destination, secrets, filled)
                for name, each in params.items()
            }
        case _:
            return params


def refuse_literal_headers(headers: Mapping[str, str]) -> None:
    """Raise `InvalidInput` where a header holds what looks like a secret itself."""
    for name, value in headers.items():
        named = _SECRET_HEADER.search(name.lower()) and not references("headers", value)
        if value.strip() and (named or _SECRET_VALUE.search(value)):
            raise InvalidInput("headers", f'"{name}" looks like a secret', ADVICE)


def refuse_literal_params(params: Any) -> None:
    """Raise `InvalidInput` where JSON holds what looks like a secret itself, or a misspelt
    reference.
    """
    for path, value in _texts(params):
        named = _SECRET_PARAM.fullmatch(path.rpartition(".")[2].lower().replace("-", "_"))
        known = references("params", value)
        if value and ((named and not known) or _SECRET_VALUE.search(value)):
            raise InvalidInput("params", f'"{path or "params"}" looks like a secret', ADVICE)


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    match value:
        case str():
            yield path, value
        case list():
            for each in value:
                yield from _texts(each, path)
        case dict():
            for name, each in value.items():
                yield from _texts(each, f"{path}.{name}" if path else str(name))
