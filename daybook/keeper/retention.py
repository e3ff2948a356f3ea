"""Prune: the ledger keeps of the past what the settings say (requirement 19), in small batches.

Nothing is asked or changed in Prefect: a server of ours has its own retention on the same terms
(`daybook.operations.server`), any other one keeps what its operator wants.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from daybook.ledger.engine import Ledger
from daybook.runs import retention as book
from daybook.runs.retention import Keep
from daybook.tasks import retention as tasks


@dataclass
class Pruned:
    """What went: how many runs, messages of conversations, of what was told of no run any more, and
    runs of tasks; which archived jobs; ``left``: time was up."""

    runs: int = 0
    messages: int = 0
    told: int = 0
    tasks: int = 0
    jobs: list[str] = field(default_factory=list)
    left: bool = False

    def __bool__(self) -> bool:
        return bool(self.runs or self.messages or self.told or self.tasks or self.jobs)


async def prune(ledger: Ledger, keep: Keep | None = None, *, most_seconds: float = 5.0) -> Pruned:
    """One pass, of about ``most_seconds``; what is left is the next one's."""
    said, done, end = keep or Keep.of_settings(), Pruned(), time.monotonic() + most_seconds

    async def all_of(batch: Callable[[], Awaitable[int]]) -> int:
        count = 0
        while not done.left and (some := await batch()):
            count += some
            done.left = time.monotonic() >= end
        return count

    for job_id in await book.jobs_with_more(ledger, said):
        done.runs += await all_of(partial(book.runs_of, ledger, job_id, said))
    for each in await book.conversations_with_more(ledger, said):
        done.messages += await all_of(partial(book.messages_of, ledger, each, said))
    done.told = await all_of(partial(book.told, ledger, said))
    done.tasks = await all_of(partial(tasks.ended, ledger, said))
    await all_of(partial(tasks.wakes, ledger))
    await all_of(partial(tasks.sessions, ledger))
    if not done.left:
        done.jobs = await book.archived(ledger, said)
    return done
