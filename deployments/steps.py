"""Deploy steps of `prefect.yaml`, which create the resources that a deployment needs.

A step that runs again changes nothing. `prefect deploy` checks the work pool before it runs a step,
so no step can create the pool: `daybook up` and `daybook sync` do.
"""

from __future__ import annotations

from pathlib import Path

from daybook import api
from daybook.files import sources
from daybook.ledger.engine import open_ledger
from daybook.operations import setup
from daybook.operations.preparation import EXAMPLE_FILE


async def prepare() -> dict[str, str]:
    """Migrate the ledger, register the block types, and create the agent `default`.

    The step also restores lost blocks, and creates the missing queues of the work pool. In
    `prefect.yaml`, write ``push: [{"deployments.steps.prepare": {}}]``. Return the address of the
    ``ledger``. Raise `daybook.errors.InvalidInput` if the pool has another type.
    """
    from prefect.client.orchestration import get_client

    async with open_ledger() as ledger, get_client() as client:
        for line in await setup.prepare(client):
            print(line)
        return {"ledger": ledger.place}


async def apply_jobs(
    folder: str = "jobs", set_name: str = "deployments", *, prune: bool = False
) -> dict[str, int]:
    """Apply the jobs files of a folder beside this file, and wait until Prefect has the changes.

    Leave out the file of the example job, because `daybook up` adds that job, once. A folder with
    no other file is an empty set, so ``prune`` removes all its jobs. In `prefect.yaml`, write ``-
    deployments.steps.apply_jobs: {}`` after `prepare`. `daybook apply` has the same options. Return
    the number of ``jobs`` in the files. Raise `daybook.errors.InvalidFiles` with all mistakes; then
    nothing was stored.
    """
    path = Path(__file__).parent / folder
    example = Path(EXAMPLE_FILE).name
    found = [each for each in sources.of_paths([str(path)]) if Path(each.file).name != example]
    report = await api.files.apply(found, set_name=set_name, prune=prune, wait=True)
    for document in report.documents:
        print(f"{document.action} {document.kind} {document.name}")
    for each in report.changes:
        print(f"{each.action} job {each.job}")
    for note in report.notes:
        print(note)
    for name, why in report.failed.items():
        print(f"{name}: not in Prefect: {why}")
    return {"jobs": report.unchanged + sum(each.action != "remove" for each in report.changes)}
