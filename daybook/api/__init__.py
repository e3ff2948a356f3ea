"""Operations of Daybook, one module per noun, and the public API for programs.

::

    command line, MCP, web, programs ──► Operations (this package) ──► ledger, Prefect

    agents … tools                           operations
    client, context                          `Client`, `SyncClient`, `context`
    client_operations, client_methods        `Client.sessions`; methods without `await`
    recurring, listening                     `Recurring`, `listening`, over `sync_wrapper`
    advice, authorization, documents,        parts that several operations share
    filters, overdue, preflight,
    shared_folders, web_address
    job_fields                               types of the arguments of `Client`; generated

Contract: an operation is an async function that takes plain values. But `due.of_schedule` is
synchronous, and `runs.logs` returns an iterator. An operation returns models with the fields that
`--json` prints, in the same order, or raises an error of `daybook.errors`. Models that several
operations return are in `jobs.views`, `ledger.views` and `delivery.views`. If only one operation
returns a model, the model is defined above this operation. If Prefect is unreachable, an operation
that changes something in Prefect raises `PrefectUnreachable` before it writes anything. There are
two exceptions. The operations that change jobs (`jobs`, `plugin_jobs`, `files.apply` without
``wait``, `ledger.prune` without ``disabled_for``) store the change, which the keeper applies to
Prefect later. `runs.cancel` can still cancel a waiting run. Operations that only read the ledger
work without Prefect. Programs import `Client`, `SyncClient`, `context`, `Recurring` and `listening`
from `daybook`.

To add a noun, write its module in this package; `make docs` adds the module to the imports under
`TYPE_CHECKING`. If programs should also use an operation, add a method for it to `Client`.

Pitfall: an operation imports Prefect and the database only when it is called. So `daybook list`
runs without importing Prefect, and `daybook next` without importing the database. For the same
reason, this package imports each of its modules at the module's first use, as in `from daybook
import api`, then `api.jobs.add(…)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daybook import modules_at_first_use

if TYPE_CHECKING:
    from daybook.api import (  # noqa: I001 - one line for each name
        advice as advice,
        agents as agents,
        answers as answers,
        authorization as authorization,
        backfill as backfill,
        callbacks as callbacks,
        changes as changes,
        channels as channels,
        client as client,
        client_methods as client_methods,
        client_operations as client_operations,
        conflicts as conflicts,
        context as context,
        destinations as destinations,
        documents as documents,
        due as due,
        file_documents as file_documents,
        files as files,
        filters as filters,
        inbox as inbox,
        job_fields as job_fields,
        job_pages as job_pages,
        jobs as jobs,
        ledger as ledger,
        listening as listening,
        maintenance as maintenance,
        overdue as overdue,
        plugin_jobs as plugin_jobs,
        preflight as preflight,
        preview as preview,
        python_functions as python_functions,
        recurring as recurring,
        run_files as run_files,
        run_life as run_life,
        run_lists as run_lists,
        runs as runs,
        search as search,
        secrets as secrets,
        sessions as sessions,
        shared_folders as shared_folders,
        skips as skips,
        sources as sources,
        sync as sync,
        sync_wrapper as sync_wrapper,
        timeline as timeline,
        tokens as tokens,
        tools as tools,
        transcripts as transcripts,
        web_address as web_address,
    )

else:  # hide this from mypy, which would accept any name
    __getattr__, __dir__ = modules_at_first_use(__name__)
