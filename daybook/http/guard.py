"""Which addresses may be reached: the two rules of requirement 38, and the operator's exceptions.

=========================  ==================  =========================================
                           a job of an agent   a job of the operator
=========================  ==================  =========================================
public                     yes                 yes
private, this host, …      no                  yes, but never by a redirect from public
↳ in the allow-list        yes, not so         yes, not so
a metadata service         no                  no
↳ the very address listed  yes                 yes
=========================  ==================  =========================================

The address is judged in two steps. `check` looks at the text alone, when a job is made. `target`
looks the name up, once, and judges every address that it has: one that is refused refuses all, so
that nobody mixes a private one among public ones and waits for it to be tried. Whoever connects
goes to `Target.addresses`, and asks for no name.

Only one spelling of an address is taken: four decimal numbers, or IPv6 in brackets without a zone.
All others (``0177.0.0.1``, ``2130706433``, ``127.1``) mean something different to each reader.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Protocol, Self

import httpx

from daybook import owners, settings
from daybook.errors import InvalidInput, OutgoingRefused
from daybook.http import addresses
from daybook.http.addresses import PORTS, Address, Network
from daybook.jobs.limits import Limits

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER = re.compile(r"([0-9]+|0x[0-9a-f]*)\Z")
_HOW = "legal: http://host/… or https://host/…"


class Rule(StrEnum):
    """By whose rule an address is judged: that of the operator's jobs, or that of an agent's."""

    OPERATOR = "operator"
    AGENT = "agent"

    @classmethod
    def of(cls, owner: str, writer: str = "") -> Rule:
        """The rule for a job of that owner, and who wrote the address where that is known.

        What a model wrote through its tools a model chose, whoever owns it (requirement 38).
        """
        if owners.is_agent(owner) or owners.is_models(writer):
            return cls.AGENT
        return cls.OPERATOR


_WORDS = {
    Rule.OPERATOR: "no job reaches one",
    Rule.AGENT: "a job of an agent reaches public addresses only",
}
_EXCEPT = "the operator may allow it in DAYBOOK_ALLOWED_HOSTS"


class Resolver(Protocol):
    """Looks a name up."""

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of ``host``, as text; raises `OSError` when there are none."""
        ...


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """What this machine's resolver says, its `hosts` file included."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@dataclass(frozen=True)
class Allowed:
    """What the operator allows although a rule refuses it: names, and addresses or networks."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, text: str) -> Self:
        """Of the setting DAYBOOK_ALLOWED_HOSTS, which has been checked by `daybook.settings`."""
        names, networks = set(), []
        for entry in filter(None, map(str.strip, text.split(","))):
            try:
                networks.append(ip_network(entry.strip("[]")))
            except ValueError:
                names.add(entry.lower().removesuffix("."))
        return cls(frozenset(names), tuple(networks))

    def within(self, address: Address) -> bool:
        return any(address in network for network in self.networks)

    def very(self, address: Address) -> bool:
        """Whether this very address is listed: a network that is wide enough does not mean it."""
        return any(address in each for each in self.networks if each.num_addresses == 1)


@dataclass(frozen=True)
class Target:
    """Where a request may go: ``addresses``, all judged, in the order to try them.

    ``name`` is the host as a certificate has it: lowercase, without a dot at its end. ``excepted``
    are the addresses that only the allow-list lets pass.
    """

    url: httpx.URL
    name: str
    port: int
    addresses: tuple[str, ...]
    excepted: frozenset[str] = frozenset()

    @property
    def exposed(self) -> bool:
        """Whether a public address is among them that needs no exception."""
        return any(_is_public(each) for each in self.addresses if each not in self.excepted)


class Guard:
    """Judges addresses by one rule."""

    def __init__(
        self,
        rule: Rule,
        allowed: Allowed | None = None,
        resolver: Resolver = system_resolver,
        limits: Limits | None = None,
    ) -> None:
        self.rule = rule
        self._allowed = allowed or Allowed()
        self._resolver = resolver
        self._limits = limits

    @classmethod
    def here(cls, rule: Rule, limits: Limits | None = None) -> Self:
        """With the exceptions of this home's settings; raises `InvalidInput` where they are wrong.

        ``limits`` name the hosts of an agent, to which redirects do not lead around either.
        """
        return cls(rule, Allowed.of(settings.load().allowed_hosts), limits=limits)

    def for_operator(self) -> Guard:
        """One with the same exceptions, for an address that the operator chose."""
        return Guard(Rule.OPERATOR, self._allowed, self._resolver)

    def check(self, url: str | httpx.URL) -> httpx.URL:
        """Check all but the name's addresses; raises `InvalidInput` or `OutgoingRefused`."""
        parsed, name, literal = _parsed(url)
        if self._limits is not None and not self._limits.has_host(name):
            why = "the operator's limits do not have this host"
            raise OutgoingRefused(_shown(parsed, ""), why, self.rule)
        if literal is not None:
            self._judge(parsed, literal, name_allowed=False)
        elif name not in self._allowed.names:
            if name in addresses.METADATA_NAMES:
                raise self._refused(parsed, "", "a cloud's metadata service", metadata=True)
            if self.rule is Rule.AGENT and name.rpartition(".")[2] == "localhost":
                raise self._refused(parsed, "", "this host")
        return parsed

    async def target(self, url: str | httpx.URL, source: str | None = None) -> Target:
        """Judge every address of ``url``.

        ``source`` is the address that was connected to and redirected here: a host may have public
        addresses and private ones. Raises `InvalidInput` and `OutgoingRefused`, and
        `OSError` when the name has no address or the look-up fails.
        """
        parsed, name, literal = _parsed(url)
        self.check(parsed)
        port = parsed.port or PORTS[parsed.scheme]
        found = [str(literal)] if literal is not None else await self._look_up(parsed, name, port)
        name_allowed = name in self._allowed.names
        excepted = {each for each in found if self._judge(parsed, each, name_allowed=name_allowed)}
        from_public = source is not None and _is_public(source)
        if from_public and not all(map(_is_public, found)):
            raise OutgoingRefused(
                _shown(parsed, found[0]), "a redirect never leads from public to private", self.rule
            )
        return Target(parsed, name, port, tuple(found), frozenset(excepted))

    async def _look_up(self, url: httpx.URL, name: str, port: int) -> list[str]:
        found = list(dict.fromkeys(await self._resolver(_host(url), port)))
        if not found:
            raise OSError(f"{name} has no address")
        return found

    def _judge(self, url: httpx.URL, found: str | Address, *, name_allowed: bool) -> bool:
        """Raise, or say whether only the allow-list lets it pass."""
        address = ip_address(found)
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            raise OutgoingRefused(_shown(url, str(address)), "link-local, with a zone", self.rule)
        if whose := addresses.metadata(address):
            if not self._allowed.very(address):
                told = f"the metadata service of {whose}"
                raise self._refused(url, str(address), told, metadata=True)
            return True
        if self.rule is Rule.OPERATOR or not (what := addresses.not_public(address)):
            return False
        if name_allowed or self._allowed.within(address):
            return True
        raise self._refused(url, str(address), what)

    def _refused(
        self, url: httpx.URL, address: str, what: str, *, metadata: bool = False
    ) -> OutgoingRefused:
        words = _WORDS[Rule.OPERATOR if metadata else self.rule]
        return OutgoingRefused(_shown(url, address), f"{what}; {words}", self.rule, _EXCEPT)


def _is_public(address: str) -> bool:
    return not addresses.not_public(ip_address(address))


def origin(url: httpx.URL) -> str:
    """Scheme, host and port: what a message may tell of an address."""
    host = _host(url)
    port = "" if url.port is None else f":{url.port}"
    return f"{url.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def name_of(url: httpx.URL) -> str:
    """The host as a certificate has it: lowercase, without a dot at its end."""
    return _host(url).removesuffix(".")


def _shown(url: httpx.URL, address: str) -> str:
    return origin(url) if not address or address == _host(url) else f"{origin(url)} ({address})"


def _host(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii").lower()


def _parsed(text: str | httpx.URL) -> tuple[httpx.URL, str, Address | None]:
    """The address in its parts: the host's name, and what it is where it is no name."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError, ValueError):
        # What is not understood is not repeated: a password may stand in it.
        raise InvalidInput("url", "is no address", _HOW) from None
    if url.scheme not in PORTS:
        raise InvalidInput(
            "url", f'"{url.scheme}:" is not legal' if url.scheme else "is no URL", _HOW
        )
    if url.userinfo:
        raise InvalidInput(
            "url", "a name or password in it", "give it as a header: {{secret:name}} in its value"
        )
    host = _host(url)
    if not host:
        raise InvalidInput("url", "has no host", _HOW)
    if url.port is not None and not 0 < url.port < 65536:
        raise InvalidInput("url", f"port {url.port} is not legal", "legal: 1 to 65535")
    return url, *_read_host(host)


def _read_host(host: str) -> tuple[str, Address | None]:
    name = host.removesuffix(".")
    if "%" in host:
        raise InvalidInput("url", "the host has a zone, or is written with %", "write it plainly")
    try:
        literal = ip_address(host)
    except ValueError:
        pass
    else:
        return str(literal), literal
    labels = name.split(".")
    if _NUMBER.match(labels[-1]):
        raise InvalidInput(
            "url", f'"{host}" is a number, but no address', "four decimal numbers, as 192.0.2.1"
        )
    if len(name) > 253 or not all(map(_LABEL.match, labels)):
        raise InvalidInput("url", "the host is no name and no address", _HOW)
    return name, None
