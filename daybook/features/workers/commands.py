"""The `daybook workers` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.command import Answer, command

if TYPE_CHECKING:
    from daybook.features.workers.operations import ListedWorker

Name = Annotated[str, Parameter(help="The worker's name, as in `daybook workers list`.")]


@command()
async def list_() -> Answer:
    """List the workers of this ledger, on all machines. Works without Prefect.

    A worker that has not been seen for a minute is lost. It is listed for a day, or if it is
    drained, for 30 days or until it is resumed.

    Example: daybook workers list
    """
    from daybook.features.workers import operations

    found = await operations.list_workers()
    yield found
    if not found:
        output.line("No worker has used this ledger for a day. Start one: daybook up")
        return
    output.table(
        ("NAME", "STATE", "RUNS", "LABELS", "MEMORY", "SEEN", "VERSION"),
        [
            (
                each.name,
                each.state,
                runs_text(each),
                ", ".join(each.labels),
                f"{each.memory_bytes / 1e6:.0f} MB",
                formatting.relative_time(each.seen_at),
                each.version,
            )
            for each in found
        ],
        whole=("NAME", "STATE"),
    )


@command()
async def drain_(name: Name, /) -> Answer:
    """Let a worker start no further run; its active runs go on. Works without Prefect.

    It drains until `daybook workers resume`, also after a restart. Other workers take its runs; if
    there is none, they wait.

    Example: daybook workers drain host-1a2b3c
    """
    from daybook.features.workers import operations

    worker = await operations.drain(name)
    yield worker
    output.line(f"{worker.name} starts no further run")
    active = f"{formatting.counted(worker.running, 'run')} still active"
    output.say(f"{active}. Resume it: daybook workers resume {formatting.quoted(name)}")


@command()
async def resume_(name: Name, /) -> Answer:
    """Let a draining worker start runs again. Works without Prefect.

    Example: daybook workers resume host-1a2b3c
    """
    from daybook.features.workers import operations

    yield await operations.resume(name)
    output.line(f"{name} starts runs again")


def runs_text(worker: ListedWorker) -> str:
    """Return the number of active runs, and the limit if there is one."""
    return f"{worker.running}" if worker.limit is None else f"{worker.running} of {worker.limit}"
