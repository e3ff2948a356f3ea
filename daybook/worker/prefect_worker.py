"""Prefect worker type `daybook`: `prefect worker start --pool … --type daybook`."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import timedelta
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import get_current_settings
from prefect.workers.base import (
    BaseJobConfiguration,
    BaseVariables,
    BaseWorker,
    BaseWorkerResult,
)
from pydantic import Field

from daybook import home, settings
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput
from daybook.jobs import limits
from daybook.keeper import leadership
from daybook.ledger.engine import Ledger
from daybook.policies import worker_labels
from daybook.prefect import private_names, work_queues
from daybook.prefect import work_pool as pools
from daybook.processes import proc
from daybook.processes.ending import wait_shielded
from daybook.processes.image import Image
from daybook.runs import holders
from daybook.worker.launcher import open_launcher
from daybook.worker.messages import ProcessSpec
from daybook.worker.records import Records
from daybook.worker.worker_loop import WorkerConfig, WorkerLoop

MAX_POLL_AGE = timedelta(seconds=60)
"""Maximum age of the last poll for which the health check reports the worker as healthy."""


class Variables(BaseVariables):
    """Settings of deployments in this pool, for external runs."""

    working_dir: str | None = Field(default=None, title="Working directory")


@cache
def _settings_of_runs() -> dict[str, str]:
    return get_current_settings().to_environment_variables(exclude_unset=True)


class Configuration(BaseJobConfiguration):
    """`Variables`, filled in by the pool's template."""

    working_dir: str | None = Field(default=None)

    @classmethod
    def _base_environment(cls) -> dict[str, str]:
        # Prefect computes the variables of its settings for each run, in a third of the worker's
        # CPU of a run. They do not change in the worker's process.
        return dict(_settings_of_runs())


class DaybookWorker(BaseWorker[Configuration, Variables, BaseWorkerResult]):
    """Worker for Daybook's jobs. Each run gets its own process (`worker.launcher`).

    The worker itself runs no flow. It imports no user code except plugins and installed listeners,
    because its keeper calls the listeners.
    """

    type = "daybook"
    job_configuration = Configuration
    job_configuration_variables = Variables
    _description = "Run Daybook's jobs, each in its own process, after a claim in the ledger."
    _documentation_url = ""
    _logo_url = ""

    is_restarted = False
    """Whether `daybook up` starts this worker again after its end."""
    image: Image | None = None
    """Image that forks the parent of the runs; None if no image forked this process."""
    _work: WorkerLoop | None = None
    _environment: dict[str, str]
    """Environment of the runs' processes, set by `start`."""

    async def start(
        self,
        run_once: bool = False,
        with_healthcheck: bool = False,
        printer: Callable[..., None] = print,
    ) -> None:
        """Work until cancelled, or with ``run_once`` until the runs that are due now have ended.

        Raise `InvalidInput` if the pool belongs to another ledger (promise 15: a worker exits
        before it polls such a pool). Also raise it if the pool lacks a queue that the worker should
        serve, or if a setting is invalid. Raise `LedgerUnreachable` or `LedgerNewer` if the ledger
        cannot be opened.
        """
        proc.deny_inspection()
        os.environ.setdefault("DO_NOT_TRACK", "1")
        limits.load_rules()
        settings.check_features()
        private_names.cache_time_zones()
        async with AsyncExitStack() as stack:
            if with_healthcheck:
                polling = partial(self.is_worker_still_polling, 2.0)
                stack.enter_context(private_names.worker_healthcheck(polling))
            address = settings.load().ledger_address
            ledger = await stack.enter_async_context(Ledger(address))
            await stack.enter_async_context(self)
            await pools.check_ledger(self.client, self._work_pool_name, ledger.id)
            labels = tuple(settings.entries(settings.load().worker_labels))
            for each in labels:
                worker_labels.check_label(each, "DAYBOOK_WORKER_LABELS")
            if self._work_queues:
                self._work_queues |= {work_queues.of_label(each) for each in labels}
                await work_queues.ensure(self.client, labels=labels)
                queues = sorted(self._work_queues)
                await work_queues.check(self.client, self._work_pool_name, queues)
            folder = stack.enter_context(output_folder(home.current_home().make().path / "runs"))
            self._environment = {
                "PREFECT_LOGGING_COLORS": "false",  # the output is a file: search for no words
                **os.environ,
                # Prefect passes these settings with each run. If they equal the child's settings,
                # the child need not read them again.
                **get_current_settings().to_environment_variables(exclude_unset=True),
                **await child_settings(self.client),
            }
            holder, holders_folder = leadership.new_holder(self.name), home.current_home().holders
            lock = holders.lock(holders_folder, holder)
            if lock is not None:
                stack.callback(os.close, lock)
            launcher = await stack.enter_async_context(
                open_launcher(
                    folder,
                    environment=self._environment,
                    max_memory=settings.load().max_memory,
                    lock=lock,
                    forked_from=self.image,
                )
            )
            config = WorkerConfig(
                name=self.name,
                pool=self._work_pool_name,
                pool_id=self._work_pool.id if self._work_pool else None,
                queues=sorted(self._work_queues),
                limit=self._limit or settings.load().worker_limit or None,
                labels=labels,
                most=settings.load().max_concurrent,
                heartbeat=self.heartbeat_interval_seconds,
                max_memory=settings.load().max_memory if self.is_restarted else 0,
                folders=settings.load().data_folders,
                holder=holder,
                holders=holders_folder,
            )
            records = Records(self.client)
            work = self._work = WorkerLoop(
                ledger,
                self.client,
                launcher,
                config,
                sync=self.sync_with_backend,
                configure=partial(self._configure, records=records),
                records=records.of_job_run,
            )
            printer(f"Worker {self.name!r} started!")
            try:
                await (work.run_once() if run_once else work.run_until_cancelled())
            finally:
                # Prefect's own command stops a worker by cancelling it.
                await wait_shielded(asyncio.create_task(work.shutdown()))
        printer(f"Worker {self.name!r} stopped!")

    @property
    def used_too_much_memory(self) -> bool:
        """Return whether the worker has stopped itself because it used too much memory."""
        return self._work is not None and self._work.used_too_much_memory

    def force_stop(self) -> None:
        """End active runs at once, if the worker is being stopped and waits for them."""
        if self._work is not None:
            self._work.force_stop()

    async def _configure(self, run: FlowRun, records: Records) -> ProcessSpec:
        deployment = None
        if run.deployment_id is not None:
            deployment = await self.client.read_deployment(run.deployment_id)
        flow = await records.flow(run)
        known = await records.of_external_run(run, flow, deployment)
        # Prefect changes the job variables of what it is given.
        configuration = await self.job_configuration.resolve_for_flow_run(
            run.model_copy(deep=True),
            client=cast(PrefectClient, _ClientWithFlow(self.client, flow)),
            work_pool=self.work_pool,
            worker_name=self.name,
            worker_id=self.backend_id,
            deployment=deployment and deployment.model_copy(deep=True),
        )
        command = configuration.command or ""
        return ProcessSpec(
            environment={
                **self._environment,
                **{name: value for name, value in configuration.env.items() if value is not None},
            },
            folder=configuration.working_dir or "",
            # Prefect's default, if neither the pool nor the deployment sets a command.
            command="" if command.startswith("prefect flow-run execute") else command,
            known=known,
        )

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Raise `InvalidInput`: only `start` starts runs; a job's run needs a claim (promise 2)."""
        raise InvalidInput("worker", "claims and starts runs only in start()", "call start()")

    async def run(
        self, flow_run: FlowRun, configuration: Configuration, task_status: Any = None
    ) -> BaseWorkerResult:
        """Raise `InvalidInput`, because a run that bypasses the queue has no claim (promise 2)."""
        raise InvalidInput(
            "worker", "runs only scheduled flow runs", "use run_deployment instead of submit"
        )

    def is_worker_still_polling(self, query_interval_seconds: float) -> bool:
        """Return whether the last poll is recent, or there was none yet, for the health check."""
        last = self._work.run_queue.last_poll if self._work else None
        return last is None or SYSTEM_CLOCK.now() - last < MAX_POLL_AGE


class _ClientWithFlow:
    """Client of Prefect that need not ask for ``flow``."""

    def __init__(self, client: PrefectClient, flow: Flow) -> None:
        self._client, self._flow = client, flow

    async def read_flow(self, flow_id: UUID) -> Flow:
        return self._flow

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@contextmanager
def output_folder(folder: Path) -> Iterator[Path]:
    """Create a folder for the runs' output, and delete it at the end.

    The folder's name is this process's pid. Also delete the folders of killed workers.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    for entry in folder.iterdir():
        if not entry.name.isdigit() or proc.find(int(entry.name)) is None:
            shutil.rmtree(entry, ignore_errors=True)
    own = folder / str(os.getpid())
    own.mkdir(mode=0o700, exist_ok=True)
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


async def child_settings(client: PrefectClient) -> dict[str, str]:
    """Return settings that spare the runs' processes unnecessary requests to Prefect's server.

    The processes need not check the server's version, which the worker's own client has checked.
    They request CSRF tokens only if the server issues them.
    """
    settings = {"PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false"}
    try:
        await client.request("GET", "/csrf-token", params={"client": "daybook-worker"})
    except PrefectHTTPStatusError as error:
        if error.response.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
            settings["PREFECT_CLIENT_CSRF_SUPPORT_ENABLED"] = "false"
    return settings
