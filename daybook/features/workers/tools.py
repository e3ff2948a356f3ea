"""The tools `worker_list`, `worker_drain` and `worker_resume` of the operator's MCP clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daybook.toolbox.arguments import Argument, Arguments
from daybook.toolbox.invocation import define_tool

if TYPE_CHECKING:
    from daybook.features.workers.operations import ListedWorker

_NAME = Argument("worker", "Name from worker_list.", None, write="see worker_list", longest=200)


async def _list(given: Arguments) -> str:
    from daybook.features.workers import operations

    found = await operations.list_workers()
    return "\n".join(map(_line, found)) or "No worker has used this ledger for a day."


async def _drain(given: Arguments) -> str:
    from daybook.features.workers import operations

    return _line(await operations.drain(given["worker"]))


async def _resume(given: Arguments) -> str:
    from daybook.features.workers import operations

    return _line(await operations.resume(given["worker"]))


def _line(worker: ListedWorker) -> str:
    limit = "" if worker.limit is None else f" of {worker.limit}"
    labels = f", labels {', '.join(worker.labels)}" if worker.labels else ""
    return (
        f"- {worker.name}: {worker.state} on {worker.host}, {worker.running}{limit} runs active, "
        f"{worker.memory_bytes / 1e6:.0f} MB, version {worker.version}{labels}"
    )


TOOLS = (
    define_tool(
        "worker_list",
        "List the workers of Daybook, on all machines, with their state and active runs.",
        _list,
        read_only=True,
    ),
    define_tool(
        "worker_drain",
        "Let a worker start no further run; its active runs go on.",
        _drain,
        _NAME,
    ),
    define_tool("worker_resume", "Let a draining worker start runs again.", _resume, _NAME),
)
