"""`daybook.context`: the agent and the person that a program represents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from daybook import owners
from daybook.owners import Actor


def actor_for(agent: str = "", user: str = "") -> Actor:
    """Return the current actor, with ``agent`` and ``user`` replaced if given.

    Its `via` is `api` if it was `cli`, else unchanged. Raise `InvalidInput` for an invalid name.
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

    ``agent`` is the agent's id: jobs added inside belong to it (`agent:<id>`) and are subject to
    the operator's limits; other jobs can be seen or changed only if these limits allow it. ``user``
    is the program's own id for the person that it represents; it is stored with each job. An
    omitted argument keeps its value from the enclosing context::

        with daybook.context(agent="researcher", user="u-17"):
            await daybook.Client().add("Read the news", schedule="0 8 * * *")

    The block's context applies to this task, to tasks created inside, and to threads started with
    that context. Raise `InvalidInput` for an invalid name.
    """
    with owners.acting_as(actor_for(agent, user)) as active:
        yield active
