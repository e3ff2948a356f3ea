"""`daybook.Client`: jobs and runs, for programs with an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from daybook import owners
from daybook.api import context, plugin_jobs
from daybook.errors import InvalidInput

if TYPE_CHECKING:
    from daybook.api.task_client import Tasks
    from daybook.ledger.states import Status

Json = dict[str, Any]
JsonList = list[dict[str, Any]]  # inside the class `list` is a method


class Client:
    """Client for jobs and runs: add, change and run jobs, and read their results.

    It works with the home of `DAYBOOK_HOME`, whose `daybook up` executes the jobs. Methods that
    only read (`list`, `get`, `runs`, `run_of`, `next`) need no Prefect. One client serves a whole
    program, holds nothing open, and may be shared by tasks::

        client = daybook.Client()
        job = await client.add("Summarise open pull requests", schedule="0 9 * * 1-5")
        run = await client.run(job["id"], wait=True)
        print(run["status"], run["output"])

    With ``agent`` it acts for that agent, with ``user`` for that person, as `daybook.context` does.

    A job is named by its id, a unique id prefix, or its name. Results are plain dictionaries, those
    of the command line's `--json`. Every method raises `daybook.errors.InvalidInput` (it names the
    field, the problem and the legal values; nothing was stored), `NotFound` for a job or run that
    does not exist, `PrefectUnreachable` and `LedgerUnreachable`; all of them are `DaybookError`.
    `SyncClient` is the same without `await`.
    """

    def __init__(self, *, agent: str = "", user: str = "") -> None:
        context.actor_for(agent, user)  # raises here, not in the first call
        self._agent, self._user = agent, user

    # --- jobs

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
        **more: Any,
    ) -> Json:
        """Add a job that asks an agent. Return the job, with `next_due` and `notes` for a person.

        ``schedule`` is one text: a cron expression (`0 9 * * 1-5`, or six fields, seconds first),
        `every 30m`, `in 30m`, `at 2027-01-15T14:30`, or `on demand`. `cron`, `every`, `at` or
        `on_demand=True` can replace it. ``timezone`` is an IANA name (default: the setting).
        ``name`` defaults to the beginning of the prompt. ``agent`` is the agent to ask (default:
        the agent named like the one of the context, if it exists, else `default`), ``model``
        overrides the agent's own, ``session`` is `reuse`, `new` or `chat`. The answer is sent to
        ``channel``, there to ``chat_id``. ``more`` are the other fields of a job: `timeout`,
        `retries`, `overlap`, `catch_up`, `on_complete`, `on_fail`, `metadata`, `tags`, ….
        """
        given = {"agent": agent, "model": model, "session": session, "channel": channel}
        given |= {"chat_id": chat_id}
        return await self._add(schedule, timezone, name, {"prompt": prompt, **given, **more})

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
        **more: Any,
    ) -> Json:
        """Add a job that calls an address; 2xx is success. Return the job, as `add` does.

        A header's value may hold `{{secret:name}}`, never a secret itself.
        """
        given = {"kind": "webhook", "url": url, "method": method, "headers": headers, "body": body}
        return await self._add(schedule, timezone, name, {**given, **more})

    async def add_tool(
        self,
        /,
        tool: str,
        params: dict[str, Any] | None = None,
        *,
        schedule: str | None = None,
        timezone: str | None = None,
        name: str | None = None,
        **more: Any,
    ) -> Json:
        """Add a job that calls a tool with exactly these params. Return the job, as `add` does.

        ``tool`` is the name of a Python tool (`daybook.tool`), `server.tool` of a saved server, or
        the address of an MCP server with the tool after `#`.
        """
        given = {"kind": "tool-call", "tool": tool, "params": params}
        return await self._add(schedule, timezone, name, {**given, **more})

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
        **more: Any,
    ) -> Json:
        """Add the job ``key`` of a plugin, or change the fields that differ. Return the job.

        The job calls the plugin's registered tool, by default the one named ``plugin_id``, with the
        arguments `plugin_id`, `key`, `runtime_name` and `payload`, which is any JSON, unchanged. An
        exception of the tool is the run's error. The job's owner is `plugin`, so it runs even if
        the setting `user_jobs` is off. A paused job stays paused.
        """
        given = plugin_jobs.action_fields(plugin_id, key, runtime_name, payload, tool)
        given |= {"schedule": schedule, "timezone": timezone, **more}
        with self._as_actor():
            return await plugin_jobs.save(given)

    async def list(self, status: str = "") -> JsonList:
        """Return all jobs by name.

        ``status`` `enabled` or `disabled` selects those jobs; an outcome (`failed`, `succeeded`, …)
        selects the jobs whose last run had it.
        """
        from daybook.api import jobs

        matches = _status_filter(status)
        with self._as_actor():
            return [each for each in await jobs.list_jobs() if matches is None or matches(each)]

    async def get(self, job: str) -> Json:
        """Return one job, with `last_run`, `next_run` (each may be None) and `recipients`."""
        from daybook.api import jobs

        with self._as_actor():
            return await jobs.show(job)

    async def update(self, /, job: str, **changes: Any) -> Json:
        """Change only these fields, those of `add`, `add_webhook` or `add_tool`. Return the job."""
        from daybook.api import jobs

        with self._as_actor():
            return await jobs.edit_job(job, changes)

    async def pause(self, job: str, note: str = "") -> Json:
        """Switch the job off; ``note`` says why. Idempotent. Return the job."""
        from daybook.api import jobs

        with self._as_actor():
            return await jobs.pause(job, note)

    async def resume(self, job: str) -> Json:
        """Switch the job on. Idempotent. Return the job."""
        from daybook.api import jobs

        with self._as_actor():
            return await jobs.resume(job)

    async def remove(self, job: str) -> Json:
        """Remove the job; its runs stay readable. Return the job as it was."""
        from daybook.api import jobs

        with self._as_actor():
            return await jobs.remove(job)

    # --- runs

    async def run(self, job: str, *, wait: bool = False, request_id: str | None = None) -> Json:
        """Run the job now, even if it is paused. Return the run; with ``wait``, after it has ended.

        A repeated ``request_id`` returns the same run, whatever happened in between.
        """
        from daybook.api import runs

        with self._as_actor():
            return await runs.run(job, wait=wait, request_id=request_id)

    async def runs(self, job: str | None = None, limit: int = 20) -> JsonList:
        """Return the runs of a job, or of all jobs, newest first."""
        from daybook.api import runs

        with self._as_actor():
            return await runs.history(job, limit)

    async def run_of(self, run: str) -> Json:
        """Return one run, by its id or a unique id prefix.

        Its keys include `status` (`waiting`, `claimed`, `running`, or the outcome), `reason`,
        `output`, `result`, `error`, `attempts`, `usage`, `delivery`, and `deliveries`: the
        callbacks, messages and listener calls about the run, each with its delivery status.
        """
        from daybook.api import runs

        with self._as_actor():
            return await runs.show(run)

    async def cancel(self, run: str) -> Json:
        """Cancel a run, by its id, or the live run of a job. Return the run."""
        from daybook.api import runs

        with self._as_actor():
            return await runs.cancel(run)

    async def next(
        self,
        job: str = "",
        *,
        schedule: str = "",
        timezone: str | None = None,
        count: int = 5,
    ) -> JsonList:
        """Return the next due times of a job or a bare schedule: `[{"utc": …, "local": …}, …]`."""
        from daybook.api import due

        if bool(job) is bool(schedule):
            raise InvalidInput("job and schedule", "one of these is given", "a job, or a schedule")
        with self._as_actor():
            if schedule:
                upcoming = due.of_text(schedule, timezone, count)
            else:
                upcoming = await due.of_job(job, count=count)
        return list(upcoming["due"])

    # --- tasks

    @cached_property
    def tasks(self) -> Tasks:
        """The operations of `daybook task`; `tasks.sessions` and `tasks.scheduler` have the rest.

        Results are the models of `daybook.tasks.views`.
        """
        from daybook.api.task_client import Tasks

        return Tasks(self._as_actor)

    # --- internals

    async def _add(
        self, schedule: str | None, timezone: str | None, name: str | None, given: Json
    ) -> Json:
        from daybook.api import jobs

        given = {"schedule": schedule, "timezone": timezone, "name": name, **given}
        with self._as_actor():
            return await jobs.add(given)

    @contextmanager
    def _as_actor(self) -> Iterator[None]:
        from daybook.prefect import address

        address.use_current_server()
        with owners.acting_as(context.actor_for(self._agent, self._user)):
            yield


def _status_filter(status: str) -> Any:
    """Return a predicate for jobs with that status; None for all jobs."""
    if not status:
        return None
    if status in ("enabled", "disabled"):
        return lambda job: job["enabled"] is (status == "enabled")
    from daybook.ledger.states import TERMINAL

    terminal: set[Status] = set(TERMINAL)
    if status not in terminal:
        choices = ", ".join(["enabled", "disabled", *sorted(terminal)])
        raise InvalidInput("status", f'"{status}" is not a status', f"use one of: {choices}")
    return lambda job: job["last_status"] == status
