"""Classification of IP addresses: a cloud's metadata service, public, or neither. Pure functions.

The tables are Daybook's own, because `ipaddress.is_global` differs between Python versions, does
not contain ranges that were registered later, and includes multicast. An address is public if
IANA's registries of special addresses call it globally reachable, and if an HTTP server may have
it. Addresses of relays are therefore not public.

An IPv6 address can embed an IPv4 address, and the network delivers packets to the embedded address.
So an IPv6 address of a known format that embeds an IPv4 address is not public. There are two
exceptions if the embedded address is public: ISATAP, and the well-known prefix of NAT64. Networks
without IPv4 use that prefix to reach IPv4 addresses.
"""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeGuard

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

DEFAULT_PORTS = {"http": 80, "https": 443}
"""The allowed schemes, and the default port of each."""

METADATA_SERVICES: dict[Address, str] = {
    ip_address(address): whose
    for address, whose in {
        "169.254.169.254": "AWS, Google Cloud, Azure, Oracle, DigitalOcean, OpenStack and others",
        "169.254.170.2": "AWS ECS",
        "169.254.170.23": "AWS EKS",
        "168.63.129.16": "Azure, a public address",
        "100.100.100.200": "Alibaba Cloud",
        "192.0.0.192": "Oracle Cloud Classic",
        "169.254.42.42": "Scaleway",
        "169.254.0.23": "Tencent Cloud",
        "fd00:ec2::254": "AWS",
        "fd00:ec2::23": "AWS EKS",
        "fd20:ce::254": "Google Cloud",
        "fd00:c1::a9fe:a9fe": "Oracle Cloud",
        "fd00:42::42": "Scaleway",
        "fe80::a9fe:a9fe": "OpenStack",
    }.items()
}
"""Providers by the address of their metadata service.

The service gives credentials to any process.
"""

METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "instance-data",
        "instance-data.ec2.internal",
        "metadata.ec2.internal",
        "metadata.azure.internal",
        "api.metadata.cloud.ibm.com",
        "metadata.platformequinix.com",
        "metadata.packet.net",
        "metadata.tencentyun.com",
        "rancher-metadata",
    }
)

NON_PUBLIC_NETWORKS: dict[Network, str] = {
    ip_network(network): what
    for network, what in {
        "0.0.0.0/8": "this host",
        "10.0.0.0/8": "a private network",
        "100.64.0.0/10": "a carrier's private network",
        "127.0.0.0/8": "this host",
        "169.254.0.0/16": "link-local",
        "172.16.0.0/12": "a private network",
        "192.0.0.0/24": "reserved for protocols",
        "192.0.2.0/24": "a documentation network",
        "192.88.99.0/24": "a relay to IPv6",
        "192.168.0.0/16": "a private network",
        "198.18.0.0/15": "a benchmark network",
        "198.51.100.0/24": "a documentation network",
        "203.0.113.0/24": "a documentation network",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
        # Except for NAT64, all public IPv6 addresses are in 2000::/3. The following networks are
        # outside of it, and are listed only to give a reason for each.
        "::/128": "this host",
        "::1/128": "this host",
        "::ffff:0:0/96": "an IPv4 address embedded in IPv6",
        "::/96": "an IPv4 address embedded in IPv6",
        "::ffff:0:0:0/96": "an IPv4 address embedded in IPv6",
        "64:ff9b:1::/48": "a network's own NAT64",
        "100::/64": "a discard-only network",
        "fc00::/7": "a private network",
        "fe80::/10": "link-local",
        "fec0::/10": "a private network",
        "ff00::/8": "multicast",
        # The following networks are inside 2000::/3, but not public.
        "2001::/32": "a Teredo tunnel to an IPv4 address",
        "2001::/23": "reserved for protocols",
        "2001:db8::/32": "a documentation network",
        "2002::/16": "a 6to4 tunnel to an IPv4 address",
        "3fff::/20": "a documentation network",
    }.items()
}

_PUBLIC_IPV6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_TEREDO = IPv6Network("2001::/32")
_6TO4 = IPv6Network("2002::/16")
_ENDING_WITH_IPV4 = (
    _NAT64,
    IPv6Network("::ffff:0:0/96"),
    IPv6Network("::ffff:0:0:0/96"),
    IPv6Network("::/96"),
)
_ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
_LAST_FOUR_BYTES = (12, 13, 14, 15)
# Positions of the bytes of an embedded IPv4 address. In NAT64 they depend on the length of the
# prefix, which the network chooses (RFC 6052). In 6to4 the position is fixed.
_6TO4_POSITIONS = (2, 3, 4, 5)
_EMBEDDED_POSITIONS = (
    (4, 5, 6, 7),
    (5, 6, 7, 9),
    (6, 7, 9, 10),
    (7, 9, 10, 11),
    (9, 10, 11, 12),
    _LAST_FOUR_BYTES,
    _6TO4_POSITIONS,
)


def metadata_provider(address: Address) -> str:
    """Return the provider whose metadata service ``address`` is or embeds; empty if there is none.

    Check an embedded address at every position that a translation between IPv6 and IPv4 can use.
    """
    if address in METADATA_SERVICES:
        return METADATA_SERVICES[address]
    if isinstance(address, IPv4Address):
        return ""
    embedded = [_at(address, positions) for positions in _EMBEDDED_POSITIONS]
    if address in _TEREDO:
        embedded.append(_teredo_client(address))
    # The table is so short that no other address matches it by chance.
    return next((METADATA_SERVICES[each] for each in embedded if each in METADATA_SERVICES), "")


def non_public_reason(address: Address) -> str:
    """Return the reason why ``address`` is not public. Return "" if it is public."""
    if isinstance(address, IPv6Address) and address in _NAT64:
        reason = _own_reason(_at(address, _LAST_FOUR_BYTES))
        return reason and f"{reason}, by NAT64"
    if reason := _own_reason(address):
        return reason
    if _is_isatap(address) and (reason := _own_reason(_at(address, _LAST_FOUR_BYTES))):
        return f"{reason}, by ISATAP"
    return ""


def may_be_public(address: Address) -> bool:
    """Return whether packets for ``address`` may go to a public address.

    Every network can announce a route to the tunnels of 6to4 and Teredo, so they count.
    """
    if address in _6TO4 or address in _TEREDO:
        return True
    return not all(map(_own_reason, _recipients(address)))


def may_be_private(address: Address) -> bool:
    """Return whether packets for ``address`` may go to an address that is not public."""
    return any(map(_own_reason, _recipients(address)))


def _own_reason(address: Address) -> str:
    """Return the reason why ``address`` is not public, apart from the address that it embeds."""
    for network, what in NON_PUBLIC_NETWORKS.items():
        if address in network:
            return what
    return "reserved" if isinstance(address, IPv6Address) and address not in _PUBLIC_IPV6 else ""


def _recipients(address: Address) -> list[Address]:
    """Return the addresses to which packets for ``address`` may go.

    A network may deliver a packet to the address itself or to the address that it embeds: each
    network chooses the last eight bytes of its addresses, and can make them look like ISATAP. Only
    in `_ENDING_WITH_IPV4`, the embedded address is the only recipient. A network chooses the
    position at which an address of its own NAT64 embeds the IPv4 address, so return one for each
    position.
    """
    if isinstance(address, IPv4Address):
        return [address]
    if address in _TEREDO:
        return [address, _teredo_client(address)]
    if address in _6TO4:
        return [address, _at(address, _6TO4_POSITIONS)]
    if address in _LOCAL_NAT64:
        return [address, *(_at(address, places) for places in _EMBEDDED_POSITIONS[2:6])]
    if any(address in each for each in _ENDING_WITH_IPV4):
        return [_at(address, _LAST_FOUR_BYTES)]
    if _is_isatap(address):
        return [address, _at(address, _LAST_FOUR_BYTES)]
    return [address]


def _is_isatap(address: Address) -> TypeGuard[IPv6Address]:
    return address.packed[8:12] in _ISATAP


def _teredo_client(address: IPv6Address) -> IPv4Address:
    # Teredo inverts the bits of the address.
    return IPv4Address(int(_at(address, _LAST_FOUR_BYTES)) ^ 0xFFFFFFFF)


def _at(address: IPv6Address, places: tuple[int, ...]) -> IPv4Address:
    return IPv4Address(bytes(address.packed[place] for place in places))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``: a loopback address, or a socket.

    It may have a port, as one of several hosts of a database.
    """
    if not host or host.startswith("/"):
        return True
    name = host.rstrip(".").lower()
    for each in (name, name.rpartition(":")[0]):
        try:
            address = ip_address(each)
        except ValueError:
            if each == "localhost" or each.endswith(".localhost"):
                return True
        else:
            return address.is_loopback or address.is_unspecified
    return False
