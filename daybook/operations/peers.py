"""Search for the local user who opened a connection to a local address (Linux)."""

from __future__ import annotations

import os
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import Any

SOCKET_TABLES = Path("/proc/net")
"""Folder with Linux's lists of sockets: IPv4 sockets in `tcp`, IPv6 sockets in `tcp6`.

A client can also reach an IPv4 address from an IPv6 socket (as `::ffff:127.0.0.1`).
"""
_MAPPED = "0000000000000000FFFF0000"
_ESTABLISHED = "01"
_NO_INODE = "0"
_ROOT = 0


def is_another_user(scope: Any) -> bool:
    """Return whether the request comes from a user other than root and this process's user.

    On Linux, also return True if the socket is not listed, so that no user can hide. Return False
    on other systems. Return False also for a request without addresses, because it did not come
    over a network.
    """
    client, server = scope.get("client"), scope.get("server")
    if not client or not server:
        return False
    try:
        uid = uid_of(tuple(client), tuple(server))
    except OSError:
        return False
    return uid not in (_ROOT, os.getuid())


def uid_of(client: tuple[str, int], server: tuple[str, int]) -> int | None:
    """Return the id of the user whose socket at ``client`` is connected to ``server``.

    Return None if no such socket is listed. A socket that its process has closed does not count,
    because Linux lists it without an inode and as a socket of root. Raise `OSError` if the system
    has no lists of sockets.
    """
    try:
        tables = _as_listed(client, server)
    except (OSError, ValueError, struct.error):  # one of them is no IP address
        return None
    for table, expected in tables.items():
        try:
            lines = (SOCKET_TABLES / table).read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            if len(tables) == 1 or table == "tcp":
                raise
            continue  # the kernel has no IPv6
        for line in lines:
            fields = line.split()
            if fields[1:4] == [*expected, _ESTABLISHED] and fields[9] != _NO_INODE:
                return int(fields[7])
    return None


def _as_listed(*addresses: tuple[str, int]) -> dict[str, list[str]]:
    """Return the addresses as each table that may list their connection writes them."""
    hosts = [ip_address(host) for host, _ in addresses]
    packed = [(getattr(host, "ipv4_mapped", None) or host).packed for host in hosts]
    words = [struct.unpack(f"={len(each) // 4}I", each) for each in packed]
    listed = [
        "".join(f"{word:08X}" for word in each) + f":{port:04X}"
        for each, (_, port) in zip(words, addresses, strict=True)
    ]
    if any(len(each) > 1 for each in words):
        return {"tcp6": listed}
    return {"tcp": listed, "tcp6": [_MAPPED + each for each in listed]}
