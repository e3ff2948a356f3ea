"""`daybook.context`: the agent and the person that a program represents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from daybook import owners
from daybook.owners import Actor


def actor_for(agent: str = "", user: str = "") -> Actor:
    """Return the current actor, with ``agent`` and ``user`` replaced if they are given.

    If the actor's `via` is `cli`, replace it by `api`. Raise `InvalidInput` for an invalid name.
    """
    current = owners.current_actor()
    if agent:
        current = replace(
            current, owner=owners.validate_owner(f"{owners.AGENT_PREFIX}{agent}", "agent")
        )
    if user:
        current = replace(current, user_id=owners.validate_user_id(user))
    return replace(current, via="api") if current.via == "cli" else current


@contextmanager
def context(agent: str = "", user: str = "") -> Iterator[Actor]:
    """Act for an agent, a person, or both, in all Daybook calls inside the block.

    ``agent`` is the agent's id. Jobs that the block adds belong to this agent (`agent:<id>`) and
    are subject to the operator's limits. The block can see or change other jobs only if these
    limits allow access to all jobs. ``user`` is the program's own id for the person that it
    represents; Daybook stores this id with each job. An omitted argument keeps its value from the
    enclosing context::

        with daybook.context(agent="researcher", user="u-17"):
            await daybook.Client().add("Name one thing to learn", schedule="0 8 * * *")

    The context applies to this asyncio task, to tasks created inside the block, and to threads that
    run in a copy of the block's `contextvars` context. Raise `InvalidInput` for an invalid name.
    """
    with owners.acting_as(actor_for(agent, user)) as active:
        yield active
