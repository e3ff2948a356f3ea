"""`daybook.Client`: jobs and runs, for a program that has an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from daybook import owners
from daybook.api import context, plugin_jobs
from daybook.errors import InvalidInput

if TYPE_CHECKING:
    from daybook.ledger.states import Status

Json = dict[str, Any]
Jsons = list[dict[str, Any]]  # inside of the class `list` is a verb


class Client:
    """Adds jobs, changes them, runs them, and reads what became of them.

    It works with the home of `DAYBOOK_HOME`, whose `daybook up` carries the jobs out; what only
    reads (`list`, `get`, `runs`, `run_of`, `next`) needs no Prefect. One client serves a whole
    program, holds nothing open, and may be shared by tasks::

        client = daybook.Client()
        job = await client.add("Summarise open pull requests", schedule="0 9 * * 1-5")
        run = await client.run(job["id"], wait=True)
        print(run["status"], run["output"])

    With ``agent`` it works for that agent, with ``user`` for that person, as in `daybook.context`.

    A job is named by its id, the unique beginning of it, or its name. What comes back are plain
    dictionaries, those of the command line's `--json`. Every verb raises
    `daybook.errors.InvalidInput` (naming the field, what is wrong with it and what is legal;
    nothing was stored), `NotFound` for a job or run that is not there, `PrefectUnreachable` and
    `LedgerUnreachable`; all of them are `DaybookError`. `SyncClient` is the same without `await`.
    """

    def __init__(self, *, agent: str = "", user: str = "") -> None:
        context.actor(agent, user)  # refused here, not at the first verb
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
        """Add a job that asks an agent; the job, with `next_due` and `notes` for a person.

        ``schedule`` is one text: a cron expression (`0 9 * * 1-5`, or six fields, seconds first),
        `every 30m`, `in 30m`, `at 2027-01-15T14:30`, or `on demand`. Instead of it `cron`, `every`,
        `at` or `on_demand=True` can be given. ``timezone`` is an IANA name; without it the
        setting's. ``name`` comes from the prompt where it is not given. ``agent`` is the agent to
        ask (by default the one of the context's name, if there is one, else `default`), ``model``
        in place of its own, ``session`` `reuse`, `new` or `chat`; the answer goes to
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
        """Add a job that calls an address; 2xx is success. The job, as `add` gives it.

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
        """Add a job that calls a tool with exactly these params. The job, as `add` gives it.

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
        """Keep the job ``key`` of a plugin: add it, or change what differs. The job.

        Its tool is the plugin's registered callable, by default of the name ``plugin_id``; it is
        called with the arguments `plugin_id`, `key`, `runtime_name` and `payload`, which is any
        JSON, unchanged. What it raises is the run's error. The job's owner is `plugin`, so it fires
        also where the setting `user_jobs` is off. A job that was paused stays so.
        """
        given = plugin_jobs.fields(plugin_id, key, runtime_name, payload, tool)
        given |= {"schedule": schedule, "timezone": timezone, **more}
        with self._working():
            return await plugin_jobs.keep(given)

    async def list(self, status: str = "") -> Jsons:
        """All jobs by name; with ``status`` `enabled` or `disabled` those, or those whose last run
        ended so: `failed`, `succeeded`, ….
        """
        from daybook.api import jobs

        wanted = _wanted(status)
        with self._working():
            return [each for each in await jobs.list_jobs() if wanted is None or wanted(each)]

    async def get(self, job: str) -> Json:
        """One job, with its `last_run` (or None), `next_run` (or None), and who is `told`."""
        from daybook.api import jobs

        with self._working():
            return await jobs.show(job)

    async def update(self, /, job: str, **changes: Any) -> Json:
        """Change only these fields, those of `add`, `add_webhook` or `add_tool`. The job."""
        from daybook.api import jobs

        with self._working():
            return await jobs.edit_job(job, changes)

    async def pause(self, job: str, note: str = "") -> Json:
        """Switch the job off; ``note`` says why. Twice is as once. The job."""
        from daybook.api import jobs

        with self._working():
            return await jobs.pause(job, note)

    async def resume(self, job: str) -> Json:
        """Switch the job on. Twice is as once. The job."""
        from daybook.api import jobs

        with self._working():
            return await jobs.resume(job)

    async def remove(self, job: str) -> Json:
        """Remove the job; its runs can still be read. The job as it was."""
        from daybook.api import jobs

        with self._working():
            return await jobs.remove(job)

    # --- runs

    async def run(self, job: str, *, wait: bool = False, request_id: str | None = None) -> Json:
        """Run the job now, also a paused one; the run, with ``wait`` when it has ended.

        The same ``request_id`` again is the same run, whatever happened in between.
        """
        from daybook.api import runs

        with self._working():
            return await runs.run(job, wait=wait, request_id=request_id)

    async def runs(self, job: str | None = None, limit: int = 20) -> Jsons:
        """The runs of a job, or of all, newest first."""
        from daybook.api import runs

        with self._working():
            return await runs.history(job, limit)

    async def run_of(self, run: str) -> Json:
        """One run, by its id or the unique beginning of it.

        Among it `status` (`waiting`, `claimed`, `running`, or how it ended), `reason`, `output`,
        `result`, `error`, `attempts`, `usage`, `delivery`, and `deliveries`: the callbacks,
        messages and listeners that were told of it, each with what became of it.
        """
        from daybook.api import runs

        with self._working():
            return await runs.show(run)

    async def cancel(self, run: str) -> Json:
        """End a run, by its id, or that of the job that is at work now. The run."""
        from daybook.api import runs

        with self._working():
            return await runs.cancel(run)

    async def next(
        self,
        job: str = "",
        *,
        schedule: str = "",
        timezone: str | None = None,
        count: int = 5,
    ) -> Jsons:
        """The next due times of a job, or of a bare schedule: `[{"utc": …, "local": …}, …]`."""
        from daybook.api import due

        if bool(job) is bool(schedule):
            raise InvalidInput("job and schedule", "one of these is given", "a job, or a schedule")
        with self._working():
            if schedule:
                found = due.of_text(schedule, timezone, count)
            else:
                found = await due.of_job(job, count=count)
        return list(found["due"])

    # --- within

    async def _add(
        self, schedule: str | None, timezone: str | None, name: str | None, given: Json
    ) -> Json:
        from daybook.api import jobs

        given = {"schedule": schedule, "timezone": timezone, "name": name, **given}
        with self._working():
            return await jobs.add(given)

    @contextmanager
    def _working(self) -> Iterator[None]:
        from daybook.prefect import address

        address.prefect()
        with owners.acting_as(context.actor(self._agent, self._user)):
            yield


def _wanted(status: str) -> Any:
    """Which jobs have that status; None: all."""
    if not status:
        return None
    if status in ("enabled", "disabled"):
        return lambda job: job["enabled"] is (status == "enabled")
    from daybook.ledger.states import TERMINAL

    ended: set[Status] = set(TERMINAL)
    if status not in ended:
        legal = ", ".join(["enabled", "disabled", *sorted(ended)])
        raise InvalidInput("status", f'"{status}" is none', f"legal: {legal}")
    return lambda job: job["last_status"] == status
