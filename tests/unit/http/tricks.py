"""Addresses and redirects that the SSRF guard must refuse or allow (requirement 38).

All code that takes an address from a job is tested with these tables. `Dns` is the resolver for
them: it knows their names, and the answer of each look-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PUBLIC = "93.184.216.34"
PUBLIC_IPV6 = "2606:2800:220:1:248:1893:25c8:1946"
PRIVATE = "10.0.0.1"

Answers = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Trick:
    """An address that an agent's job may not reach; ``operator``: an operator's job may.

    ``answers`` has the addresses of the host for each look-up; the last entry is repeated.
    """

    name: str
    url: str
    operator: bool = False
    answers: Answers = ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Turn:
    """A redirect from a public address to one that both rules refuse.

    ``answers`` has the addresses of the host names in it.
    """

    name: str
    location: str
    status: int = 302
    answers: Mapping[str, Answers] | None = None
    start: str = "http://public.example/start"

    def __str__(self) -> str:
        return self.name


def _at(address: str, *more: str) -> Answers:
    return ((address, *more),)


# IP addresses that are not public; an operator's job may reach them.
_PRIVATE = tuple(
    Trick(name, url, operator=True)
    for name, url in {
        "this host": "http://127.0.0.1/",
        "this host, another address": "http://127.8.9.1:8080/",
        "this host as no address": "http://0.0.0.0/",
        "private 10": "http://10.0.0.1/",
        "private 172": "http://172.31.255.254/",
        "private 192": "https://192.168.1.1/",
        "a carrier's": "http://100.64.0.1/",
        "link-local": "http://169.254.10.20/",
        "protocols": "http://192.0.0.8/",
        "documentation": "http://203.0.113.7/",
        "benchmarks": "http://198.18.0.1/",
        "a relay": "http://192.88.99.1/",
        "multicast": "http://224.0.0.251/",
        "reserved": "http://240.0.0.1/",
        "broadcast": "http://255.255.255.255/",
        "with a port": "http://10.0.0.1:6379/",
        "with the port of https": "http://127.0.0.1:443/",
        "after an empty name": "http://@127.0.0.1/",
        "ideographic dots": "http://127。0。0。1/",
        "IPv6 this host": "http://[::1]:8080/",
        "IPv6 written out": "http://[0000:0000:0000:0000:0000:0000:0000:0001]/",
        "IPv6 as no address": "http://[::]/",
        "IPv6 private": "http://[fd12:3456:789a::1]/",
        "IPv6 link-local": "http://[fe80::1]/",
        "IPv6 site-local": "http://[fec0::1]/",
        "IPv6 multicast": "http://[ff02::1]/",
        "IPv6 documentation": "http://[2001:db8::1]/",
        "IPv6 newer documentation": "http://[3fff::1]/",
        "IPv6 segment routing": "http://[5f00::1]/",
        "IPv6 for discarding": "http://[100::1]/",
        "IPv4 in IPv6, dotted": "http://[::ffff:127.0.0.1]/",
        "IPv4 in IPv6, in hex": "http://[::ffff:7f00:1]/",
        "IPv4 in IPv6, of a public one": "http://[::ffff:93.184.216.34]/",
        "IPv4 in IPv6, the old way": "http://[::10.0.0.1]/",
        "IPv4 in IPv6, translated": "http://[::ffff:0:10.0.0.1]/",
        "NAT64": "http://[64:ff9b::10.0.0.1]/",
        "NAT64, a network's own": "http://[64:ff9b:1::a00:1]/",
        "6to4": "http://[2002:a00:1::1]/",
        "6to4 of a public one": "http://[2002:5db8:d822::1]/",
        "Teredo": "http://[2001:0:4136:e378:8000:63bf:f5ff:fffe]/",
        "ISATAP": "http://[2606:2800::5efe:10.0.0.1]/",
    }.items()
)

# Host names that resolve to such addresses.
_NAMES = (
    Trick("localhost", "http://localhost/", True, _at("127.0.0.1")),
    Trick("localhost with a dot", "http://localhost./", True, _at("127.0.0.1")),
    Trick("localhost in capitals", "http://LOCALHOST:8080/", True, _at("127.0.0.1")),
    Trick("below localhost", "http://app.localhost/", True, _at("127.0.0.1")),
    Trick("a private name", "http://intranet.example/", True, _at(PRIVATE)),
    Trick("a private name, IPv6", "http://intranet6.example/", True, _at("fd00::1")),
    Trick("a name that holds the address", "http://10.0.0.1.nip.example/", True, _at(PRIVATE)),
    Trick("one private among public", "http://mixed.example/", True, _at(PUBLIC, PRIVATE)),
    Trick("IPv6 private, IPv4 public", "http://two.example/", True, _at(PUBLIC, "::1")),
    Trick("a mapped answer", "http://mapped.example/", True, _at("::ffff:10.0.0.1")),
    Trick("a NAT64 answer", "http://nat64.example/", True, _at("64:ff9b::7f00:1")),
    Trick("a name in another script", "http://bücher.example/", True, _at("192.168.0.9")),
    Trick("its ASCII form", "http://xn--bcher-kva.example/", True, _at("192.168.0.9")),
    Trick("private first, public then", "http://late.example/", True, ((PRIVATE,), (PUBLIC,))),
)

_METADATA = (
    *(
        Trick(f"metadata, {name}", url)
        for name, url in {
            "the address": "http://169.254.169.254/latest/meta-data/",
            "with a port": "http://169.254.169.254:80/",
            "by https": "https://169.254.169.254/",
            "ECS": "http://169.254.170.2/v2/credentials/",
            "EKS": "http://169.254.170.23/v1/credentials",
            "Azure, public": "http://168.63.129.16/machine",
            "Alibaba": "http://100.100.100.200/latest/meta-data/",
            "Oracle Classic": "http://192.0.0.192/latest/",
            "Scaleway": "http://169.254.42.42/conf",
            "Tencent": "http://169.254.0.23/",
            "IPv6 of AWS": "http://[fd00:ec2::254]/latest/",
            "IPv6 of EKS": "http://[fd00:ec2::23]/",
            "IPv6 of Google": "http://[fd20:ce::254]/",
            "IPv6 of Oracle": "http://[fd00:c1::a9fe:a9fe]/",
            "IPv6 of Scaleway": "http://[fd00:42::42]/",
            "IPv6 of OpenStack": "http://[fe80::a9fe:a9fe]/",
            "mapped": "http://[::ffff:169.254.169.254]/",
            "mapped, in hex": "http://[::ffff:a9fe:a9fe]/",
            "the old way": "http://[::a9fe:a9fe]/",
            "translated": "http://[::ffff:0:a9fe:a9fe]/",
            "NAT64": "http://[64:ff9b::a9fe:a9fe]/",
            "NAT64, a network's own": "http://[2606:2800:0:64::a9fe:a9fe]/",
            "NAT64, a short prefix": "http://[2606:2800:a9fe:a9fe::]/",
            "6to4": "http://[2002:a9fe:a9fe::1]/",
            "Teredo": "http://[2001:0:4136:e378:8000:63bf:5601:5601]/",
            "ideographic dots": "http://169。254。169。254/",
            "Google's name": "http://metadata.google.internal/computeMetadata/v1/",
            "Google's name with a dot": "http://metadata.google.internal./",
            "Google's name in capitals": "http://Metadata.Google.Internal/",
            "Google's short name": "http://metadata/computeMetadata/v1/",
            "AWS's name": "http://instance-data/latest/",
        }.items()
    ),
    Trick("metadata, a name", "http://meta.example/", answers=_at("169.254.169.254")),
    Trick("metadata among public", "http://some.example/", answers=_at(PUBLIC, "168.63.129.16")),
    Trick("metadata, a mapped answer", "http://m6.example/", answers=_at("::ffff:a9fe:a9fe")),
)

# Spellings that different parsers read differently.
_SPELT = tuple(
    Trick(f"spelt {name}", url, answers=_at(PUBLIC))
    for name, url in {
        "as one number": "http://2130706433/",
        "as one number, for 10.0.0.1": "http://167772161/",
        "as one octal number": "http://017700000001/",
        "as one hex number": "http://0x7f000001/",
        "in octal": "http://0177.0.0.1/",
        "in hex": "http://0x7f.0x0.0x0.0x1/",
        "mixed": "http://0x7f.0.0.01/",
        "with two parts": "http://127.1/",
        "with three parts": "http://10.0.1/",
        "with five parts": "http://127.0.0.1.5/",
        "with zeros": "http://010.000.000.001/",
        "with a dot at its end": "http://127.0.0.1./",
        "over 255": "http://300.1.1.1/",
        "in circles": "http://①②⑦.⓪.⓪.①/",
        "in full width": "http://ＬＯＣＡＬＨＯＳＴ/",
        "in circles, a name": "http://ⓛocalhost/",
        "with %": "http://%31%32%37.0.0.1/",
        "with %, a name": "http://loc%61lhost/",
        "with a zone": "http://[fe80::1%25eth0]/",
        "with a zone, plainly": "http://[fe80::1%eth0]/",
        "with a zone on metadata": "http://[fd00:ec2::254%251]/",
        "with a name before @": "http://public.example@10.0.0.1/",
        "with a password": "http://user:password@public.example/",
        "with a backslash": "http://public.example\\@10.0.0.1/",
        "with two @": "http://a@public.example@10.0.0.1/",
        "with # before @": "http://1.1.1.1 &@10.0.0.1# @public.example/",
        "with a space": "http://public.example 10.0.0.1/",
        "with a line break": "http://public.example\r\nHost: 10.0.0.1/",
        "with a tab": "http://127.0.0.1\t.public.example/",
        "with a zero byte": "http://10.0.0.1\x00.public.example/",
        "with two ports": "http://10.0.0.1:80:80/",
        "with port 0": "http://public.example:0/",
        "with port 65536": "http://public.example:65536/",
        "without a host": "http:///etc/passwd",
        "without slashes": "http:10.0.0.1/",
        "without a scheme": "//10.0.0.1/",
        "with an open bracket": "http://[::1/",
        "in brackets, IPv4": "http://[127.0.0.1]/",
        "as file": "file:///etc/passwd",
        "as gopher": "gopher://127.0.0.1:6379/_INFO",
        "as ftp": "ftp://public.example/",
        "as unix": "unix:///var/run/docker.sock",
        "as data": "data:text/plain,hello",
    }.items()
)

REFUSED = (*_PRIVATE, *_NAMES, *_METADATA, *_SPELT)

TURNS = (
    Turn("to this host", "http://127.0.0.1/"),
    Turn("to this host, the request as it is", "http://127.0.0.1/", 307),
    Turn("to a private address", "http://10.0.0.1:8080/admin", 301),
    Turn(
        "to a private name", "http://intranet.example/", answers={"intranet.example": _at(PRIVATE)}
    ),
    Turn("to the metadata service", "http://169.254.169.254/latest/meta-data/", 303),
    Turn("to a mapped address", "http://[::ffff:127.0.0.1]/", 308),
    Turn("without a scheme", "//127.0.0.1/"),
    Turn("with a password", "http://user:password@public.example/"),
    Turn("to one number", "http://2130706433/"),
    Turn("to a file", "file:///etc/passwd"),
    Turn("to gopher", "gopher://127.0.0.1/"),
    Turn(
        "to its own name, which means another address now",
        "http://public.example/again",
        answers={"public.example": ((PUBLIC,), (PRIVATE,))},
    ),
)

REACHED = (
    Trick("public", f"http://{PUBLIC}/", True),
    Trick("public with a port", f"https://{PUBLIC}:8443/", True),
    Trick("public IPv6", f"http://[{PUBLIC_IPV6}]/", True),
    Trick("public by NAT64", "http://[64:ff9b::93.184.216.34]/", True),
    Trick("a public name", "http://public.example/", True, _at(PUBLIC)),
    Trick("with a dot at its end", "http://public.example./", True, _at(PUBLIC)),
    Trick("in capitals", "HTTP://PUBLIC.example/", True, _at(PUBLIC)),
    Trick("with two addresses", "http://public.example/", True, _at(PUBLIC_IPV6, PUBLIC)),
    Trick("in another script", "http://bücher.example/", True, _at(PUBLIC)),
    Trick("with an underscore", "http://a_b.example/", True, _at(PUBLIC)),
    Trick("next to a private network", "http://172.32.0.1/", True),
    Trick("next to metadata", "http://168.63.129.17/", True),
)


class Dns:
    """Resolver with fixed answers; ``asked`` lists the names of its look-ups.

    ``otherwise`` is the answer for all other names; without it they are unknown.
    """

    def __init__(self, answers: Mapping[str, Answers], otherwise: Answers = ()) -> None:
        self._answers = {name: list(each) for name, each in answers.items()}
        self._otherwise = list(otherwise)
        self.asked: list[str] = []

    @classmethod
    def of(cls, trick: Trick) -> Dns:
        """Return a resolver that gives the answers of ``trick`` for every name."""
        return cls({}, trick.answers)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        name = host.removesuffix(".")
        self.asked.append(name)
        answers = self._answers.get(name, self._otherwise)
        if not answers:
            raise OSError(f"{name} is not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]
