"""For whom a program works: `daybook.context`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from daybook import owners
from daybook.owners import Actor


def actor(agent: str = "", user: str = "") -> Actor:
    """For whom it is done, where these are given or not; what a program does comes by the API.

    Raises `InvalidInput` for a name that is not legal.
    """
    found = owners.current()
    if agent:
        found = replace(found, owner=owners.check(f"{owners.BY_AGENT}{agent}", "agent"))
    if user:
        found = replace(found, user_id=owners.person(user))
    return replace(found, via="api") if found.via == "cli" else found


@contextmanager
def context(agent: str = "", user: str = "") -> Iterator[Actor]:
    """Work for an agent, a person, or both, in all that is done with Daybook inside.

    ``agent`` is the agent's id: jobs that are made inside are its own (`agent:<id>`), stand under
    the operator's limits, and no others can be seen or changed. ``user`` is the id of the person
    for whom it works, as your program has it; it is kept with each job. What is left out stays as
    it is around::

        with daybook.context(agent="researcher", user="u-17"):
            await daybook.Client().add("Read the news", schedule="0 8 * * *")

    It holds for this task, those that it makes, and threads that are begun with its context.
    Raises `InvalidInput` for a name that is not legal.
    """
    with owners.acting_as(actor(agent, user)) as found:
        yield found
