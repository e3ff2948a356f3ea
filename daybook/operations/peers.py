"""Search for the local user who opened a connection to a local IPv4 address (Linux)."""

from __future__ import annotations

import os
import socket
import struct
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
        addresses = [_as_listed(client), _as_listed(server)]
    except (OSError, struct.error):  # the address is not an IPv4 address
        return None
    for table, prefix in (("tcp", ""), ("tcp6", _MAPPED)):
        expected = [prefix + each for each in addresses]
        try:
            lines = (SOCKET_TABLES / table).read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            if not prefix:
                raise
            continue  # the kernel has no IPv6
        for line in lines:
            fields = line.split()
            if fields[1:4] == [*expected, _ESTABLISHED] and fields[9] != _NO_INODE:
                return int(fields[7])
    return None


def _as_listed(address: tuple[str, int]) -> str:
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return f"{number:08X}:{address[1]:04X}"
