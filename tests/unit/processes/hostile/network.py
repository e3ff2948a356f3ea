"""Attempts to reach services of this machine and of networks."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from functools import partial
from pathlib import Path
from typing import Any

from tests.unit.processes.hostile.registry import (
    attempt,
    target,
)


def _connects(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> bool:
    with socket.socket(family, kind) as client:
        client.settimeout(0.3)
        client.connect(address)
        return client.recv(5) == b"hello" if kind == socket.SOCK_STREAM else True


@attempt("connect to a service on 127.0.0.1", "any")
def _() -> object:
    return _connects(socket.AF_INET, ("127.0.0.1", target("port")))


@attempt("connect to a service on 0.0.0.0", "any")
def _() -> object:
    return _connects(socket.AF_INET, ("0.0.0.0", target("port")))


@attempt("connect to a service on localhost", "any")
def _() -> object:
    with socket.create_connection(("localhost", target("port")), 2) as client:
        return client.recv(5) == b"hello"


@attempt("connect to a service by IPv6", "any")
def _() -> object:
    return _connects(socket.AF_INET6, ("::1", target("port_6")))


@attempt("connect to a service by an IPv4 address in IPv6", "any")
def _() -> object:
    return _connects(socket.AF_INET6, ("::ffff:127.0.0.1", target("port")))


@attempt("connect to an address of this machine's network card")
def _() -> object:
    return _connects(socket.AF_INET, (target("own_address"), target("port_any")))


@attempt("send a datagram to the host", "any")
def _() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.3)
        client.sendto(b"hello", ("127.0.0.1", target("udp_port")))
        return client.recv(5)


@attempt("ask a name server of the host", "any")
def _() -> object:
    query = (
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.3)
        client.sendto(query, ("127.0.0.1", target("udp_port")))
        return client.recv(64)


for _what, _place in {
    "a metadata service": ("169.254.169.254", 80),
    "a private network": ("10.0.0.1", 80),
    "a public address": ("1.1.1.1", 443),
    "a public name server": ("8.8.8.8", 53),
}.items():

    def _leaves(place: Any = _place) -> object:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(place)  # finds a route; sends nothing
            return client.getsockname()[0] != place[0]

    attempt(f"find a route to {_what}")(_leaves)


@attempt("find a route by IPv6")
def _() -> object:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.connect(("2606:4700:4700::1111", 443))
        return True


@attempt("resolve a name")
def _() -> object:
    return socket.getaddrinfo("example.org", 443)


@attempt("see the network cards of the host")
def _() -> object:
    return [name for _, name in socket.if_nameindex() if name not in ("lo",)]


@attempt("connect to a Unix socket of the host", "any")
def _() -> object:
    return _connects(socket.AF_UNIX, target("unix_socket"))


@attempt("connect to a Unix socket of the host that is in the work dir", "any")
def _() -> object:
    return _connects(socket.AF_UNIX, "service.socket")


@attempt("send a datagram to a Unix socket of the host that is in the work dir", "any")
def _() -> object:
    first, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return first.sendto(b"hello", "datagrams.socket")


@attempt("connect to a Unix socket of the host in a readable folder", "any")
def _() -> object:
    return _connects(socket.AF_UNIX, target("readable_socket"))


@attempt("connect to an abstract Unix socket of the host", "any")
def _() -> object:
    return _connects(socket.AF_UNIX, "\0" + target("abstract_socket"))


@attempt("find an abstract Unix socket of the host", "any")
def _() -> object:
    return target("abstract_socket") in Path("/proc/net/unix").read_text()


for _path in (
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/dbus/system_bus_socket",
    "/var/run/postgresql/.s.PGSQL.5432",
    "/run/systemd/private",
    "/run/containerd/containerd.sock",
):
    attempt(f"reach {_path}")(partial(os.path.exists, _path))

for _what, _family, _type, _protocol in (
    ("a raw socket", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP),
    ("a ping socket", socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    ("a packet socket", socket.AF_PACKET, socket.SOCK_RAW, 0),
    ("a vsock", 40, socket.SOCK_STREAM, 0),
    ("a socket of the crypto interface", 38, socket.SOCK_SEQPACKET, 0),
    ("a Bluetooth socket", 31, socket.SOCK_RAW, 1),
):

    def _socket_of(kind: Any = (_family, _type, _protocol)) -> object:
        return socket.socket(*kind)

    attempt(f"create {_what}", "root" if "packet" in _what or "raw" in _what else "")(_socket_of)


@attempt("change the network of the sandbox")
def _() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh", b"lo", 0))  # SIOCSIFFLAGS
    return True
