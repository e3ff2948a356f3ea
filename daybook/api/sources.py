"""The sources of a run's answer: the pages that its tools have read, by what its steps show."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from daybook.feature import loaded
from daybook.ledger.states import Status
from daybook.ledger.views import RunSource, Step

_NOT_IN_A_LINK = frozenset('<>"`\\')


def of_steps(steps: Iterable[Step]) -> list[RunSource]:
    """Return the sources, each address once, in the order in which they were read."""
    readers = list(loaded("sources"))
    found: dict[str, RunSource] = {}
    for step in steps:
        if step.kind != "tool" or step.status != Status.SUCCEEDED or step.replaced:
            continue
        for reader in readers:
            source = reader(step)
            if source is not None and is_link(source.address):
                found.setdefault(source.address, source)
    return list(found.values())


def is_link(address: str) -> bool:
    """Return whether an address may be shown as a link: http or https, and without a password."""
    if not address.isprintable() or " " in address or _NOT_IN_A_LINK & set(address):
        return False
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
