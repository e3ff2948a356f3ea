"""SSRF guard: the IP addresses that a request may reach, and the operator's exceptions.

=========================  =================  ==================
destination                job of an agent    job of the operator
=========================  =================  ==================
public                     yes                yes
private, this host, …      no                 yes [1]
↳ in the allow-list        yes [1]            yes [1]
a metadata service         no                 no
↳ listed as one address    yes [1]            yes [1]
=========================  =================  ==================

[1] If the address is not public, a redirect from a public address does not reach it.

A URL is checked in two steps. `Guard.check` checks the URL without resolving its host name; it is
called when a job is stored and before each request. `Guard.target` resolves the host name once and
checks each of its IP addresses. If one address is refused, the request is refused. So an attacker
cannot mix a private address with public addresses and wait until a client tries the private one.
The client connects to `Target.addresses` and does not resolve the name again.

An IP address has one accepted spelling: four decimal numbers, or IPv6 in brackets without a zone.
Different parsers read other spellings (``0177.0.0.1``, ``2130706433``, ``127.1``) as different
addresses.
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
from daybook.http.addresses import DEFAULT_PORTS, Address, Network
from daybook.jobs.limits import Limits

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER = re.compile(r"([0-9]+|0x[0-9a-f]*)\Z")
_URL_HINT = "use http://host/… or https://host/…"


class Rule(StrEnum):
    """The rule that applies to a URL: for the operator's jobs, or for an agent's jobs."""

    OPERATOR = "operator"
    AGENT = "agent"

    @classmethod
    def for_owner(cls, owner: str, writer: str = "") -> Rule:
        """Return the rule for a job of ``owner`` with a URL that ``writer`` wrote.

        ``writer`` is an `owners.Actor.writer`, or empty. A URL that a model wrote with its tools
        has the rule of an agent, for any owner.
        """
        if owners.is_agent(owner) or owners.is_model(writer):
            return cls.AGENT
        return cls.OPERATOR


_RULE_REASONS = {
    Rule.OPERATOR: "no job may reach it",
    Rule.AGENT: "agents' jobs may reach public addresses only",
}
_ALLOW_LIST_HINT = "the operator can allow it in DAYBOOK_ALLOWED_HOSTS"


class Resolver(Protocol):
    """Function that resolves host names."""

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the IP addresses of ``host`` as text. Raise `OSError` if it has no address."""
        ...


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """Return the addresses of ``host`` by this machine's resolver and `hosts` file.

    Raise `OSError` if the lookup fails.
    """
    loop = asyncio.get_running_loop()
    results = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in results]


@dataclass(frozen=True)
class AllowedHosts:
    """The operator's exceptions to the rules: host names, IP addresses and networks."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the setting DAYBOOK_ALLOWED_HOSTS, which `daybook.settings` has validated."""
        names, networks = set(), []
        for entry in filter(None, map(str.strip, text.split(","))):
            try:
                networks.append(ip_network(entry.strip("[]")))
            except ValueError:
                names.add(entry.lower().removesuffix("."))
        return cls(frozenset(names), tuple(networks))

    def within(self, address: Address) -> bool:
        return any(address in network for network in self.networks)

    def lists_exactly(self, address: Address) -> bool:
        """Return whether the setting lists the address itself, not a network around it."""
        return any(address in each for each in self.networks if each.num_addresses == 1)


@dataclass(frozen=True)
class Target:
    """A checked destination. ``addresses`` are its IP addresses, in the order in which to try them.

    ``name`` is the host as in a certificate: in lower case, without a final dot. ``excepted`` are
    the addresses that are allowed only because they are in the allow-list.
    """

    url: httpx.URL
    name: str
    port: int
    addresses: tuple[str, ...]
    excepted: frozenset[str] = frozenset()

    @property
    def exposed(self) -> bool:
        """Return whether one of the addresses is public and needs no exception."""
        needed = [ip_address(each) for each in self.addresses if each not in self.excepted]
        return any(map(addresses.may_be_public, needed))


class Guard:
    """Checks URLs and their IP addresses against one rule."""

    def __init__(
        self,
        rule: Rule,
        allowed: AllowedHosts | None = None,
        resolver: Resolver = system_resolver,
        limits: Limits | None = None,
    ) -> None:
        self.rule = rule
        self._allowed = allowed or AllowedHosts()
        self._resolver = resolver
        self._limits = limits

    @classmethod
    def from_settings(cls, rule: Rule, limits: Limits | None = None) -> Self:
        """Return a guard with the exceptions in this home's settings.

        ``limits`` restrict the hosts of an agent, also in redirects. Raise `InvalidInput` if the
        setting is malformed.
        """
        return cls(rule, AllowedHosts.parse(settings.load().allowed_hosts), limits=limits)

    def for_operator(self) -> Guard:
        """Return a guard with the same allowed hosts for a URL that the operator chose."""
        return Guard(Rule.OPERATOR, self._allowed, self._resolver)

    def for_program(self) -> Guard:
        """Return a guard for requests of a program, whose names others may direct anywhere.

        It has the rule for agents, with the same allowed hosts and limits.
        """
        return Guard(Rule.AGENT, self._allowed, self._resolver, self._limits)

    def check(self, url: str | httpx.URL) -> httpx.URL:
        """Check a URL, but not the IP addresses of its host name. Return the parsed URL.

        Raise `InvalidInput` or `OutgoingRefused`.
        """
        parsed, name, literal = _parse(url)
        if self._limits is not None and not self._limits.has_host(name):
            why = "the operator's limits do not list this host"
            raise OutgoingRefused(_shown(parsed, ""), why, self.rule)
        if literal is not None:
            self._check_address(parsed, literal, name_allowed=False)
        elif name not in self._allowed.names:
            if name in addresses.METADATA_NAMES:
                raise self._refused(parsed, "", "a cloud's metadata service", metadata=True)
            if self.rule is Rule.AGENT and name.rpartition(".")[2] == "localhost":
                raise self._refused(parsed, "", "this host")
        return parsed

    async def target(self, url: str | httpx.URL, source: str | None = None) -> Target:
        """Resolve the host of ``url``, check each of its IP addresses, and return the target.

        ``source`` is the IP address of the server that redirected here; None means that there was
        no redirect. The name of that server would not be enough, because a host may have public and
        private addresses. Raise `InvalidInput`, `OutgoingRefused`, and `OSError` if the name has no
        address or the lookup fails.
        """
        parsed, name, literal = _parse(url)
        self.check(parsed)
        port = parsed.port or DEFAULT_PORTS[parsed.scheme]
        if literal is not None:
            resolved = [str(literal)]
        else:
            resolved = list(dict.fromkeys(await self._resolver(_host(parsed), port)))
            if not resolved:
                raise OSError(f"{name} has no address")
        name_allowed = name in self._allowed.names
        excepted = {
            each
            for each in resolved
            if self._check_address(parsed, each, name_allowed=name_allowed)
        }
        from_public = source is not None and addresses.may_be_public(ip_address(source))
        if from_public and any(addresses.may_be_private(ip_address(each)) for each in resolved):
            raise OutgoingRefused(
                _shown(parsed, resolved[0]),
                "Daybook does not follow a redirect from a public to a private address",
                self.rule,
            )
        return Target(parsed, name, port, tuple(resolved), frozenset(excepted))

    def _check_address(self, url: httpx.URL, found: str | Address, *, name_allowed: bool) -> bool:
        """Raise `OutgoingRefused` if the address is refused.

        Return True if the address is allowed only because of the allow-list. Return False if it
        needs no exception.
        """
        address = ip_address(found)
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            raise OutgoingRefused(_shown(url, str(address)), "a link-local address", self.rule)
        if whose := addresses.metadata_provider(address):
            if not self._allowed.lists_exactly(address):
                reason = f"the metadata service of {whose}"
                raise self._refused(url, str(address), reason, metadata=True)
            return True
        if self.rule is Rule.OPERATOR or not (
            reason_private := addresses.non_public_reason(address)
        ):
            return False
        if name_allowed or self._allowed.within(address):
            return True
        raise self._refused(url, str(address), reason_private)

    def _refused(
        self, url: httpx.URL, address: str, reason: str, *, metadata: bool = False
    ) -> OutgoingRefused:
        rule_reason = _RULE_REASONS[Rule.OPERATOR if metadata else self.rule]
        return OutgoingRefused(
            _shown(url, address), f"{reason}; {rule_reason}", self.rule, _ALLOW_LIST_HINT
        )


def origin(url: httpx.URL) -> str:
    """Return scheme, host and port. Messages may contain only these parts of a URL."""
    host = _host(url)
    port = "" if url.port is None else f":{url.port}"
    return f"{url.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def host_name(url: httpx.URL) -> str:
    """Return the host as in a certificate: in lower case, without a final dot."""
    return _host(url).removesuffix(".")


def _shown(url: httpx.URL, address: str) -> str:
    return origin(url) if not address or address == _host(url) else f"{origin(url)} ({address})"


def _host(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii").lower()


def _parse(text: str | httpx.URL) -> tuple[httpx.URL, str, Address | None]:
    """Return a parsed URL, its host name, and its IP address (None if the host is a name).

    Raise `InvalidInput` for an invalid URL.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError, ValueError):
        # Do not repeat the text of an invalid URL in the message, because it may contain a
        # password.
        raise InvalidInput("url", "is not a valid URL", _URL_HINT) from None
    if url.scheme not in DEFAULT_PORTS:
        problem = f'"{url.scheme}:" is not supported' if url.scheme else "is not a valid URL"
        raise InvalidInput("url", problem, _URL_HINT)
    if url.userinfo:
        raise InvalidInput(
            "url", "contains a user name or password", "send {{secret:name}} in a header instead"
        )
    host = _host(url)
    if not host:
        raise InvalidInput("url", "has no host", _URL_HINT)
    if url.port is not None and not 0 < url.port < 65536:
        raise InvalidInput("url", f"port {url.port} is not valid", "use 1 to 65535")
    return url, *_read_host(host)


def _read_host(host: str) -> tuple[str, Address | None]:
    name = host.removesuffix(".")
    if "%" in host:
        raise InvalidInput(
            "url", "its host has a space, a zone or a % escape", "write the plain host"
        )
    try:
        literal = ip_address(host)
    except ValueError:
        pass
    else:
        return str(literal), literal
    labels = name.split(".")
    if _NUMBER.match(labels[-1]):
        raise InvalidInput(
            "url", f'"{host}" is not an IP address', "write four decimal numbers, such as 192.0.2.1"
        )
    if len(name) > 253 or not all(map(_LABEL.match, labels)):
        raise InvalidInput("url", "its host is neither a name nor an IP address", _URL_HINT)
    return name, None
