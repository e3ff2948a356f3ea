"""Real processes that do the same thing at the same moment, and the result of each.

They are forked from a server that has imported what they need, so that fifty start in a second or
two. All test modules share this server: it keeps the imports with which its first process started.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Coroutine, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "tests.key_makers",
        "tests.unit.features.backups.killed",
        "tests.unit.delivery.senders",
        "tests.unit.features.imports.killed",
        "tests.unit.ledger.killed",
        "tests.unit.ledger.still",
        "tests.unit.runs.claimers",
        "tests.unit.runs.talkers",
        "tests.unit.features.tasks.claimers",
        "tests.unit.features.tasks.killed",
    ]
)

Found = TypeVar("Found")
Act = Callable[..., Coroutine[Any, Any, Found]]


def _process(act: Act[Any], given: tuple[Any, ...], barrier: Any, connection: Connection) -> None:
    connection.send(asyncio.run(act(*given, barrier)))


def at_once(act: Act[Found], each: Sequence[tuple[Any, ...]]) -> list[Found]:
    """Start one process for each item of ``each``; return their results.

    Each awaits ``act`` with its arguments and a barrier of all processes.
    """
    barrier = CONTEXT.Barrier(len(each))
    pipes = [CONTEXT.Pipe(duplex=False) for _ in each]
    children = [
        CONTEXT.Process(target=_process, args=(act, given, barrier, telling))
        for given, (_, telling) in zip(each, pipes, strict=True)
    ]
    for child in children:
        child.start()
    for _, telling in pipes:
        telling.close()
    try:
        found = [connection.recv() for connection, _ in pipes]
    finally:
        for child in children:
            child.join(60)
        for connection, _ in pipes:
            connection.close()
    assert [child.exitcode for child in children] == [0] * len(children)
    return found
