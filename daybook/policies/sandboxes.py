"""Sandboxes of jobs: how much of this machine their programs may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from daybook.errors import InvalidInput
from daybook.markers import Marker
from daybook.validation import raising_pydantic_error

SandboxChoice = Literal["", "off", "workspace", "strict"]
"""Sandbox of a job's programs; "" stands for the operator's setting."""

LEVELS = ("off", "workspace", "strict")
"""All sandboxes, the weakest first."""

ALL_HOSTS = "all"
"""Entry of `sandbox_hosts` for the network of this machine."""

MAX_HOSTS = 100
_PORTS = (80, 443)


@dataclass(frozen=True)
class HostPattern:
    """A host of the list: a name, `*.` and a name, or an IP address, and the allowed ports."""

    name: str
    ports: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> HostPattern:
        """Parse `example.org`, `*.example.org` or `example.org:8443`.

        Without a port, the ports 80 and 443 are allowed. `*.example.org` stands for all names below
        `example.org`, but not for `example.org` itself. Raise `InvalidInput`.
        """
        problem = f'"{text}" is not a host'
        hint = "write a name, *.NAME or an address, and a port if it is not 80 or 443"
        try:
            parts = urlsplit(f"//{text.strip()}")
            name, port = (parts.hostname or "").removesuffix("."), parts.port
        except ValueError:
            raise InvalidInput("sandbox_hosts", problem, hint) from None
        plain = name.removeprefix("*.")
        if not plain or "*" in plain or parts.path or parts.query or parts.username is not None:
            raise InvalidInput("sandbox_hosts", problem, hint)
        return cls(name, frozenset(_PORTS if port is None else [port]))

    def allows(self, name: str, port: int) -> bool:
        """Return whether the pattern allows a host ``name`` in lower case."""
        if port not in self.ports:
            return False
        return name.endswith(self.name[1:]) if self.name.startswith("*.") else name == self.name


def _hosts(entries: tuple[str, ...]) -> tuple[str, ...]:
    entries = tuple(dict.fromkeys(filter(None, map(str.strip, entries))))
    with raising_pydantic_error():
        check_hosts(entries)
    return entries


def check_hosts(entries: tuple[str, ...]) -> None:
    """Raise `InvalidInput` for an entry that is no host."""
    if len(entries) > MAX_HOSTS:
        raise InvalidInput(
            "sandbox_hosts", f"has {len(entries)} entries", f"use at most {MAX_HOSTS}"
        )
    for each in entries:
        if each != ALL_HOSTS:
            HostPattern.parse(each)


def stronger(first: str, second: str) -> str:
    """Return the stronger of two `LEVELS`."""
    return max(first, second, key=LEVELS.index)


SandboxField = Annotated[
    SandboxChoice,
    Marker(is_checked=True, is_continued=True),
    Field(
        title="Sandbox",
        description="What the job's programs may use: `workspace` writes only in the work "
        "directory and reads the system, `strict` reads only what is named, `off` has all rights "
        "of the user who runs Daybook. Empty: DAYBOOK_SANDBOX. The jobs of agents have at least "
        "that one.",
    ),
]
SandboxHosts = Annotated[
    tuple[str, ...],
    AfterValidator(_hosts),
    Marker(option="sandbox-host", for_agents="operator only", is_continued=True),
    Field(
        title="Hosts of the sandbox",
        description="Host that programs in the sandbox `workspace` may reach: api.example.org, "
        "*.example.org or example.org:8443; all, for the network of this machine. Empty: none but "
        "those of the agent. Only the operator may set it.",
    ),
]
