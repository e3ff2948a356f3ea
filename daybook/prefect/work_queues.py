"""Work queues of the pool: one for each class of jobs, so a worker can serve only some classes.

::

    a class's queue is      then
    ──────────────────────  ──────────────────────────────────────────────────────────────────────
    missing                 created, with the priority of its class
    limited in Prefect      the limit is removed: Prefect would offer workers no run beyond it, so
                            such a run would be overdue, and possibly missed, instead of waiting;
                            the same applies to the queue of a label
    described differently   the description is written, once for each change of the class's limit
    paused, or moved to     nothing: the operator's choice
    another priority

The claim applies the limits of classes and labels (`daybook.runs.slots`); a queue's description
shows the limit of its class. The priority only orders the runs that are due at the same instant,
because a worker claims the runs in the order of their due times.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from daybook import settings
from daybook.errors import InvalidInput
from daybook.jobs.model import Job
from daybook.policies.policy import RunClass
from daybook.prefect.parameter_schema import WORK_POOL

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

log = logging.getLogger(__name__)

CLASS_QUEUES: tuple[str, ...] = get_args(RunClass)
"""Names of the queues, which are the names of the classes, in the order of their priorities."""

_LABEL = "label-"
DEFAULT_QUEUE = "default"
"""Queue that Prefect creates in each pool; no job of ours uses it."""


@dataclass
class QueuesState:
    """The description that this process wrote last, by queue.

    Two Daybooks with different limits may share a pool. Because of this state, they do not
    overwrite each other's descriptions again and again.
    """

    described: dict[str, str] = field(default_factory=dict)


def queue_of(job: Job, found: DeploymentResponse | None) -> str:
    """Return the queue of the job's deployment: an operator's queue, or that of its label or class.

    The queue of ``found``, the present deployment, is an operator's if it is in our pool, and
    neither the queue of a class or label nor Prefect's default queue.
    """
    if found is not None and found.work_pool_name == WORK_POOL:
        current = found.work_queue_name
        is_ours = current in (*CLASS_QUEUES, DEFAULT_QUEUE) or is_of_label(str(current))
        if current and not is_ours:
            return str(current)
    return of_label(job.policy.worker_label) if job.policy.worker_label else job.policy.class_


def of_label(label: str) -> str:
    """Return the queue of the jobs with a label of workers."""
    return _LABEL + label


def is_of_label(name: str) -> bool:
    """Return whether a queue is that of a label. No other queue's name may begin like this."""
    return name.startswith(_LABEL)


async def ensure(
    client: PrefectClient, state: QueuesState | None = None, *, labels: Iterable[str] = ()
) -> list[str]:
    """Create and correct the queues of the classes; return the names of the changed queues.

    Also create the queues of ``labels``.

    Do nothing if there is no pool. Idempotent. Without ``state``, write each description that
    differs.
    """
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    described = (QueuesState() if state is None else state).described
    try:
        existing = {each.name: each for each in await _read(client, WORK_POOL)}
    except ObjectNotFound:
        return []
    for each in labels:
        if of_label(each) not in existing:
            with suppress(ObjectAlreadyExists):
                await client.create_work_queue(
                    of_label(each),
                    description=f"Jobs for workers with the label {each}",
                    work_pool_name=WORK_POOL,
                )
    limits, changed = settings.load().max_of_class, list[str]()
    for name, queue in existing.items():
        if is_of_label(name) and queue.concurrency_limit is not None:
            _warn_of_limit(queue, "DAYBOOK_MAX_PER_LABEL")
            await client.update_work_queue(queue.id, concurrency_limit=None)
            changed.append(name)
    for priority, name in enumerate(CLASS_QUEUES, 1):
        text, queue = _description(name, limits.get(name)), existing.get(name)
        if queue is None:
            try:
                await client.create_work_queue(
                    name, description=text, priority=priority, work_pool_name=WORK_POOL
                )
            except ObjectAlreadyExists:  # another process was faster
                continue
            changed.append(name)
        else:
            changes: dict[str, Any] = {}
            if queue.concurrency_limit is not None:
                changes["concurrency_limit"] = None
                _warn_of_limit(queue, _setting(name))
            if queue.description != text and described.get(name) != text:
                changes["description"] = text
            if changes:
                await client.update_work_queue(queue.id, **changes)
                changed.append(name)
        described[name] = text
    return changed


async def check(client: PrefectClient, pool: str, names: Iterable[str]) -> None:
    """Raise `InvalidInput` if ``pool`` lacks one of the queues ``names``.

    If a queue is missing, Prefect refuses a worker's whole request for runs, not only this queue.
    """
    existing = [each.name for each in await _read(client, pool)]
    for name in names:
        if name not in existing:
            raise InvalidInput(
                "queue",
                f'the pool "{pool}" has no work queue "{name}"',
                f"use one of: {', '.join(existing)}",
            )


async def _read(client: PrefectClient, pool: str) -> list[Any]:
    return await client.read_work_queues(work_pool_name=pool)


def _warn_of_limit(queue: Any, setting: str) -> None:
    log.warning(
        "removed the limit of %d from the work queue %s in Prefect: set %s instead",
        queue.concurrency_limit,
        queue.name,
        setting,
        extra={"action": "queue_limit_removed"},
    )


def _setting(name: str) -> str:
    return f"DAYBOOK_MAX_{name.replace('-', '_').upper()}"


def _description(name: str, limit: int | None) -> str:
    runs = "1 run" if limit == 1 else f"{limit} runs"
    text = f"at most {runs} at the same time" if limit else "no limit of their own"
    return (
        f"Jobs of the class {name}: {text} ({_setting(name)}). Daybook applies this limit itself, "
        "and removes a limit that is set here: Prefect would hide waiting runs from the workers."
    )
