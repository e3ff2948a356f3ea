"""`daybook.Client` and `daybook.SyncClient`: jobs and runs, for programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Unpack

from daybook import api, owners
from daybook.api import context, plugin_jobs
from daybook.api.client_methods import Blocking, ClientMethod, Operations
from daybook.api.filters import JobFilters, RunFilters
from daybook.errors import InvalidInput
from daybook.feature import features

if TYPE_CHECKING:
    from daybook.api.client_operations import Sessions, SyncSessions
    from daybook.api.feature_operations import FeatureOperations, SyncFeatureOperations
    from daybook.api.files import ApplyReport, Drift
    from daybook.api.job_fields import (
        AllFields,
        CallFields,
        JobFilterFields,
        PromptFields,
        RunFilterFields,
    )
    from daybook.api.maintenance import MaintenanceWindow
    from daybook.api.run_files import KeptFile
    from daybook.delivery.views import ListedRun, RunDetails, RunWithSteps
    from daybook.jobs.views import ChangedJob, JobDetails, ListedJob
    from daybook.schedules.due_times import DueTime

    # Inside the class, the name `list` means the method.
    Jobs = list[ListedJob]
    Runs = list[ListedRun]
    DueTimeList = list[DueTime]
    MaintenanceWindows = list[MaintenanceWindow]
    Drifts = list[Drift]
else:
    FeatureOperations = SyncFeatureOperations = object


class Client(Operations, FeatureOperations):
    """Client for jobs and runs: add, change and run jobs, and read their results.

    The client uses the home of this process (`DAYBOOK_HOME`). The `daybook up` of that home
    executes the jobs. The methods that only read (`list`, `get`, `runs`, `run_of`, `file_of`,
    `next`, `diff`, `export`) and those for maintenance windows work without Prefect. A program
    needs only one client. The client opens no lasting connections, and asyncio tasks can share
    it::

        client = daybook.Client()
        job = await client.add("Name one thing to learn today", schedule="0 9 * * 1-5")
        run = await client.run(job.id, wait=True)
        print(run.status, run.output)

    With ``agent``, the client acts for that agent. With ``user``, it acts for that person.
    `daybook.context` describes both.

    Methods find a job by its id, a unique id prefix, or its name. They return the models of
    `daybook.jobs.views` and `daybook.delivery.views`, with the fields of `--json`. The `action` of
    a job has the fields of its kind, as in `job.action.prompt`.

    The methods raise these errors, which are all `DaybookError`:

    - `daybook.errors.InvalidInput`: an argument is invalid, or the client's agent may not call the
      method. The error names the field, the problem and the legal values. Nothing was stored.
    - `NotFound`: the job or run does not exist.
    - `PrefectUnreachable`: Prefect does not answer, or denies access (`PrefectRefused`). If Prefect
      does not answer, the methods that add, change or remove jobs store the change, and the job's
      `sync` is `pending`. They raise the error only if Prefect denies access or stops answering
      during the call; `apply` with ``wait`` always raises it.
    - `LedgerUnreachable`: the database does not answer.

    `SyncClient` has the same methods without `await`.
    """

    def __init__(self, *, agent: str = "", user: str = "") -> None:
        context.actor_for(agent, user)  # raise an error here, not in the first call
        super().__init__(self._as_actor)
        self._agent, self._user = agent, user

    # --- jobs

    @ClientMethod
    async def add(
        self,
        /,
        prompt: str,
        *,
        schedule: str | None = None,
        timezone: str | None = None,
        name: str | None = None,
        agent: str | None = None,
        model: str | None = None,
        session: str | None = None,
        channel: str | None = None,
        chat_id: str | None = None,
        **more: Unpack[PromptFields],
    ) -> ChangedJob:
        """Add a job that asks an agent. Return the job, with `next_due` and `notes` for the user.

        ``schedule`` is a string: a cron expression (`0 9 * * 1-5`, or six fields, seconds first),
        `every 30m`, `every weekday at 9:00`, `tomorrow at 9:00`, `in 30m`, `at 2027-01-15T14:30`,
        `after morning-brief` (a job), or `on demand`. Instead of ``schedule``, you can pass `cron`,
        `every`, `at`, `after` or `on_demand=True`. ``timezone`` is an IANA name (default: the
        setting). ``name`` defaults to the first words of the prompt, joined by hyphens.

        ``agent`` is the agent to ask. The default is the agent for which the client acts, if an
        agent of that name exists; otherwise it is `default`. ``model`` overrides the agent's model.
        ``session`` is `reuse`, `new` or `chat`. The answer is sent to ``channel``. If the channel
        has several chats, ``chat_id`` selects one. ``more`` has the other fields of a job, such as
        `timeout`, `retries`, `overlap`, `catch_up`, `on_complete`, `on_fail`, `metadata` and
        `tags`.
        """
        given = {"agent": agent, "model": model, "session": session, "channel": channel}
        given |= {"chat_id": chat_id}
        return await self._add(schedule, timezone, name, {"prompt": prompt, **given, **more})

    @ClientMethod
    async def add_webhook(
        self,
        /,
        url: str,
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        body: str = "",
        schedule: str | None = None,
        timezone: str | None = None,
        name: str | None = None,
        **more: Unpack[CallFields],
    ) -> ChangedJob:
        """Add a job that calls a URL. Return the job, with `next_due` and `notes` for the user.

        The run succeeds if the response has a 2xx status. A header's value may contain
        `{{secret:name}}`, but not the secret itself.
        """
        given = {"kind": "webhook", "url": url, "method": method, "headers": headers, "body": body}
        return await self._add(schedule, timezone, name, {**given, **more})

    @ClientMethod
    async def add_tool(
        self,
        /,
        tool: str,
        params: dict[str, Any] | None = None,
        *,
        schedule: str | None = None,
        timezone: str | None = None,
        name: str | None = None,
        **more: Unpack[CallFields],
    ) -> ChangedJob:
        """Add a job that calls a tool with exactly these params. Return the job, as `add` does.

        ``tool`` is the name of a Python tool (`daybook.tool`), `server.tool` of a saved server, or
        the URL of an MCP server followed by `#` and the tool.
        """
        given = {"kind": "tool-call", "tool": tool, "params": params}
        return await self._add(schedule, timezone, name, {**given, **more})

    @ClientMethod
    async def plugin_job(
        self,
        /,
        plugin_id: str,
        key: str,
        *,
        runtime_name: str,
        payload: Any = None,
        schedule: str,
        tool: str = "",
        timezone: str | None = None,
        **more: Unpack[CallFields],
    ) -> ChangedJob:
        """Add the job ``key`` of a plugin, or change the fields that differ. Return the job.

        The job calls the plugin's registered tool, by default the tool named ``plugin_id``, with
        the arguments `plugin_id`, `key`, `runtime_name` and `payload`. The payload is any JSON
        value; the tool gets it unchanged. If the tool raises an exception, the run fails with it.
        The job's owner is `plugin`, so it runs even if the setting `user_jobs` is false. A paused
        job stays paused. Raise `InvalidInput` for a blank ``plugin_id`` or ``key``, and if the
        client acts for an agent.
        """
        given = plugin_jobs.action_fields(plugin_id, key, runtime_name, payload, tool)
        given |= {"schedule": schedule, "timezone": timezone, **more}
        return await plugin_jobs.save(given)

    @ClientMethod
    async def list(self, /, status: str = "", **filters: Unpack[JobFilterFields]) -> Jobs:
        """Return the jobs that the client may see, sorted by name.

        ``status`` selects jobs. `enabled`, `disabled` and `running` select the jobs in that state;
        an outcome (`failed`, `succeeded`, …) selects the jobs whose last run had this outcome. The
        other ``filters`` and ``sort`` are options of `daybook list`, such as
        `client.list(tag=["news"], failing=True)`.
        """
        where = JobFilters.of({"status": [status] if status else [], **filters})
        return await api.jobs.list_jobs(where)

    @ClientMethod
    async def get(self, job: str) -> JobDetails:
        """Return one job, even a removed one.

        The result also has `last_run` and `next_run`, which may be None, and `recipients`.
        """
        return await api.jobs.show(job)

    @ClientMethod
    async def update(self, /, job: str, **changes: Unpack[AllFields]) -> ChangedJob:
        """Change only the given fields of `add`, `add_webhook` or `add_tool`. Return the job."""
        return await api.jobs.edit_job(job, {**changes})

    @ClientMethod
    async def pause(self, job: str, note: str = "") -> ChangedJob:
        """Disable the job, with ``note`` as the reason. Return the job.

        A repeated call has no effect.
        """
        return await api.jobs.pause(job, note)

    @ClientMethod
    async def resume(self, job: str) -> ChangedJob:
        """Enable the job and end a snooze. Return the job. A repeated call has no effect."""
        return await api.jobs.resume(job)

    @ClientMethod
    async def remove(self, job: str) -> ListedJob:
        """Remove the job. Return the job as it was. Its runs can still be read."""
        return await api.jobs.remove(job)

    # --- runs

    @ClientMethod
    async def run(
        self,
        job: str,
        *,
        wait: bool = False,
        request_id: str | None = None,
        prompt: str | None = None,
    ) -> RunDetails:
        """Run the job now, even if it is paused.

        Return the run; with ``wait``, return it after its end. ``prompt`` replaces the job's prompt
        for this run. With ``wait``, also return the run if its process died, so that only Prefect
        has recorded its end. A call with the same ``request_id`` returns the same run, as long as
        the ledger keeps the run (at least 7 days).
        """
        return await api.runs.run(job, wait=wait, request_id=request_id, prompt=prompt)

    @ClientMethod
    async def retry(
        self, run: str, *, wait: bool = False, request_id: str | None = None
    ) -> RunDetails:
        """Repeat a run with the same parameters: a run that has ended, or the last run of a job.

        Return the new run. ``wait`` and ``request_id`` are as for `run`.
        """
        return await api.runs.retry(run, wait=wait, request_id=request_id)

    @ClientMethod
    async def runs(
        self, /, job: str | None = None, limit: int = 20, **filters: Unpack[RunFilterFields]
    ) -> Runs:
        """Return up to ``limit`` runs of a job (even a removed one) or of all jobs.

        The runs with the latest due times come first. The ``filters`` and ``sort`` are options of
        `daybook runs`, such as `client.runs(status=["failed"])`.
        """
        where = RunFilters.of({**filters})
        return await api.runs.history(job, limit, where)

    @ClientMethod
    async def run_of(self, run: str) -> RunWithSteps:
        """Return one run, by its id or a unique id prefix.

        The run has, among others, these fields:

        - `status`: `waiting`, `claimed`, `running`, or the outcome;
        - `reason`, `output`, `result`, `error`, `attempts`, `usage` and `delivery`;
        - `deliveries`: the callbacks, messages, alerts and listener calls about the run, each with
          its delivery status;
        - `steps`: the requests to models and the tool calls of the run's agent;
        - `tools`, `sources` and `files`: the tools that the model had, the pages that it has read,
          and the files that it has written (`file_of`).
        """
        return await api.runs.show(run)

    @ClientMethod
    async def file_of(self, run: str, path: str) -> KeptFile:
        """Return a file that a run has written with its tools, with its content as `bytes`.

        ``run`` is a run, or a job for its last run, and ``path`` a path of the run's `files`. Raise
        `NotFound` also if the content is not kept.
        """
        return await api.run_files.read(run, path)

    @ClientMethod
    async def cancel(self, run: str) -> RunDetails:
        """Cancel a run. Return the run. ``run`` is a run's id or unique id prefix, or a job.

        A job must have exactly one live run. If the worker has not ended the run within 30 seconds,
        the returned run is still live. Raise `InvalidInput` if the run already has another outcome.
        """
        return await api.runs.cancel(run)

    @ClientMethod
    async def next(
        self,
        job: str = "",
        *,
        schedule: str = "",
        timezone: str | None = None,
        count: int = 5,
    ) -> DueTimeList:
        """Return up to ``count`` next due times of a job or of a bare schedule.

        Exactly one of ``job`` and ``schedule`` is required. Raise `InvalidInput` if both or neither
        are given, for an invalid schedule, and for a ``count`` that is out of range.
        """
        if bool(job) is bool(schedule):
            raise InvalidInput(
                "job or schedule", "exactly one is required", "give a job or a schedule"
            )
        if schedule:
            upcoming = api.due.of_schedule(schedule=schedule, timezone=timezone, count=count)
        else:
            upcoming = await api.due.of_job(job, count=count)
        return list(upcoming.due)

    # --- maintenance

    @ClientMethod
    async def plan_maintenance(
        self,
        until: str | None = None,
        *,
        begin: str | None = None,
        duration: str | None = None,
        timezone: str | None = None,
        note: str = "",
    ) -> MaintenanceWindow:
        """Plan a window in which no job starts by itself, from ``begin`` (default: now). Return it.

        Exactly one of ``until`` and ``duration`` is required: the end of the window, or its length.
        Times are RFC 3339 times, `22:00`, `tomorrow at 22:00`, or `in 2h`. A person can still run a
        job in the window. Raise `InvalidInput`, also for an agent.
        """
        return await api.maintenance.plan(
            until, begin=begin, duration=duration, timezone=timezone, note=note
        )

    @ClientMethod
    async def maintenance(self) -> MaintenanceWindows:
        """Return the present and the planned maintenance windows, earliest first."""
        return await api.maintenance.list_windows()

    @ClientMethod
    async def remove_maintenance(self, window: str) -> MaintenanceWindow:
        """Remove a planned window, or end the present one now. Return the window.

        Raise `InvalidInput` for an agent.
        """
        return await api.maintenance.remove(window)

    # --- jobs files

    @ClientMethod
    async def apply(
        self,
        jobs: str | PathLike[str],
        *,
        set_name: str | None = None,
        dry_run: bool = False,
        prune: bool = False,
        adopt: bool = False,
        wait: bool = False,
    ) -> ApplyReport:
        """Add and change the jobs that a jobs file describes, either all or none. Return a report.

        Also add and change the settings documents in the file, for which Prefect has to answer.
        ``jobs`` is the text of the file in YAML or JSON, or a `pathlib.Path` of a file or folder.
        The other arguments are the options of `daybook apply`. For a text, pass ``set_name``, or
        write `set` in the text. Raise `InvalidFiles`, whose `mistakes` have a line and a column;
        `InvalidInput` for an invalid set, for a file that cannot be read, and for an agent; and,
        with ``wait``, `PrefectUnreachable`.
        """
        from daybook.files import sources
        from daybook.files.jobs_file import FileText

        is_text = isinstance(jobs, str)
        paths = [] if is_text else [fspath(jobs)]
        texts = [FileText("text", str(jobs))] if is_text else sources.of_paths(paths)
        return await api.files.apply(
            texts,
            set_name=set_name,
            default_set=sources.default_set(paths),
            dry_run=dry_run,
            prune=prune,
            adopt=adopt,
            wait=wait,
        )

    @ClientMethod
    async def diff(self, *jobs: str) -> Drifts:
        """Return the changes of ``jobs`` (default: all jobs) since their file was applied."""
        return await api.files.drift(jobs)

    @ClientMethod
    async def export(self, *jobs: str) -> str:
        """Return jobs, by default all, as the text of a jobs file, which `apply` reads.

        Without ``jobs``, add the settings documents, such as agents, with references to secrets. No
        jobs file can own an agent's job. So without ``jobs``, omit agents' jobs; raise
        `InvalidInput` for an agent's job in ``jobs``.
        """
        text, _ = await api.files.export(jobs)
        return text

    # --- sessions

    @cached_property
    def sessions(self) -> Sessions:
        """Return the operations of `daybook session`: list, show, and send a message to one.

        Results are the models of `daybook.api.sessions`; `send` returns the run.
        """
        from daybook.api.client_operations import Sessions

        return Sessions(self._acting_as)

    # --- features (`daybook.feature`)

    if not TYPE_CHECKING:  # type checkers know them from `FeatureOperations`

        def __getattr__(self, name):
            for each in features():
                if each.name == name and each.operations:
                    made = each.load_operations(blocking=isinstance(self, Blocking))
                    return self.__dict__.setdefault(name, made(self._acting_as))
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def __dir__(self):
            return [*super().__dir__(), *(each.name for each in features() if each.operations)]

    # --- internals

    async def _add(
        self, schedule: str | None, timezone: str | None, name: str | None, given: dict[str, Any]
    ) -> ChangedJob:
        given = {"schedule": schedule, "timezone": timezone, "name": name, **given}
        return await api.jobs.add(given)

    @contextmanager
    def _as_actor(self) -> Iterator[None]:
        from daybook.prefect import address  # this import does not import Prefect itself

        address.use_current_server()
        with owners.acting_as(context.actor_for(self._agent, self._user)):
            yield


class SyncClient(Blocking, Client, SyncFeatureOperations):
    """`Client` without `await`: the same methods, arguments, results and errors.

    An example::

        client = daybook.SyncClient()
        job = client.add("Name one thing to learn today", schedule="0 9 * * 1-5")
        print(client.run(job.id, wait=True).status)

    """

    @cached_property
    def sessions(self) -> SyncSessions:
        """Return `Client.sessions` without `await`."""
        from daybook.api.client_operations import SyncSessions

        return SyncSessions(self._acting_as)
